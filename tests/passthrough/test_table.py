"""Every opcode of ACS-3: what may be sent, and what it takes to be allowed."""

from __future__ import annotations

import pytest

from drivebay.ata.command import Aborted, Protocol
from drivebay.ata.passthrough.policy import Category, Policy
from drivebay.ata.passthrough.table import COMMANDS, SUBCOMMANDS, Length, Row, lookup

from .support import taskfile

# What a guest may do by default, by hand from ACS-3 table 209; nothing here changes a byte.
HARMLESS = {
    *(0x00, 0x03, 0x0B, 0x10, 0x20, 0x21, 0x24, 0x25, 0x27, 0x29, 0x2A, 0x2B, 0x2F),
    *(0x40, 0x41, 0x42, 0x47, 0x70, 0x87, 0x98),
    *(0xC4, 0xC8, 0xC9, 0xE4, 0xE5, 0xE7, 0xE9, 0xEA, 0xEC, 0xF8),
}
HARMLESS_SUBCOMMANDS = {
    (0x78, 0x00),
    (0xB0, 0xD0),
    (0xB0, 0xD1),
    (0xB0, 0xD5),
    (0xB0, 0xDA),
    (0xB1, 0xC2),
    (0xB4, 0x00),
}
QUEUED_OR_PACKETS = {
    *(0x26, 0x36, 0x3E, 0xC7, 0xCC, 0x60, 0x61, 0x63, 0x64, 0x65, 0xA0, 0xA1, 0xA2, 0x08),
}
VENDOR = {0x9A, *range(0x80, 0x87), 0xF0, 0xF7, *range(0xFA, 0x100)}


def allowed(opcode: int, features: int = 0) -> bool:
    try:
        Policy().check(lookup(taskfile(opcode, features=features)).needs)
    except Aborted:
        return False
    return True


@pytest.mark.parametrize("opcode", range(256))
def test_by_default_only_what_is_harmless_passes(opcode: int) -> None:
    expected = {
        features
        for features in range(0x200)
        if opcode in HARMLESS or (opcode, features) in HARMLESS_SUBCOMMANDS
    }
    if opcode in (0xB0, 0xB1):  # whose previous byte is not theirs
        expected |= {features | 0x100 for features in expected}
    assert {features for features in range(0x200) if allowed(opcode, features)} == expected


@pytest.mark.parametrize("opcode", sorted(QUEUED_OR_PACKETS | VENDOR))
def test_queued_packet_and_vendor_commands_are_never_sent(opcode: int) -> None:
    assert opcode not in COMMANDS
    assert opcode not in SUBCOMMANDS


@pytest.mark.parametrize(
    ("opcode", "features", "needs"),
    [
        (0x30, 0, "write"),
        (0x35, 0, "write"),
        (0xCA, 0, "write"),
        (0xCE, 0, "write"),
        (0xE8, 0, "write"),
        (0x06, 1, "erase"),
        (0x45, 0, "erase"),
        (0xC0, 0, "erase"),
        (0xB4, 0x12, "erase"),
        (0x92, 7, "firmware"),
        (0x93, 0x0F, "firmware"),
        (0xF1, 0, "security"),
        (0xF5, 0, "security"),
        (0x5C, 0, "security"),
        (0xF9, 1, "security"),
        (0xB4, 0x20, "security"),
        (0xF3, 0, "erase security"),
        (0xF4, 0, "erase security"),
        (0xF9, 0, "settings"),
        (0x37, 0, "settings"),
        (0xEF, 2, "settings"),
        (0xE6, 0, "settings"),
        (0xB0, 0xD8, "settings"),
        (0xB1, 0xC3, "settings"),
        (0x78, 1, "settings"),
    ],
)
def test_what_a_dangerous_command_needs(opcode: int, features: int, needs: str) -> None:
    row = lookup(taskfile(opcode, features=features))
    assert row.needs == {Category(name) for name in needs.split()}
    for name in needs.split():
        with pytest.raises(Aborted, match=name):
            Policy.of(*({"write", "erase", "firmware", "security", "settings"} - {name})).check(
                row.needs
            )


@pytest.mark.parametrize(("opcode", "features"), [(0x3F, 0), (0x57, 0), (0xB0, 0xD6)])
def test_writing_the_sct_logs_needs_what_sct_can_do(opcode: int, features: int) -> None:
    """SCT WRITE SAME overwrites the whole drive by a log write (ACS-3 section 8.3.4)."""

    def needs(log: int) -> set[str]:
        row = lookup(taskfile(opcode, features=features, count=1, lba=0xC24F00 | log))
        return {category.value for category in row.needs}

    assert needs(0x80) == {"settings"}
    assert needs(0xE0) == {"settings", "erase"}
    assert needs(0xE1) == {"settings", "write"}


def rows() -> list[Row]:
    subcommands = [row for group in SUBCOMMANDS.values() for row in group.values()]
    return [*COMMANDS.values(), *subcommands]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_rows_make_sense(row: Row) -> None:
    assert (row.protocol is Protocol.NON_DATA) == (row.length is Length.NONE)
    assert row.needs
    if Category.READ in row.needs:
        assert row.protocol not in (Protocol.PIO_OUT, Protocol.DMA_OUT)
        assert row.needs == {Category.READ}
    assert row.ext == (row.name.endswith(("EXT", "XL")) or row.name in NAMED_OTHERWISE)


NAMED_OTHERWISE = {
    "CONFIGURE STREAM",
    "DATA SET MANAGEMENT",
}


def test_names_of_categories() -> None:
    assert Policy.of("write").allow == {Category.READ, Category.WRITE}
    with pytest.raises(ValueError, match="format"):
        Policy.of("format")
