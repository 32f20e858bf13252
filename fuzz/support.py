"""What the fuzz targets share. Import it where the target's own modules are instrumented."""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
import sys
import traceback
from collections.abc import Callable, Sequence

import atheris  # type: ignore[import-untyped]

from drivebay.disk.errors import IoError, Medium, MediumError
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.testing.puppet import Held, PuppetDisk

RAM = 0x8000
REGIONS = (0, RAM, 3 * RAM)  # two that adjoin, a hole, and a third
TURNS = 20_000


def fuzz(one_input: Callable[[bytes], None], *options: str) -> None:
    """Run libFuzzer with `options` and those of the command line; a logged error is a find."""
    logger = logging.getLogger("drivebay")
    logger.propagate = False
    logger.addHandler(_Errors(logging.ERROR))
    with contextlib.suppress(KeyboardInterrupt):
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:]], one_input)
        atheris.Fuzz()


class _Errors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = (record.exc_info or (None, None))[1]
        if error is not None:
            traceback.print_exception(error)
        raise AssertionError(record.getMessage()) from error


class Input:
    """The bytes of the fuzzer, taken from the front; after the last come zeroes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        self._at += count
        return part.ljust(count, b"\0")

    def number(self, code: str) -> int:
        """A little-endian number; `code` is its letter of `struct`."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def guest_memory() -> GuestMemory:
    return GuestMemory(Region(at, memoryview(bytearray(RAM))) for at in REGIONS)


def put(memory: GuestMemory, at: int, data: bytes) -> None:
    """What of `data` lies in memory."""
    for start in REGIONS:
        first, last = max(at, start), min(at + len(data), start + RAM)
        if first < last:
            memory.view(first, last - first)[:] = data[first - at : last - at]


def settle(engine: Engine, idle: Callable[[], bool] = lambda: True) -> None:
    """Take turns until there is nothing to do."""
    for _ in range(TURNS):
        engine.turn(0)
        if not engine._posted and not engine._end_of_turn and idle():
            return
    raise AssertionError("the engine does not come to rest")


def held(puppets: Sequence[PuppetDisk]) -> list[Held]:
    return [operation for puppet in puppets for operation in puppet.held]


def complete_all(puppets: Sequence[PuppetDisk], engine: Engine) -> None:
    """Let the disks do all that waits for them, and what follows from that."""
    for _ in range(TURNS):
        if not (waiting := held(puppets)):
            return
        for operation in waiting:
            operation.complete()
        settle(engine)
    raise AssertionError("the drives do not come to rest")


def finish_one(puppets: Sequence[PuppetDisk], engine: Engine, choice: int) -> None:
    """One of the operations that wait ends, somehow."""
    if waiting := held(puppets):
        operation = waiting[choice % len(waiting)]
        if choice & 0xC0 == 0xC0:
            operation.fail(IoError(errno.EIO, "fuzz"))
        elif choice & 0xC0 == 0x80:
            sector = operation.sector + max(operation.count - 1, 0)
            operation.fail(MediumError(Medium.UNRECOVERED_READ, sector))
        else:
            operation.complete()
    engine.turn(0)
