"""PERSISTENT RESERVE IN and OUT (SPC-4 sections 5.13, 6.15 and 6.16)."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final

from drivebay.disk.errors import InvalidInput, ReservationConflict
from drivebay.disk.reservations import Registrant, Report, Reservations, ReservationType
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Parameters, Reply
from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)
from drivebay.scsi.status import Conflict
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, U64, Bit, Register8, Register16, Struct

if TYPE_CHECKING:
    from drivebay.disk.reservations import Nexus
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["InAction", "OutAction", "persistent_reserve_in", "persistent_reserve_out"]


class InAction(enum.IntEnum):
    """Service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class OutAction(enum.IntEnum):
    """Service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6


TYPES: Final = {
    1: ReservationType.WRITE_EXCLUSIVE,
    3: ReservationType.EXCLUSIVE_ACCESS,
    5: ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    6: ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    7: ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    8: ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
}
NUMBERS: Final = {kind: number for number, kind in TYPES.items()}
PARAMETERS: Final = 24
"""Bytes of a PERSISTENT RESERVE OUT parameter list, without TransportIDs."""
TYPED: Final = (
    OutAction.RESERVE, OutAction.RELEASE, OutAction.PREEMPT, OutAction.PREEMPT_AND_ABORT,
)  # fmt: skip


class Generation(Struct, size=8, byte_order=">"):
    """Before what READ KEYS, READ RESERVATION and READ FULL STATUS tell."""

    prgeneration: U32 = 0
    additional_length: U32 = 0


class ReservationData(Struct, size=16, byte_order=">"):
    """READ RESERVATION, where there is one."""

    reservation_key: U64 = 0
    obsolete: U32 = 0
    reserved: U8 = 0
    scope_type: U8 = 0
    obsolete_2: U16 = 0


class CapabilityFlags(Register8):
    """REPORT CAPABILITIES byte 2."""

    SIP_C = Bit(3)
    ATP_C = Bit(2)
    PTPL_C = Bit(0)


class Activated(Register8):
    """REPORT CAPABILITIES byte 3."""

    TMV = Bit(7)  # the type mask is valid
    PTPL_A = Bit(0)


class TypeMask(Register16):
    """REPORT CAPABILITIES bytes 4 and 5."""

    WR_EX_AR = Bit(15)
    EX_AC_RO = Bit(14)
    WR_EX_RO = Bit(13)
    EX_AC = Bit(11)
    WR_EX = Bit(9)
    EX_AC_AR = Bit(0)


class Capabilities(Struct, size=8, byte_order=">"):
    """REPORT CAPABILITIES parameter data."""

    length: U16 = 8
    flags: U8 = 0
    activated: U8 = 0
    type_mask: U16 = 0
    reserved: U16 = 0


class FullStatus(Struct, size=24, byte_order=">"):
    """READ FULL STATUS descriptor; a TransportID follows."""

    reservation_key: U64 = 0
    reserved: U32 = 0
    holder: U8 = 0
    """Bit 0: it holds the reservation."""
    scope_type: U8 = 0
    reserved_2: U32 = 0
    relative_target_port_identifier: U16 = 0
    additional_descriptor_length: U32 = 0


class OutFlags(Register8):
    """PERSISTENT RESERVE OUT parameter list byte 20."""

    SPEC_I_PT = Bit(3)
    ALL_TG_PT = Bit(2)
    APTPL = Bit(0)


class OutParameters(Struct, size=PARAMETERS, byte_order=">"):
    """PERSISTENT RESERVE OUT parameter list."""

    reservation_key: U64 = 0
    service_action_reservation_key: U64 = 0
    obsolete: U32 = 0
    flags: U8 = 0
    reserved: U8 = 0
    obsolete_2: Annotated[bytes, "2s"] = bytes(2)


MASKS: Final = {
    ReservationType.WRITE_EXCLUSIVE: TypeMask.WR_EX,
    ReservationType.EXCLUSIVE_ACCESS: TypeMask.EX_AC,
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: TypeMask.WR_EX_RO,
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: TypeMask.EX_AC_RO,
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: TypeMask.WR_EX_AR,
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: TypeMask.EX_AC_AR,
}


class Told(Reply):
    """What `tell` makes of the reservations as they are when it begins."""

    prepares = True

    def __init__(self, service: Reservations, room: int, tell: Callable[[Report], bytes]) -> None:
        super().__init__(b"", 0)
        self._service, self._room, self._tell = service, room, tell

    async def prepare(self) -> None:
        """Ask."""
        self.data = self._tell(await self._service.report())[: self._room]
        self.length = len(self.data)


def persistent_reserve_in(unit: ScsiDisk, cdb: sbc.PersistentReserveIn) -> Task:
    """PERSISTENT RESERVE IN: only disks that have reservations know it."""
    service = unit.reservations
    assert service is not None
    tell: dict[int, Callable[[Report], bytes]] = {
        InAction.READ_KEYS: _keys,
        InAction.READ_RESERVATION: _reservation,
        InAction.REPORT_CAPABILITIES: lambda report: _capabilities(service, report),
        InAction.READ_FULL_STATUS: _full_status,
    }
    return Told(service, cdb.allocation_length, tell[cdb.service_action & 0x1F])


def _counted(report: Report, body: bytes) -> bytes:
    return Generation(report.generation, len(body)).pack() + body


def _keys(report: Report) -> bytes:
    return _counted(report, b"".join(each.key.to_bytes(8) for each in report.registrants))


def _reservation(report: Report) -> bytes:
    if report.type is None:
        return _counted(report, b"")
    holders = [each.key for each in report.registrants if each.holds_reservation]
    key = 0 if report.type.all_registrants else holders[0]
    return _counted(report, ReservationData(key, scope_type=NUMBERS[report.type]).pack())


def _capabilities(service: Reservations, report: Report) -> bytes:
    mask = 0
    for kind in service.types:
        mask |= MASKS[kind]
    return Capabilities(
        flags=CapabilityFlags.of(PTPL_C=service.can_persist_through_power_loss),
        activated=Activated.of(TMV=1, PTPL_A=report.persists_through_power_loss),
        type_mask=mask,
    ).pack()


def _full_status(report: Report) -> bytes:
    kind = NUMBERS[report.type] if report.type else 0

    def descriptor(each: Registrant) -> bytes:
        name = transport_id(each.host_id)
        return (
            FullStatus(
                reservation_key=each.key,
                holder=each.holds_reservation,
                scope_type=kind if each.holds_reservation else 0,
                relative_target_port_identifier=each.controller_id,
                additional_descriptor_length=len(name),
            ).pack()
            + name
        )

    return _counted(report, b"".join(map(descriptor, report.registrants)))


def transport_id(host: bytes) -> bytes:
    """A registrant's TransportID: at least 24 bytes and a multiple of 4 (SPC-4 section 7.6.4).

    A host that came by another protocol, whose names are shorter, is told as a name of iSCSI.
    """
    if len(host) >= 24 and not len(host) % 4:
        return host
    name = f"host.{host.hex()}".encode() + b"\0"
    padded = name.ljust(max(20, -(-len(name) // 4) * 4), b"\0")
    return IscsiName(additional_length=len(padded)).pack() + padded


class IscsiName(Struct, size=4, byte_order=">"):
    """The head of an iSCSI TransportID."""

    format_and_protocol: U8 = 0x05
    reserved: U8 = 0
    additional_length: U16 = 0


class Out(Parameters):
    """PERSISTENT RESERVE OUT: `ask` is asked with what has come."""

    def __init__(self, ask: Callable[[OutParameters], Awaitable[None]]) -> None:
        super().__init__(PARAMETERS, self._parse)
        self._ask = ask

    def _parse(self, data: bytes) -> None:
        self._parameters = OutParameters.unpack(data)
        if OutFlags(self._parameters.flags).SPEC_I_PT:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)

    async def finish(self) -> None:
        """Parse, then ask."""
        await super().finish()
        try:
            await self._ask(self._parameters)
        except ReservationConflict as error:
            raise Conflict from error
        except InvalidInput as error:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST) from error


def persistent_reserve_out(unit: ScsiDisk, cdb: sbc.PersistentReserveOut) -> Task:
    """PERSISTENT RESERVE OUT."""
    nexus = unit.nexus
    assert nexus is not None
    action = OutAction(cdb.service_action & 0x1F)
    where = sbc.ScopeType(cdb.scope_type)
    kind = TYPES.get(where.TYPE, ReservationType.WRITE_EXCLUSIVE)
    if action in TYPED and (where.SCOPE or where.TYPE not in TYPES):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if cdb.parameter_list_length != PARAMETERS:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)

    async def ask(said: OutParameters) -> None:
        await _ask(nexus, action, said, kind)

    return Out(ask)


async def _ask(nexus: Nexus, action: OutAction, said: OutParameters, kind: ReservationType) -> None:
    key, other = said.reservation_key, said.service_action_reservation_key
    if action == OutAction.REGISTER:
        await nexus.register(key, other, bool(said.flags & OutFlags.APTPL))
    elif action == OutAction.REGISTER_AND_IGNORE_EXISTING_KEY:
        await nexus.register(None, other, bool(said.flags & OutFlags.APTPL))
    elif action == OutAction.RESERVE:
        await nexus.reserve(key, kind)
    elif action == OutAction.RELEASE:
        try:
            await nexus.release(key, kind)
        except InvalidInput as error:
            raise CheckCondition(INVALID_RELEASE_OF_PERSISTENT_RESERVATION) from error
    elif action == OutAction.CLEAR:
        await nexus.clear(key)
    else:
        await nexus.preempt(key, other, kind, action == OutAction.PREEMPT_AND_ABORT)
