"""MAINTENANCE IN: which commands and task management functions there are (SPC-4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Reply
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.server import Command
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["report_supported_operation_codes", "report_supported_task_management_functions"]

ALL, BY_OPCODE, BY_ACTION, BY_EITHER = 0, 1, 2, 3
NOT_SUPPORTED, SUPPORTED = 1, 3
IGNORED: Final = ("reserved", "ignored", "obsolete", "group_number", "control")
"""Fields of our CDBs that no command looks at, by how their names begin."""


class CommandDescriptor(Struct, size=8, byte_order=">"):
    """One command of all."""

    operation_code: U8 = 0
    reserved: U8 = 0
    service_action: U16 = 0
    reserved_2: U8 = 0
    flags: U8 = 0
    """Bit 0, SERVACTV: there is a service action. Bit 1, CTDP: timeouts follow."""
    cdb_length: U16 = 0


class Timeouts(Struct, size=12, byte_order=">"):
    """Command timeouts descriptor: none is known."""

    descriptor_length: U16 = 10
    reserved: U8 = 0
    command_specific: U8 = 0
    nominal_command_processing_timeout: U32 = 0
    recommended_command_timeout: U32 = 0


class Support(Register8):
    """Byte 1 of what is told of one command."""

    CTDP = Bit(7)
    SUPPORT = Bits(2, 0)


class OneCommand(Struct, size=4, byte_order=">"):
    """One command, if there is one; its CDB usage data follow."""

    reserved: U8 = 0
    support: U8 = 0
    cdb_size: U16 = 0


class TaskManagement(Register8):
    """Byte 0 of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""

    ATS = Bit(7)  # ABORT TASK
    ATSS = Bit(6)  # ABORT TASK SET
    CACAS = Bit(5)
    CTSS = Bit(4)  # CLEAR TASK SET
    LURS = Bit(3)  # LOGICAL UNIT RESET
    QTS = Bit(2)  # QUERY TASK
    TRS = Bit(1)
    WAKES = Bit(0)


class TaskManagementData(Struct, size=4, byte_order=">"):
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS parameter data."""

    functions: U8 = TaskManagement.of(ATS=1, ATSS=1, CTSS=1, LURS=1, QTS=1)
    functions_2: U8 = 0x01
    """QTSS: QUERY TASK SET."""
    reserved: U8 = 0
    additional_length: U8 = 0


def report_supported_operation_codes(unit: ScsiDisk, cdb: sbc.ReportSupported) -> Task:
    """REPORT SUPPORTED OPERATION CODES."""
    options = sbc.ReportSupportedOptions(cdb.options)
    how, timeouts = options.REPORTING_OPTIONS, bool(options.RCTD)
    known: dict[tuple[int, int | None], Command] = {
        (opcode, None): command for opcode, command in unit.commands.items()
    }
    for (opcode, action), command in unit.actions.items():
        known[opcode, action] = command
    if how == ALL:
        descriptors = b"".join(
            _descriptor(opcode, action, command, timeouts)
            for (opcode, action), command in sorted(known.items(), key=_order)
        )
        return Reply(len(descriptors).to_bytes(4) + descriptors, cdb.allocation_length)
    opcode = cdb.requested_operation_code
    has_actions = any(each == opcode for each, _ in unit.actions)
    if (
        how > BY_EITHER
        or (how == BY_OPCODE and has_actions)
        or (how == BY_ACTION and opcode in unit.commands)
    ):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    wanted = cdb.requested_service_action if has_actions else None
    return Reply(_one(known, opcode, wanted, timeouts), cdb.allocation_length)


def _order(each: tuple[tuple[int, int | None], Command]) -> tuple[int, int]:
    (opcode, action), _ = each
    return opcode, action or 0


def _descriptor(opcode: int, action: int | None, command: Command, timeouts: bool) -> bytes:
    descriptor = CommandDescriptor(
        operation_code=opcode,
        service_action=action or 0,
        flags=(action is not None) | timeouts << 1,
        cdb_length=command.cdb.size,
    )
    return descriptor.pack() + (Timeouts().pack() if timeouts else b"")


def _one(
    known: Mapping[tuple[int, int | None], Command],
    opcode: int,
    action: int | None,
    timeouts: bool,
) -> bytes:
    command = known.get((opcode, action))
    if command is None:
        return OneCommand(support=NOT_SUPPORTED).pack()
    usage = bytearray(usage_of(command))
    usage[0] = opcode
    if action is not None:
        usage[1] = action
    support = Support.of(CTDP=timeouts, SUPPORT=SUPPORTED)
    head = OneCommand(support=support, cdb_size=len(usage)).pack()
    return head + bytes(usage) + (Timeouts().pack() if timeouts else b"")


def usage_of(command: Command) -> bytes:
    """Its CDB with a 1 for each bit that is looked at."""
    usage = command.cdb.unpack(b"\xff" * command.cdb.size)
    for name, value in vars(usage).items():
        if name == "flags":
            usage.flags = command.flags  # type: ignore[attr-defined]
        elif name.startswith(IGNORED):
            setattr(usage, name, bytes(len(value)) if isinstance(value, bytes) else 0)
    return usage.pack()


def report_supported_task_management_functions(unit: ScsiDisk, cdb: sbc.ReportSupported) -> Task:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""
    return Reply(TaskManagementData().pack(), cdb.allocation_length)
