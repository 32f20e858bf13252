"""Tables of big-endian numbers in an image, read and written by slices, in a bounded cache.

A slice of up to 4 KiB is what is read at once and written at once: of a cluster full of entries
most are not needed, and few change.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store

__all__ = ["SLICE", "Codec", "Slice", "SliceCache", "read_padded"]

SLICE: Final = 4096
TYPES: Final = {1: "B", 2: "B", 4: "B", 8: "B", 16: "H", 32: "I", 64: "Q"}
SWAP: Final = sys.byteorder == "little"


class Codec:
    """Numbers of `bits` bits, 1 to 64, as they lie in an image: big-endian, or from bit 0 up."""

    def __init__(self, bits: int) -> None:
        self.bits, self.type = bits, TYPES[bits]
        self._per_byte = max(1, 8 // bits)

    def decode(self, data: bytes) -> array[int]:
        """One number an element."""
        if self._per_byte == 1:
            numbers = array(self.type, data)
            if SWAP:
                numbers.byteswap()
            return numbers
        packed = int.from_bytes(data, "little")
        mask = int.from_bytes(bytes([(1 << self.bits) - 1]) * len(data), "little")
        numbers = array("B", bytes(len(data) * self._per_byte))
        for place in range(self._per_byte):
            part = packed >> place * self.bits & mask
            numbers[place :: self._per_byte] = array("B", part.to_bytes(len(data), "little"))
        return numbers

    def encode(self, numbers: array[int]) -> bytes:
        """The bytes that `decode` reads."""
        if self._per_byte == 1:
            if SWAP:
                numbers = numbers[:]
                numbers.byteswap()
            return numbers.tobytes()
        packed = 0
        for place in range(self._per_byte):
            part = numbers[place :: self._per_byte].tobytes()
            packed |= int.from_bytes(part, "little") << place * self.bits
        return packed.to_bytes(len(numbers) // self._per_byte, "little")


class Slice:
    """Numbers of a table, and where they lie in the image."""

    __slots__ = ("numbers", "offset")

    def __init__(self, offset: int, numbers: array[int]) -> None:
        self.offset, self.numbers = offset, numbers


class SliceCache:
    """About `most` slices of `size` bytes, and those that have changed besides.

    They are kept by a number of the caller's. A slice that has changed stays until it has been
    written: `take` gives what to write and `written` lets go of it.
    """

    def __init__(self, store: Store, codec: Codec, size: int, most: int) -> None:
        self.store, self.codec, self.size = store, codec, size
        self._half = max(1, most // 2)
        self.recent: dict[int, Slice] = {}
        """Slices used lately: whoever finds his slice here need not call `get`."""
        self._older: dict[int, Slice] = {}
        self._pinned: dict[int, Slice] = {}
        self._dirty: dict[int, Slice] = {}
        self._version = 0

    @property
    def dirty(self) -> bool:
        """Some slices differ from the image."""
        return bool(self._dirty)

    @property
    def crowded(self) -> bool:
        """More slices wait to be written than the cache should hold."""
        return len(self._pinned) > self._half

    def get(self, number: int) -> Slice | None:
        """The slice, if it is here."""
        if found := self.recent.get(number):
            return found
        if found := self._older.get(number) or self._pinned.get(number):
            self._keep(number, found)
        return found

    async def load(self, number: int, offset: int) -> None:
        """Get the slice from `offset` of the image. Raises `DiskError`.

        It is not here afterwards if slices were written, or moved, meanwhile: then look again.
        """
        version = self._version
        data = await read_padded(self.store, offset, self.size)
        if version == self._version and not self.get(number):
            self._keep(number, Slice(offset, self.codec.decode(data)))

    def add(self, number: int, offset: int) -> None:
        """The slice is known to be all zeroes in the image."""
        self._keep(number, Slice(offset, self.codec.decode(bytes(self.size))))

    def moved(self) -> None:
        """Slices that are being loaded now come from where they are no more."""
        self._version += 1

    def _keep(self, number: int, kept: Slice) -> None:
        if len(self.recent) >= self._half:
            self._older, self.recent = self.recent, {}
        self.recent[number] = kept

    def change(self, number: int, changed: Slice) -> None:
        """The slice has changed."""
        self._dirty[number] = self._pinned[number] = self.recent[number] = changed
        self._older.pop(number, None)

    def forget(self, first: int) -> None:
        """All slices from number `first` on are void."""
        self._version += 1
        for slices in (self.recent, self._older, self._pinned, self._dirty):
            for number in [number for number in slices if number >= first]:
                del slices[number]

    def take(self) -> dict[int, tuple[int, bytes]]:
        """Where to write what, by number: all that has changed, as it is now."""
        taken = {
            number: (changed.offset, self.codec.encode(changed.numbers))
            for number, changed in self._dirty.items()
        }
        self._dirty = {}
        return taken

    def written(self, taken: dict[int, tuple[int, bytes]]) -> None:
        """What was taken is in the image."""
        self._version += 1
        for number in taken:
            if number not in self._dirty:
                self._pinned.pop(number, None)

    def failed(self, taken: dict[int, tuple[int, bytes]]) -> None:
        """What was taken may not be in the image."""
        for number in taken:
            self._dirty[number] = self._pinned[number]


async def read_padded(store: Store, offset: int, length: int) -> bytes:
    """Read from `store`; what lies past its end reads zero, as QEMU has it."""
    there = max(0, min(length, store.size - offset))
    data = await store.read(offset, there) if there else b""
    return data.ljust(length, b"\0")
