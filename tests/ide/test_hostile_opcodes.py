"""Every opcode in every state, and the data port beyond what it holds: hostile.md 2.2 and 4.1."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from drivebay.ata.device import Device
from drivebay.ata.registers import Opcode
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import PuppetDisk

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    BSY,
    DATA,
    DEV,
    DEVICE_RESET,
    DIAGNOSTIC,
    DISK_SECTORS,
    DRQ,
    ERR,
    FLUSH,
    IDENTIFY,
    IDENTIFY_PACKET,
    IDNF,
    PACKET,
    READ,
    READ_DMA,
    READ_NATIVE_MAX,
    READ_NATIVE_MAX_EXT,
    REST,
    SECTOR,
    WRITE,
    Guest,
    ata,
    atapi,
    contents,
    filled,
    pattern,
)

IMAGE = pattern(DISK_SECTORS * SECTOR)
KINDS = ("ata", "atapi", "empty", "absent")
NO_OPCODE = {PACKET, IDENTIFY_PACKET, DEVICE_RESET}  # of a disk


def make(
    make_bench: MakeBench, engine: Engine, kind: str, hold: bool = False
) -> tuple[Guest, PuppetDisk]:
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR), lambda name, sector, count: hold)
    drives: dict[tuple[int, int], Device] = {}
    if kind == "ata":
        drives[0, 0] = ata(engine, puppet)
    elif kind != "absent":
        drives[0, 0] = atapi(engine, puppet, empty=kind == "empty")
    return Guest(make_bench(drives, memory=GuestMemory.of_size(0x20000))), puppet


def begin_drq(guest: Guest, kind: str) -> None:
    """Half of a block that the drive shows, or wants."""
    if kind == "ata":
        guest.command(WRITE, 5, 2)
        guest.write(bytes(100))
    elif kind != "absent":
        guest.set(7, PACKET)
        guest.write(bytes(4))


def begin_read_drq(guest: Guest, kind: str) -> None:
    guest.set(7, IDENTIFY if kind == "ata" else IDENTIFY_PACKET)
    guest.read(100)


def begin_dma(guest: Guest, kind: str) -> None:
    """It waits for the bus master."""
    if kind == "ata":
        guest.command(READ_DMA, 5, 2)
    elif kind != "absent":
        guest.packet(bytes.fromhex("12000000240000"), dma=True)


STATES: dict[str, Callable[[Guest, str], None]] = {
    "idle": lambda guest, kind: None,
    "wants data": begin_drq,
    "shows data": begin_read_drq,
    "waits for DMA": begin_dma,
    "error": lambda guest, kind: guest.set(7, 0xFF),
    "asleep": lambda guest, kind: guest.set(7, 0xE6),
    "selects the other": lambda guest, kind: guest.set(6, DEV),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", list(STATES))
def test_hostile_2_2_every_opcode_in_every_state(
    make_bench: MakeBench, engine: Engine, kind: str, state: str
) -> None:
    """CVE-2015-6855 and its kin: no exception, no state but what the standard knows."""
    guest, _ = make(make_bench, engine, kind)
    for opcode in range(256):
        guest.command(0, 1, 1)
        STATES[state](guest, kind)
        before = guest.alternate
        guest.set(7, opcode)
        guest.settle()
        after = guest.alternate
        if kind == "absent":
            assert after == 0x7F
            assert guest.registers == [0x7F] * 6
            continue
        assert not after & BSY or opcode == READ
        if before & DRQ and opcode != DEVICE_RESET:
            assert after == before, f"{opcode:#x} was taken while the drive worked"
        if state == "selects the other" and opcode != DIAGNOSTIC:
            assert after == 0
        if state == "asleep" and not (kind != "ata" and opcode == DEVICE_RESET):
            assert after == before
        if after & ERR:
            assert guest.error & ~(ABRT | IDNF | 0xF0) == 0
        guest.read(64)
        guest.write(bytes(64))
        guest.reset()
        assert not guest.alternate & (BSY | DRQ | ERR)
    guest.check_usable()


@pytest.mark.parametrize("kind", ["ata", "atapi"])
def test_hostile_2_2_every_opcode_while_the_drive_is_busy(
    make_bench: MakeBench, engine: Engine, kind: str
) -> None:
    """Only DEVICE RESET is taken, by a packet device; the command goes on and ends as it would."""
    guest, puppet = make(make_bench, engine, kind, hold=True)

    def begin() -> None:
        if kind == "ata":
            guest.command(READ, 7, 1)
        else:
            guest.packet(bytes.fromhex("28 00 00000003 00 0001 00"))
        puppet.wait(1)

    begin()
    for opcode in set(range(256)) - {DEVICE_RESET}:
        assert guest.alternate & BSY
        guest.set(7, opcode)
        guest.write(bytes(512))
        assert guest.read(32) == bytes(32)
        assert len(puppet.held) == 1
    puppet.complete_all()
    guest.settle()
    assert guest.status & (BSY | DRQ | ERR) == DRQ
    start = 7 * 512 if kind == "ata" else 3 * 2048
    assert guest.read(512) == IMAGE[start : start + 512]
    guest.reset()
    begin()
    guest.set(7, DEVICE_RESET)
    assert bool(guest.alternate & BSY) == (kind == "ata")
    puppet.holds = lambda name, sector, count: False
    puppet.complete_all()
    guest.settle()
    guest.check_usable()


@pytest.mark.parametrize("kind", ["ata", "atapi", "empty"])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_hostile_2_2_cve_2015_5154_the_data_port_beyond_the_block(
    make_bench: MakeBench, engine: Engine, kind: str, width: int
) -> None:
    """After every opcode ten times as much is read, then written, as it can have announced."""
    guest, _ = make(make_bench, engine, kind)
    chance = random.Random(width)
    for opcode in range(256):
        for write in (False, True):
            guest.command(opcode, 1, 2, features=chance.randrange(256) & ~2)
            size = 10 * 1024
            if write:
                guest.write(chance.randbytes(size), width)
            guest.settle()
            got = guest.read(size, width)
            assert guest.read(64, width) == bytes(64) or guest.alternate & DRQ
            if opcode == READ and kind == "ata" and not write:
                assert got == IMAGE[512:1536] + bytes(size - 1024)
            if kind == "ata" and opcode == IDENTIFY and not write:
                assert got[512:] == bytes(size - 512)
            guest.bench.outb(guest.control_port, 4)
            guest.bench.outb(guest.control_port, 0)
            assert not guest.alternate & (BSY | DRQ | ERR)
    drive = guest.channel.drives[0]
    assert drive is not None
    if kind == "ata":
        image = contents(drive.disk)  # type: ignore[attr-defined]
        assert len(image) == len(IMAGE)
        assert image[:512] == IMAGE[:512]
        assert image[1536:] == IMAGE[1536:], "a write went further than its two sectors"


def test_hostile_2_2_data_port_items_of_mixed_width(make_bench: MakeBench, engine: Engine) -> None:
    """Bytes, words and dwords in any mixture are one stream; the end of a block drops the rest."""
    guest, _ = make(make_bench, engine, "ata")
    chance = random.Random(5)
    for _ in range(50):
        guest.command(READ, 9, 4)
        got = b""
        for _ in range(4):
            block = b""
            while len(block) < 512:
                width = chance.choice((1, 2, 4))
                block += guest.bench.ports.read(guest.base, width).to_bytes(width, "little")
            got += block[:512]
            assert block[512:] == bytes(len(block) - 512)
        assert got == IMAGE[9 * 512 : 13 * 512]
        assert guest.status == REST
        guest.command(WRITE, 9, 4)
        for sector in range(9, 13):
            left = IMAGE[sector * 512 : sector * 512 + 512]
            while left:
                width = chance.choice((1, 2, 4))
                item, left = left[:width], left[width:]
                guest.bench.ports.write(guest.base, width, int.from_bytes(item, "little"))
        assert guest.status == REST
    drive = guest.channel.drives[0]
    assert contents(drive.disk) == IMAGE  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_hostile_2_2_strings_are_so_many_items(
    make_bench: MakeBench, engine: Engine, width: int
) -> None:
    """REP INS and OUTS of any length give what single accesses give."""
    chance = random.Random(width)
    for _ in range(20):
        count, lengths = chance.randrange(1, 6), [chance.randrange(1, 900) for _ in range(6)]
        streams = []
        for single in (False, True):
            guest, _ = make(make_bench, engine, "ata")
            guest.command(READ, 3, count)
            stream = b""
            for length in lengths:
                if single:
                    for _ in range(length):
                        item = guest.bench.ports.read(guest.base, width)
                        stream += item.to_bytes(width, "little")
                else:
                    stream += guest.read(length * width, width)
            guest.reset()
            guest.command(WRITE, 3, count)
            for length in lengths:
                data = pattern(length * width, 9)
                if single:
                    for at in range(0, len(data), width):
                        item = int.from_bytes(data[at : at + width], "little")
                        guest.bench.ports.write(guest.base, width, item)
                else:
                    guest.write(data, width)
            drive = guest.channel.drives[0]
            image = contents(drive.disk)  # type: ignore[union-attr]
            streams.append((stream, guest.alternate, image))
        assert streams[0] == streams[1]


def test_hostile_2_2_ata_commands_on_packet_devices(make_bench: MakeBench, engine: Engine) -> None:
    """READ NATIVE MAX on an empty drive (CVE-2015-6855): ABRT, and for some the signature."""
    for kind in ("atapi", "empty"):
        guest, _ = make(make_bench, engine, kind)
        for opcode in (READ_NATIVE_MAX, READ_NATIVE_MAX_EXT, WRITE, READ_DMA, 0xC4, 0xB0, 0x00):
            guest.command(opcode, 0x123456, 7)
            assert guest.status & (BSY | DRQ | ERR) == ERR, hex(opcode)
            assert guest.error == ABRT
        for opcode in (IDENTIFY, READ):
            guest.command(opcode, 0x123456, 7)
            assert guest.status & ERR
            assert guest.error == ABRT
            assert guest.registers[1:5] == [1, 1, 0x14, 0xEB]
        guest.command(FLUSH)
        assert not guest.status & ERR
        guest.check_usable()


def test_hostile_2_2_packet_commands_on_disks(make_bench: MakeBench, engine: Engine) -> None:
    guest, _ = make(make_bench, engine, "ata")
    for opcode in sorted(NO_OPCODE):
        guest.command(opcode)
        assert guest.status == REST | ERR
        assert guest.error == ABRT
        guest.write(bytes(12))
        assert guest.alternate == REST | ERR
    guest.check_usable()


def test_hostile_4_1_every_opcode_is_known_or_refused(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A disk aborts what the standard has not; none of it takes or shows data."""
    guest, _ = make(make_bench, engine, "ata")
    known = {int(opcode) for opcode in Opcode} | set(range(0x10, 0x20)) | set(range(0x70, 0x80))
    for opcode in set(range(256)) - known:
        guest.command(opcode, 1, 1, features=1)
        assert guest.status == REST | ERR, hex(opcode)
        assert guest.error == ABRT
    assert contents(guest.channel.drives[0].disk) == IMAGE  # type: ignore[union-attr]


def test_hostile_4_1_a_cable_has_no_queue(make_bench: MakeBench, engine: Engine) -> None:
    """Queued commands are SATA's: refused here, whatever tag, count and size they name."""
    guest, puppet = make(make_bench, engine, "ata")
    for opcode in (0x60, 0x61, 0x63, 0x64, 0x65):
        for features in (0, 1, 8, 0xFF):
            for tag in range(0, 256, 8):
                guest.command(opcode, 1, tag, features=features, ext=True)
                assert guest.status == REST | ERR, hex(opcode)
                assert guest.error == ABRT
                assert guest.read(16) == bytes(16)
    assert puppet.held == []
    guest.check_usable()


def test_hostile_4_1_every_log_by_every_command(make_bench: MakeBench, engine: Engine) -> None:
    """READ and WRITE LOG (DMA) EXT with all addresses, some pages, and counts up to 65535."""
    guest, _ = make(make_bench, engine, "ata")
    for opcode in (0x2F, 0x47, 0x3F, 0x57):
        for log in range(256):
            for page, count in ((0, 1), (0, 0), (1, 2), (0xFFFF, 1), (0, 0xFFFF), (8, 16)):
                lba = log | (page & 0xFF) << 8 | (page >> 8) << 32
                guest.table([(DATA, 0)])
                guest.command(opcode, lba, count, ext=True)
                guest.start(opcode == 0x47)
                guest.stop()
                guest.read(0x4000)
                guest.write(bytes(0x4000))
                guest.set(7, 0)
                if guest.alternate & DRQ:
                    guest.reset()
                assert not guest.alternate & (BSY | DRQ)
    guest.check_usable()


def test_hostile_4_1_set_features_smart_and_max_with_every_value(
    make_bench: MakeBench, engine: Engine
) -> None:
    """256 subcommands x some counts; whatever was set, a machine reset brings a usable drive."""
    guest, _ = make(make_bench, engine, "ata")
    for opcode, lba in ((0xEF, 0), (0xB0, 0xC24F00), (0xB0, 0xC24F06), (0xF9, 5), (0x91, 0)):
        for features in range(256):
            for count in (0, 1, 8, 0x45, 0xFF):
                guest.command(opcode, lba, count, features=features)
                guest.read(512 * 4)
                guest.write(bytes(512 * 4))
                assert not guest.alternate & BSY
                guest.read(512 * 300)
                guest.write(bytes(512 * 300))
        guest.identify()
    for heads in range(16):
        for sectors in range(0, 256, 5):
            guest.command(0x91, 0, sectors, device=heads)
            guest.command(0xEC)
            guest.read(512)
            guest.command(READ, 0xFFFFFF, 1, device=heads)  # CHS, most of it absurd
            guest.read(512)
            assert not guest.alternate & (BSY | DRQ)
    guest.bench.ide.reset()
    guest.bench.enable()
    guest.check_usable()


def test_hostile_4_1_set_max_hides_and_shows(make_bench: MakeBench, engine: Engine) -> None:
    """Sectors behind SET MAX are neither read nor written, whatever names them."""
    guest, _ = make(make_bench, engine, "ata")
    guest.command(0xF9, 99)  # without READ NATIVE MAX before
    assert guest.error == ABRT
    guest.command(READ_NATIVE_MAX)
    assert guest.registers[2:5] == [(DISK_SECTORS - 1) & 0xFF, (DISK_SECTORS - 1) >> 8, 0]
    guest.command(0xF9, 99, 0)
    assert guest.status == REST
    for opcode in (READ, WRITE, READ_DMA, 0x40):
        guest.command(opcode, 99, 2)
        assert guest.status == REST | ERR
        assert guest.error & IDNF
    guest.command(READ, 99, 1)
    assert guest.read(512) == IMAGE[99 * 512 : 100 * 512]
    guest.command(READ_NATIVE_MAX)
    guest.command(0xF9, DISK_SECTORS, 0)
    assert guest.error & IDNF
    guest.bench.ide.reset()
    guest.bench.enable()
    guest.command(READ, 100, 1)
    assert guest.read(512) == IMAGE[100 * 512 : 101 * 512]
