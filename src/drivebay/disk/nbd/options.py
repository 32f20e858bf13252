"""What options and their replies carry: strings, lists, an export's properties."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from drivebay.disk.nbd.messages import (
    MOST_NAME,
    MOST_PAYLOAD,
    Info,
    InfoBlockSize,
    InfoExport,
    NbdError,
    TransmissionFlags,
)

__all__ = ["Export", "Fields", "packed_queries", "packed_string", "packed_wish"]

_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")


@dataclass(frozen=True)
class Export:
    """What a server says of an export. Sizes are bytes."""

    size: int
    flags: TransmissionFlags
    minimum: int = 1
    preferred: int = 4096
    maximum: int = MOST_PAYLOAD

    def infos(self) -> list[bytes]:
        """As INFO replies carry it."""
        sizes = InfoBlockSize(Info.BLOCK_SIZE, self.minimum, self.preferred, self.maximum)
        return [InfoExport(Info.EXPORT, self.size, int(self.flags)).pack(), sizes.pack()]


class Fields:
    """The data of an option, read from its start to its end. Methods raise `NbdError`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """So many bytes."""
        end = self._at + count
        if end > len(self._data):
            raise NbdError("it ends too soon")
        part, self._at = self._data[self._at : end], end
        return part

    def u16(self) -> int:
        """A number."""
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        """A number."""
        return int(_U32.unpack(self.take(4))[0])

    def string(self) -> str:
        """A string after its length."""
        length = self.u32()
        if length > MOST_NAME:
            raise NbdError(f"a string of {length} bytes")
        return _text(self.take(length))

    def rest(self) -> str:
        """A string that goes to the end."""
        return _text(self.take(len(self._data) - self._at))

    def end(self) -> None:
        """There is no more."""
        if self._at != len(self._data):
            raise NbdError("it is too long")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NbdError("a string that is not UTF-8") from None


def packed_string(text: str) -> bytes:
    """A string after its length."""
    data = text.encode()
    return _U32.pack(len(data)) + data


def packed_queries(name: str, queries: Sequence[str]) -> bytes:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    parts = [packed_string(name), _U32.pack(len(queries)), *map(packed_string, queries)]
    return b"".join(parts)


def packed_wish(name: str, infos: Sequence[int]) -> bytes:
    """The data of INFO and GO."""
    return packed_string(name) + _U16.pack(len(infos)) + b"".join(map(_U16.pack, infos))
