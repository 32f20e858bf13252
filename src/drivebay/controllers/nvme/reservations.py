"""Reservations, on disks that have them (NVMe Base 2.0 sections 7.2 to 7.5 and 8.19)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.namespace import RTYPES, Namespace
from drivebay.controllers.nvme.opcodes import EventType, LogId, NvmOpcode
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import (
    Command,
    RegisteredController,
    RegisteredControllerExtended,
    ReservationKeys,
    ReservationNotice,
    ReservationStatus,
)
from drivebay.disk.errors import ReservationConflict
from drivebay.disk.reservations import Nexus, Notice, Report, Reservations, ReservationType
from drivebay.wire import Bit, Bits, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.worker import Outcome

__all__ = ["ReservationCommands"]

REGISTER, UNREGISTER, REPLACE = range(3)
ACQUIRE, PREEMPT, PREEMPT_AND_ABORT = range(3)
RELEASE, CLEAR = range(2)
HEADER_EXTENDED: Final = 64
MOST_NOTICES: Final = 256
RESERVATION_EVENT: Final = 0
NOTICES: Final = {
    Notice.REGISTRATION_PREEMPTED: 1,
    Notice.RESERVATION_RELEASED: 2,
    Notice.RESERVATION_PREEMPTED: 3,
}
READING: Final = frozenset({NvmOpcode.READ, NvmOpcode.COMPARE, NvmOpcode.VERIFY, NvmOpcode.COPY})
WRITING: Final = frozenset(
    {
        NvmOpcode.FLUSH,
        NvmOpcode.WRITE,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.DATASET_MANAGEMENT,
        NvmOpcode.COPY,
    }
)
CODES: Final = {kind: code for code, kind in RTYPES.items()}
PERSIST: Final = {0: None, 2: False, 3: True}
"""CPTPL: change whether keys persist through power loss."""


class ReservationSetup(Register32):
    """CDW10 of all but REPORT."""

    CPTPL = Bits(31, 30)
    RTYPE = Bits(15, 8)
    IEKEY = Bit(3)  # ignore the existing key
    ACTION = Bits(2, 0)


class ReservationCommands:
    """The commands of `controller`; `namespace` finds whose they are."""

    def __init__(self, controller: Controller, namespace: Callable[[Command], Namespace]) -> None:
        self._controller, self._namespace = controller, namespace
        self._nexuses: dict[int, Nexus] = {}
        self.notices: deque[ReservationNotice] = deque(maxlen=MOST_NOTICES)
        """Notifications that were not read yet, the oldest first."""
        self._count = 0
        self.masks: dict[int, int] = {}
        """The Reservation Notification Mask feature, by namespace."""

    def nexus(self, namespace: Namespace) -> Nexus:
        """The host's view of a namespace that has reservations."""
        nexus = self._nexuses.get(namespace.nsid)
        host_id = self._controller.features.host_id
        if nexus is None or nexus.host_id != host_id:
            if nexus is not None:
                nexus.close()
            reservations = namespace.disk.reservations
            assert reservations is not None
            told = partial(self._told, namespace.nsid)
            nexus = reservations.of(host_id, self._controller.cntlid, told)
            self._nexuses[namespace.nsid] = nexus
        return nexus

    def check(self, namespace: Namespace, opcode: int) -> None:
        """Raises `ReservationConflict` if another host's reservation forbids a command (Base 2.0
        figure 411).
        """
        nexus = self.nexus(namespace)
        if (opcode in READING and not nexus.may_read) or (
            opcode in WRITING and not nexus.may_write
        ):
            raise ReservationConflict(f"opcode {opcode:#04x} on namespace {namespace.nsid}")

    # -- what other hosts do ---------------------------------------------------------------------

    def _told(self, nsid: int, notice: Notice) -> None:
        controller = self._controller
        if notice is Notice.ABORT:
            controller.worker.preempt(nsid)
            return
        kind = NOTICES[notice]
        if self.masks.get(nsid, 0) >> kind & 1:
            return
        self._count += 1
        self.notices.append(ReservationNotice(self._count, kind, 0, 0, nsid))
        controller.events.tell(EventType.COMMAND_SET, RESERVATION_EVENT, LogId.RESERVATIONS)

    def log(self, retain: bool) -> bytes:
        """The log page: the oldest notification, which is taken away unless `retain`."""
        if not self.notices:
            return bytes(ReservationNotice.size)
        first = replace(self.notices[0], available=len(self.notices) - 1)
        if not retain:
            self.notices.popleft()
        return first.pack()

    def reset(self) -> None:
        """The controller was reset: the host is another, for all we know."""
        for nexus in self._nexuses.values():
            nexus.close()
        self._nexuses.clear()
        self.notices.clear()
        self.masks.clear()

    def save(self) -> dict[str, Any]:
        """What the host was not told yet, and does not want to be told."""
        return {
            "notices": [[each.count, each.kind, each.nsid] for each in self.notices],
            "count": self._count,
            "masks": [[nsid, mask] for nsid, mask in self.masks.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; the host is connected to each namespace again."""
        self.reset()
        self.notices.extend(
            ReservationNotice(count, kind, 0, 0, nsid) for count, kind, nsid in state["notices"]
        )
        self._count, self.masks = state["count"], dict(state["masks"])
        for nsid in self._controller.attached:
            namespace = self._controller.subsystem.namespaces[nsid]
            if namespace.disk.reservations is not None:
                self.nexus(namespace)

    # -- the commands ----------------------------------------------------------------------------

    def _reservations(self, command: Command) -> tuple[Reservations, Nexus]:
        namespace = self._namespace(command)
        reservations = namespace.disk.reservations
        if reservations is None:
            raise Refused(Status.INVALID_OPCODE, "the disk has no reservations")
        return reservations, self.nexus(namespace)

    def _keys(self, command: Command, size: int = ReservationKeys.size) -> ReservationKeys:
        data = self._controller.receive(command, size)
        return ReservationKeys.unpack(data.ljust(ReservationKeys.size, b"\0"))

    def _kind(self, reservations: Reservations, code: int) -> ReservationType:
        kind = RTYPES.get(code)
        if kind is None or kind not in reservations.types:
            raise Refused(Status.INVALID_FIELD, f"reservation type {code}")
        return kind

    def register(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """RESERVATION REGISTER. Raises `Refused`."""
        (reservations, nexus), setup = self._reservations(command), ReservationSetup(command.cdw10)
        keys = self._keys(command)
        if setup.CPTPL not in PERSIST:
            raise Refused(Status.INVALID_FIELD, f"CPTPL {setup.CPTPL}")
        persist = PERSIST[setup.CPTPL]
        if persist and not reservations.can_persist_through_power_loss:
            raise Refused(Status.INVALID_FIELD, "keys do not persist through power loss")
        current = None if setup.IEKEY else keys.current
        if setup.ACTION == REGISTER:
            if nexus.key not in (0, keys.new):  # REPLACE is for that
                raise ReservationConflict("another key is registered")
            return nexus.register(None, keys.new, persist)
        if setup.ACTION not in (UNREGISTER, REPLACE):
            raise Refused(Status.INVALID_FIELD, f"register action {setup.ACTION}")
        if not nexus.key:
            raise ReservationConflict("no key is registered")
        return nexus.register(current, keys.new if setup.ACTION == REPLACE else 0, persist)

    def acquire(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """RESERVATION ACQUIRE. Raises `Refused`."""
        (reservations, nexus), setup = self._reservations(command), ReservationSetup(command.cdw10)
        keys, kind = self._keys(command), self._kind(reservations, setup.RTYPE)
        if setup.IEKEY:
            raise Refused(Status.INVALID_FIELD, "a key is needed")
        if setup.ACTION == ACQUIRE:
            return nexus.reserve(keys.current, kind)
        if setup.ACTION in (PREEMPT, PREEMPT_AND_ABORT):
            abort = setup.ACTION == PREEMPT_AND_ABORT
            return nexus.preempt(keys.current, keys.new, kind, abort)
        raise Refused(Status.INVALID_FIELD, f"acquire action {setup.ACTION}")

    def release(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """RESERVATION RELEASE. Raises `Refused`."""
        (reservations, nexus), setup = self._reservations(command), ReservationSetup(command.cdw10)
        key = self._keys(command, 8).current
        if setup.IEKEY:
            raise Refused(Status.INVALID_FIELD, "a key is needed")
        if setup.ACTION == RELEASE:
            return nexus.release(key, self._kind(reservations, setup.RTYPE))
        if setup.ACTION == CLEAR:
            return nexus.clear(key)
        raise Refused(Status.INVALID_FIELD, f"release action {setup.ACTION}")

    def report(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """RESERVATION REPORT. Raises `Refused`."""
        reservations, _ = self._reservations(command)
        length, extended = 4 * (command.cdw10 + 1), bool(command.cdw11 & 1)
        if length > self._controller.max_transfer:
            raise Refused(Status.INVALID_FIELD, f"a report of {length} bytes")
        return self._report(reservations, command, length, extended)

    async def _report(
        self, reservations: Reservations, command: Command, length: int, extended: bool
    ) -> None:
        data = report_data(await reservations.report(), extended)
        self._controller.send(command, data, length)

    async def persistence(self, command: Command) -> int:
        """The Reservation Persistence feature. Raises `Refused`."""
        reservations, _ = self._reservations(command)
        return int((await reservations.report()).persists_through_power_loss)

    async def set_persistence(self, command: Command) -> None:
        """Set it. Raises `Refused`."""
        reservations, _ = self._reservations(command)
        await reservations.persist(bool(command.cdw11 & 1))


def report_data(report: Report, extended: bool) -> bytes:
    """What REPORT gives."""
    data = ReservationStatus(
        generation=report.generation & 0xFFFFFFFF,
        rtype=CODES[report.type] if report.type is not None else 0,
        registered=len(report.registrants),
        reserved_7=0,
        ptpls=report.persists_through_power_loss,
    ).pack()
    if extended:
        data = data.ljust(HEADER_EXTENDED, b"\0")
    for each in report.registrants:
        holds = int(each.holds_reservation)
        if extended:
            entry = RegisteredControllerExtended(
                each.controller_id, holds, b"", each.key, each.host_id
            ).pack()
        else:
            entry = RegisteredController(
                each.controller_id, holds, b"", each.host_id, each.key
            ).pack()
        data += entry
    return data
