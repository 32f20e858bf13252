"""A line for each command, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from drivebay.lab.trace.names import register_text
from drivebay.lab.trace.story import Access, Audience, Command, DiskOperation, Interrupt

__all__ = ["JsonLines", "TextLines", "latency"]


def latency(nanoseconds: int) -> str:
    """A time as people read it: ``12.3 us``."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.1f} us"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e9:.2f} s"


class _Lines(Audience):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0

    def clock(self, offset: int) -> None:
        """Times are by this from now on."""
        self._offset = offset


class TextLines(_Lines):
    """``12:34:56.789012 nvme READ queue 1 nsid 1 lba 768+8: SUCCESS, 41.3 us``."""

    def _say(self, nanoseconds: int, text: str) -> None:
        seconds, rest = divmod(nanoseconds + self._offset, 1_000_000_000)
        clock = time.strftime("%H:%M:%S", time.localtime(seconds))
        self._stream.write(f"{clock}.{rest // 1000:06} {text}\n".encode())

    def ended(self, command: Command) -> None:
        """It has ended."""
        assert command.ended is not None
        took = latency(command.ended - command.began)
        self._say(command.began, f"{command.subject}: {command.end}, {took}")

    def given_up(self, command: Command) -> None:
        """It will never end."""
        self._say(command.began, f"{command.subject}: never ended")

    def access(self, access: Access) -> None:
        """A register was read or written."""
        verb = "write" if access.write else "read"
        self._say(access.time, f"{access.source} {verb} {register_text(access)}")

    def interrupt(self, interrupt: Interrupt) -> None:
        """The guest was interrupted."""
        level = {None: "", True: " up", False: " down"}[interrupt.level]
        self._say(interrupt.time, f"{interrupt.source} interrupt {interrupt.name}{level}")

    def disk(self, operation: DiskOperation) -> None:
        """A disk has done something."""
        took = latency(operation.ended - operation.began)
        end = operation.error or "done"
        what = f"{operation.name} {operation.sector}+{operation.count}"
        self._say(operation.began, f"{operation.source} disk {what}: {end}, {took}")

    def lost(self, time: int, count: int) -> None:
        """So many records are missing."""
        self._say(time, f"{count} records were lost: the trace could not keep up")


class JsonLines(_Lines):
    """An object a line. `event` says of what; times are seconds since 1970, latencies in `us`."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._encode: Callable[[Any], bytes] = msgspec.json.encode

    def _say(self, event: str, nanoseconds: int, **fields: Any) -> None:
        when = round((nanoseconds + self._offset) / 1e9, 6)
        line = {"event": event, "time": when, **fields}
        self._stream.write(self._encode(line) + b"\n")

    def ended(self, command: Command) -> None:
        """It has ended."""
        assert command.ended is not None and command.end is not None
        self._command(
            command,
            status=command.end.status,
            ok=command.end.ok,
            us=(command.ended - command.began) / 1000,
        )

    def given_up(self, command: Command) -> None:
        """It will never end."""
        self._command(command, status=None, ok=False, us=None)

    def _command(self, command: Command, **end: Any) -> None:
        subject = command.subject
        self._say(
            "command",
            command.began,
            controller=subject.controller,
            command=subject.command,
            **{subject.place: subject.queue},
            tag=command.tag,
            **({"nsid": subject.nsid} if subject.nsid else {}),
            **({} if subject.lba is None else {"lba": subject.lba, "count": subject.count}),
            direction=subject.direction and subject.direction.value,
            **end,
        )

    def access(self, access: Access) -> None:
        """A register was read or written."""
        self._say(
            "write" if access.write else "read",
            access.time,
            controller=str(access.source),
            place=access.place,
            offset=access.offset,
            width=access.width,
            value=access.value,
            register=register_text(access),
        )

    def interrupt(self, interrupt: Interrupt) -> None:
        """The guest was interrupted."""
        self._say(
            "interrupt",
            interrupt.time,
            controller=str(interrupt.source),
            interrupt=interrupt.name,
            level=interrupt.level,
        )

    def disk(self, operation: DiskOperation) -> None:
        """A disk has done something."""
        self._say(
            "disk",
            operation.began,
            disk=str(operation.source),
            operation=operation.name,
            sector=operation.sector,
            count=operation.count,
            error=operation.error or None,
            us=(operation.ended - operation.began) / 1000,
            **({"data": operation.data.hex()} if operation.data else {}),
        )

    def lost(self, time: int, count: int) -> None:
        """So many records are missing."""
        self._say("lost", time, count=count)
