"""Registers and wire structs, declared once in the data sheet's order and names.

A register is an `int` whose bits have names, most significant first::

    class PxSSTS(Register32):
        IPM = Bits(11, 8)                # interface power management
        SPD = Bits(7, 4, LinkSpeed)      # current interface speed
        DET = Bits(3, 0)                 # device detection

    PxSSTS(0x123).SPD                    # LinkSpeed.GEN2
    PxSSTS.of(SPD=LinkSpeed.GEN2, DET=3) # back to 0x23
    value & PxSSTS.SPD                   # on the class a field is its mask: plain integers

A struct is a class of annotated fields, compiled to one `struct.Struct`::

    class VirtqDesc(Struct, size=16):
        addr: U64
        len: U32
        flags: U16
        next: U16

    VirtqDesc.unpack(buffer, offset)     # an object, for paths a person reads
    VirtqDesc.unpack_from(buffer, offset)  # a tuple of integers, for hot paths

A register map names the registers of a block by offset; `RegisterMap.bind` finds the handlers
`read_<NAME>` and `write_<NAME>` of a device and returns what dispatches to them.

Unknown guest values stay values: an enum field that meets a number it does not know gives the
number. Everything is little-endian unless the struct says ``byte_order=">"``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    get_type_hints,
    overload,
)

__all__ = [
    "U8",
    "U16",
    "U32",
    "U64",
    "Access",
    "At",
    "Bit",
    "Bits",
    "Register",
    "Register8",
    "Register16",
    "Register32",
    "Register64",
    "RegisterMap",
    "Struct",
    "bit_names",
]

T = TypeVar("T")
E = TypeVar("E", bound=enum.IntEnum)

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


class Bits(int, Generic[T]):
    """Bits `msb` down to `lsb` of a register; on the class it is the mask, on a value the field.

    Raises `ValueError` when the bits are out of order.
    """

    name: str
    shift: int
    width: int
    kind: Callable[[int], Any]

    @overload
    def __new__(cls, msb: int, lsb: int) -> Bits[int]: ...
    @overload
    def __new__(cls, msb: int, lsb: int, kind: type[E]) -> Bits[E]: ...
    def __new__(cls, msb: int, lsb: int, kind: Callable[[int], Any] = int) -> Bits[Any]:
        """Describe the field."""
        if not msb >= lsb >= 0:
            raise ValueError(f"bits {msb}..{lsb}: the most significant bit comes first")
        width = msb - lsb + 1
        self = cast("Bits[Any]", super().__new__(cls, ((1 << width) - 1) << lsb))
        self.shift, self.width, self.kind = lsb, width, kind
        return self

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Register, owner: type) -> T: ...
    def __get__(self, instance: Register | None, owner: type) -> Self | T:
        return self if instance is None else self.decode(instance)

    def decode(self, value: int) -> T:
        """The field of register value `value`; a number its enum does not know stays a number."""
        number = (value & int(self)) >> self.shift
        try:
            return cast("T", self.kind(number))
        except ValueError:
            return cast("T", number)

    def encode(self, value: int) -> int:
        """`value` moved to this field's place. Raises `ValueError` if it does not fit."""
        if value < 0 or value >> self.width:
            raise ValueError(f"{self.name} has {self.width} bits: {value:#x} does not fit")
        return int(value) << self.shift


class Bit(Bits[bool]):
    """One bit of a register, read as a bool."""

    def __new__(cls, position: int) -> Bit:
        """Describe bit number `position`."""
        return cast("Bit", super().__new__(cls, position, position, bool))


class Register(int):
    """A register value. Subclasses declare its bits; `size` is its width in bytes."""

    size: ClassVar[int] = 0
    fields: ClassVar[tuple[Bits[Any], ...]] = ()

    def __init_subclass__(cls, size: int | None = None) -> None:
        """Collect the declared fields, checking that they fit and run msb first."""
        if size is not None:
            cls.size = size
        own = tuple(item for item in vars(cls).values() if isinstance(item, Bits))
        lowest = cls.size * 8
        for field in own:
            if field.shift + field.width > lowest:
                raise TypeError(f"{cls.__name__}.{field.name}: overlaps, out of order or too wide")
            lowest = field.shift
        cls.fields = own or cls.fields

    @classmethod
    def of(cls, **values: int) -> Self:
        """A value with the named fields set and all else zero."""
        return cls(0).replace(**values)

    def replace(self, **values: int) -> Self:
        """This value with the named fields changed. Raises `AttributeError` on an unknown name."""
        number = int(self)
        for name, value in values.items():
            field = getattr(type(self), name)
            number = number & ~int(field) | field.encode(value)
        return type(self)(number)

    def __str__(self) -> str:
        parts = (f"{f.name}={_shown(f.decode(self))}" for f in self.fields)
        return " ".join([f"{int(self):#0{2 + 2 * self.size}x}", *parts])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


def _shown(value: object) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    return f"{int(cast('int', value)):#x}" if not isinstance(value, bool) else str(int(value))


def bit_names(kind: type[enum.IntEnum], mask: int) -> str:
    """The members of `kind` (bit numbers) that are set in `mask`, for logs: ``RO|FLUSH|bit 40``."""
    names = []
    for position in range(mask.bit_length()):
        if mask >> position & 1:
            known = position in kind._value2member_map_
            names.append(kind(position).name if known else f"bit {position}")
    return "|".join(names) or "none"


class Register8(Register, size=1):
    """An 8-bit register."""


class Register16(Register, size=2):
    """A 16-bit register."""


class Register32(Register, size=4):
    """A 32-bit register."""


class Register64(Register, size=8):
    """A 64-bit register."""


@dataclass_transform()
class Struct:
    """A packed wire struct. ``class Name(Struct, size=16)`` states its size in bytes.

    Fields are annotated `U8` to `U64`, or ``Annotated[bytes, "20s"]``. Raises `TypeError` at class
    creation if the fields do not add up to `size`.
    """

    layout: ClassVar[struct.Struct]
    size: ClassVar[int]
    unpack_from: ClassVar[Callable[..., tuple[Any, ...]]]  # (buffer, offset=0): plain values

    def __init_subclass__(cls, size: int, byte_order: str = "<") -> None:
        """Compile the declaration."""
        dataclass(cls)
        hints = get_type_hints(cls, include_extras=True)
        codes = "".join(hints[field.name].__metadata__[0] for field in fields(cast("Any", cls)))
        cls.layout = struct.Struct(byte_order + codes)
        cls.size = cls.layout.size
        cls.unpack_from = cls.layout.unpack_from
        if cls.size != size:
            raise TypeError(f"{cls.__name__}: fields take {cls.size} bytes, declared {size}")

    @classmethod
    def unpack(cls, buffer: Any, offset: int = 0) -> Self:
        """The struct at `offset` of `buffer`. Raises `struct.error` if the buffer ends before."""
        return cls(*cls.layout.unpack_from(buffer, offset))

    def pack(self) -> bytes:
        """The struct as bytes."""
        return self.layout.pack(*vars(self).values())  # a dataclass sets its fields in order


class At(NamedTuple):
    """Where a register sits: its offset in bytes and its type.

    Two registers may share a place if one is only read, ``access="r"``, and one written, ``"w"``.
    """

    offset: int
    type: type[Register]
    access: str = "rw"


Read = Callable[[], int]
Write = Callable[[int], None]


class Access(NamedTuple):
    """A bound register: its name and its handlers; a handler that is absent is None."""

    name: str
    type: type[Register]
    read: Read | None
    write: Write | None


class RegisterMap:
    """The registers of a block, by name::

    class Regs(RegisterMap):
        MagicValue = At(0x000, Register32)
    """

    registers: ClassVar[dict[str, At]] = {}

    def __init_subclass__(cls) -> None:
        """Collect the declared registers, checking that they stand in order and apart."""
        cls.registers = {k: v for k, v in vars(cls).items() if isinstance(v, At)}
        ends = {"r": 0, "w": 0}
        for name, at in cls.registers.items():
            if at.offset < max(ends[way] for way in at.access):
                raise TypeError(f"{cls.__name__}.{name}: overlaps the register before it")
            ends |= dict.fromkeys(at.access, at.offset + at.type.size)

    @classmethod
    def at(cls, offset: int) -> tuple[str, At] | None:
        """The register that covers `offset`, for traces and dumps."""
        for name, at in cls.registers.items():
            if at.offset <= offset < at.offset + at.type.size:
                return name, at
        return None

    @classmethod
    def bind(cls, device: object) -> dict[int, Access]:
        """The device's handlers ``read_<NAME>`` and ``write_<NAME>``, by offset.

        Raises `TypeError` for a handler that names no register: a misspelt handler is never called.
        """
        bound: dict[int, Access] = {}
        for name, at in cls.registers.items():
            read = getattr(device, f"read_{name}", None) if "r" in at.access else None
            write = getattr(device, f"write_{name}", None) if "w" in at.access else None
            access = Access(name, at.type, read, write)
            twin = bound.get(at.offset)
            if twin is not None:
                both = f"{twin.name}/{name}"
                access = Access(both, at.type, twin.read or read, twin.write or write)
            bound[at.offset] = access
        for attribute in dir(device):
            verb, _, name = attribute.partition("_")
            if verb in ("read", "write") and name[:1].isupper() and name not in cls.registers:
                raise TypeError(f"{type(device).__name__}.{attribute}: no such register")
        return bound

    @classmethod
    def dump(cls, read: Callable[[int, int], int]) -> Iterator[str]:
        """One line a register, each read by ``read(offset, size)`` and shown by its fields."""
        for name, (offset, kind, access) in cls.registers.items():
            if "r" in access:
                yield f"{offset:#06x} {name:<24} {kind(read(offset, kind.size))}"
