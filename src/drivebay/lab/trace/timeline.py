"""Trace events for Perfetto and chrome://tracing (the Trace Event Format, as a JSON array).

A controller is a process; its registers, its queues, its disks and its interrupts are threads of
it. Commands of a queue that are under way together lie in lanes below each other. The array has no
end: it may be left out, so that what comes later can be appended.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import Any, BinaryIO

import msgspec

from drivebay.lab.trace.names import register_name, register_text
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.story import Access, Audience, Command, DiskOperation, Interrupt

__all__ = ["Timeline"]


class _Lanes:
    """Numbers for what overlaps: the lowest that is free."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._made = 0

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._made += 1
        return self._made - 1

    def give(self, lane: int) -> None:
        heapq.heappush(self._free, lane)


class Timeline(Audience):
    """Writes the events to `stream`; behind those that are there."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[int, str], int] = {}
        self._lanes: defaultdict[tuple[int, str], _Lanes] = defaultdict(_Lanes)
        self._running: dict[Command, int] = {}
        if not (stream.seekable() and stream.tell()):
            stream.write(b"[\n")

    def _event(self, kind: str, name: str, nanoseconds: int, **rest: Any) -> None:
        event = {"ph": kind, "name": name, "ts": nanoseconds / 1000, **rest}
        self._stream.write(msgspec.json.encode(event) + b",\n")

    def _process(self, source: Source) -> int:
        if source.name not in self._processes:
            pid = self._processes[source.name] = len(self._processes) + 1
            self._event("M", "process_name", 0, pid=pid, args={"name": source.name})
        return self._processes[source.name]

    def _track(self, source: Source, name: str) -> dict[str, int]:
        """The process and thread of a track."""
        pid = self._process(source)
        if (pid, name) not in self._threads:
            tid = self._threads[pid, name] = len(self._threads) + 1
            self._event("M", "thread_name", 0, pid=pid, tid=tid, args={"name": name})
        return {"pid": pid, "tid": self._threads[pid, name]}

    def began(self, command: Command) -> None:
        """A command was taken from the guest."""
        self._running[command] = self._lanes_of(command).take()

    def ended(self, command: Command) -> None:
        """It has ended."""
        assert command.ended is not None
        self._command(command, command.ended, str(command.end))

    def given_up(self, command: Command) -> None:
        """It will never end."""
        self._command(command, command.began, "never ended")

    def _lanes_of(self, command: Command) -> _Lanes:
        return self._lanes[self._process(command.source), _queue(command)]

    def _command(self, command: Command, end: int, status: str) -> None:
        lane = self._running.pop(command)
        self._lanes_of(command).give(lane)
        subject = command.subject
        arguments: dict[str, Any] = {"status": status, "tag": command.tag}
        if subject.nsid:
            arguments["nsid"] = subject.nsid
        if subject.lba is not None:
            arguments |= {"lba": subject.lba, "count": subject.count}
        self._event(
            "X",
            subject.command,
            command.began,
            dur=(end - command.began) / 1000,
            **self._track(command.source, f"{_queue(command)}{f' +{lane}' if lane else ''}"),
            args=arguments,
        )

    def access(self, access: Access) -> None:
        """A register was read or written."""
        verb = "write" if access.write else "read"
        self._event(
            "i",
            f"{verb} {register_name(access)}",
            access.time,
            s="t",
            **self._track(access.source, "registers"),
            args={"value": register_text(access)},
        )

    def interrupt(self, interrupt: Interrupt) -> None:
        """The guest was interrupted."""
        track = self._track(interrupt.source, f"interrupt {interrupt.name}")
        if interrupt.level is None:
            self._event("i", interrupt.name, interrupt.time, s="t", **track)
        else:
            self._event("B" if interrupt.level else "E", interrupt.name, interrupt.time, **track)

    def disk(self, operation: DiskOperation) -> None:
        """A disk has done something."""
        name = f"disk {operation.source.part}".rstrip()
        self._event(
            "X",
            operation.name,
            operation.began,
            dur=(operation.ended - operation.began) / 1000,
            **self._track(operation.source, name),
            args={
                "sector": operation.sector,
                "count": operation.count,
                "status": operation.error or "done",
            },
        )

    def lost(self, time: int, count: int) -> None:
        """So many records are missing."""
        self._event("i", f"{count} records were lost", time, s="g", pid=0, tid=0)


def _queue(command: Command) -> str:
    part = f"{command.source.part} " if command.source.part else ""
    return f"{part}{command.subject.place} {command.queue}"
