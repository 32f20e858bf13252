"""Enlightened INT 13h: hostile.md 2.2 and the tests of openvmm.md 8.8 and 8.9, by name."""

from __future__ import annotations

import errno

import pytest

from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.ports import Hold
from drivebay.testing import FlippingMemory, PuppetDisk

from .conftest import MakeBench
from .hostile_support import (
    ACTIVE,
    BLOCK,
    BSY,
    CANARY,
    DATA,
    DEV,
    DEVICE_RESET,
    DISC_BLOCKS,
    DISK_SECTORS,
    DRQ,
    ERR,
    FLUSH,
    LBA,
    READ,
    READ_DMA,
    READ_DMA_EXT,
    REST,
    SECTOR,
    SRST,
    TABLE,
    WRITE_DMA,
    WRITE_DMA_EXT,
    WRITE_DMA_FUA_EXT,
    Guest,
    Stubborn,
    ata,
    atapi,
    bottom,
    contents,
    filled,
    int13,
    pattern,
    settle,
)

IMAGE, DISC = pattern(DISK_SECTORS * SECTOR), pattern(DISC_BLOCKS * BLOCK, 2)
AT = 0x800
RESULT = AT + 3
RAM_SIZE = 0x40000


def hdd(
    make_bench: MakeBench,
    engine: Engine,
    disk: Disk | None = None,
    memory: GuestMemory | None = None,
) -> Guest:
    memory = memory or GuestMemory.of_size(RAM_SIZE)
    return Guest(make_bench({(0, 0): ata(engine, disk)}, memory=memory))


def cd(make_bench: MakeBench, engine: Engine, disk: Disk | None = None) -> Guest:
    drives = {(0, 0): atapi(engine, disk)}
    guest = Guest(make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE)))
    guest.lay_canaries()
    return guest


def result(guest: Guest) -> int:
    return guest.peek(RESULT, 1)[0]


def image(guest: Guest) -> bytes:
    drive = guest.channel.drives[0]
    return contents(bottom(drive.disk))  # type: ignore[union-attr]


def test_hostile_2_2_enlightened_hdd_cmd(make_bench: MakeBench, engine: Engine) -> None:
    """Each of its seven commands does what it does by registers; nothing interrupts."""
    guest = hdd(make_bench, engine)
    expected = bytearray(IMAGE)
    for step, opcode in enumerate((0xC8, 0xC9, 0x25, 0xCA, 0xCB, 0x35, 0x3D)):
        lba, data = 10 + 2 * step, bytes([step + 1]) * 1024
        guest.poke(DATA, data)
        guest.table([(DATA, 1024)])
        assert int13(guest, opcode, lba=lba, count=2) is None
        if step < 3:
            assert guest.peek(DATA, 1024) == IMAGE[lba * 512 : (lba + 2) * 512]
        else:
            expected[lba * 512 : (lba + 2) * 512] = data
        assert result(guest) == 0
        assert guest.alternate == REST
        assert guest.bm_status & ACTIVE == 0
    assert image(guest) == expected
    assert guest.bench.interrupts == []
    guest.check_usable()


def test_hostile_2_2_enlightened_hdd_cmd_is_held_until_the_drive_has_ended(
    make_bench: MakeBench, engine: Engine
) -> None:
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
    guest = hdd(make_bench, engine, puppet)
    guest.table([(DATA, 4096)])
    for error in (None, IoError(errno.EIO, "x")):
        hold = int13(guest, READ_DMA, count=8)
        assert isinstance(hold, Hold)
        told: list[bool] = []
        hold.then(lambda told=told: told.append(True))  # type: ignore[misc]
        assert not hold.done
        [held] = puppet.wait(1)
        if error is None:
            held.complete()
        else:
            held.fail(error)
        settle(engine)
        assert hold.done
        assert told == [True]
        assert bool(result(guest) & ERR) == (error is not None)
        assert not guest.alternate & (BSY | DRQ)
        assert guest.channel.int13.hold is None
    assert guest.bench.interrupts == []
    puppet.holds = lambda name, sector, count: False
    guest.check_usable()


def test_hostile_2_2_enlightened_cmd_of_many_parts(make_bench: MakeBench, engine: Engine) -> None:
    """A table of more regions than are moved at once does not end the request early."""
    for held in (False, True):
        puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
        if not held:
            puppet.holds = lambda name, sector, count: False
        guest = hdd(make_bench, engine, puppet)
        regions = [(DATA + 4 * n, 2) for n in range(1024)]
        guest.table(regions)
        hold = int13(guest, READ_DMA, lba=8, count=4)
        for _ in range(8):
            puppet.complete_all()
            settle(engine)
        assert hold is None or hold.done
        assert b"".join(guest.peek(*region) for region in regions) == IMAGE[4096:6144]
        assert result(guest) == 0
        puppet.holds = lambda name, sector, count: False
        guest.check_usable()


def test_hostile_2_2_enlightened_cmd_test_incomplete_prd(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A table that is shorter than the request: what fits is moved, and it completes well."""
    guest = hdd(make_bench, engine)
    guest.lay_canaries()
    for sizes, moved in (((1024,), 1024), ((512, 2), 512), ((100,), 0), ((2, 512, 510), 1024)):
        regions = [(DATA + 0x1000 * n, size) for n, size in enumerate(sizes)]
        guest.table(regions)
        assert int13(guest, READ_DMA, lba=20, count=8) is None
        got = b"".join(guest.peek(base, size) for base, size in regions)
        assert got[:moved] == IMAGE[10240 : 10240 + moved]
        assert result(guest) == 0
        assert guest.alternate == REST
        assert guest.bm_status & ACTIVE == 0
    guest.check_usable()


@pytest.mark.parametrize("table", [0x7FFFFFF0, RAM_SIZE - 4, RAM_SIZE - 16])
def test_hostile_2_2_enlightened_cmd_whose_table_faults_fails(
    make_bench: MakeBench, engine: Engine, table: int
) -> None:
    guest = hdd(make_bench, engine)
    if table == RAM_SIZE - 16:
        guest.table([(0x90000000, 512), (DATA, 512)], at=table)
    for opcode in (READ_DMA, WRITE_DMA):
        assert int13(guest, opcode, count=2, buffer=table) is None
        assert result(guest) & ERR
        assert guest.alternate == REST
    assert image(guest) == IMAGE
    guest.check_usable()


def test_hostile_2_2_enlightened_cmd_with_a_bus_master_that_may_not(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A write is not made up, and no CPU waits for ever."""
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
    guest = hdd(make_bench, engine, puppet)
    guest.table([(DATA, 1024)])
    guest.bench.config_write(4, 2, 1)
    assert int13(guest, WRITE_DMA, count=2) is None
    assert result(guest) & ERR
    assert puppet.held == []
    assert image(guest) == IMAGE
    guest.bench.config_write(4, 2, 5)
    puppet.holds = lambda name, sector, count: False
    guest.check_usable()


def test_hostile_2_2_enlightened_hdd_non_dma_cmd_completes(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Every other opcode is a warning and no more; it must not hang (issue 3039)."""
    guest = hdd(make_bench, engine)
    guest.table([(DATA, 1024)])
    for opcode in set(range(256)) - {0xC8, 0xC9, 0x25, 0xCA, 0xCB, 0x35, 0x3D}:
        assert int13(guest, opcode, count=2) is None
        assert result(guest) == 0
        assert guest.alternate == REST
    assert image(guest) == IMAGE
    guest.check_usable()


def test_hostile_2_2_enlightened_wrong_drive_head_toctou(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Whether the drive is busy is asked of the one that is named, whoever is selected."""
    puppets = [PuppetDisk(filled(DISK_SECTORS * SECTOR, seed=seed)) for seed in (1, 2)]
    drives = {(0, unit): ata(engine, puppet) for unit, puppet in enumerate(puppets)}
    guest = Guest(make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE)))
    guest.table([(DATA, 512)])
    for busy in (0, 1):
        other = 1 - busy
        for puppet in puppets:
            puppet.holds = lambda name, sector, count: True
        guest.command(FLUSH, unit=busy)
        assert guest.alternate & BSY
        puppets[other].holds = lambda name, sector, count: False
        for selected in (busy, other):
            guest.set(6, selected * DEV)
            assert int13(guest, READ_DMA, lba=1, device=LBA | other * DEV) is None
            assert result(guest) == 0
            assert guest.peek(DATA, 1)[0] == other + 1
            guest.set(6, selected * DEV)
            guest.poke(DATA, bytes(512))
            assert int13(guest, READ_DMA, lba=1, device=LBA | busy * DEV) is None
            assert result(guest) & (ERR | BSY) == ERR | BSY
            assert guest.peek(DATA, 512) == bytes(512)
        assert len(puppets[busy].held) == 1
        puppets[busy].complete_all()
        settle(engine)
        guest.set(6, busy * DEV)
        assert guest.status == REST


def test_hostile_2_2_enlightened_cmd_does_not_take_the_bus_from_another_drive(
    make_bench: MakeBench, engine: Engine
) -> None:
    """One drive's DMA is under way: the request for the other fails, and the DMA goes on."""
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
    drives = {(0, 0): ata(engine, puppet), (0, 1): ata(engine)}
    guest = Guest(make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE)))
    guest.table([(DATA, 512)])
    guest.command(READ_DMA, 9)
    guest.start(to_memory=True)
    puppet.wait(1)
    guest.table([(DATA + 0x1000, 512)], at=TABLE + 0x100)
    assert int13(guest, READ_DMA, device=LBA | DEV, buffer=TABLE + 0x100) is None
    assert result(guest) & ERR
    puppet.complete_all()
    settle(engine)
    assert guest.peek(DATA, 512) == IMAGE[9 * 512 : 10 * 512]
    guest.set(6, LBA)
    assert guest.status == REST


def test_hostile_2_2_enlightened_second_write_while_pending(
    make_bench: MakeBench, engine: Engine
) -> None:
    """It is ignored; on the other channel it is not."""
    puppets = [PuppetDisk(filled(DISK_SECTORS * SECTOR)) for _ in range(2)]
    drives = {(channel, 0): ata(engine, puppet) for channel, puppet in enumerate(puppets)}
    bench = make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE))
    guest, second = Guest(bench, 0), Guest(bench, 1)
    guest.table([(DATA, 512)])
    first = int13(guest, READ_DMA)
    assert first is not None
    for _ in range(5):
        assert int13(guest, WRITE_DMA, at=AT + 64) is None
        assert guest.peek(AT + 64 + 3, 1) == b"\0"
    assert len(puppets[0].held) == 1
    other = int13(second, READ_DMA, at=AT + 128)
    assert other is not None
    puppets[1].complete_all()
    settle(engine)
    assert other.done
    assert not first.done
    puppets[0].complete_all()
    settle(engine)
    assert first.done


def test_hostile_2_2_enlightened_unreadable_packet(make_bench: MakeBench, engine: Engine) -> None:
    """In a hole, half out of RAM, at the end of 32 bits: ignored. The last 24 bytes are read."""
    guest = hdd(make_bench, engine)
    before = guest.ram()
    for at in (RAM_SIZE, RAM_SIZE - 23, RAM_SIZE - 1, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0):
        assert guest.bench.outl(guest.int13_port, at) is None
    assert guest.ram() == before
    guest.table([(DATA, 512)])
    assert int13(guest, READ_DMA, lba=3, at=RAM_SIZE - 24) is None
    assert guest.peek(DATA, 512) == IMAGE[1536:2048]


def test_hostile_2_2_enlightened_write_of_another_width(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest = hdd(make_bench, engine)
    guest.table([(DATA, 512)])
    int13(guest, FLUSH)
    guest.poke(AT, bytes([WRITE_DMA, LBA]))
    for port in range(0x1DD, 0x1E4):
        for width in (1, 2, 4):
            if (port, width) != (0x1E0, 4):
                assert guest.bench.ports.write(port, width, AT) is None
                guest.bench.ports.read(port, width)
    assert guest.bench.inl(0x1E0) == 0xFFFFFFFF
    assert image(guest) == IMAGE


def test_hostile_2_2_enlightened_on_an_absent_drive(make_bench: MakeBench, engine: Engine) -> None:
    for drives in ({}, {(0, 0): ata(engine)}):
        guest = Guest(make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE)))
        guest.table([(DATA, 512)])
        assert int13(guest, READ_DMA, device=LBA | DEV) is None
        assert result(guest) & ERR


def test_hostile_5_enlightened_ranges(make_bench: MakeBench, engine: Engine) -> None:
    """28 bits and a count of 0 (256), 48 bits and 0 (65536); past the end nothing is touched."""
    guest = hdd(make_bench, engine)
    guest.lay_canaries()
    guest.table([(DATA, 0), (DATA + 0x10000, 0)])
    n = DISK_SECTORS
    good = [(READ_DMA, n - 256, 0), (READ_DMA, n - 1, 1), (READ_DMA_EXT, n - 200, 200)]
    bad = [(READ_DMA, n - 255, 0), (WRITE_DMA, n, 1), (WRITE_DMA_EXT, 0, 0), (READ_DMA, n - 1, 2)]
    bad += [(WRITE_DMA_FUA_EXT, 1 << 40, 1), (READ_DMA_EXT, (1 << 48) - 1, 1)]
    bad += [(WRITE_DMA_EXT, (1 << 48) - 1, 2), (WRITE_DMA, 0xFFFFFF, 1)]
    for opcode, lba, count in good:
        guest.poke(DATA, bytes(0x20000))
        assert int13(guest, opcode, lba=lba, count=count) is None
        assert result(guest) == 0
        size = (count or 256) * 512
        assert guest.peek(DATA, size) == IMAGE[lba * 512 : lba * 512 + size]
    before = guest.peek(DATA, 0x20000)
    for opcode, lba, count in bad:
        assert int13(guest, opcode, lba=lba, count=count) is None
        assert result(guest) & ERR, (opcode, lba, count)
    assert guest.peek(DATA, 0x20000) == before
    assert image(guest) == IMAGE


def test_hostile_2_2_enlightened_cd_cmd(make_bench: MakeBench, engine: Engine) -> None:
    """Bytes of blocks, some skipped before and after; held as long as the drive reads."""
    puppet = PuppetDisk(filled(DISC_BLOCKS * BLOCK, seed=2))
    guest = cd(make_bench, engine, puppet)
    for lba, count, head, size in (
        (0, 1, 0, BLOCK),
        (3, 2, 512, 2048),
        (3, 4, 2048, 1),
        (5, 3, 5000, 100),
        (63, 1, 2047, 1),
        (0, 64, 1, 64 * BLOCK - 2),
    ):
        guest.lay_canaries()
        hold = int13(guest, 0, lba=lba, count=count, head=head, byte_count=size, buffer=DATA)
        assert hold is not None
        puppet.wait(1)
        assert guest.peek(DATA, 1)[0] == CANARY
        puppet.complete_all()
        settle(engine)
        assert hold.done
        assert result(guest) == 0
        start = lba * BLOCK + head
        assert guest.peek(DATA, size) == DISC[start : start + size]
        assert guest.peek(DATA + size, 64) == bytes([CANARY]) * 64
        assert guest.peek(DATA - 64, 64) == bytes([CANARY]) * 64
    assert guest.bench.interrupts == []


@pytest.mark.parametrize(
    ("count", "head", "size"),
    [
        (1, 1, 2048),  # dma_boundary_overflow
        (1, 0, 2049),
        (2, 2048, 2049),
        (1, 0xFFFF, 1),  # dma_integer_overflow
        (32, 0xFFFF, 2),
        (1, 0, 0xFFFFFFFF),  # dma_u32_max_overflow
        (1, 1, 0xFFFFFFFF),
        (0xFFFF, 0xFFFF, 0xFFFFFFFF),
        (0, 0, 1),
    ],
)
def test_hostile_2_2_enlightened_cd_dma_overflows(
    make_bench: MakeBench, engine: Engine, count: int, head: int, size: int
) -> None:
    """More bytes than the blocks have: refused before anything is read."""
    guest = cd(make_bench, engine)
    before = guest.ram()[AT + 24 :]
    assert int13(guest, 0, count=count, head=head, byte_count=size, buffer=DATA) is None
    assert result(guest) & ERR
    assert guest.ram()[AT + 24 :] == before
    guest.check_usable()


def test_hostile_2_2_enlightened_cd_dma_exact_boundary_and_zero_byte_count(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest = cd(make_bench, engine)
    assert int13(guest, 0, lba=2, count=2, head=2048, byte_count=2048, buffer=DATA) is None
    assert result(guest) == 0
    assert guest.peek(DATA, BLOCK) == DISC[3 * BLOCK : 4 * BLOCK]
    for count in (0, 1, 0xFFFF):
        guest.lay_canaries()
        before = guest.ram()[AT + 24 :]
        assert int13(guest, 0, lba=1, count=count, byte_count=0, buffer=DATA) is None
        assert result(guest) == 0
        assert guest.ram()[AT + 24 :] == before


def test_hostile_5_enlightened_cd_addresses_do_not_wrap(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Skipped blocks after LBA 0xFFFFFFFF are not block 0; nor is memory after 4 GiB address 0."""
    guest = cd(make_bench, engine)
    before = guest.ram()[AT + 24 :]
    for lba, head in ((0xFFFFFFFF, 2048), (0xFFFFFFFE, 4096), (0xFFFFFFFF, 0), (64, 0), (63, 2048)):
        assert int13(guest, 0, lba=lba, count=4, head=head, byte_count=512, buffer=DATA) is None
        assert result(guest) & ERR, (lba, head)
    for buffer in (0xFFFFFF00, RAM_SIZE - 511, RAM_SIZE, 0xE0000000):
        assert int13(guest, 0, count=1, byte_count=512, buffer=buffer) is None
        assert result(guest) & ERR
    assert guest.ram()[AT + 24 :] == before
    guest.check_usable()


def test_hostile_2_2_enlightened_cd_without_a_medium(make_bench: MakeBench, engine: Engine) -> None:
    drives = {(0, 0): atapi(engine, empty=True)}
    guest = Guest(make_bench(drives, memory=GuestMemory.of_size(RAM_SIZE)))
    assert int13(guest, 0, count=1, byte_count=512, buffer=DATA) is None
    assert result(guest) & ERR
    assert guest.bench.interrupts == []
    guest.check_usable()


@pytest.mark.parametrize("how", ["srst", "stop", "device reset", "pulled", "machine reset"])
@pytest.mark.parametrize("kind", ["hdd", "cd"])
@pytest.mark.parametrize("stubborn", [False, True])
def test_hostile_4_6_enlightened_request_is_broken_off(
    make_bench: MakeBench, engine: Engine, how: str, kind: str, stubborn: bool
) -> None:
    """Another CPU resets, stops or pulls: the one that waits goes on, and is told of a failure."""
    below = filled(DISK_SECTORS * SECTOR)
    disk = Stubborn(below) if stubborn else PuppetDisk(below)
    guest = hdd(make_bench, engine, disk) if kind == "hdd" else cd(make_bench, engine, disk)
    guest.table([(DATA, 0)])
    if kind == "hdd":  # what is left behind of a request before does not count
        disk.holds = False if isinstance(disk, Stubborn) else lambda name, sector, count: False
        guest.table([(DATA, 512)])
        assert int13(guest, READ_DMA, count=8) is None
        disk.holds = True if isinstance(disk, Stubborn) else lambda name, sector, count: True
        guest.table([(DATA, 0)])
        hold = int13(guest, READ_DMA, count=64)
    else:
        hold = int13(guest, 0, count=8, byte_count=8 * BLOCK, buffer=DATA)
    assert hold is not None
    drive = guest.channel.drives[0]
    assert drive is not None
    if how == "srst":
        guest.control(SRST)
        assert not hold.done
        guest.control(0)
    elif how == "stop":
        guest.stop()
    elif how == "device reset":
        guest.set(7, DEVICE_RESET)
    elif how == "pulled":
        guest.bench.ide.detach(0, 0)
    else:
        guest.bench.ide.reset()
        guest.bench.enable()
    ignored = (how == "stop" and kind == "cd") or (how == "device reset" and kind == "hdd")
    assert hold.done != (ignored or stubborn)
    if isinstance(disk, Stubborn):
        disk.end_all()
    else:
        disk.complete_all()
        disk.holds = lambda name, sector, count: False
    settle(engine)
    assert hold.done
    assert bool(result(guest) & ERR) != ignored
    assert guest.channel.int13.hold is None
    if how == "pulled":
        guest.bench.ide.attach(0, 0, drive)
    guest.check_usable()
    assert guest.channel.bus_master.engaged is False


def test_hostile_4_3_enlightened_packet_is_read_once(make_bench: MakeBench, engine: Engine) -> None:
    """A packet that changes between any two looks: the request is one of the two, not a mixture."""
    memory = FlippingMemory.of_size(RAM_SIZE)
    memory.armed = False
    guest = hdd(make_bench, engine, memory=memory)
    guest.table([(DATA, 512)])
    int13(guest, READ_DMA, lba=7)
    one = guest.peek(AT, 24)
    int13(guest, READ_DMA, lba=9, at=AT)
    two = guest.peek(AT, 24)
    watch = memory.watch(AT, [one, two])
    for _ in range(8):
        watch.views = 0
        memory.armed = True
        assert guest.bench.outl(guest.int13_port, AT) is None
        memory.armed = False
        assert watch.views == 1
        assert guest.peek(DATA, 512) in (IMAGE[7 * 512 : 8 * 512], IMAGE[9 * 512 : 10 * 512])
    memory.watches.clear()
    guest.check_usable()


def test_hostile_4_4_enlightened_packet_in_its_own_data(
    make_bench: MakeBench, engine: Engine
) -> None:
    """The data, the table and the packet are the same bytes."""
    guest = hdd(make_bench, engine)
    guest.table([(AT, 512)], at=AT + 24)
    assert int13(guest, READ_DMA, lba=5, buffer=AT + 24) is None
    assert guest.peek(AT, 512) == IMAGE[5 * 512 : 6 * 512]
    assert int13(guest, WRITE_DMA, lba=5, buffer=AT) is None
    guest.check_usable()


def test_hostile_2_2_enlightened_while_registers_are_used(
    make_bench: MakeBench, engine: Engine
) -> None:
    """In the middle of PIO, or asleep, or in reset, the request fails and the rest goes on."""
    guest = hdd(make_bench, engine)
    guest.table([(DATA, 512)])
    guest.command(READ, 5, 1)
    first = guest.read(100)
    assert int13(guest, READ_DMA) is None
    assert result(guest) & (ERR | DRQ) == ERR | DRQ
    assert first + guest.read(412) == IMAGE[2560:3072]
    guest.control(SRST)
    assert int13(guest, READ_DMA) is None
    assert result(guest) & ERR
    guest.control(0)
    guest.set(7, 0xE6)  # SLEEP
    assert int13(guest, READ_DMA) is None
    assert result(guest) & ERR, "a drive that sleeps hears nothing"
    guest.check_usable()
