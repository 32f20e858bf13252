"""Native command queuing: a disk's commands by tag, under way at once (ACS-3 section 4.14).

A queued command is first accepted or refused, which frees the wire for the next. It then asks for
its data with `dma_setup`, part by part; `move` gives it. When one fails, the others are given up;
once none of them reaches memory any more, the host is told, and from then on every command but
READ LOG of the NCQ error is refused until that was read, or until a reset.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from drivebay.ata.command import ABRT, Aborted, Command, Protocol, Refused
from drivebay.ata.device import UNQUEUED
from drivebay.ata.escorted import Escorted
from drivebay.ata.logs import NCQ_ERROR
from drivebay.ata.media import Read, Span, Write
from drivebay.ata.registers import DeviceRegister, Error, Opcode, Status, name_of
from drivebay.ata.settings import Power
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.contract import Buffers, byte_length
from drivebay.disk.errors import DiskError
from drivebay.platform.engine import Task
from drivebay.platform.logs import RationedLog
from drivebay.platform.observer import Dropped, InFlight
from drivebay.suspend import Cancelled

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk

__all__ = ["QUEUED", "CommandQueue", "Failure", "tag_of"]

log = logging.getLogger("drivebay.ata")
guest_log = RationedLog(log)

ERR: Final = int(Status.ERR)
IDNF: Final = int(Error.IDNF)
LBA: Final = int(DeviceRegister.LBA)
FUA: Final = 0x80  # of the device register
QUEUED: Final = frozenset(
    (
        Opcode.READ_FPDMA_QUEUED,
        Opcode.WRITE_FPDMA_QUEUED,
        Opcode.NCQ_NON_DATA,
        Opcode.SEND_FPDMA_QUEUED,
        Opcode.RECEIVE_FPDMA_QUEUED,
    )
)
READ_LOGS: Final = (Opcode.READ_LOG_EXT, Opcode.READ_LOG_DMA_EXT)
ABORT_QUEUE, DATA_SET_MANAGEMENT = 0, 0  # subcommands of NCQ NON-DATA and SEND FPDMA QUEUED
ABORT_ALL, ABORT_NON_STREAMING, ABORT_SELECTED = 0, 2, 3
TRIM: Final = 1  # of the auxiliary field


def tag_of(taskfile: TaskFile) -> int:
    """The tag of a queued command."""
    return taskfile.count >> 3 & 31


@dataclass
class Failure:
    """What the NCQ error log tells; `tag` is None of a command that is not a queued one."""

    tag: int | None
    status: int
    error: int
    taskfile: TaskFile

    def save(self) -> list[Any]:
        """Its fields."""
        return [self.tag, self.status, self.error, self.taskfile.save()]

    @classmethod
    def restore(cls, state: list[Any]) -> Failure:
        """The failure that `save` gave."""
        tag, status, error, taskfile = state
        return cls(tag, status, error, TaskFile.restore(taskfile))


class _Entry:
    """A command in the queue."""

    __slots__ = (
        "command",
        "dropped",
        "offset",
        "result",
        "since",
        "size",
        "task",
        "taskfile",
        "working",
    )

    def __init__(
        self, taskfile: TaskFile, result: TaskFile, command: Command, since: float
    ) -> None:
        self.taskfile, self.command, self.since = taskfile, command, since
        self.result = result  # where the command leaves what went wrong
        self.offset = self.size = 0  # bytes that were moved, and that are being moved
        self.working = False
        self.task: Task | None = None
        self.dropped = False  # nobody wants to hear of it any more


class CommandQueue:
    """The queue of one drive. `failure` is what the NCQ error log holds."""

    def __init__(self, drive: AtaDisk) -> None:
        self._drive = drive
        self._entries: dict[int, _Entry] = {}
        self.failure: Failure | None = None
        self._report: Failure | None = None  # what the host is to be told of,
        self._unanswered = False  # in answer to a command

    @property
    def idle(self) -> bool:
        """Whether no command is under way, not even one that was given up."""
        return not self._entries

    def in_flight(self) -> Iterator[InFlight]:
        """The commands under way."""
        for tag, entry in self._entries.items():
            yield InFlight(0, tag, entry.taskfile, entry.since)

    # -- commands --------------------------------------------------------------------------------

    def takes(self, taskfile: TaskFile) -> bool:
        """Whether the command in `taskfile` is one for the queue, which then has it; or one that
        must not come now, which then is refused.
        """
        if taskfile.command in QUEUED:
            self._issue(taskfile.copy())
            return True
        if self.failure is None and not self._entries:
            return False
        reads_log = taskfile.command in READ_LOGS and taskfile.lba_low & 0xFF == NCQ_ERROR
        if reads_log and not self._entries:
            return False
        if self._drive.tap is not None:
            self._drive.tap.began(0, UNQUEUED, taskfile.copy())
        why = "queued commands are under way" if self._entries else "the queue has failed"
        self._refuse(None, taskfile.copy(), Aborted(why=why))
        return True

    def _issue(self, taskfile: TaskFile) -> None:
        drive, tag = self._drive, tag_of(taskfile)
        assert drive.sata is not None
        if drive.tap is not None:
            drive.tap.began(0, tag, taskfile)
        try:
            if self.failure is not None:
                raise Aborted(why="the queue has failed")
            if tag in self._entries:
                raise Aborted(why="the tag is in use")
            result = taskfile.copy()
            observer = drive.observer
            escort = None if observer is None else observer.command(0, tag, result)
            command = self._parse(result) if escort is None else Escorted.parse(escort, self._parse)
        except Exception as refusal:
            self._refuse(tag, taskfile, refusal)
            return
        drive.settings.power = Power.ACTIVE
        entry = self._entries[tag] = _Entry(taskfile, result, command, drive.engine.now)
        drive.status, drive.error = drive.ready, 0
        drive.sata.ended(drive, False)
        self._go_on(tag, entry)

    def _parse(self, taskfile: TaskFile) -> Command:
        drive, opcode = self._drive, taskfile.command
        if opcode in (Opcode.READ_FPDMA_QUEUED, Opcode.WRITE_FPDMA_QUEUED):
            span = Span(taskfile.lba48, taskfile.features or 0x10000, True)
            if not taskfile.device & LBA or span.lba + span.sectors > drive.sectors:
                raise Aborted(ABRT | IDNF, f"{drive.sectors} sectors")
            if opcode == Opcode.READ_FPDMA_QUEUED:
                return Read(drive, taskfile, span, Protocol.DMA_IN)
            drive.must_be_writable()
            write = Write(drive, taskfile, span, Protocol.DMA_OUT)
            write.fua = bool(taskfile.device & FUA)
            return write
        subcommand = taskfile.count >> 8 & 0x1F
        if opcode == Opcode.SEND_FPDMA_QUEUED and subcommand == DATA_SET_MANAGEMENT:
            if not taskfile.auxiliary & TRIM:
                raise Aborted(why="only TRIM")
            return drive.trim(taskfile, taskfile.features)
        if opcode == Opcode.NCQ_NON_DATA and taskfile.features & 0xF == ABORT_QUEUE:
            return self._parse_abort(taskfile)
        raise Aborted(why="no such subcommand")

    def _parse_abort(self, taskfile: TaskFile) -> Command:
        kind, own, target = taskfile.features >> 4 & 0xF, tag_of(taskfile), taskfile.lba_low >> 3
        if kind in (ABORT_ALL, ABORT_NON_STREAMING):
            return _Abort(self, [tag for tag in range(32) if tag != own])
        if kind == ABORT_SELECTED and target & 31 != own:
            return _Abort(self, [target & 31])
        raise Aborted(why=f"no abort type {kind} of tag {target & 31}")

    # -- acting ----------------------------------------------------------------------------------

    def _go_on(self, tag: int, entry: _Entry) -> None:
        if entry.offset < entry.command.length:
            assert self._drive.sata is not None
            self._drive.sata.dma_setup(self._drive, tag)
        else:
            entry.working = True
            work = entry.command.finish()
            entry.task = self._drive.engine.start(work, partial(self._finished, tag, entry))

    def wanted(self, tag: int) -> tuple[int, int, bool] | None:
        """What `move` takes next: up to so many bytes, in multiples of so many, and whether they
        go to the host. None if the command waits for no data.
        """
        entry = self._entries.get(tag)
        if entry is None or entry.working:
            return None
        command = entry.command
        inward = command.protocol is Protocol.DMA_IN
        return command.length - entry.offset, command.unit, inward

    def move(self, tag: int, buffers: Buffers) -> None:
        """Move the next part of a command's data, which is `wanted`."""
        entry = self._entries[tag]
        entry.working, entry.size = True, byte_length(buffers)
        work = entry.command.transfer(entry.offset, buffers)
        entry.task = self._drive.engine.start(work, partial(self._moved, tag, entry))

    def _moved(self, tag: int, entry: _Entry, _value: Any, failure: BaseException | None) -> None:
        if self._still_wanted(tag, entry, failure):
            entry.offset += entry.size
            self._go_on(tag, entry)

    def _finished(
        self, tag: int, entry: _Entry, _value: Any, failure: BaseException | None
    ) -> None:
        if self._still_wanted(tag, entry, failure):
            self._complete(tag)

    def _still_wanted(self, tag: int, entry: _Entry, failure: BaseException | None) -> bool:
        """A step has ended. Whether there is another."""
        entry.working, entry.task = False, None
        if entry.dropped:
            del self._entries[tag]
            self._settle()
            return False
        if failure is None:
            return True
        if isinstance(failure, Dropped):  # it stays where it is until somebody gives it up
            return False
        if isinstance(failure, Cancelled):  # by NCQ NON-DATA
            self._complete(tag)
        elif isinstance(failure, Exception):
            if not isinstance(failure, (DiskError, Aborted)):
                guest_log.error("ata: %s", name_of(entry.taskfile.command), exc_info=failure)
            self._fail(tag, entry, failure)
        return False

    def _complete(self, tag: int) -> None:
        entry, drive = self._entries.pop(tag), self._drive
        entry.command.ended(entry.offset, None)
        self._tell(entry.taskfile, tag, drive.ready, 0, None)
        assert drive.sata is not None
        drive.sata.set_device_bits(drive, 1 << tag, not entry.command.quiet)

    def abort(self, tags: Iterable[int]) -> None:
        """End these as if they were done, those that can be called back (NCQ NON-DATA)."""
        for tag in tags:
            entry = self._entries.get(tag)
            if entry is None or entry.dropped:
                continue
            if not entry.working:
                self._complete(tag)
            elif entry.task is not None:
                entry.task.cancel()

    # -- failing ---------------------------------------------------------------------------------

    def _fail(self, tag: int, entry: _Entry, failure: Exception) -> None:
        del self._entries[tag]
        error = entry.command.ended(entry.offset, failure)
        self._failed(tag, entry.taskfile, error, failure, entry.result)

    def _refuse(self, tag: int | None, taskfile: TaskFile, failure: Exception) -> None:
        """The host waits for an answer to this one."""
        if not isinstance(failure, Aborted):
            guest_log.error("ata: %s", name_of(taskfile.command), exc_info=failure)
        self._unanswered = True
        self._failed(tag, taskfile, failure.bits if isinstance(failure, Aborted) else ABRT, failure)

    def _failed(
        self,
        tag: int | None,
        taskfile: TaskFile,
        error: int,
        why: Exception,
        result: TaskFile | None = None,
    ) -> None:
        status = self._drive.ready | ERR
        self._tell(taskfile, tag, status, error, why)
        failure = Failure(tag, status, error, result or taskfile)
        self.failure = self.failure or failure
        self._report = self._report or failure
        self._drop_all()
        self._settle()

    def _drop_all(self) -> None:
        for tag, entry in tuple(self._entries.items()):
            entry.dropped = True
            if entry.task is not None:
                entry.task.cancel()
            elif not entry.working:
                del self._entries[tag]

    def _settle(self) -> None:
        """Report what failed, or let a reset go on, when nothing is under way any more."""
        drive = self._drive
        if self._entries:
            return
        report, self._report = self._report, None
        if report is not None and drive.sata is not None:
            answer, self._unanswered = self._unanswered, False
            drive.status, drive.error = report.status, report.error
            drive.taskfile.load(report.taskfile.save())
            if answer:
                drive.sata.ended(drive, True)
            else:
                drive.sata.set_device_bits(drive, 0, True)
        drive.came_to_rest()

    def give_up(self) -> None:
        """The wire moves no more data: the commands end without a word."""
        if not self._unanswered:
            self._report = None
        self._drop_all()
        self._settle()

    def reset(self) -> None:
        """A reset forgets commands and failures, but for what cannot be called back."""
        self.failure = self._report = None
        self._unanswered = False
        self._drop_all()

    def _tell(
        self, taskfile: TaskFile, tag: int | None, status: int, error: int, why: Exception | None
    ) -> None:
        if self._drive.tap is not None:
            self._drive.tap.ended(0, UNQUEUED if tag is None else tag, (status, error))
        if log.isEnabledFor(logging.DEBUG):
            line = f"{self._drive.describe(taskfile)} -> {status:02x}"
            log.debug("%s", line if why is None else f"{line}/{error:02x} ({why})")

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The commands, each of which is done again from its start, and the failure."""
        wanted = [entry for entry in self._entries.values() if not entry.dropped]
        return {
            "commands": [entry.taskfile.save() for entry in wanted],
            "failure": None if self.failure is None else self.failure.save(),
            "report": None if self._report is None else self._report.save(),
            "unanswered": self._unanswered,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; `resume` lets the commands go on."""
        failure, report = state["failure"], state["report"]
        self.failure = None if failure is None else Failure.restore(failure)
        self._report = None if report is None else Failure.restore(report)
        self._unanswered = state["unanswered"]
        self._entries = {}
        for saved in state["commands"]:
            taskfile = TaskFile.restore(saved)
            result = taskfile.copy()
            try:
                command = self._parse(result)
            except Aborted as refusal:  # the disk has changed since
                command = Refused(refusal)
            self._entries[tag_of(taskfile)] = _Entry(
                taskfile, result, command, self._drive.engine.now
            )

    def resume(self) -> None:
        """Go on after `restore`."""
        for tag, entry in tuple(self._entries.items()):
            self._go_on(tag, entry)
        if self._report is not None:
            self._settle()

    def describe(self, taskfile: TaskFile) -> str:
        """A queued command as a person reads it."""
        name, tag = name_of(taskfile.command), tag_of(taskfile)
        if taskfile.command in (Opcode.READ_FPDMA_QUEUED, Opcode.WRITE_FPDMA_QUEUED):
            return f"{name} {taskfile.lba48:#x}+{taskfile.features or 0x10000:#x} tag {tag}"
        return f"{name} features={taskfile.features:04x} tag {tag}"


class _Abort(Command):
    """NCQ NON-DATA, ABORT NCQ QUEUE."""

    def __init__(self, queue: CommandQueue, tags: Iterable[int]) -> None:
        self._queue, self._tags = queue, tags

    async def finish(self) -> None:
        """Abort."""
        self._queue.abort(self._tags)
