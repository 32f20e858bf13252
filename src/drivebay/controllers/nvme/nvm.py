"""I/O commands (NVM Command Set 1.0 section 3.2).

READ and WRITE come here if something is unusual about them, or about their namespace; as drivers
send them they go a short way (`worker`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from drivebay.controllers.nvme.namespace import COPY_BLOCKS, Namespace
from drivebay.controllers.nvme.opcodes import ALL_NAMESPACES, NvmOpcode
from drivebay.controllers.nvme.pause import Pause
from drivebay.controllers.nvme.queues import Row, SubmissionQueue
from drivebay.controllers.nvme.reservations import ReservationCommands
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command, CopyRange, DsmRange, IoFlags
from drivebay.disk.bad import TooManyRanges
from drivebay.disk.buffers import aligned
from drivebay.disk.contract import Operation, Unmap
from drivebay.disk.errors import DiskError

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.worker import Handler, Outcome

__all__ = ["NvmCommands"]

DEALLOCATE: Final = 1 << 2
PIECE: Final = 1 << 20
"""Bytes that VERIFY and COPY hold at once."""
CHANGING: Final = frozenset(
    {
        NvmOpcode.WRITE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.DATASET_MANAGEMENT,
        NvmOpcode.COPY,
    }
)
ANYWHERE: Final = frozenset({NvmOpcode.DATASET_MANAGEMENT, NvmOpcode.COPY})
"""Those whose ranges are in their data."""


class NvmCommands:
    """The I/O commands of `controller`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._held_back: set[tuple[SubmissionQueue, int]] = set()
        self.reservations = ReservationCommands(controller, self.namespace)
        self.handlers: dict[int, Handler] = {
            NvmOpcode.FLUSH: self._flush,
            NvmOpcode.WRITE: self._write,
            NvmOpcode.READ: self._read,
            NvmOpcode.WRITE_UNCORRECTABLE: self._write_uncorrectable,
            NvmOpcode.COMPARE: self._compare,
            NvmOpcode.WRITE_ZEROES: self._write_zeroes,
            NvmOpcode.DATASET_MANAGEMENT: self._dataset_management,
            NvmOpcode.VERIFY: self._verify,
            NvmOpcode.COPY: self._copy,
            NvmOpcode.RESERVATION_REGISTER: self.reservations.register,
            NvmOpcode.RESERVATION_REPORT: self.reservations.report,
            NvmOpcode.RESERVATION_ACQUIRE: self.reservations.acquire,
            NvmOpcode.RESERVATION_RELEASE: self.reservations.release,
        }

    def namespace(self, command: Command) -> Namespace:
        """The namespace of a command. Raises `Refused`."""
        controller, nsid = self._controller, command.nsid
        if nsid not in controller.attached:
            raise Refused(Status.INVALID_NAMESPACE_OR_FORMAT, f"namespace {nsid:#x}")
        namespace = controller.subsystem.namespaces[nsid]
        namespace.must_be_free()
        if namespace.disk.reservations is not None:
            self.reservations.check(namespace, command.opcode)
        return namespace

    # -- reading ---------------------------------------------------------------------------------

    def _flush(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        if command.nsid == ALL_NAMESPACES:
            return self.flush_all()
        return self.namespace(command).disk.flush()

    async def flush_all(self) -> None:
        """FLUSH of every namespace."""
        namespaces = self._controller.subsystem.namespaces
        for nsid in sorted(self._controller.attached):
            await namespaces[nsid].disk.flush()

    def _read(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        namespace, slba, nlb = self._range(command)
        data = self._controller.buffers(command, nlb << namespace.lba_shift)
        namespace.must_be_good(slba, nlb)
        statistics = self._controller.statistics
        statistics.reads += 1
        statistics.read_bytes += nlb << namespace.lba_shift
        return namespace.read(slba << namespace.sector_shift, data)

    def _compare(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        namespace, slba, nlb = self._range(command)
        wanted = self._controller.receive(command, nlb << namespace.lba_shift)
        return self._compare_with(namespace, slba, wanted)

    async def _compare_with(self, namespace: Namespace, slba: int, wanted: bytes) -> None:
        found = aligned(len(wanted))
        namespace.must_be_good(slba, len(wanted) >> namespace.lba_shift)
        await namespace.read(slba << namespace.sector_shift, [found])
        if found != wanted:
            raise Refused(Status.COMPARE_FAILURE, f"blocks from {slba} differ")

    def _verify(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        return self._read_away(*self._range(command))

    async def _read_away(self, namespace: Namespace, slba: int, nlb: int) -> None:
        namespace.must_be_good(slba, nlb)
        length = nlb << namespace.lba_shift
        scratch = aligned(min(length, PIECE))
        sector = slba << namespace.sector_shift
        for done in range(0, length, PIECE):
            part = scratch[: min(PIECE, length - done)]
            await namespace.read(sector + done // namespace.disk.sector_size, [part])

    # -- writing ---------------------------------------------------------------------------------

    def _write(self, sq: SubmissionQueue, command: Command) -> Outcome:
        namespace, slba, nlb = self._range(command)
        if IoFlags(command.cdw12).DTYPE:
            raise Refused(Status.INVALID_FIELD, "there are no directives")
        data = self._controller.buffers(command, nlb << namespace.lba_shift)
        statistics = self._controller.statistics
        statistics.writes += 1
        statistics.write_bytes += nlb << namespace.lba_shift
        stable = self._stable(command)
        return self._change(
            sq,
            command,
            namespace,
            [(slba, nlb)],
            lambda: namespace.write(slba << namespace.sector_shift, data, stable),
        )

    def _stable(self, command: Command) -> bool:
        return bool(command.cdw12 & IoFlags.FUA) or self._controller.write_through

    def _write_zeroes(self, sq: SubmissionQueue, command: Command) -> Outcome:
        namespace, slba, nlb = self._range(command)
        disk, shift = namespace.disk, namespace.sector_shift
        unmap = bool(IoFlags(command.cdw12).DEAC) and disk.unmap_behaviour is not Unmap.IGNORED
        stable = self._stable(command)
        return self._change(
            sq,
            command,
            namespace,
            [(slba, nlb)],
            lambda: disk.write_zeroes(slba << shift, nlb << shift, stable, unmap),
        )

    def _write_uncorrectable(self, sq: SubmissionQueue, command: Command) -> Outcome:
        namespace, slba, nlb = self._range(command)
        if namespace.disk.read_only:
            raise Refused(Status.NAMESPACE_WRITE_PROTECTED, f"namespace {namespace.nsid}")
        return self._make_bad(sq, command, namespace, slba, nlb)

    async def _make_bad(
        self, sq: SubmissionQueue, command: Command, namespace: Namespace, slba: int, nlb: int
    ) -> None:
        await self._unlocked(sq, command, namespace, [(slba, nlb)])
        try:
            namespace.bad.add(slba, nlb)
        except TooManyRanges as error:
            raise Refused(Status.INTERNAL_ERROR, str(error)) from None
        self._controller.subsystem.refresh()

    def _dataset_management(self, sq: SubmissionQueue, command: Command) -> Outcome:
        namespace = self.namespace(command)
        count = (command.cdw10 & 0xFF) + 1
        table = self._controller.receive(command, count * DsmRange.size)
        found = [(row[2], row[1]) for row in DsmRange.layout.iter_unpack(table) if row[1]]
        for slba, nlb in found:
            namespace.check(slba, nlb)
        disk = namespace.disk
        if not command.cdw11 & DEALLOCATE or disk.unmap_behaviour is Unmap.IGNORED:
            return 0
        return self._change(sq, command, namespace, found, lambda: self._unmap(namespace, found))

    @staticmethod
    async def _unmap(namespace: Namespace, ranges: list[tuple[int, int]]) -> None:
        shift = namespace.sector_shift
        for slba, nlb in ranges:
            await namespace.disk.unmap(slba << shift, nlb << shift)

    def _copy(self, sq: SubmissionQueue, command: Command) -> Outcome:
        namespace = self.namespace(command)
        flags = command.cdw12
        if flags >> 8 & 0xF:
            raise Refused(Status.INVALID_FIELD, f"copy descriptor format {flags >> 8 & 0xF}")
        count = (flags & 0xFF) + 1
        if count > 128:
            raise Refused(Status.COMMAND_SIZE_LIMIT_EXCEEDED, f"{count} ranges to copy")
        table = self._controller.receive(command, count * CopyRange.size)
        sources = [(row[1], row[2] + 1) for row in CopyRange.layout.iter_unpack(table)]
        total = sum(nlb for _, nlb in sources)
        if total > COPY_BLOCKS:
            raise Refused(Status.COMMAND_SIZE_LIMIT_EXCEEDED, f"{total} blocks to copy")
        for slba, nlb in [*sources, (command.slba, total)]:
            namespace.check(slba, nlb)
        for slba, nlb in sources:
            namespace.must_be_good(slba, nlb)
        target, stable = command.slba, self._stable(command)
        return self._change(
            sq,
            command,
            namespace,
            [(target, total)],
            lambda: self._copy_each(namespace, sources, target, stable),
        )

    @staticmethod
    async def _copy_each(
        namespace: Namespace, sources: list[tuple[int, int]], target: int, stable: bool
    ) -> None:
        disk, shift = namespace.disk, namespace.sector_shift
        largest = max(nlb for _, nlb in sources) << namespace.lba_shift
        scratch = aligned(min(largest, PIECE))
        to = target << shift
        for slba, nlb in sources:
            sector, length = slba << shift, nlb << namespace.lba_shift
            for done in range(0, length, PIECE):
                part = scratch[: min(PIECE, length - done)]
                at = done // disk.sector_size
                await namespace.read(sector + at, [part])
                await namespace.write(to + at, [part], stable)
            to += nlb << shift

    # -- ranges that somebody has for himself ----------------------------------------------------

    def _range(self, command: Command) -> tuple[Namespace, int, int]:
        """Namespace, first block and number of blocks of a command. Raises `Refused`."""
        namespace = self.namespace(command)
        slba, nlb = command.slba, command.nlb
        namespace.check(slba, nlb)
        return namespace, slba, nlb

    def _change(
        self,
        sq: SubmissionQueue,
        command: Command,
        namespace: Namespace,
        ranges: list[tuple[int, int]],
        operation: Callable[[], Operation],
    ) -> Outcome:
        """Do what changes `ranges` of blocks."""
        if namespace.plain:
            return operation()
        return self._change_later(sq, command, namespace, ranges, operation)

    async def _change_later(
        self,
        sq: SubmissionQueue,
        command: Command,
        namespace: Namespace,
        ranges: list[tuple[int, int]],
        operation: Callable[[], Operation],
    ) -> None:
        await self._unlocked(sq, command, namespace, ranges)
        await operation()
        if namespace.bad and command.opcode != NvmOpcode.DATASET_MANAGEMENT:
            for slba, nlb in ranges:
                namespace.bad.clear(slba, nlb)
            self._controller.subsystem.refresh()

    async def _unlocked(
        self,
        sq: SubmissionQueue,
        command: Command,
        namespace: Namespace,
        ranges: list[tuple[int, int]],
    ) -> None:
        """Wait until nobody has a part of `ranges` for himself."""
        waits = (sq, command.cid)
        try:
            while any(overlap(each, locked) for each in ranges for locked in namespace.locked):
                self._held_back.add(waits)
                await Pause(self._controller.engine)
        finally:
            self._held_back.discard(waits)

    def compare_and_write(self, sq: SubmissionQueue, first: Command, second: Command) -> Outcome:
        """The fused pair (section 3.2.1): compare, and write if it was the same."""
        try:
            if (first.opcode, second.opcode) != (NvmOpcode.COMPARE, NvmOpcode.WRITE):
                raise Refused(Status.INVALID_FIELD, "this cannot be fused")
            namespace, slba, nlb = self._range(first)
            self.namespace(second)
            if (second.nsid, second.slba, second.nlb) != (first.nsid, slba, nlb):
                raise Refused(Status.INVALID_FIELD, "fused commands of different ranges")
            if nlb > 1:
                raise Refused(Status.ATOMIC_WRITE_UNIT_EXCEEDED, f"{nlb} blocks compared, written")
            wanted = self._controller.receive(first, nlb << namespace.lba_shift)
        except (Refused, DiskError) as refused:
            self._first_ended(sq, first, refused)
            raise Refused(Status.ABORTED_FAILED_FUSED, "its first has failed") from None
        return self._compare_and_write(sq, first, second, namespace, wanted)

    async def _compare_and_write(
        self,
        sq: SubmissionQueue,
        first: Command,
        second: Command,
        namespace: Namespace,
        wanted: bytes,
    ) -> None:
        """Nobody writes to the block in between: who came before ends, who comes later waits."""
        block = (first.slba, first.nlb)
        try:
            await self._unlocked(sq, second, namespace, [block])
            namespace.locked.append(block)
            self._controller.subsystem.refresh()
            try:
                while self._written(namespace, block, sq, second.cid):
                    await Pause(self._controller.engine)
                await self._compare_with(namespace, first.slba, wanted)
                data = self._controller.buffers(second, len(wanted))
                sector = second.slba << namespace.sector_shift
                await namespace.write(sector, data, self._stable(second))
            finally:
                namespace.locked.remove(block)
                self._controller.subsystem.refresh()
        except Exception as error:
            self._first_ended(sq, first, error)
            raise Refused(Status.ABORTED_FAILED_FUSED, "its first has failed") from None
        except BaseException:
            self._first_ended(sq, first, Refused(Status.ABORT_REQUESTED, "with its second"))
            raise
        if namespace.bad:
            namespace.bad.clear(*block)
        self._first_ended(sq, first, None)

    def _first_ended(
        self, sq: SubmissionQueue, first: Command, error: BaseException | None
    ) -> None:
        worker = self._controller.worker
        if first.cid not in sq.rows:
            return
        if sq.dead:
            sq.forget(first.cid)
            return
        row = sq.rows[first.cid]
        worker.finish(sq, first.cid, 0, 0 if error is None else worker.failure(sq, row, error))

    def _written(
        self, namespace: Namespace, block: tuple[int, int], own: SubmissionQueue, cid: int
    ) -> bool:
        """Whether a command under way may change `block`, beside the one that asks."""
        for controller in namespace_controllers(self._controller, namespace):
            for sq in controller.sqs[1:]:
                if sq is None:
                    continue
                for other in sq.tasks:
                    row = sq.rows.get(other)
                    if row is None or (sq, other) == (own, cid) or row[3] != namespace.nsid:
                        continue
                    if (sq, other) not in self._held_back and _may_change(row, block):
                        return True
        return False


def namespace_controllers(controller: Controller, namespace: Namespace) -> list[Controller]:
    """Those that show a namespace."""
    return [
        each
        for each in controller.subsystem.controllers.values()
        if namespace.nsid in each.attached
    ]


def _may_change(row: Row, block: tuple[int, int]) -> bool:
    if row[0] not in CHANGING:
        return False
    if row[0] in ANYWHERE:
        return True
    command = Command(*row)
    return overlap((command.slba, command.nlb), block)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges of blocks have one in common."""
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
