"""A sector of a CD as it lies on the disc, 2352 bytes: ECMA-130 section 14, mode 1."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Annotated, Final

from drivebay.scsi.dvd.medium import BLOCK, msf
from drivebay.wire import U8, Struct

__all__ = ["EDC_ECC", "FRAME", "HEADER", "SYNC", "USER_DATA", "frame"]

FRAME: Final = 2352
SYNC: Final = range(12)
HEADER: Final = range(12, 16)
USER_DATA: Final = range(16, 16 + BLOCK)
EDC_ECC: Final = range(16 + BLOCK, FRAME)

PATTERN: Final = b"\0" + b"\xff" * 10 + b"\0"
POLYNOMIAL: Final = 0xD8018001  # x^32 + x^31 + x^16 + x^15 + x^4 + x^3 + x + 1, reflected
FIELD: Final = 0x11D  # of GF(2^8): x^8 + x^4 + x^3 + x^2 + 1


class SectorHeader(Struct, size=4, byte_order=">"):
    """When the sector passes, in BCD, and how it is used."""

    time: Annotated[bytes, "3s"] = bytes(3)
    mode: U8 = 1


def _edc_table() -> list[int]:
    table = []
    for byte in range(256):
        code = byte
        for _ in range(8):
            code = code >> 1 ^ (POLYNOMIAL if code & 1 else 0)
        table.append(code)
    return table


_EDC: Final = _edc_table()
_DOUBLE: Final = bytes(value << 1 ^ (FIELD if value & 0x80 else 0) for value in range(256))
_TRIPLE: Final = bytes(value ^ _DOUBLE[value] for value in range(256))
_THIRD: Final = bytes(map(_TRIPLE.index, range(256)))

# P: 24 rows of 43 words; Q: 43 steps along each of 26 diagonals of words, over P's parity, too.
P_ROWS: Final = [slice(at, at + 86) for at in range(12, 2076, 86)]
Q_STEPS: Final = [
    itemgetter(
        *(
            12 + 2 * ((44 * step + 43 * diagonal) % 1118) + half
            for diagonal in range(26)
            for half in range(2)
        )
    )
    for step in range(43)
]


def frame(lba: int, data: bytes | memoryview) -> bytes:
    """The sector at `lba`, before 100 minutes, with `data` of 2048 bytes in it."""
    header = SectorHeader(bytes(value // 10 << 4 | value % 10 for value in msf(lba))).pack()
    sector = bytearray(PATTERN + header)
    sector += data
    sector += edc(sector).to_bytes(4, "little") + bytes(8)
    sector += parity(bytes(sector[row]) for row in P_ROWS)
    sector += parity(bytes(step(sector)) for step in Q_STEPS)
    return bytes(sector)


def edc(data: Iterable[int]) -> int:
    """The error detection code of `data` (section 14.3)."""
    code = 0
    for byte in data:
        code = code >> 8 ^ _EDC[(code ^ byte) & 0xFF]
    return code


def parity(rows: Iterable[bytes]) -> bytes:
    """Two rows that make each column of `rows` a word of the Reed-Solomon code (annex A).

    The bytes of a column sum to 0, and so do they times 2^n, ..., 2, 1. All columns go at once:
    rows are added as integers and doubled by `bytes.translate`.
    """
    total, weighted, size = 0, b"\0", 0
    for row in rows:
        size, value = len(row), int.from_bytes(row)
        total ^= value
        doubled = int.from_bytes(weighted.translate(_DOUBLE))
        weighted = (doubled ^ value).to_bytes(size)
    missing = total ^ int.from_bytes(weighted.translate(_DOUBLE).translate(_DOUBLE))
    first = missing.to_bytes(size).translate(_THIRD)
    return first + (total ^ int.from_bytes(first)).to_bytes(size)
