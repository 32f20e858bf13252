"""CDBs by hand from SAT-4 tables 137 to 142."""

from __future__ import annotations

import pytest

from drivebay.ata.passthrough.cdb import encode
from drivebay.ata.passthrough.table import lookup
from drivebay.ata.taskfile import TaskFile

from .support import taskfile

DEV = 0x10


@pytest.mark.parametrize(
    ("registers", "cdb"),
    [
        # non-data, registers wanted
        (taskfile(0xE5), "85 06 20 00 00 00 00 00 00 00 00 00 00 e0 e5 00"),
        # PIO in, one block, whose number is in the count field
        (taskfile(0xEC), "85 08 2e 00 00 00 01 00 00 00 00 00 00 e0 ec 00"),
        (
            taskfile(0x20, count=8, lba=0x123456),
            "85 08 2e 00 00 00 08 00 56 00 34 00 12 e0 20 00",
        ),
        # of a 28-bit command the previous bytes are nobody's
        (
            taskfile(0xC8, features=0x7700, count=0x5508, lba=0xAABBCC123456),
            "85 0c 2e 00 00 00 08 00 56 00 34 00 12 e0 c8 00",
        ),
        # DMA in, 48-bit: previous bytes first
        (
            taskfile(0x25, features=0x1234, count=0x5678, lba=0xAABBCCDDEEFF),
            "85 0d 2e 12 34 56 78 cc ff bb ee aa dd e0 25 00",
        ),
        # DMA out, 48-bit
        (
            taskfile(0x35, count=1, lba=0x010000000000),
            "85 0d 26 00 00 00 01 00 00 00 00 01 00 e0 35 00",
        ),
        # PIO out
        (taskfile(0xF1), "85 0a 26 00 00 00 01 00 00 00 00 00 00 e0 f1 00"),
        # PIO in with 48 bits: a log
        (
            taskfile(0x2F, count=0x0102, lba=0x000000030004),
            "85 09 2e 00 00 01 02 00 04 00 00 00 03 e0 2f 00",
        ),
        # TRIM: DMA out of blocks
        (
            taskfile(0x06, features=1, count=2),
            "85 0d 26 00 01 00 02 00 00 00 00 00 00 e0 06 00",
        ),
        # microcode of more blocks than the count register tells: the length is elsewhere
        (
            taskfile(0x92, features=3, count=0x10, lba=0x000201),
            "85 0a 23 00 03 00 10 00 01 00 02 00 00 e0 92 00",
        ),
        # SMART READ DATA
        (
            taskfile(0xB0, features=0xD0, lba=0xC24F00),
            "85 08 2e 00 d0 00 01 00 00 00 4f 00 c2 e0 b0 00",
        ),
        # device 1 of the guest's cable is not device 1 of the host's
        (
            taskfile(0x40, count=1, device=0xE5 | DEV),
            "85 06 20 00 00 00 01 00 00 00 00 00 00 e5 40 00",
        ),
    ],
)
def test_sixteen_bytes(registers: TaskFile, cdb: str) -> None:
    assert encode(lookup(registers), registers).hex(" ") == cdb


@pytest.mark.parametrize(
    ("registers", "cdb"),
    [
        (taskfile(0xEC), "a1 08 2e 00 01 00 00 00 e0 ec 00 00"),
        (
            taskfile(0xC8, features=0x7700, count=0x5508, lba=0xAABBCC123456),
            "a1 0c 2e 00 08 56 34 12 e0 c8 00 00",
        ),
        (taskfile(0x30, count=3, lba=7), "a1 0a 26 00 03 07 00 00 e0 30 00 00"),
        # 48 bits do not fit
        (taskfile(0xEA), "85 07 20 00 00 00 00 00 00 00 00 00 00 e0 ea 00"),
    ],
)
def test_twelve_bytes_where_they_do(registers: TaskFile, cdb: str) -> None:
    assert encode(lookup(registers), registers, short=True).hex(" ") == cdb


def test_multiple_count_is_a_power_of_two() -> None:
    registers = taskfile(0xC4, count=16)
    assert encode(lookup(registers), registers, multiple=16)[1] == 4 << 5 | 4 << 1
    registers = taskfile(0x20, count=16)
    assert encode(lookup(registers), registers, multiple=16)[1] == 4 << 1


def test_other_sectors_are_the_unit_of_reads_and_writes_only() -> None:
    registers = taskfile(0x25, count=1)
    assert encode(lookup(registers), registers, sector=4096)[2] == 0x3E
    registers = taskfile(0x2F, count=1)
    assert encode(lookup(registers), registers, sector=4096)[2] == 0x2E
