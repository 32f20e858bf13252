"""A command that is known good: which protocol it follows, how much data it moves, what it does."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar, Final

from drivebay.ata.registers import Error
from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length

__all__ = [
    "ABRT",
    "Aborted",
    "Action",
    "Command",
    "DataIn",
    "DataOut",
    "Parameters",
    "Protocol",
    "Refused",
    "keep",
]

ABRT: Final = int(Error.ABRT)


class Protocol(enum.Enum):
    """How a command's data crosses the wire (ATA/ATAPI-6 section 9)."""

    NON_DATA = "non-data"
    PIO_IN = "PIO in"
    PIO_OUT = "PIO out"
    DMA_IN = "DMA in"
    DMA_OUT = "DMA out"


class Aborted(Exception):
    """The command ends with ERR; `bits` is what the Error register says."""

    def __init__(self, bits: int = ABRT, why: str = "") -> None:
        super().__init__(why or str(Error(bits)))
        self.bits = bits


class Command:
    """A parsed command. Nothing has happened yet; each method may raise `Aborted` or `DiskError`.

    The base does nothing, in the non-data protocol.
    """

    protocol = Protocol.NON_DATA
    length = 0
    """Bytes of data."""
    block = 512
    """Bytes of a DRQ block, the unit of PIO."""
    unit = 512
    """A part that is transferred is a multiple of this."""
    interrupts_at_start: bool = False
    """Whether INTRQ asks for the first block that goes out. It does for the data of a packet
    (ATA/ATAPI-6 section 9.8), of other commands the host knows (section 9.7)."""
    interrupts_at_end: bool = True
    """Whether INTRQ tells the end. After PIO data-in the last block has told enough."""
    quiet: bool = False
    """Whether its interrupts are lost."""
    received = bytearray()
    """Data of its own that it has been given so far: what a saved machine must keep."""
    acts: ClassVar[bool] = False
    """Whether `finish` does anything: set for each class that has one."""
    following: Command | None = None
    """What it goes on as after `finish`: a packet, once it is known, is a command itself."""

    def __init_subclass__(cls) -> None:
        """See whether it acts."""
        cls.acts = cls.finish is not Command.finish

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Move a part of the data, in order: into `buffers` (in) or out of them (out)."""

    async def finish(self) -> None:
        """Act, once all data has been moved."""

    def show_block(self, size: int) -> None:
        """A DRQ block of `size` bytes is about to be shown to the host."""

    def ended(self, offset: int, failure: Exception | None) -> int:
        """Put the outcome into the registers; returns the Error register's bits.

        `offset` is how much data was moved, `failure` what went wrong: an `Aborted`, a `DiskError`
        or a bug of ours.
        """
        if failure is None:
            return 0
        return failure.bits if isinstance(failure, Aborted) else ABRT


class Refused(Command):
    """A command that ends with `refusal` when it is to act: so that somebody can look at it before,
    or since it was good when it came.
    """

    def __init__(self, refusal: Aborted) -> None:
        self._refusal = refusal

    async def finish(self) -> None:
        """Refuse it now."""
        raise self._refusal


class Action(Command):
    """A command without data: all it does is call `act`."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self._act = act

    async def finish(self) -> None:
        """Act."""
        self._act()


class DataIn(Command):
    """PIO in of `data` that is in memory."""

    protocol = Protocol.PIO_IN
    interrupts_at_end = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Copy the part."""
        scatter(buffers, memoryview(self._data)[offset : offset + byte_length(buffers)])


class DataOut(Command):
    """Takes `length` bytes into memory; subclasses act on `received` in `finish`."""

    def __init__(self, length: int, protocol: Protocol = Protocol.PIO_OUT) -> None:
        self.length, self.protocol = length, protocol
        self.received = bytearray()

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Keep the part."""
        keep(self.received, offset, buffers)


class Parameters(DataOut):
    """PIO out of `sectors` times 512 bytes, given to `take`."""

    def __init__(self, sectors: int, take: Callable[[bytes], object]) -> None:
        super().__init__(sectors * 512)
        self._take = take

    async def finish(self) -> None:
        """Hand them over."""
        self._take(bytes(self.received))


def keep(received: bytearray, offset: int, buffers: Buffers) -> None:
    """Put `buffers` at `offset`, the end of what is kept; what came there before is forgotten."""
    del received[offset:]
    for buffer in buffers:
        received += buffer
