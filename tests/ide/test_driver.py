"""The driver works the controller by every route, and the disk below is asked for just that."""

from __future__ import annotations

import itertools

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Error
from drivebay.controllers.ide import PIIX3
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import Medium, MediumError
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import By, IdeDisk, IdeDriver, IdeError, IdeTimeout, Via
from drivebay.drivers.pci import PciConfig
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import RecordingDisk

from .conftest import MakeBench
from .support import BUS_MASTER_PORT, Bench, DiskRig, content, filled, noise

SIZE = DiskRig.size
SECTORS = SIZE // 512
ROUTES = list(itertools.product(Via, By))


# -- the controller --------------------------------------------------------------------------------


def test_it_finds_the_function_and_sets_it_up(make_bench: MakeBench, engine: Engine) -> None:
    bench = Bench(engine, identity=PIIX3)
    driver = bench.driver(base=0xD000)
    assert driver.address == (7, 1)
    assert bench.config_read(0, 4) == 0x70108086
    assert bench.config_read(0x20, 4) == 0xD001
    assert bench.config_read(4, 2) & 5 == 5
    assert not driver.drives


def test_without_a_controller_it_says_so(engine: Engine) -> None:
    board = Board(engine, GuestMemory.of_size(1 << 20))
    with pytest.raises(IdeError, match="no IDE controller"):
        IdeDriver(board.ports, Arena(board.memory, 0, 1 << 20))
    assert not list(PciConfig(board.ports).functions())


@pytest.mark.parametrize(
    "places",
    [p for n in range(5) for p in itertools.combinations([(0, 0), (0, 1), (1, 0), (1, 1)], n)],
    ids=str,
)
def test_it_finds_the_drives_there_are(
    make_bench: MakeBench, engine: Engine, places: tuple[tuple[int, int], ...]
) -> None:
    drives = {
        place: AtaDisk(filled(SIZE, seed), engine, serial=str(place))
        for seed, place in enumerate(places)
    }
    driver = make_bench(drives).driver()
    assert set(driver.drives) == set(places)
    for seed, place in enumerate(places):
        disk = driver.disk(*place)
        assert disk.identify().serial == str(place)
        assert disk.read(3, 1) == noise(SIZE, seed)[3 * 512 : 4 * 512]
    with pytest.raises(IdeError):
        driver.cd(0, 0)


def test_native_mode(make_bench: MakeBench, engine: Engine) -> None:
    """Ports where the BARs say, and an interrupt by INTA#."""
    bench = Bench(engine, {(1, 0): AtaDisk(filled(SIZE), engine)}, switchable=True)
    driver = bench.driver(native=True, polled=True)
    driver.disk(1, 0).write(5, noise(512, 9))
    assert driver.disk(1, 0).read(5, 1) == noise(512, 9)
    assert bench.inb(0x177) == 0xFF, "the legacy ports are nobody's"


# -- reading and writing ---------------------------------------------------------------------------


@pytest.mark.parametrize(("via", "by"), ROUTES)
@pytest.mark.parametrize("width", [2, 4])
def test_routes_agree(rig: DiskRig, via: Via, by: By, width: int) -> None:
    disk = rig.disk
    disk.channel.width = width
    disk.set_multiple(8)
    for lba, count in ((0, 1), (1, 7), (17, 8), (30, 9), (100, 40), (SECTORS - 9, 1)):
        data = noise(512 * count, lba)
        disk.write(lba, data, via, by)
        assert content(rig.ram)[512 * lba : 512 * (lba + count)] == data
        assert disk.read(lba, count, via, by) == data


@pytest.mark.parametrize("via", Via)
def test_256_sectors_by_28_bits(rig: DiskRig, via: Via) -> None:
    rig.disk.set_multiple(16)
    assert rig.disk.read(0, 256, via, By.LBA28) == noise(SIZE)[: 256 * 512]
    rig.disk.write(256, noise(256 * 512, 1), via, By.LBA28)
    assert content(rig.ram)[256 * 512 : 512 * 512] == noise(256 * 512, 1)


def test_65536_sectors_by_48_bits(make_bench: MakeBench, engine: Engine) -> None:
    ram = RamDisk(1 << 26)
    recording = RecordingDisk(ram)
    disk = make_bench({(0, 0): AtaDisk(recording, engine)}).driver().disk(0, 0)
    disk.verify(65536, 65536)
    read = [range(call.sector, call.sector + call.count) for call in recording.calls]
    assert sorted(n for each in read for n in each) == list(range(65536, 131072))
    with pytest.raises(IdeError):
        disk.verify(65537, 65536)


def test_sectors_above_28_bits(make_bench: MakeBench, engine: Engine) -> None:
    """What is beyond 128 GiB is reached by 48 bits, and by nothing else."""
    last = (1 << 28) + 77
    ram = RamDisk((last + 1) * 512)
    disk = make_bench({(0, 0): AtaDisk(ram, engine)}).driver().disk(0, 0)
    assert disk.sectors == last + 1
    assert disk.identify().words.lba28_sectors == (1 << 28) - 1
    for via in Via:
        disk.set_multiple(2)
        disk.write(last - 1, noise(1024, 7), via)
        assert disk.read(last - 1, 2, via) == noise(1024, 7)
        assert disk.read(last - (1 << 28), 2, via) == bytes(1024), "no bits are lost"
    with pytest.raises(IdeError):
        disk.read(last, 2)
    assert disk.read_native_max() == last
    assert disk.read_native_max(ext=False) == (1 << 28) - 1


@pytest.mark.parametrize("via", [Via.DMA, Via.INT13])
def test_scatter_lists(rig: DiskRig, via: Via) -> None:
    """Regions of even lengths anywhere, also across 64 KiB, as far as the table goes."""
    memory, disk = rig.bench.memory, rig.disk
    lengths = [2, 510, 4096, 6, 1018, 1 << 16, 512, 2048 + 512]
    regions, at = [], 0x20FF0
    for length in lengths:
        regions.append((at, length))
        at += length + 0x102
    total = sum(lengths)
    assert total % 512 == 0
    disk.read_into(regions, 40, total // 512, via)
    got = b"".join(bytes(memory.view(*region)) for region in regions)
    assert got == noise(SIZE)[40 * 512 :][:total]
    for seed, region in enumerate(regions):
        memory.view(*region)[:] = noise(region[1], seed)
    disk.write_from(regions, 900, via)
    sent = b"".join(noise(length, seed) for seed, length in enumerate(lengths))
    assert content(rig.ram)[900 * 512 :][:total] == sent
    many = [(0x20000 + 4 * n, 2) for n in range(512)]
    disk.read_into(many, 0, 2, via)
    assert b"".join(bytes(memory.view(*region)) for region in many) == noise(SIZE)[:1024]
    with pytest.raises(ValueError, match="regions"):
        disk.read_into([*many, *many], 0, 4, via)


def test_fua_and_the_write_cache(rig: DiskRig) -> None:
    """With the cache off, or FUA asked for, a write is stable as it ends."""
    disk, calls = rig.disk, rig.recording.calls
    disk.set_multiple(4)

    def flags() -> list[bool]:
        calls.clear()
        for via in Via:
            disk.write(3, bytes(512), via)
        return [call.fua for call in calls]

    assert flags() == [False] * 4
    disk.write_cache(False)
    assert [call.name for call in calls][-1] == "flush"
    assert disk.identify().write_cache is False
    assert flags() == [True] * 4
    disk.write_cache(True)
    assert flags() == [False] * 4
    calls.clear()
    for via in (Via.MULTIPLE, Via.DMA, Via.INT13):
        disk.write(7, noise(4096), via, fua=True)
    assert [call.fua for call in calls if call.name == "write"] == [True] * len(calls)
    assert b"".join(c.data for c in calls) == noise(4096) * 3


def test_flush_verify_and_trim(rig: DiskRig) -> None:
    disk, calls = rig.disk, rig.recording.calls
    calls.clear()
    disk.flush()
    disk.flush(ext=True)
    disk.verify(5, 9)
    disk.verify(1, 3, By.CHS)
    disk.trim([(8, 8), (0, 0), (64, 100)])
    assert [(c.name, c.sector, c.count) for c in calls] == [
        ("flush", 0, 0),
        ("flush", 0, 0),
        ("read", 5, 9),
        ("read", 1, 3),
        ("unmap", 8, 8),
        ("unmap", 64, 100),
    ]
    assert disk.read(8, 8) == bytes(8 * 512)
    disk.trim([(n, 1) for n in range(SECTORS // 8, SECTORS // 8 + 8 * 64)])
    with pytest.raises(IdeError) as caught:
        disk.trim([(0, 1), (SECTORS - 1, 2)])
    assert caught.value.error.IDNF
    assert disk.read(0, 1) == noise(SIZE)[:512], "no range of a bad list is trimmed"


# -- what Linux does -------------------------------------------------------------------------------


def test_a_dma_read_takes_26_accesses(engine: Engine) -> None:
    rig = DiskRig(engine)
    rig.disk.read(0, 8)  # before it comes IDENTIFY, whose interrupt the bus master shows
    rig.log.accesses.clear()
    assert rig.disk.read(8, 8) == noise(SIZE)[4096:8192]
    command, control, master = 0x1F0, 0x3F6, BUS_MASTER_PORT
    assert rig.log.accesses == [
        ("in", command + 7, 1),  # select the device
        ("out", command + 6, 1),
        ("in", control, 1),
        ("in", command + 7, 1),
        *[("out", command + n, 1) for n in range(1, 7)],  # the task file
        ("in", command + 7, 1),
        ("out", master + 4, 4),  # set up the bus master
        ("in", master, 1),
        ("out", master, 1),
        ("out", command + 7, 1),  # the command
        ("in", control, 1),
        ("in", master, 1),  # start the bus master
        ("out", master, 1),
        ("in", master + 2, 1),  # the interrupt: is it ours?
        ("in", master, 1),  # stop
        ("out", master, 1),
        ("in", control, 1),
        ("in", control, 1),  # how did it end?
        ("in", command + 7, 1),
        ("in", master + 2, 1),  # clear the interrupt
        ("out", master + 2, 1),
    ]
    assert len(rig.log.accesses) == 26
    assert rig.bench.interrupts[-2:] == [(14, True), (14, False)]


def test_an_enlightened_read_takes_one_access(rig: DiskRig) -> None:
    rig.log.accesses.clear()
    rig.bench.interrupts.clear()
    assert rig.disk.read(8, 8, Via.INT13) == noise(SIZE)[4096:8192]
    assert rig.log.accesses == [("out", 0x1E0, 4)]
    assert not rig.bench.interrupts


@pytest.mark.parametrize("via", [Via.PIO, Via.MULTIPLE])
def test_an_interrupt_for_each_block(engine: Engine, via: Via) -> None:
    """ATA/ATAPI-6 sections 9.6, 9.7: of a write, the first block is asked for without."""
    rig = DiskRig(engine)
    rig.disk.set_multiple(4)
    blocks = 8 if via is Via.PIO else 2
    for act in (lambda: rig.disk.read(0, 8, via), lambda: rig.disk.write(0, bytes(4096), via)):
        rig.bench.interrupts.clear()
        act()
        assert rig.bench.interrupts == [(14, True), (14, False)] * blocks


# -- errors and waits ------------------------------------------------------------------------------


@pytest.mark.parametrize(("via", "by"), ROUTES)
def test_past_the_end(rig: DiskRig, via: Via, by: By) -> None:
    """IDNF, and nothing is touched."""
    disk, calls = rig.disk, rig.recording.calls
    disk.set_multiple(8)
    end = disk.geometry.capacity if by is By.CHS else SECTORS
    calls.clear()
    ends = ((end, 1), (end - 1, SECTORS - end + 2), (SECTORS - 255, 256))
    for lba, count in ends[: 2 if by is By.CHS else 3]:
        for act in (
            lambda lba=lba, count=count: disk.read(lba, count, via, by),
            lambda lba=lba, count=count: disk.write(lba, bytes(512 * count), via, by),
        ):
            with pytest.raises(IdeError) as caught:
                act()
            if via is not Via.INT13:
                assert caught.value.error == Error.of(IDNF=1, ABRT=1)
            assert caught.value.status.ERR
    assert not calls


@pytest.mark.parametrize("via", Via)
def test_a_bad_sector(rig: DiskRig, via: Via) -> None:
    """UNC, and the registers name it; what came before it by PIO is good."""
    rig.disk.set_multiple(2)
    rig.puppet.holds = lambda name, sector, count: name == "read" and sector <= 21 < sector + count

    def poll() -> None:
        for operation in rig.puppet.held:
            operation.fail(MediumError(Medium.UNRECOVERED_READ, 21))
        rig.bench.engine.turn(0)

    rig.disk.channel.poll = poll
    with pytest.raises(IdeError) as caught:
        rig.disk.read(10, 20, via, By.LBA48)
    if via is not Via.INT13:
        assert caught.value.error == Error.of(UNC=1)
        assert rig.disk.channel.sector(ext=True) == 21
    assert rig.disk.read(22, 4, via) == noise(SIZE)[22 * 512 : 26 * 512]


@pytest.mark.parametrize("via", Via)
def test_a_disk_that_takes_its_time(rig: DiskRig, via: Via) -> None:
    """The driver waits: for the interrupt, for BSY to clear, for the port write to complete."""
    rig.disk.set_multiple(8)
    rig.puppet.holds = lambda name, *_: name in ("read", "write", "flush")
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        if polls % 3 == 0:
            rig.puppet.complete_all()
        rig.bench.engine.turn(0)

    rig.disk.channel.poll = poll
    rig.disk.write(64, noise(4096, 3), via)
    assert rig.disk.read(64, 8, via) == noise(4096, 3)
    rig.disk.flush()
    assert polls > 6


@pytest.mark.parametrize("via", Via)
def test_a_disk_that_never_answers(rig: DiskRig, via: Via) -> None:
    """The driver gives up; a software reset brings the drive back, when the disk lets it go."""
    rig.puppet.holds = lambda *_: True
    rig.disk.set_multiple(8)
    rig.disk.channel.patience = 5
    with pytest.raises(IdeTimeout):
        rig.disk.read(0, 8, via)
    rig.puppet.holds = lambda *_: False
    rig.disk.channel.reset()
    rig.disk.set_multiple(8)
    assert rig.disk.read(0, 8, via) == noise(SIZE)[:4096]


def test_a_table_in_no_memory(rig: DiskRig) -> None:
    """The bus master fails; the drive, which still waits for it, is stopped with it."""
    rig.disk.channel.patience = 5
    with pytest.raises(IdeError):
        rig.disk.read_into([(0xF0000000, 4096)], 0, 8)
    assert rig.disk.read(0, 8) == noise(SIZE)[:4096]
    with pytest.raises(IdeError):
        rig.disk.read_into([(0xF0000000, 4096)], 0, 8, Via.INT13)
    assert rig.disk.read(0, 8, Via.INT13) == noise(SIZE)[:4096]


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sectors_of_4096_bytes(make_bench: MakeBench, engine: Engine, sector_size: int) -> None:
    ram = filled(SIZE, sector_size=sector_size)
    disk: IdeDisk = make_bench({(0, 1): AtaDisk(ram, engine)}).driver().disk(0, 1)
    assert disk.sector_size == sector_size
    assert disk.sectors == SIZE // sector_size
    disk.set_multiple(disk.identify().max_multiple)
    for via, by in ROUTES:
        assert disk.read(2, 20, via, by) == noise(SIZE)[2 * sector_size : 22 * sector_size]
        disk.write(30, noise(3 * sector_size, 1), via, by)
        assert disk.read(30, 3, via, by) == noise(3 * sector_size, 1)
