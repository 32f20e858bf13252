"""Namespaces that hosts create, attach and format (NVMe Base 2.0 sections 5.14, 5.22, 5.23)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from drivebay.controllers.nvme.namespace import BLOCK_SIZES, Namespace
from drivebay.controllers.nvme.opcodes import ALL_NAMESPACES
from drivebay.controllers.nvme.pause import Pause
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command, NamespaceTemplate
from drivebay.disk.errors import DiskOpenError
from drivebay.wire import Bit, Bits, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.worker import Outcome

__all__ = ["Management", "erase"]

CREATE, DELETE = 0, 1
ATTACH, DETACH = 0, 1
NO_ERASE, USER_DATA_ERASE = 0, 1
LIST_SIZE: Final = 4096
PIECE: Final = 1 << 30
"""Bytes that are erased at once: between two pieces others run, and can be told how far it is."""


class FormatSetup(Register32):
    """CDW10 of FORMAT NVM."""

    LBAFU = Bits(13, 12)
    SES = Bits(11, 9)  # 0 no erase, 1 user data, 2 cryptographic
    PIL = Bit(8)
    PI = Bits(7, 5)
    MSET = Bit(4)
    LBAFL = Bits(3, 0)


async def erase(controller: Controller, namespace: Namespace) -> None:
    """Make a namespace read zero. The disk may give its space back."""
    disk = namespace.disk
    step = max(PIECE // disk.sector_size, 1)
    for sector in range(0, disk.sector_count, step):
        count = min(step, disk.sector_count - sector)
        await disk.write_zeroes(sector, count, unmap=True)
        await Pause(controller.engine)


class Management:
    """The commands, for `controller`."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._subsystem = controller, controller.subsystem

    # -- creating and deleting -------------------------------------------------------------------

    def manage(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """NAMESPACE MANAGEMENT. Raises `Refused`."""
        action = command.cdw10 & 0xF
        if action == CREATE:
            return self._create(command)
        if action == DELETE:
            return self._delete(command)
        raise Refused(Status.INVALID_FIELD, f"namespace management {action}")

    def _create(self, command: Command) -> int:
        subsystem = self._subsystem
        if command.cdw11 >> 24:
            raise Refused(Status.INVALID_FIELD, f"command set {command.cdw11 >> 24}")
        wanted = NamespaceTemplate.unpack(self._controller.receive(command, NamespaceTemplate.size))
        if wanted.flbas >= len(BLOCK_SIZES):
            raise Refused(Status.INVALID_FORMAT, f"LBA format {wanted.flbas}")
        if wanted.dps:
            raise Refused(Status.INVALID_FIELD, "there is no protection information")
        if wanted.ncap != wanted.nsze:
            raise Refused(Status.THIN_PROVISIONING_UNSUPPORTED, "NCAP is not NSZE")
        block = BLOCK_SIZES[wanted.flbas]
        nsid = subsystem.free_id()
        if nsid is None:
            raise Refused(Status.NAMESPACE_ID_UNAVAILABLE, "every namespace id is taken")
        if not wanted.nsze or wanted.nsze * block > subsystem.unallocated:
            raise Refused(Status.INSUFFICIENT_CAPACITY, f"{wanted.nsze} blocks of {block} bytes")
        try:
            subsystem.create_namespace(nsid, wanted.nsze * block, block)
        except DiskOpenError as error:
            raise Refused(Status.INSUFFICIENT_CAPACITY, str(error)) from None
        return nsid

    def _delete(self, command: Command) -> Outcome:
        subsystem = self._subsystem
        if command.nsid == ALL_NAMESPACES:
            nsids = [nsid for nsid in subsystem.namespaces if subsystem.is_created(nsid)]
        else:
            if command.nsid not in subsystem.namespaces:
                raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {command.nsid:#x}")
            if not subsystem.is_created(command.nsid):
                raise Refused(Status.OPERATION_DENIED, "it is not a host's to delete")
            nsids = [command.nsid]
        for nsid in nsids:
            self._subsystem.namespaces[nsid].must_be_free()
        return self._delete_each(nsids)

    async def _delete_each(self, nsids: list[int]) -> None:
        for nsid in nsids:
            namespace = self._subsystem.namespaces.get(nsid)
            if namespace is not None:
                await self._take([namespace], Status.INVALID_NAMESPACE_OR_FORMAT)
                self._subsystem.remove(nsid).close()

    # -- attaching -------------------------------------------------------------------------------

    def attachment(self, _sq: SubmissionQueue, command: Command) -> int:
        """NAMESPACE ATTACHMENT. Raises `Refused`."""
        action, nsid = command.cdw10 & 0xF, command.nsid
        if action not in (ATTACH, DETACH):
            raise Refused(Status.INVALID_FIELD, f"namespace attachment {action}")
        if nsid not in self._subsystem.namespaces:
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {nsid:#x}")
        data = self._controller.receive(command, LIST_SIZE)
        count = min(int.from_bytes(data[:2], "little"), LIST_SIZE // 2 - 1)
        ids = struct.unpack_from(f"<{count}H", data, 2)
        if not ids or any(number not in self._subsystem.controllers for number in ids):
            raise Refused(Status.CONTROLLER_LIST_INVALID, f"controllers {ids[:8]}")
        controllers = [self._subsystem.controllers[number] for number in ids]
        if action == ATTACH:
            if any(nsid in controller.attached for controller in controllers):
                raise Refused(Status.ALREADY_ATTACHED, f"namespace {nsid}")
            for controller in controllers:
                controller.attach(nsid)
        else:
            if any(nsid not in controller.attached for controller in controllers):
                raise Refused(Status.NOT_ATTACHED, f"namespace {nsid}")
            for controller in controllers:
                controller.detach(nsid)
        return 0

    # -- formatting ------------------------------------------------------------------------------

    def format(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """FORMAT NVM: everything is parsed before anything is lost. Raises `Refused`."""
        setup, attached = FormatSetup(command.cdw10), self._controller.attached
        nsids = sorted(attached) if command.nsid == ALL_NAMESPACES else [command.nsid]
        if not nsids or not attached.issuperset(nsids):
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {command.nsid:#x}")
        namespaces = [self._subsystem.namespaces[nsid] for nsid in nsids]
        if setup.SES > USER_DATA_ERASE:
            raise Refused(Status.INVALID_FIELD, f"secure erase {setup.SES}")
        if setup.PI or setup.PIL or setup.MSET:
            raise Refused(Status.INVALID_FORMAT, "there is no protection information")
        for namespace in namespaces:
            if len(namespace.formats) <= setup.LBAFL or setup.LBAFU:
                raise Refused(Status.INVALID_FORMAT, f"LBA format {setup.LBAFL}")
            if (
                not namespace.disk.sector_count
                * namespace.disk.sector_size
                // namespace.formats[setup.LBAFL]
            ):
                raise Refused(Status.INVALID_FORMAT, "there is room for no block of that size")
            if namespace.disk.read_only:
                raise Refused(Status.NAMESPACE_WRITE_PROTECTED, f"namespace {namespace.nsid}")
            namespace.must_be_free()
        return self._format(namespaces, setup.LBAFL)

    async def _format(self, namespaces: list[Namespace], number: int) -> None:
        await self._take(namespaces, Status.FORMAT_IN_PROGRESS)
        try:
            for namespace in namespaces:
                await erase(self._controller, namespace)
                namespace.format(number)
                namespace.bad.restore([])
        finally:
            self._give_back(namespaces)
        for namespace in namespaces:
            self._subsystem.changed(namespace.nsid)

    async def _take(self, namespaces: list[Namespace], status: Status) -> None:
        """Commands on these are refused with `status` from now on; wait for those under way."""
        for namespace in namespaces:
            namespace.busy = status
        self._subsystem.refresh()
        try:
            while any(self._subsystem.in_use(each.nsid) for each in namespaces):
                await Pause(self._controller.engine)
        except BaseException:  # a reset: nothing was done
            self._give_back(namespaces)
            raise

    def _give_back(self, namespaces: list[Namespace]) -> None:
        for namespace in namespaces:
            namespace.busy = None
        self._subsystem.refresh()
