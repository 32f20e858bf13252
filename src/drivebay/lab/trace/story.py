"""What records tell: commands from their beginning to their end, and what happened meanwhile."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import msgspec

from drivebay.lab.dialects import Dialect, Ended
from drivebay.lab.rules import Subject
from drivebay.lab.trace.records import (
    Kind,
    Record,
    Source,
    TraceError,
    native_command,
    native_outcome,
)

__all__ = ["Access", "Audience", "Command", "DiskOperation", "Interrupt", "tell"]

DIALECTS: Final = frozenset({"ata", "floppy", "nvme", "scsi", "virtio"})
SENSELESS: Final = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(struct.error, msgspec.ValidationError),
)
"""What becomes of numbers and bytes that are no command or outcome."""
MOST_OPEN: Final = 1 << 16
"""Commands whose end is waited for."""


@cache
def dialect_of(name: str) -> Dialect:
    """The module that reads a source's commands. Raises `TraceError`."""
    if name not in DIALECTS:
        raise TraceError(f"commands of {name!r}", "a newer drivebay may know them")
    module: Any = importlib.import_module(f"drivebay.lab.dialects.{name}")
    found: Dialect = module
    return found


@dataclass(eq=False, slots=True)
class Command:
    """A command. Times are nanoseconds of the recorder's clock; one that never ended has no
    outcome.
    """

    source: Source
    queue: int
    tag: int
    native: Any
    began: int
    ended: int | None = None
    outcome: Any = None
    _subject: Subject | None = field(default=None, init=False)

    @property
    def subject(self) -> Subject:
        """What it is, by the names of its spec."""
        if self._subject is None:
            dialect = dialect_of(self.source.dialect)
            self._subject = dialect.describe(self.queue, self.native, str(self.source))
        return self._subject

    @property
    def end(self) -> Ended | None:
        """How it ended."""
        if self.ended is None:
            return None
        return dialect_of(self.source.dialect).outcome(self.outcome)

    @property
    def place(self) -> str:
        """The disk's place on its controller."""
        if self.source.part:
            return self.source.part
        if self.source.dialect == "scsi":
            return str(self.queue)
        return str(self.subject.nsid) if self.source.dialect == "nvme" else ""


@dataclass(frozen=True)
class Access:
    """A register was read or written."""

    source: Source
    time: int
    write: bool
    place: str
    offset: int
    width: int
    value: int


@dataclass(frozen=True)
class Interrupt:
    """A line went up or down, or a message was sent (`level` is None)."""

    source: Source
    time: int
    name: str
    level: bool | None


@dataclass(frozen=True)
class DiskOperation:
    """What a controller asked a disk for; `data` is the beginning of it, where that was kept."""

    source: Source
    began: int
    ended: int
    name: str
    sector: int
    count: int
    error: str
    data: bytes


class Audience:
    """Is told. Nothing here is called for what a subclass does not want to know."""

    def clock(self, offset: int) -> None:
        """A recorder has begun: `offset` is what makes its times nanoseconds since 1970."""

    def source(self, source: Source) -> None:
        """Somebody of whom more will come."""

    def began(self, command: Command) -> None:
        """A command was taken from the guest."""

    def ended(self, command: Command) -> None:
        """It has ended."""

    def given_up(self, command: Command) -> None:
        """It will never end."""

    def access(self, access: Access) -> None:
        """A register was read or written."""

    def interrupt(self, interrupt: Interrupt) -> None:
        """The guest was interrupted."""

    def disk(self, operation: DiskOperation) -> None:
        """A disk was asked for something, and has done it."""

    def lost(self, time: int, count: int) -> None:
        """Nobody had the time to write so many records."""


class _Teller:
    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._sources: dict[int, Source] = {}
        self._open: dict[tuple[int, int, int], Command] = {}
        self._does: dict[int, Callable[[Record], None]] = {
            Kind.CLOCK: self._clock,
            Kind.SOURCE: self._source,
            Kind.BEGAN: self._began,
            Kind.ENDED: self._ended,
            Kind.READ: self._access,
            Kind.WRITE: self._access,
            Kind.INTERRUPT: self._interrupt,
            Kind.DISK: self._disk,
            Kind.LOST: lambda record: self._audience.lost(record[1], record[3]),
        }

    def tell(self, record: Record) -> None:
        does = self._does.get(record[0])
        if does is not None:  # else a newer recorder's, of a kind that can be left out
            does(record)

    def finish(self) -> None:
        for command in self._open.values():
            self._audience.given_up(command)
        self._open.clear()

    def _clock(self, record: Record) -> None:
        """A server that was started again numbers its sources anew."""
        self.finish()
        self._sources.clear()
        _, now, _, since_1970 = record
        self._audience.clock(since_1970 - now)

    def _source(self, record: Record) -> None:
        _, _, number, fields = record
        self._sources[number] = msgspec.convert(fields, Source)
        self._audience.source(self._sources[number])

    def _began(self, record: Record) -> None:
        _, time, number, queue, tag, plain = record
        key = number, queue, tag
        left = self._open.pop(key, None)
        if left is not None:
            self._audience.given_up(left)
        if len(self._open) >= MOST_OPEN:  # of a guest that begins them without end, over resets
            self._audience.given_up(self._open.pop(next(iter(self._open))))
        source = self._sources[number]
        native = native_command(source.dialect, plain)
        self._open[key] = command = Command(source, queue, tag, native, time)
        self._audience.began(command)

    def _ended(self, record: Record) -> None:
        _, time, number, queue, tag, plain = record
        command = self._open.pop((number, queue, tag), None)
        if command is None:  # it began before the trace did
            return
        command.ended = time
        if command.source.dialect == "ata" and len(plain) > 2:
            plain, command.native.packet = plain[:2], plain[2]
        command.outcome = native_outcome(command.source.dialect, plain)
        self._audience.ended(command)

    def _access(self, record: Record) -> None:
        kind, time, number, *rest = record
        self._audience.access(Access(self._sources[number], time, kind == Kind.WRITE, *rest))

    def _interrupt(self, record: Record) -> None:
        _, time, number, name, level = record
        self._audience.interrupt(Interrupt(self._sources[number], time, name, level))

    def _disk(self, record: Record) -> None:
        _, time, number, began, *rest = record
        self._audience.disk(DiskOperation(self._sources[number], began, time, *rest))


def tell(records: Iterable[Record], audience: Audience) -> None:
    """Tell `audience` all of it. Raises `TraceError` for what makes no sense."""
    teller = _Teller(audience)
    record: Record = ()
    try:
        for record in records:
            teller.tell(record)
        teller.finish()
    except SENSELESS as error:
        raise TraceError(f"a record that makes no sense: {record!r:.100} ({error!r})") from error
