"""PRD tables of every shape, against an oracle that knows what must have been moved."""

from __future__ import annotations

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode
from drivebay.controllers.ahci.registers import PxIS
from drivebay.controllers.ahci.structures import CommandHeader, PrdEntry, PrdFlags
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciDisk, AhciError
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.platform.engine import Engine
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .support import BAR, RAM_SIZE

MIB = 1 << 20
DATA = 0x40000
LBA = 0x40
DMA, PIO = Opcode.READ_DMA_EXT, Opcode.READ_SECTORS_EXT
WRITE_DMA, WRITE_PIO = Opcode.WRITE_DMA_EXT, Opcode.WRITE_SECTORS_EXT


def send(
    disk: AhciDisk, opcode: int, count: int, regions: list[tuple[int, int]], *, write: bool = False
) -> tuple[PxIS, int]:
    """A command with this table, whatever it is; the bits of PxIS, and PRDBC."""
    port = disk.port
    command = AtaCommand(opcode, 0, count, 0, LBA, ext=True)
    if opcode == Opcode.READ_FPDMA_QUEUED:
        command = AtaCommand(opcode, count, 0, 0, LBA, ext=True)
    port.prepare(0, command, regions, write=write)
    port.issue(1, queued=opcode == Opcode.READ_FPDMA_QUEUED)
    for _ in range(50):
        port.driver.poll()
    happened = PxIS(port.get("IS"))
    moved = port.moved(0)
    port.restart()
    return happened, moved


@pytest.fixture
def disk(make_bench: MakeBench, engine: Engine) -> AhciDisk:
    return make_bench({0: AtaDisk(filled(MIB, 1), engine)}).driver().disk(0)


@pytest.mark.parametrize("opcode", [DMA, PIO, Opcode.READ_FPDMA_QUEUED])
@pytest.mark.parametrize("sectors", [1, 2, 8, 40])
@pytest.mark.parametrize("size", [2, 256, 510, 512, 514, 1024, 4096, 0x8000])
def test_shorter_and_longer(disk: AhciDisk, opcode: int, sectors: int, size: int) -> None:
    """Too short: OFS, and whole sectors that fit were moved by DMA, every byte by PIO."""
    wanted = sectors * 512
    disk.port.memory.view(DATA, 0x8000)[:] = bytes(0x8000)
    happened, moved = send(disk, opcode, sectors, [(DATA, size)])
    got = min(size, wanted) if opcode == PIO else min(size // 512 * 512, wanted)
    assert (size < wanted) == happened.OFS
    if opcode != Opcode.READ_FPDMA_QUEUED:
        assert moved == got
    expected = noise(MIB, 1)[:got].ljust(0x8000, b"\0")
    assert disk.port.memory.view(DATA, 0x8000) == expected


@pytest.mark.parametrize("opcode", [WRITE_DMA, WRITE_PIO])
def test_less_to_write_than_was_said(make_bench: MakeBench, engine: Engine, opcode: int) -> None:
    backend = filled(MIB, 2)
    disk = make_bench({0: AtaDisk(backend, engine)}).driver().disk(0)
    disk.port.memory.view(DATA, 4096)[:] = b"w" * 4096
    happened, moved = send(disk, opcode, 8, [(DATA, 1024 + 256)], write=True)
    assert happened.IFS and not happened.OFS
    assert moved == (1024 if opcode == WRITE_DMA else 1280)
    assert content(backend)[:2048] == b"w" * 1024 + noise(MIB, 2)[1024:2048]
    assert disk.read(0, 1) == b"w" * 512


@pytest.mark.parametrize("opcode", [DMA, PIO])
@pytest.mark.parametrize("piece", [2, 6, 510, 514, 1022])
def test_pieces_that_cut_sectors(disk: AhciDisk, opcode: int, piece: int) -> None:
    regions = [(DATA + 2 + at, min(piece, 8192 - at)) for at in range(0, 8192, piece)]
    disk.port.max_regions = len(regions)
    happened, moved = send(disk, opcode, 16, regions)
    assert not happened.OFS and not happened.HBFS and moved == 8192
    assert disk.port.memory.view(DATA + 2, 8192) == noise(MIB, 1)[:8192]


def test_blocks_of_several_sectors_in_the_smallest_pieces(disk: AhciDisk) -> None:
    disk.port.execute(AtaCommand(Opcode.SET_MULTIPLE_MODE, count=16))
    regions = [(DATA + at, 2) for at in range(0, 16384, 2)]
    disk.port.max_regions = len(regions)
    happened, moved = send(disk, Opcode.READ_MULTIPLE_EXT, 32, regions)
    assert not happened.OFS and moved == 16384
    assert disk.port.memory.view(DATA, 16384) == noise(MIB, 1)[:16384]


def test_the_last_block_is_lost_and_the_drive_goes_on(disk: AhciDisk) -> None:
    for region in ((DATA, 256), (RAM_SIZE, 512)):
        happened, _ = send(disk, PIO, 1, [region])
        assert happened.OFS or happened.HBFS
        assert disk.read(0, 1) == noise(MIB, 1)[:512]


def test_odd_counts_and_addresses_are_even(disk: AhciDisk) -> None:
    """Bit 0 of DBC is one and of DBA zero, whatever the guest wrote."""
    port = disk.port
    disk.prepare_read(0, 0, 2, [(DATA, 1024)])
    entry = PrdEntry(DATA + 1, 0, 0, PrdFlags.of(DBC_z=1022))
    port.memory.view(port.table(0) + 0x80, 16)[:] = entry.pack()
    port.issue(1, queued=True)
    port.finish(1)
    assert port.memory.view(DATA, 1024) == noise(MIB, 1)[:1024]


@pytest.mark.parametrize("opcode", [DMA, PIO, Opcode.READ_FPDMA_QUEUED])
@pytest.mark.parametrize(
    "address", [RAM_SIZE, RAM_SIZE - 512, 1 << 32, (1 << 64) - 1024, (1 << 64) - 2, BAR]
)
def test_no_memory(disk: AhciDisk, opcode: int, address: int) -> None:
    """What comes before the hole is moved, then the bus fails. (The last: the adapter itself.)"""
    happened, moved = send(disk, opcode, 8, [(DATA, 1024), (address, 3072)])
    assert happened.HBFS and not happened.OFS
    if opcode != Opcode.READ_FPDMA_QUEUED:
        assert moved == (1536 if opcode == PIO and address == RAM_SIZE - 512 else 1024)
    assert disk.port.memory.view(DATA, 1024) == noise(MIB, 1)[:1024]
    assert disk.read(0, 1) == noise(MIB, 1)[:512]


@pytest.mark.parametrize("opcode", [DMA, PIO, Opcode.READ_FPDMA_QUEUED])
def test_65535_entries(make_bench: MakeBench, engine: Engine, opcode: int) -> None:
    """hostile.md 2.3: each of 2 bytes; read once, and no further than the data goes."""
    disk = make_bench({0: AtaDisk(filled(MIB, 1), engine)}).driver().disk(0)
    disk.port.max_regions = 65535
    regions = [(DATA + 2 * (65534 - n), 2) for n in range(65535)]
    happened, moved = send(disk, opcode, 255, regions)
    assert not happened.OFS and not happened.HBFS
    if opcode != Opcode.READ_FPDMA_QUEUED:
        assert moved == 255 * 512
    last = DATA + 2 * 65534
    assert disk.port.memory.view(last, 2) == noise(MIB, 1)[:2]
    assert disk.port.memory.view(last - 2, 2) == noise(MIB, 1)[2:4]
    happened, moved = send(disk, opcode, 256, regions)
    assert happened.OFS


def test_interrupt_of_a_region(disk: AhciDisk) -> None:
    port = disk.port
    for first, expected in ((0, False), (PrdFlags.I, True)):
        disk.prepare_read(0, 0, 2, [(DATA, 512), (DATA + 512, 512)])
        flags = PrdFlags.of(DBC_z=511) | first
        port.memory.view(port.table(0) + 0x8C, 4)[:] = flags.to_bytes(4, "little")
        port.issue(1, queued=True)
        assert expected == PxIS(port.get("IS")).DPS
        port.acknowledge()


@pytest.mark.parametrize("where", ["CLB", "FB", "CTBA", "PRDT"])
@pytest.mark.parametrize("address", [RAM_SIZE, BAR, (1 << 64) - 1024, 0xFFFFFFFFFFFFFC00])
def test_hostile_2_3_structures_in_no_memory(disk: AhciDisk, where: str, address: int) -> None:
    """CLB, FB, the command table, or the adapter's own registers for each of them."""
    port = disk.port
    disk.prepare_read(0, 0, 1)
    header = port.memory.view(port.command_list, 32)
    port.stop()
    if where in ("CLB", "FB"):
        port.put(where, address & 0xFFFFFFFF)
        port.put(f"{where}U", address >> 32)
    elif where == "CTBA":
        table = CommandHeader(5, 1, 0, address & 0xFFFFFFFF, address >> 32)
        header[:] = table.pack()
    else:  # the table begins at the end of memory
        table_at = RAM_SIZE - 128
        port.memory.view(table_at, 64)[:] = bytes(port.memory.view(port.table(0), 64))
        header[:] = CommandHeader(5, 8, 0, table_at, 0).pack()
    port.start()
    port.issue(1, queued=True)
    assert PxIS(port.get("IS")).HBFS
    assert port.get("CI") | port.get("SACT")
    port.driver.reset()
    port.bring_up()
    assert disk.read(0, 1) == noise(MIB, 1)[:512]


def test_not_a_bus_master(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(RamDisk(MIB), engine)})
    disk = bench.driver().disk(0)
    bench.ahci.config_write(4, 2, 2)
    disk.prepare_read(0, 0, 1)
    disk.port.issue(1, queued=True)
    with pytest.raises(AhciError) as failure:
        disk.port.finish(1)
    assert failure.value.interrupts.HBFS
    bench.ahci.config_write(4, 2, 6)
    disk.port.restart()
    assert disk.read(0, 1) == bytes(512)
