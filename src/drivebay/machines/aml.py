"""The ACPI machine language, as much as it takes to say where devices are.

Sections are of the ACPI specification, version 6.5. Everything is bytes: terms are joined by `+`.
"""

from __future__ import annotations

from drivebay.wire import U8, U16, U32, Struct

__all__ = [
    "buffer",
    "device",
    "eisa_id",
    "fixed_memory",
    "integer",
    "interrupt",
    "irq",
    "memory_window",
    "name",
    "package",
    "port_window",
    "ports",
    "resources",
    "scope",
    "string",
    "windows_of_buses",
]


def _sized(opcode: bytes, content: bytes) -> bytes:
    """An object with a length of itself, which counts too (section 20.2.4)."""
    for size in range(1, 5):
        total = size + len(content)
        if size == 1 and total < 1 << 6:
            return opcode + bytes((total,)) + content
        if size > 1 and total < 1 << 8 * size - 4:
            first = size - 1 << 6 | total & 0xF
            return opcode + bytes((first,)) + (total >> 4).to_bytes(size - 1, "little") + content
    raise ValueError(f"{len(content)} bytes are too long for an object")


def integer(value: int) -> bytes:
    """A number of up to 64 bits (section 20.2.3)."""
    if value < 2:
        return bytes((value,))
    for opcode, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value < 1 << 8 * size:
            return bytes((opcode,)) + value.to_bytes(size, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """Characters and a zero."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A name such as ``PNP0A03`` as a number (section 19.3.4)."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    number = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + number.to_bytes(4, "big")


def name(path: str, value: bytes) -> bytes:
    """A named value. Names have four characters."""
    return b"\x08" + path.encode("ascii") + value


def package(*elements: bytes) -> bytes:
    """A list of values."""
    return _sized(b"\x12", bytes((len(elements),)) + b"".join(elements))


def buffer(content: bytes) -> bytes:
    """Bytes."""
    return _sized(b"\x11", integer(len(content)) + content)


def scope(path: str, *terms: bytes) -> bytes:
    """Terms inside an object that is there; a path begins with a backslash."""
    return _sized(b"\x10", path.encode("ascii") + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """A device and what is in it."""
    return _sized(b"\x5b\x82", path.encode("ascii") + b"".join(terms))


# -- resources (section 6.4) ----------------------------------------------------------------------

END: bytes = b"\x79\0"
BOTH_ENDS_FIXED = 0x0C
READ_WRITE = 1
ENTIRE_RANGE = 3  # of ports, that is
CONSUMER, EDGE, ACTIVE_LOW = 1, 2, 4


class _Ports(Struct, size=8):
    tag: U8
    decode: U8
    minimum: U16
    maximum: U16
    alignment: U8
    length: U8


class _FixedMemory(Struct, size=12):
    tag: U8
    size_of_rest: U16
    information: U8
    base: U32
    length: U32


class _Interrupt(Struct, size=9):
    tag: U8
    size_of_rest: U16
    flags: U8
    count: U8
    number: U32


class _WordWindow(Struct, size=16):
    tag: U8
    size_of_rest: U16
    kind: U8
    flags: U8
    type_flags: U8
    granularity: U16
    minimum: U16
    maximum: U16
    translation: U16
    length: U16


class _DwordWindow(Struct, size=26):
    tag: U8
    size_of_rest: U16
    kind: U8
    flags: U8
    type_flags: U8
    granularity: U32
    minimum: U32
    maximum: U32
    translation: U32
    length: U32


MEMORY, PORTS, BUSES = 0, 1, 2


def resources(*items: bytes) -> bytes:
    """What a device takes, for its ``_CRS``."""
    return buffer(b"".join(items) + END)


def ports(base: int, length: int) -> bytes:
    """Ports of a device."""
    return _Ports(0x47, 1, base, base, 1, length).pack()


def irq(number: int) -> bytes:
    """An interrupt of the ISA bus: an edge."""
    return b"\x22" + (1 << number).to_bytes(2, "little")


def interrupt(number: int) -> bytes:
    """An interrupt by its global number: a level, active high."""
    return _Interrupt(0x89, 6, CONSUMER, 1, number).pack()


def fixed_memory(base: int, length: int) -> bytes:
    """Registers of a device."""
    return _FixedMemory(0x86, 9, READ_WRITE, base, length).pack()


def windows_of_buses(first: int, last: int) -> bytes:
    """The numbers of the buses below a bridge."""
    length = last - first + 1
    return _WordWindow(0x88, 13, BUSES, BOTH_ENDS_FIXED, 0, 0, first, last, 0, length).pack()


def port_window(first: int, last: int) -> bytes:
    """Ports that a bridge gives to those below it."""
    length = last - first + 1
    flags = BOTH_ENDS_FIXED, ENTIRE_RANGE
    return _WordWindow(0x88, 13, PORTS, *flags, 0, first, last, 0, length).pack()


def memory_window(first: int, last: int) -> bytes:
    """Addresses that a bridge gives to those below it."""
    length = last - first + 1
    flags = BOTH_ENDS_FIXED, READ_WRITE
    return _DwordWindow(0x87, 23, MEMORY, *flags, 0, first, last, 0, length).pack()
