"""The guest's addresses as its CPU sees them: RAM, and registers in between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from drivebay.hosts.qtest.codec import Refused
from drivebay.platform.board import Board

__all__ = ["Bus"]

ADDRESSES: Final = 1 << 64
WIDEST: Final = 4
"""Bytes that an access to registers has at most; QEMU cuts wider ones for most devices, too."""
MAX_REGISTERS: Final = 1 << 16
"""Bytes outside of RAM that one range may have: each few of them are an access of their own."""


class _Piece(NamedTuple):
    """`size` bytes at `address`, all in RAM (`ram`) or all outside."""

    address: int
    size: int
    ram: memoryview | None


class Bus:
    """Reads and writes ranges of `board`'s addresses.

    Both raise `Refused`, before they touch anything, for a range that ends past 2^64 or of which
    too much is not RAM.
    """

    def __init__(self, board: Board) -> None:
        self._memory, self._mmio = board.memory, board.mmio

    def read(self, address: int, length: int) -> bytes:
        """The bytes of a range. Registers are read in order, by aligned accesses."""
        read = self._mmio.read
        return b"".join(
            bytes(ram) if ram is not None else read(at, size).to_bytes(size, "little")
            for at, size, ram in self._accesses(address, length)
        )

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, those of registers in order, by aligned accesses."""
        view = memoryview(data)
        for at, size, ram in self._accesses(address, len(data)):
            part = view[at - address : at - address + size]
            if ram is not None:
                ram[:] = part
            else:
                self._mmio.write(at, size, int.from_bytes(part, "little"))

    def _accesses(self, address: int, length: int) -> Iterator[_Piece]:
        pieces = self._pieces(address, length)
        if sum(piece.size for piece in pieces if piece.ram is None) > MAX_REGISTERS:
            raise Refused(f"more than {MAX_REGISTERS} bytes are not RAM")
        for piece in pieces:
            if piece.ram is not None:
                yield piece
            else:
                yield from _aligned(piece.address, piece.address + piece.size)

    def _pieces(self, address: int, length: int) -> list[_Piece]:
        """The range, cut where RAM begins and ends."""
        if address + length > ADDRESSES:
            raise Refused("the range ends past 2^64")
        regions = self._memory.regions
        starts = [region.address for region in regions]
        pieces, end = [], address + length
        while address < end:
            n = bisect_right(starts, address)
            ram = regions[n - 1].view[address - starts[n - 1] :][: end - address] if n else None
            if ram:
                piece = _Piece(address, len(ram), ram)
            else:  # up to the end, or to where RAM begins
                piece = _Piece(address, min([end, *starts[n : n + 1]]) - address, None)
            pieces.append(piece)
            address += piece.size
        return pieces


def _aligned(address: int, end: int) -> Iterator[_Piece]:
    """Accesses of 1, 2 and 4 bytes."""
    while address < end:
        size = WIDEST
        while address % size or address + size > end:
            size //= 2
        yield _Piece(address, size, None)
        address += size
