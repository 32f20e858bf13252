"""What stands around a PCI function while it is recorded, and again while that is replayed.

All that comes to a function comes by its engine, its guest's memory (`TapedMemory`), its disks and
its registers, on its engine's thread. In front of each stands something that asks or tells a
`Tape`: a recorder's writes down what is so, a player's says what was so.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

import msgspec

from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, Disk, Extent, Operation, Unmap, byte_length
from drivebay.disk.errors import DiskError, IoError, MediumError
from drivebay.disk.errors import Medium as MediumKind
from drivebay.disk.filters.base import CONSTANTS
from drivebay.platform.engine import Callback, Engine
from drivebay.platform.pci import PciFunction
from drivebay.platform.pci_messages import Messages

__all__ = [
    "Tape",
    "TapedDisk",
    "TapedEngine",
    "disk_facts",
    "error_facts",
    "error_of",
    "messages_of",
    "raised",
]

log = logging.getLogger(__name__)

FACTS: Final = ("kind", "sector_count", *CONSTANTS)
ERRORS: Final = {
    kind.__name__: kind for kind in (*DiskError.__subclasses__(), *IoError.__subclasses__())
}


class Tape(Protocol):
    """Where a recording goes, or comes from."""

    def told(self, *entry: Any) -> None:
        """An output."""

    def answer(self, kind: str, *question: Any, find: Callable[[], Any]) -> Any:
        """An answer: what `find` finds, while it is recorded."""

    def laid_out(self, relaid: Callable[[], None]) -> None:
        """Guest memory was laid out anew, of which somebody in the function wants to know."""

    def settle(self, write_back: Callable[[], bool]) -> bool:
        """Somebody outside the function has its copies of memory written back."""

    def operate(
        self, start: Callable[[Disk], Operation], below: Disk | None, result: Callable[[], bytes]
    ) -> Coroutine[Any, Any, bytes]:
        """Do what `start` begins; gives what `result` says when it has ended."""


class TapedEngine(Engine):
    """Numbers whatever it is to call, in the order in which that is asked for: the tickets are the
    same whenever the function does the same. It has no thread of its own and takes no turns.
    """

    def __init__(self, tape: Tape, clock: Callable[[], float]) -> None:
        self._tape, self._clock = tape, clock
        self._tickets = 0
        self._at_end: list[Callback] = []

    def ticket(self) -> int:
        """The next number."""
        self._tickets += 1
        return self._tickets

    def at_end_of_turn(self, callback: Callback) -> None:
        """Call `callback` when the turn is over."""
        self._at_end.append(callback)

    def end_turn(self) -> None:
        """The turn is over."""
        while self._at_end:
            callbacks, self._at_end = self._at_end, []
            for callback in callbacks:
                self.guard(callback)

    def guard(self, callback: Callback) -> None:
        """Call it. An exception is told and logged, and goes no further."""
        try:
            callback()
        except Exception as error:
            self._tape.told(*raised(error))
            log.exception("unexpected error in %r", callback)

    @property
    def now(self) -> float:
        """Seconds, by the clock of the timers."""
        now: float = self._tape.answer("now", find=self._clock)
        return now

    @property
    def has_callbacks(self) -> bool:
        """Nobody shall look out for what comes: how often he did would be an input."""
        return True


class TapedDisk(Disk):
    """The `number`-th disk of a function, of which `facts` say what it is. It has no reservations.

    `below` is the real one, None in a replay.
    """

    def __init__(
        self, tape: Tape, number: int, facts: Mapping[str, Any], below: Disk | None = None
    ) -> None:
        super().__init__()
        for name in FACTS:
            setattr(self, name, facts[name])
        self.unmap_behaviour = Unmap[facts["unmap_behaviour"]]
        self._tape, self._number, self._below = tape, number, below

    async def _do(
        self,
        name: str,
        sector: int,
        count: int,
        start: Callable[[Disk], Operation],
        *,
        data: Buffers = (),
        flags: int = 0,
        result: Callable[[], bytes] = bytes,
    ) -> bytes:
        crc = 0
        for buffer in data:
            crc = zlib.crc32(buffer, crc)
        self._tape.told("asked", self._number, name, sector, count, crc, flags)
        return await self._tape.operate(start, self._below, result)

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read, and only when all is there let the function have it."""
        size = byte_length(buffers)
        whole = bytearray(size)
        data = await self._do(
            "read",
            sector,
            size // self.sector_size,
            lambda disk: disk.read(sector, [memoryview(whole)]),
            result=lambda: bytes(whole),
        )
        scatter(buffers, memoryview(data))

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write."""
        count = byte_length(buffers) // self.sector_size
        await self._do(
            "write",
            sector,
            count,
            lambda disk: disk.write(sector, buffers, fua),
            data=buffers,
            flags=fua,
        )

    async def flush(self) -> None:
        """Flush."""
        await self._do("flush", 0, 0, lambda disk: disk.flush())

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap."""
        await self._do("unmap", sector, count, lambda disk: disk.unmap(sector, count))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero."""
        await self._do(
            "write_zeroes",
            sector,
            count,
            lambda disk: disk.write_zeroes(sector, count, fua, unmap),
            flags=fua | unmap << 1,
        )

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What is allocated."""
        found: list[Extent] = []

        async def ask(disk: Disk) -> None:
            found[:] = await disk.extents(sector, count)

        encode = msgspec.msgpack.encode
        data = await self._do("extents", sector, count, ask, result=lambda: encode(found))
        return msgspec.msgpack.decode(data, type=list[Extent])

    async def resize(self, sector_count: int) -> None:
        """Resize; `resized` tells of it."""
        await self._do("resize", 0, sector_count, lambda disk: disk.resize(sector_count))

    async def refresh(self) -> None:
        """Look again."""
        await self._do("refresh", 0, 0, lambda disk: disk.refresh())

    async def eject(self) -> None:
        """Eject."""
        await self._do("eject", 0, 0, lambda disk: disk.eject())

    @property
    def allocated_bytes(self) -> int | None:
        """What the real one says."""
        found: int | None = self._tape.answer(
            "allocated", self._number, find=lambda: self._below and self._below.allocated_bytes
        )
        return found

    def resized(self, sector_count: int) -> None:
        """The real one has another size now."""
        self.sector_count = sector_count
        self._resized()

    def close(self) -> None:
        """Close the real one."""
        if self._below is not None:
            self._below.close()


def raised(error: Exception) -> tuple[str, str]:
    """What is told of an exception that nobody in the function has caught."""
    return "raised", f"{error!r:.200}"


def messages_of(function: PciFunction) -> list[Messages]:
    """The message capabilities of a function, in their order."""
    return [each for each in function.capabilities if isinstance(each, Messages)]


def disk_facts(disk: Disk) -> dict[str, Any]:
    """What a `TapedDisk` must know of a disk."""
    return {
        **{name: getattr(disk, name) for name in FACTS},
        "unmap_behaviour": disk.unmap_behaviour.name,
    }


def error_facts(error: BaseException | None) -> list[Any] | None:
    """What a recording says of an error: its kind, its message, its attributes."""
    if error is None:
        return None
    attributes = dict(vars(error))
    if isinstance(error, MediumError):
        attributes["kind"] = error.kind.name
    return [type(error).__name__, str(error), attributes]


def error_of(facts: list[Any]) -> Exception:
    """The error again; a `RuntimeError` of a kind that is no disk's."""
    name, message, attributes = facts
    kind = ERRORS.get(name)
    if kind is None:
        return RuntimeError(message)
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(attributes)
    if isinstance(error, MediumError):
        error.kind = MediumKind[attributes["kind"]]
    return error
