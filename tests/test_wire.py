"""Registers and wire structs."""

from __future__ import annotations

import enum
import importlib
import pkgutil
import struct
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

import drivebay
from drivebay.wire import (
    U8,
    U16,
    U32,
    U64,
    At,
    Bit,
    Bits,
    Register,
    Register8,
    Register16,
    Register32,
    RegisterMap,
    Struct,
    bit_names,
)


class Speed(enum.IntEnum):
    NONE = 0
    GEN1 = 1
    GEN2 = 2


class Link(Register32):
    """As the module's own example."""

    IPM = Bits(11, 8)  # power management
    SPD = Bits(7, 4, Speed)  # current speed
    DET = Bits(3, 1)  # detection
    ON = Bit(0)


class Point(Struct, size=15):
    kind: U8
    flags: U16
    x: U32
    y: U64


class Big(Struct, size=10, byte_order=">"):
    length: U16
    name: Annotated[bytes, "8s"]


class Map(RegisterMap):
    First = At(0x00, Register32)
    Second = At(0x04, Link)
    Third = At(0x0C, Register8)


# -- registers -------------------------------------------------------------------------------------


def test_a_field_is_its_mask_on_the_class_and_its_value_on_a_value() -> None:
    assert Link.SPD == 0xF0
    assert Link.ON == 1
    value = Link(0x523)
    assert (value.IPM, value.SPD, value.DET, value.ON) == (5, Speed.GEN2, 1, True)
    assert isinstance(value.SPD, Speed)
    assert value & Link.SPD == 0x20


def test_a_value_is_made_and_changed_by_names() -> None:
    value = Link.of(SPD=Speed.GEN1, ON=1)
    assert value == 0x11
    assert value.replace(SPD=2, IPM=15) == 0xF21
    assert isinstance(value.replace(ON=0), Link)


def test_a_number_that_its_enum_does_not_know_stays_a_number() -> None:
    value = Link(0x70)
    assert value.SPD == 7
    assert not isinstance(value.SPD, Speed)


@pytest.mark.parametrize("change", [{"SPD": 16}, {"ON": 2}, {"IPM": -1}])
def test_a_value_that_does_not_fit_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Link.of(**change)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(AttributeError):
        Link.of(NOPE=1)


@given(st.integers(0, 0xFFFFFFFF))
def test_fields_are_independent(number: int) -> None:
    value = Link(number)
    again = value.replace(IPM=value.IPM, SPD=int(value.SPD), DET=value.DET, ON=value.ON)
    assert again == number


def test_bits_run_from_the_most_significant_down() -> None:
    with pytest.raises(ValueError):
        Bits(3, 4)
    with pytest.raises(ValueError):
        Bits(3, -1)
    with pytest.raises(TypeError, match="out of order"):

        class Upwards(Register8):
            LOW = Bit(0)
            HIGH = Bit(1)

    with pytest.raises(TypeError, match="overlaps"):

        class Overlap(Register8):
            A = Bits(7, 4)
            B = Bits(4, 0)

    with pytest.raises(TypeError, match="too wide"):

        class Wide(Register16):
            A = Bits(16, 0)


def test_a_register_shows_its_fields() -> None:
    assert str(Link(0x523)) == "0x00000523 IPM=0x5 SPD=GEN2 DET=0x1 ON=1"
    assert str(Register16(5)) == "0x0005"
    assert repr(Link(0x70)) == "<Link 0x00000070 IPM=0x0 SPD=0x7 DET=0x0 ON=0>"


def test_names_of_bits() -> None:
    assert bit_names(Speed, 0b1110) == "GEN1|GEN2|bit 3"
    assert bit_names(Speed, 0) == "none"


# -- structs ---------------------------------------------------------------------------------------


def test_a_struct_packs_and_unpacks_without_padding() -> None:
    point = Point(1, 2, 3, 4)
    data = point.pack()
    assert data == struct.pack("<BHIQ", 1, 2, 3, 4)
    assert Point.unpack(b"xx" + data, 2) == point
    assert Point.unpack_from(data) == (1, 2, 3, 4)


def test_the_order_of_bytes_is_the_structs_own() -> None:
    assert Big(1, b"ab").pack() == b"\0\1ab\0\0\0\0\0\0"


def test_a_buffer_that_ends_before_is_refused() -> None:
    with pytest.raises(struct.error):
        Point.unpack(bytes(14))


@pytest.mark.parametrize("value", [-1, 1 << 8])
def test_a_value_that_its_field_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(struct.error):
        Point(value, 0, 0, 0).pack()


def test_a_struct_of_another_size_than_declared_is_refused() -> None:
    with pytest.raises(TypeError, match="fields take 3 bytes, declared 4"):

        class Wrong(Struct, size=4):
            a: U8
            b: U16


def every_module() -> list[str]:
    found = pkgutil.walk_packages(drivebay.__path__, "drivebay.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def everything(kind: type) -> list[type]:
    """Every subclass that a module of the package declares."""
    for name in every_module():
        importlib.import_module(name)
    found: list[type] = []
    todo: list[type] = [kind]
    while todo:
        subclasses: list[type] = todo.pop().__subclasses__()
        todo += subclasses
        found += subclasses
    return [each for each in found if each.__module__ != __name__]


def test_every_wire_struct_of_the_package_is_as_long_as_it_says() -> None:
    """Its size is stated by hand beside its fields; both agree, and it comes back as it went."""
    structs = [c for c in everything(Struct) if issubclass(c, Struct)]
    assert len(structs) >= 8
    for kind in structs:
        assert kind.layout.size == kind.size
        pattern = bytes(n % 251 for n in range(kind.size))
        assert kind.unpack(pattern).pack() == pattern, kind


def test_every_register_of_the_package_fits_its_width() -> None:
    for kind in everything(Register):
        assert issubclass(kind, Register)
        assert kind.size in (1, 2, 4, 8), kind
        assert sum(int(field) for field in kind.fields) < 1 << 8 * kind.size


# -- maps ------------------------------------------------------------------------------------------


class Device:
    def __init__(self) -> None:
        self.value = 7

    def read_First(self) -> int:  # noqa: N802
        return self.value

    def write_First(self, value: int) -> None:  # noqa: N802
        self.value = value

    def read_Third(self) -> int:  # noqa: N802
        return 1

    def read_config(self) -> bytes:  # in lower case: none of the map's business
        return b""


def test_handlers_are_found_by_the_names_of_their_registers() -> None:
    bound = Map.bind(Device())
    assert list(bound) == [0, 4, 12]
    first, second, third = bound.values()
    assert (first.name, second.name, third.name) == ("First", "Second", "Third")
    assert second.read is None
    assert third.write is None
    assert first.read is not None
    assert first.write is not None
    first.write(9)
    assert first.read() == 9


@pytest.mark.parametrize("name", ["read_Frist", "write_Fourth", "read_FIRST"])
def test_a_misspelt_handler_is_refused(name: str) -> None:
    broken = type("Broken", (Device,), {name: lambda self: 0})
    with pytest.raises(TypeError, match=name):
        Map.bind(broken())


@pytest.mark.parametrize("offset, name", [(0, "First"), (3, "First"), (4, "Second"), (12, "Third")])
def test_a_register_is_found_by_any_of_its_bytes(offset: int, name: str) -> None:
    found = Map.at(offset)
    assert found is not None
    assert found[0] == name


@pytest.mark.parametrize("offset", [8, 11, 13, -1])
def test_no_register_is_found_between_them(offset: int) -> None:
    assert Map.at(offset) is None


def test_registers_of_a_map_stand_in_order_and_apart() -> None:
    with pytest.raises(TypeError, match="overlaps"):

        class Overlap(RegisterMap):
            A = At(0, Register32)
            B = At(2, Register16)


def test_a_dump_shows_every_register_by_name() -> None:
    values = {0: 1, 4: 0x21, 12: 0xFF}
    lines = list(Map.dump(lambda offset, size: values[offset]))
    assert lines == [
        "0x0000 First                    0x00000001",
        "0x0004 Second                   0x00000021 IPM=0x0 SPD=GEN2 DET=0x0 ON=1",
        "0x000c Third                    0xff",
    ]


def test_two_registers_share_a_place_if_one_is_read_and_one_written() -> None:
    class Block(RegisterMap):
        Status = At(0, Register8, "r")
        Command = At(0, Register8, "w")
        Data = At(1, Register8)

    class Device:
        def read_Status(self) -> int:  # noqa: N802
            return 7

        def write_Command(self, value: int) -> None:  # noqa: N802
            commands.append(value)

    commands: list[int] = []
    access = Block.bind(Device())[0]
    assert access.name == "Status/Command"
    assert access.read is not None and access.read() == 7
    assert access.write is not None
    access.write(3)
    assert commands == [3]
    with pytest.raises(TypeError, match="overlaps"):
        type("Wrong", (RegisterMap,), {"A": At(0, Register16, "r"), "B": At(1, Register8)})
