"""CRC-32C (Castagnoli), which no module of Python's has, fast enough for tables of 64 KiB.

A register of 32 bits that takes a byte at a time costs Python 100 ns a byte. So the data are cut
into lanes of equal length, and all lanes take their next byte together: byte k of all registers is
one string, table k of the usual algorithm is `bytes.translate`, and XOR is that of big numbers.
Then two lanes become one again and again: the CRC of ``a + b`` is that of ``a``, moved past as many
zeroes as ``b`` has bytes, XOR that of ``b``. Moving is linear, so it is tables and XOR, too.
"""

from __future__ import annotations

from functools import cache
from typing import Final

__all__ = ["crc32c"]

POLYNOMIAL: Final = 0x82F63B78  # bits reversed
LANE: Final = 32  # bytes; more cost steps, fewer cost joins


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`."""
    core = data.rstrip(b"\0")  # tables are mostly empty
    register = _register_after(core)
    zeroes, length = len(data) - len(core), 1
    while zeroes:
        if zeroes & 1:
            register = _past(_moved(length), register.to_bytes(4, "little"))
        zeroes, length = zeroes >> 1, length << 1
    return register ^ 0xFFFFFFFF


def _register_after(data: bytes) -> int:
    if len(data) < LANE:
        register = 0xFFFFFFFF
        for byte in data:
            register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
        return register
    # Zeroes before the data change nothing if the register starts as zero. That it starts as ones
    # is the same as the first four bytes inverted.
    start = bytes(byte ^ 0xFF for byte in data[:4])
    lanes = 1 << (-(-len(data) // LANE) - 1).bit_length()
    length = LANE
    registers = _lanes(bytes(lanes * length - len(data)) + start + data[4:], lanes, length)
    while lanes > 1:
        registers = _joined(registers, length)
        lanes, length = lanes >> 1, length << 1
    return int.from_bytes(b"".join(registers), "little")


def _lanes(data: bytes, lanes: int, length: int) -> list[bytes]:
    """The four bytes of each lane's register, lowest first; lane after lane in each string."""
    table_0, table_1, table_2, table_3 = PLANES
    number, translate = int.from_bytes, bytes.translate
    shift, mask = 8 * lanes, (1 << 8 * lanes) - 1
    planes = 0  # all four, the lowest byte's first
    for at in range(length):
        index = (planes & mask ^ number(data[at::length], "little")).to_bytes(lanes, "little")
        steps = (
            translate(index, table_0),
            translate(index, table_1),
            translate(index, table_2),
            translate(index, table_3),
        )
        planes = planes >> shift ^ number(b"".join(steps), "little")
    joined = planes.to_bytes(4 * lanes, "little")
    return [joined[at : at + lanes] for at in range(0, 4 * lanes, lanes)]


def _joined(registers: list[bytes], length: int) -> list[bytes]:
    """Two lanes of `length` bytes each, next to each other, as one."""
    tables = _moved(length)
    size = len(registers[0]) // 2
    joined = []
    for plane in range(4):
        value = int.from_bytes(registers[plane][1::2], "little")
        for source in range(4):
            moved = registers[source][::2].translate(tables[source][plane])
            value ^= int.from_bytes(moved, "little")
        joined.append(value.to_bytes(size, "little"))
    return joined


@cache
def _moved(length: int) -> list[list[bytes]]:
    """``[source][plane]``: byte `plane` of a register past `length` zeroes, of which byte `source`
    was the index and the others were zero. `length` is a power of two.
    """
    if length == 1:
        moved = [TABLE, *([value << shift for value in range(256)] for shift in (0, 8, 16))]
    else:
        half = _moved(length >> 1)
        moved = []
        for source in range(4):
            once = zip(*half[source], strict=True)
            moved.append([_past(half, bytes(register)) for register in once])
    return [
        [bytes(value >> 8 * k & 0xFF for value in column) for k in range(4)] for column in moved
    ]


def _past(tables: list[list[bytes]], register: bytes) -> int:
    """What becomes of one register, of four bytes, by tables of `_moved`."""
    value = 0
    for source, byte in enumerate(register):
        for plane in range(4):
            value ^= tables[source][plane][byte] << 8 * plane
    return value


def _table() -> list[int]:
    table = []
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return table


TABLE: Final = _table()
PLANES: Final = [bytes(value >> 8 * plane & 0xFF for value in TABLE) for plane in range(4)]
