"""Records what goes by, at the cost of a tuple and its bytes: another thread writes them.

Nobody waits for that thread. What it cannot keep up with is counted and left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from drivebay.ata.registers import Opcode
from drivebay.ata.taskfile import TaskFile
from drivebay.lab.trace.records import Kind, Record, Source, encode
from drivebay.platform.logs import RationedLog

__all__ = ["CommandTap", "Recorder", "RegisterTap", "Sink"]

log = logging.getLogger(__name__)

BATCH: Final = 128
"""So many records are made bytes of at once, while the processor's caches still have them."""
MOST_WAITING: Final = 16 << 20
"""Bytes that wait to be written; what comes then is lost."""
PERIOD: Final = 0.05
"""Seconds between two looks for something to write."""

NOT_PLAIN: Final = (TypeError, ValueError, OverflowError)
BEGAN, ENDED = int(Kind.BEGAN), int(Kind.ENDED)


class Sink(Protocol):
    """Where batches go."""

    def write(self, batch: bytes) -> None:
        """Take one; may wait. Raises `OSError`, and is given no more then."""

    def close(self) -> None:
        """There is no more."""


class CommandTap:
    """A `platform.observer.Tap` that records commands of source `number`."""

    __slots__ = ("_append", "_clock", "_drain", "_fresh", "_number")

    def __init__(self, recorder: Recorder, number: int) -> None:
        self._number, self._clock, self._drain = number, recorder.clock, recorder.drain
        self._fresh = recorder.fresh
        self._append = recorder.fresh.append

    def began(self, queue: int, tag: int, command: Any) -> None:
        """A command was taken from the guest."""
        self._append((BEGAN, self._clock(), self._number, queue, tag, command))

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        """The guest is told how it ended."""
        self._append((ENDED, self._clock(), self._number, queue, tag, outcome))
        if len(self._fresh) >= BATCH:
            self._drain()


class AtaTap(CommandTap):
    """The same for an ATA device: what is in a packet is known when its command ends."""

    __slots__ = ("_packets",)

    def __init__(self, recorder: Recorder, number: int) -> None:
        super().__init__(recorder, number)
        self._packets: dict[tuple[int, int], TaskFile] = {}

    def began(self, queue: int, tag: int, command: Any) -> None:
        """A command was taken from the guest."""
        if command.command == Opcode.PACKET:
            self._packets[queue, tag] = command
        super().began(queue, tag, command)

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        """The guest is told how it ended."""
        if self._packets:
            sent = self._packets.pop((queue, tag), None)
            if sent is not None:
                outcome = (*outcome, sent.packet)
        super().ended(queue, tag, outcome)


class Recorder:
    """Gives taps, and has `sink` take what they see, until `close`."""

    def __init__(self, sink: Sink, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.clock = clock
        self.fresh: list[Record] = []
        """Records that nobody has made bytes of."""
        self.lost = 0
        """Records that were left out."""
        self._told = 0
        self._log = RationedLog(log)
        self._sink: Sink | None = sink
        self._sources = 0
        self._batches: deque[bytes] = deque()
        self._waiting = 0
        self._order = threading.Lock()
        """Of those who take from `fresh`: batches stay in order."""
        self._closing = threading.Event()
        self.fresh.append((Kind.CLOCK, clock(), 0, time.time_ns()))
        self._thread = threading.Thread(target=self._write, name="trace", daemon=True)
        self._thread.start()

    def source(self, source: Source) -> int:
        """A number for a source of records."""
        self._sources += 1
        fields = msgspec.to_builtins(source)
        self.fresh.append((Kind.SOURCE, self.clock(), self._sources, fields))
        return self._sources

    def tap(self, source: Source) -> CommandTap:
        """What records the commands of a source."""
        kind = AtaTap if source.dialect == "ata" else CommandTap
        return kind(self, self.source(source))

    def record(self, kind: Kind, source: int, *rest: Any) -> None:
        """Something else that has happened now."""
        self.fresh.append((kind, self.clock(), source, *rest))
        if len(self.fresh) >= BATCH:
            self.drain()

    def drain(self) -> None:
        """Make a batch of what there is, for the writer."""
        with self._order:
            records = self.fresh[:]
            del self.fresh[: len(records)]  # what comes in between stays
            if self._waiting > MOST_WAITING:
                self.lost += sum(record[0] > Kind.SOURCE for record in records)
                records = [record for record in records if record[0] <= Kind.SOURCE]
            elif self.lost > self._told:
                records.append((Kind.LOST, self.clock(), 0, self.lost - self._told))
                self._told = self.lost
            if records:
                batch = self._encoded(records)
                self._waiting += len(batch)
                self._batches.append(batch)

    def _encoded(self, records: list[Record]) -> bytes:
        """A batch of what can be recorded: what cannot is a bug of ours, and harms no command."""
        try:
            return encode(records)
        except NOT_PLAIN as error:
            self._log.error("a trace leaves something out", exc_info=error)
        good = [record for record in records if _is_plain(record)]
        self.lost += len(records) - len(good)
        return encode(good)

    def close(self) -> None:
        """Write what waits, and let go of the sink."""
        self._closing.set()
        self._thread.join()

    # -- the writer's thread ---------------------------------------------------------------------

    def _write(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(PERIOD)
            if self.fresh:
                self.drain()
            self._write_batches()
            if closing and self.lost > self._told:
                self.drain()
                self._write_batches()
        if self._sink is not None:
            self._sink.close()

    def _write_batches(self) -> None:
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        if not batches:
            return
        content = b"".join(batches)
        if self._sink is not None:
            try:
                self._sink.write(content)
            except OSError as error:
                log.error("the trace ends: %s", error.strerror)
                self._sink.close()
                self._sink = None
        with self._order:
            self._waiting -= len(content)


def _is_plain(record: Record) -> bool:
    try:
        return bool(encode([record]))
    except NOT_PLAIN:
        return False


class RegisterTap:
    """A `platform.onlooker.Onlooker` that records accesses and interrupts of a source."""

    def __init__(
        self, recorder: Recorder, source: Source, *, registers: bool = True, interrupts: bool = True
    ) -> None:
        self._recorder, self._number = recorder, recorder.source(source)
        self._registers, self._interrupts = registers, interrupts

    def access(self, place: str, write: bool, offset: int, width: int, value: int) -> None:
        """The guest has read or written registers."""
        if self._registers:
            kind = Kind.WRITE if write else Kind.READ
            self._recorder.record(kind, self._number, place, offset, width, value)

    def interrupt(self, name: str, level: bool | None) -> None:
        """The guest is interrupted."""
        if self._interrupts:
            self._recorder.record(Kind.INTERRUPT, self._number, name, level)
