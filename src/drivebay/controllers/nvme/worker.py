"""Commands on their way: taken from the queues in turn, parsed, served, completed.

A command has three moments. It is parsed completely; it acts, which nearly always ends in the first
step of its disk's coroutine; it is finished: its completion is posted, and each batch of them is
told by one interrupt. READ and WRITE as drivers send them have a short way of their own, and no
object is made for them; everything else is a `Command` with a handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.arbitration import one_round
from drivebay.controllers.nvme.observer import Escort, Observer
from drivebay.controllers.nvme.opcodes import Fuse, NvmOpcode, Psdt
from drivebay.controllers.nvme.queues import CompletionQueue, Row, SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status, status_name, status_of
from drivebay.controllers.nvme.structures import SQE_SIZE, Command, Completion, IoFlags
from drivebay.controllers.nvme.transfer import prp_views, sgl_views
from drivebay.disk.errors import DiskError
from drivebay.platform.engine import Task
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemoryFault, barrier
from drivebay.platform.observer import Dropped, InFlight, Tap
from drivebay.suspend import DONE, Cancelled

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.namespace import Namespace

__all__ = ["HELD", "Handler", "Outcome", "Worker"]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

BATCH: Final = 256
"""Commands that are served before others run."""
MOVED: Final = 256 << 10
"""Bytes that are moved before the host is told: it works on them while we move more."""
SINGLES: Final = 8
"""After so many commands that came by themselves, each when the last one's completion had been
taken, the driver has one at a time."""
HELD: Final = -1
"""The outcome of a command that ends at some other time."""

Outcome = int | Coroutine[Any, Any, Any]
"""DW0 of the completion, or `HELD`, or a coroutine that gives one of them (or None for 0)."""
Handler = Callable[[SubmissionQueue, Command], Outcome]

read_command = Command.layout.unpack_from
READ, WRITE = int(NvmOpcode.READ), int(NvmOpcode.WRITE)
FUA: Final = int(IoFlags.FUA)
SGL: Final = Psdt.SGL << 6
UNUSUAL: Final = int(IoFlags.DTYPE)
NO_NAMESPACES: Final[dict[int, Namespace]] = {}


class Worker:
    """Serves the queues of `controller`."""

    def __init__(self, controller: Controller) -> None:
        self.controller, self._engine = controller, controller.engine
        self.observer: Observer | None = None
        self.tap: Tap | None = None
        """Shown the row of a command, and DW0 and status field of its completion."""
        self._kicked = self._publishing = self._held = False
        self._singles = 0  # rounds in a row in which a command came by itself

    # -- taking turns ----------------------------------------------------------------------------

    def kick(self) -> None:
        """There may be something to do: it is done at the end of this turn."""
        if not self._kicked:
            self._kicked = True
            self._engine.at_end_of_turn(self._work)

    def hold(self, held: bool) -> None:
        """While it is held no command is taken: doorbells say what there is when it is let go."""
        self._held = held
        self.kick()

    def _work(self) -> None:
        self._kicked = False
        controller = self.controller
        left = BATCH
        while controller.working and not self._held:
            queues, before, alone = controller.live_sqs, left, True
            if controller.shadows:
                for queue in queues:
                    queue.look()
                    queue.cq.look()
                    alone = alone and not queue.cq.untaken
                    self._look_for_room(queue.cq)
            for queue, most in one_round(queues, controller.turns, left):
                left -= self._serve(queue, most if most < left else left)
                if left <= 0 or not controller.working:
                    break
            if left < before:
                self._singles = self._singles + 1 if alone and left == before - 1 else 0
                self.publish()
            if left <= 0:
                self._engine.later(self.kick)
                return
            if any(queue.serves for queue in queues):
                continue
            if not controller.shadows or self._idle(queues):
                return

    def _idle(self, queues: tuple[SubmissionQueue, ...]) -> bool:
        """Whether nothing comes by the doorbells in memory; those shall be told of, then."""

        def came() -> bool:
            for queue in queues:
                queue.look()
            return any(queue.serves for queue in queues)

        controller = self.controller
        linger = controller.linger_long if self._singles >= SINGLES else controller.linger
        if not any(queue.tasks for queue in queues) and linger(came):
            return False
        for queue in queues:
            if queue.shadow is not None:
                queue.shadow.want(queue.tail)
        barrier()  # the driver stores its tail, then looks at the event index; we do the reverse
        return not came()

    # -- taking commands -------------------------------------------------------------------------

    def _serve(self, sq: SubmissionQueue, most: int) -> int:
        """Serve up to `most` commands of `sq`; how many were taken."""
        controller, cq, rows = self.controller, sq.cq, sq.rows
        memory, page_size = controller.memory, controller.page_size
        inside, max_transfer = page_size - 1, controller.max_transfer
        fast = controller.fast if sq.id and sq.fused is None else NO_NAMESPACES
        waiting, statistics = cq.waiting, controller.statistics
        start, ram_size, ram = memory.window
        address, size = sq.address, sq.size
        head, tail = sq.head, sq.tail
        sqid, tap = sq.id << 16, self.tap
        most = left = min(most, cq.room, size - len(rows))
        room = MOVED
        while head != tail and left > 0:
            left -= 1
            at = address + SQE_SIZE * head - start
            if 0 <= at <= ram_size - SQE_SIZE:
                row = read_command(ram, at)
            else:
                try:
                    row = read_command(memory.view(address + SQE_SIZE * head, SQE_SIZE))
                except GuestMemoryFault as fault:
                    controller.fail(f"queue {sq.id}: {fault}")
                    return most - left
                start, ram_size, ram = memory.window
            head += 1
            if head == size:
                head = 0
            sq.head = head
            opcode, flags, cid, nsid, _, _, _, prp1, prp2, low, high, cdw12, _, _, _ = row
            if tap is not None:
                tap.began(sq.id, cid, row)
            namespace = fast.get(nsid)
            if (
                namespace is None
                or (flags and flags != SGL)
                or (opcode != READ and opcode != WRITE)
                or cdw12 & UNUSUAL
                or cid in rows
            ):
                self.begin(sq, row)
                fast = controller.fast if sq.id and sq.fused is None else NO_NAMESPACES
                if sq.dead or not controller.working:
                    break
                continue
            try:
                length = ((cdw12 & 0xFFFF) + 1) << namespace.lba_shift
                if length > max_transfer:
                    raise too_long(length, max_transfer)
                at = prp1 - start
                if flags:
                    data = sgl_views(memory, prp1, prp2, length)
                    start, ram_size, ram = memory.window
                elif (
                    (prp1 & inside) + length <= page_size
                    and 0 <= at <= ram_size - length
                    and not prp1 & 3
                ):
                    data = [ram[at : at + length]]
                else:
                    data = prp_views(memory, page_size, prp1, prp2, length)
                    start, ram_size, ram = memory.window
                sector = (high << 32 | low) << namespace.sector_shift
                if opcode == READ:
                    statistics.reads += 1
                    statistics.read_bytes += length
                    operation = namespace.read(sector, data)
                else:
                    statistics.writes += 1
                    statistics.write_bytes += length
                    stable = bool(cdw12 & FUA) or controller.write_through
                    operation = namespace.write(sector, data, stable)
                if operation is not DONE:
                    # Not send(None): a StopIteration for each would cost as much as the parsing.
                    suspension = next(operation.__await__(), None)
                    if suspension is not None:
                        rows[cid] = row
                        done = partial(self._ended, sq, row)
                        sq.tasks[cid] = Task(self._engine, operation, done, suspension)
                        continue
                if tap is not None:
                    tap.ended(sq.id, cid, (0, 0))
                waiting += (0, cid << 32 | sqid | head)
                room -= length
                if room <= 0:
                    break
            except Exception as error:
                self.complete(sq, cid, 0, self.failure(sq, row, error))
        return most - left

    # -- serving ---------------------------------------------------------------------------------

    def begin(self, sq: SubmissionQueue, row: Row) -> None:
        """Take the first step of any command; mostly that is the end."""
        command = Command(*row)
        cid = command.cid
        if cid in sq.rows:
            error = Refused(Status.COMMAND_ID_CONFLICT, f"command {cid:#x} is under way")
            self.complete(sq, cid, 0, self.failure(sq, row, error))
            return
        sq.rows[cid] = row
        value, failed = None, None
        try:
            observer = self.observer
            escort = None if observer is None else observer.command(sq.id, cid, command)
            if escort is not None:
                outcome: Outcome = self._escorted(escort, sq, row)
            else:
                outcome = self._act(sq, command)
            if isinstance(outcome, int):
                value = outcome
            else:
                suspension = outcome.send(None)
                done = partial(self._ended, sq, row)
                sq.tasks[cid] = Task(self._engine, outcome, done, suspension)
                return
        except StopIteration as stop:
            value = stop.value
        except Exception as error:
            failed = error
        self._ended(sq, row, value, failed)

    def _act(self, sq: SubmissionQueue, command: Command) -> Outcome:
        """Find its handler. Raises `Refused`."""
        controller = self.controller
        controller.admin.keep_alive.seen()
        if not sq.id:
            handlers = controller.admin.handlers
        else:
            if command.fuse or sq.fused is not None:
                fused = self._fuse(sq, command)
                if fused is not None:
                    return fused
            handlers = controller.nvm.handlers
        handler = handlers.get(command.opcode)
        if handler is None:
            raise Refused(Status.INVALID_OPCODE, "there is no such command")
        if command.flags and not sq.id:  # PCIe Transport 1.0 section 3.2.1
            raise Refused(Status.INVALID_FIELD, "admin commands have PRPs, and are not fused")
        return handler(sq, command)

    def _fuse(self, sq: SubmissionQueue, command: Command) -> Outcome | None:
        """The place of a command in a fused pair (section 3.4.2); None if it is in none."""
        first, sq.fused = sq.fused, None
        if command.fuse == Fuse.SECOND and first is not None:
            return self.controller.nvm.compare_and_write(sq, Command(*first), command)
        if first is not None:
            missing = Refused(Status.ABORTED_MISSING_FUSED, "its second did not follow")
            self._ended(sq, first, None, missing)
        if command.fuse == Fuse.FIRST:
            sq.fused = sq.rows[command.cid]
            return HELD
        if command.fuse:
            raise Refused(Status.ABORTED_MISSING_FUSED, "its first was not before it")
        return None

    async def _escorted(self, escort: Escort, sq: SubmissionQueue, row: Row) -> Completion | int:
        """The same, with somebody meddling."""
        cid, dw0, status = row[2], 0, 0
        try:
            acts = await escort.before()
            if sq.dead:  # it was held over a reset, and let go too late to be given up
                return HELD
            if acts:
                outcome = self._act(sq, replace(escort.command, cid=cid))
                dw0 = outcome if isinstance(outcome, int) else await outcome or 0
                if dw0 == HELD:
                    return HELD
        except (Cancelled, Dropped):
            raise
        except Exception as error:
            dw0, status = 0, self.failure(sq, row, error)
        completion = await escort.after(Completion(dw0, 0, 0, sq.id, cid, status << 1))
        if escort.twice and not sq.dead:
            self.complete(sq, cid, completion.dw0, completion.status >> 1)
        if escort.quiet and sq.cq.interrupts:
            sq.cq.interrupts = False
            # The turn ends first, and with it the batch.
            self._engine.later(partial(setattr, sq.cq, "interrupts", True))
        return completion

    # -- finishing -------------------------------------------------------------------------------

    def _ended(
        self, sq: SubmissionQueue, row: Row, value: Any, error: BaseException | None
    ) -> None:
        """A command has ended, or is held."""
        cid = row[2]
        if value == HELD or isinstance(error, Dropped):
            sq.tasks.pop(cid, None)
            if sq.dead:
                sq.forget(cid)
            return
        dw0 = value or 0
        if isinstance(value, Completion):
            dw0, field = value.dw0, value.status >> 1
        elif isinstance(error, Cancelled):
            field = int(sq.reason)
        else:
            field = 0 if error is None else self.failure(sq, row, error)
        if not sq.dead:
            self.complete(sq, cid, dw0, field)
        sq.forget(cid)

    def finish(self, sq: SubmissionQueue, cid: int, dw0: int, status: int) -> None:
        """End a command that is held."""
        self.complete(sq, cid, dw0, status)
        sq.forget(cid)

    def preempt(self, nsid: int) -> None:
        """Another host has the reservation: what is under way on a namespace is given up."""
        for sq in self.controller.sqs[1:]:
            if sq is not None:
                sq.reason, before = Status.ABORTED_PREEMPT, sq.reason
                for cid, task in tuple(sq.tasks.items()):
                    row = sq.rows.get(cid)  # another's end may have been its end
                    if row is not None and row[3] == nsid:
                        task.cancel()
                sq.reason = before

    def complete(self, sq: SubmissionQueue, cid: int, dw0: int, status: int) -> None:
        """A completion, to be posted when this turn is over."""
        if self.tap is not None:
            self.tap.ended(sq.id, cid, (dw0, status))
        sq.cq.waiting += (dw0, status << 49 | cid << 32 | sq.id << 16 | sq.head)
        if not self._publishing:
            self._publishing = True
            self._engine.at_end_of_turn(self._publish_later)

    def _publish_later(self) -> None:
        self._publishing = False
        if self.controller.working:
            self.publish()
            self.kick()  # there may have been no room for more under way

    def publish(self) -> None:
        """Post what waits, and interrupt once for each queue."""
        controller = self.controller
        for cq in controller.live_cqs:
            if cq.waiting:
                self.publish_queue(cq)

    def publish_queue(self, cq: CompletionQueue) -> None:
        """The same for one queue."""
        controller = self.controller
        if not controller.working:
            return
        try:
            self._look_for_room(cq)
            count = cq.post(controller.memory)
        except GuestMemoryFault as fault:
            controller.fail(f"completion queue {cq.id}: {fault}")
            return
        if count:
            controller.interrupts.completed(cq, count)

    @staticmethod
    def _look_for_room(cq: CompletionQueue) -> None:
        """Where the driver says in memory what it has taken, it is asked when that matters."""
        if cq.shadow is None or 2 * cq.room > cq.size:
            return
        cq.look()
        if cq.room <= 0:
            cq.shadow.want(cq.head)
            barrier()
            cq.look()

    def in_flight(self) -> Iterator[InFlight]:
        """Commands that wait for something, but for those that wait for events."""
        for sq in self.controller.live_sqs:
            for cid, task in sq.tasks.items():
                yield InFlight(sq.id, cid, sq.rows[cid], task.since)

    def failure(self, sq: SubmissionQueue, row: Row, error: BaseException) -> int:
        """A guest's mistake and a disk's trouble are statuses; a bug of ours is one, and logged."""
        field = status_of(error)
        what = "nvme: queue %d, opcode %#04x: %s: %s"
        if isinstance(error, Refused | DiskError):
            guest_log.warning(what, sq.id, row[0], status_name(field), error)
        else:
            guest_log.error(what, sq.id, row[0], status_name(field), error, exc_info=error)
        return self.controller.logs.failed(sq.id, row, field)


def too_long(length: int, limit: int) -> Refused:
    """What is said of a transfer beyond MDTS."""
    return Refused(Status.INVALID_FIELD, f"{length} bytes, MDTS allows {limit}")
