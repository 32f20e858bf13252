"""IDENTIFY (NVMe Base 2.0 section 5.17)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from drivebay.controllers.nvme.events import MOST_REQUESTS
from drivebay.controllers.nvme.firmware import FRMW
from drivebay.controllers.nvme.identity import (
    CTRATT,
    LBAF,
    LPA,
    OACS,
    OAES,
    ONCS,
    SANICAP,
    SGLS,
    VWC,
    IdentifyController,
    IdentifyNamespace,
    NvmCommandSetController,
    PowerState,
)
from drivebay.controllers.nvme.logpages import CRITICAL_KELVIN, ERROR_ENTRIES, WARNING_KELVIN
from drivebay.controllers.nvme.namespace import BLOCK_SIZES, Namespace
from drivebay.controllers.nvme.opcodes import ALL_NAMESPACES, AdminOpcode, Cns
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.registers import VERSION
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command
from drivebay.disk.contract import Unmap

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["Identify"]

SIZE: Final = 4096
MOST_IDS: Final = SIZE // 4
MOST_CONTROLLERS: Final = SIZE // 2 - 1
ENTRY_SIZES: Final = 0x66, 0x44
"""SQES and CQES: 64 and 16 bytes, at least and at most."""
ABORTS: Final = 8
KEEP_ALIVE_UNITS: Final = 10
"""KAS: the timer counts in seconds."""
FLUSH_ALL: Final = 3
READY_MICROSECONDS: Final = 1_000_000


class Identify:
    """What `controller` says of itself and its namespaces."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._tables: dict[int, Callable[[Command], bytes]] = {
            Cns.NAMESPACE: self._namespace,
            Cns.CONTROLLER: self._identify_controller,
            Cns.ACTIVE_NAMESPACES: self._active,
            Cns.DESCRIPTORS: self._descriptors,
            Cns.NAMESPACE_OF_SET: lambda command: bytes(SIZE) if self._find(command) else b"",
            Cns.CONTROLLER_OF_SET: lambda _command: NvmCommandSetController().pack(),
            Cns.ACTIVE_NAMESPACES_OF_SET: self._active,
            Cns.NAMESPACE_INDEPENDENT: self._independent,
            Cns.ALLOCATED_NAMESPACES: self._allocated_list,
            Cns.ALLOCATED_NAMESPACE: self._allocated,
            Cns.CONTROLLERS_OF_NAMESPACE: self._attached_controllers,
            Cns.CONTROLLERS: self._controllers,
            Cns.COMMAND_SETS: lambda _command: b"\x01",
        }

    def identify(self, _sq: SubmissionQueue, command: Command) -> int:
        """The command. Raises `Refused`."""
        number, command_set = command.cdw10 & 0xFF, command.cdw11 >> 24
        table = self._tables.get(number)
        of_set = number in (
            Cns.NAMESPACE_OF_SET,
            Cns.CONTROLLER_OF_SET,
            Cns.ACTIVE_NAMESPACES_OF_SET,
        )
        if table is None or (of_set and command_set):
            raise Refused(Status.INVALID_FIELD, f"IDENTIFY {number:#04x} of set {command_set}")
        self._controller.send(command, table(command), SIZE)
        return 0

    # -- namespaces ------------------------------------------------------------------------------

    def _check_id(self, nsid: int) -> None:
        if not 0 < nsid <= self._controller.subsystem.most_namespaces:
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {nsid:#x}")

    def _find(self, command: Command) -> Namespace | None:
        """The namespace if it is attached; None if there might be one. Raises `Refused`."""
        self._check_id(command.nsid)
        if command.nsid not in self._controller.attached:
            return None
        return self._controller.subsystem.namespaces[command.nsid]

    def _namespace(self, command: Command) -> bytes:
        if command.nsid == ALL_NAMESPACES:  # what those have in common that a host creates
            formats = b"".join(
                struct.pack("<I", LBAF.of(LBADS=size.bit_length() - 1)) for size in BLOCK_SIZES
            )
            return IdentifyNamespace(nlbaf_z=len(BLOCK_SIZES) - 1, lbaf=formats).pack()
        namespace = self._find(command)
        return namespace.identify() if namespace is not None else b""

    def _independent(self, command: Command) -> bytes:
        namespace = self._find(command)
        return namespace.identify_independent() if namespace is not None else b""

    def _allocated(self, command: Command) -> bytes:
        self._check_id(command.nsid)
        namespace = self._controller.subsystem.namespaces.get(command.nsid)
        return namespace.identify() if namespace is not None else b""

    def _descriptors(self, command: Command) -> bytes:
        namespace = self._find(command)
        if namespace is None:
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {command.nsid}")
        return namespace.descriptors(self._controller.subsystem.nqn)

    @staticmethod
    def _ids(command: Command, found: Iterable[int]) -> bytes:
        """Those above NSID."""
        if command.nsid >= ALL_NAMESPACES - 1:
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"ids above {command.nsid:#x}")
        above = sorted(nsid for nsid in found if nsid > command.nsid)[:MOST_IDS]
        return struct.pack(f"<{len(above)}I", *above)

    def _active(self, command: Command) -> bytes:
        return self._ids(command, self._controller.attached)

    def _allocated_list(self, command: Command) -> bytes:
        return self._ids(command, self._controller.subsystem.namespaces)

    # -- controllers -----------------------------------------------------------------------------

    @staticmethod
    def _controller_list(command: Command, found: Iterable[int]) -> bytes:
        """Those from CNTID on."""
        first = command.cdw10 >> 16
        ids = sorted(number for number in found if number >= first)[:MOST_CONTROLLERS]
        return struct.pack(f"<{len(ids) + 1}H", len(ids), *ids)

    def _controllers(self, command: Command) -> bytes:
        return self._controller_list(command, self._controller.subsystem.controllers)

    def _attached_controllers(self, command: Command) -> bytes:
        self._check_id(command.nsid)
        controllers = self._controller.subsystem.controllers.items()
        return self._controller_list(
            command, (number for number, each in controllers if command.nsid in each.attached)
        )

    def _identify_controller(self, _command: Command) -> bytes:
        controller = self._controller
        subsystem, handlers = controller.subsystem, controller.admin.handlers
        namespaces = list(subsystem.namespaces.values())
        disks = [namespace.disk for namespace in namespaces]
        return IdentifyController(
            vid=controller.vendor,
            ssvid=controller.subsystem_vendor,
            sn=subsystem.serial.encode().ljust(20),
            mn=subsystem.model.encode().ljust(40),
            fr=controller.admin.firmware.revision.encode().ljust(8),
            rab=6,
            cmic=2 if len(subsystem.controllers) > 1 else 0,
            mdts=controller.mdts,
            cntlid=controller.cntlid,
            ver=VERSION,
            rtd3r=READY_MICROSECONDS,
            rtd3e=READY_MICROSECONDS,
            oaes=OAES.of(NamespaceAttributes=1),
            ctratt=CTRATT.of(TBKAS=1, HostId128=1),
            cntrltype=1,
            oacs=OACS.of(
                DoorbellBufferConfig=AdminOpcode.DOORBELL_BUFFER_CONFIG in handlers,
                NamespaceManagement=1,
                Firmware=1,
                FormatNvm=1,
            ),
            acl_z=ABORTS - 1,
            aerl_z=MOST_REQUESTS - 1,
            frmw=FRMW,
            lpa=LPA.of(ExtendedData=1, CommandEffects=1),
            elpe_z=ERROR_ENTRIES - 1,
            apsta=1,
            wctemp=WARNING_KELVIN,
            cctemp=CRITICAL_KELVIN,
            tnvmcap=subsystem.total.to_bytes(16, "little"),
            unvmcap=subsystem.unallocated.to_bytes(16, "little"),
            kas=KEEP_ALIVE_UNITS,
            sanicap=SANICAP.of(BlockErase=1),
            sqes=ENTRY_SIZES[0],
            cqes=ENTRY_SIZES[1],
            nn=subsystem.most_namespaces,
            oncs=ONCS.of(
                Copy=1,
                Verify=1,
                Timestamp=1,
                Reservations=any(disk.reservations is not None for disk in disks),
                SaveAndSelect=1,
                WriteZeroes=1,
                DatasetManagement=subsystem.create is not None
                or any(disk.unmap_behaviour is not Unmap.IGNORED for disk in disks),
                WriteUncorrectable=1,
                Compare=1,
            ),
            fuses=1,
            vwc=VWC.of(FlushAll=FLUSH_ALL, Present=controller.admin.has_volatile_cache),
            cdfs=1,
            sgls=SGLS.of(Supported=1),
            mnan=subsystem.most_namespaces,
            subnqn=subsystem.nqn.encode(),
            psd0=PowerState(max_power=2500).pack(),
        ).pack()
