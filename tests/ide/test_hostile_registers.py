"""Registers in all widths, absent drives, interrupts and PCI configuration: hostile.md 4.1."""

from __future__ import annotations

import logging
import random

import pytest

from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import PuppetDisk

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    BSY,
    DATA,
    DEV,
    DIAGNOSTIC,
    DISK_SECTORS,
    DRQ,
    ERR,
    FLUSH,
    HOB,
    IDENTIFY,
    INTERRUPT,
    LBA,
    NIEN,
    PACKET,
    READ,
    READ_DMA,
    READ_MULTIPLE,
    REST,
    SECTOR,
    SET_MULTIPLE,
    SRST,
    WRITE,
    WRITE_DMA,
    WRITE_MULTIPLE,
    Guest,
    ata,
    atapi,
    filled,
    settle,
)

MODE_SELECT = bytes.fromhex("55 10 00 00 00 00 00 0014 00")


def everything(make_bench: MakeBench, engine: Engine) -> tuple[Guest, Guest]:
    drives = {(0, 0): ata(engine), (0, 1): atapi(engine), (1, 0): atapi(engine, empty=True)}
    bench = make_bench(drives, memory=GuestMemory.of_size(0x20000), switchable=True)
    return Guest(bench, 0), Guest(bench, 1)


def test_hostile_4_1_every_port_in_every_width(make_bench: MakeBench, engine: Engine) -> None:
    """All ports of the function, unaligned, with zeroes, ones and noise; then all of it again."""
    first, second = everything(make_bench, engine)
    chance = random.Random(1)
    ports = [*range(0x15E, 0x17A), *range(0x1DE, 0x1FA), *range(0x374, 0x378)]
    ports += [*range(0x3F4, 0x3F8), *range(0xBFFE, 0xC012)]
    for port in ports:
        for width in (1, 2, 4):
            for value in (0, (1 << 8 * width) - 1, chance.getrandbits(8 * width)):
                first.bench.ports.write(port, width, value)
                assert 0 <= first.bench.ports.read(port, width) < 1 << 8 * width
                settle(engine)
    for guest in (first, second):
        guest.bench.enable()
        guest.check_usable()


def test_hostile_4_1_a_hundred_thousand_random_accesses(
    make_bench: MakeBench, engine: Engine
) -> None:
    first, second = everything(make_bench, engine)
    chance = random.Random(2)
    read, write = first.bench.ports.read, first.bench.ports.write
    bases = (0x1F0, 0x170, 0x1F0, 0xC000, 0xC008, 0x3F6, 0x376, 0x1E0)
    for _ in range(10):
        for _ in range(10_000):
            port = chance.choice(bases) + chance.randrange(8)
            width = chance.choice((1, 1, 1, 2, 4))
            if chance.random() < 0.4:
                read(port, width)
            else:
                write(port, width, chance.getrandbits(8 * width))
        settle(engine)
    for guest in (first, second):
        guest.bench.enable()
        guest.check_usable()


def test_hostile_4_1_wide_accesses_are_byte_accesses(make_bench: MakeBench, engine: Engine) -> None:
    guest, _ = everything(make_bench, engine)
    guest.bench.ports.write(0x1F2, 4, 0x44332211)
    assert guest.bench.ports.read(0x1F2, 4) == 0x44332211
    assert guest.registers[1:5] == [0x11, 0x22, 0x33, 0x44]
    guest.bench.ports.write(0x1F2, 2, 0x6655)
    assert guest.bench.ports.read(0x1F1, 2) >> 8 == 0x55
    guest.bench.ports.write(0x1F6, 2, IDENTIFY << 8 | LBA)  # Device, then Command
    assert guest.alternate & DRQ
    guest.bench.ports.write(0x3F5, 2, SRST << 8)
    assert guest.alternate == BSY
    guest.bench.ports.write(0x3F6, 4, 0xFFFFFF00)
    assert guest.alternate == REST
    assert guest.bench.ports.read(0x3F6, 2) == 0xFF00 | REST


def test_hostile_4_1_two_deep_registers_and_hob(make_bench: MakeBench, engine: Engine) -> None:
    """HOB shows what was written before; any write to the Command Block clears it."""
    guest, _ = everything(make_bench, engine)
    for register in range(2, 6):
        for value in (0x11, 0x22, 0x33):
            guest.set(register, value)
        assert guest.get(register) == 0x33
        guest.control(HOB)
        assert guest.get(register) == 0x22
        assert guest.get(register) == 0x22
        guest.set(register, 0x44)
        assert guest.get(register) == 0x44
        for clearing in (1, 6):
            guest.control(HOB)
            assert guest.get(register) == 0x33
            guest.set(clearing, LBA)
            assert guest.get(register) == 0x44
    guest.command(0x27, 0, 0, ext=True)  # READ NATIVE MAX ADDRESS EXT fills both
    guest.control(HOB)
    assert guest.registers[2:5] == [0, 0, 0]
    guest.control(0)
    assert guest.registers[2:5] == [0xFF, 7, 0]


def test_hostile_4_1_writes_reach_both_drives(make_bench: MakeBench, engine: Engine) -> None:
    guest, _ = everything(make_bench, engine)
    for register in range(2, 6):
        guest.set(register, 0x50 + register)
    for device in (0, DEV):
        guest.set(6, device | 0xA0)
        assert guest.registers[1:] == [0x52, 0x53, 0x54, 0x55, device | 0xA0]


def test_hostile_4_1_an_empty_cable_floats(make_bench: MakeBench, engine: Engine) -> None:
    """0x7F, so that nothing seems busy; whatever is written, and no interrupt."""
    guest = Guest(make_bench({}), 1)
    for device in (0, DEV):
        for opcode in (IDENTIFY, PACKET, DIAGNOSTIC, READ, FLUSH):
            guest.command(opcode, device=device)
            assert guest.registers == [0x7F] * 6
            assert guest.status == guest.alternate == 0x7F
            widths = [guest.bench.ports.read(guest.base, width) for width in (1, 2, 4)]
            assert widths == [0x7F, 0xFF7F, 0xFFFFFF7F]
            guest.write(bytes(512))
            guest.reset()
    assert guest.bench.interrupts == []


def test_hostile_4_1_device_1_absent(make_bench: MakeBench, engine: Engine) -> None:
    """Device 0 answers for it: status 0, a disk's registers, a packet device's zeroes; commands go
    nowhere (ATA/ATAPI-6 section 9.16.1).
    """
    for packet in (False, True):
        guest = Guest(make_bench({(0, 0): atapi(engine) if packet else ata(engine)}))
        guest.set(6, DEV | LBA)
        assert guest.status == guest.alternate == 0
        assert guest.registers == ([0] * 6 if packet else [1, 1, 1, 0, 0, DEV | LBA])
        for opcode in set(range(256)) - {DIAGNOSTIC}:
            guest.set(7, opcode)
            assert guest.status == 0
            assert guest.read(16) == bytes(16)
        assert guest.bench.interrupts == []
        guest.set(7, DIAGNOSTIC)
        assert guest.get(6) & DEV == 0
        guest.check_usable()


def test_hostile_4_1_device_0_absent(make_bench: MakeBench, engine: Engine) -> None:
    guest = Guest(make_bench({(0, 1): ata(engine)}))
    guest.set(6, 0)
    assert guest.status == 0x7F
    guest.set(7, IDENTIFY)
    assert guest.status == 0x7F
    guest.check_usable(unit=1)


def test_hostile_4_1_two_drives_do_not_mix(make_bench: MakeBench, engine: Engine) -> None:
    """A block is half read from one while the other works; each keeps its place."""
    disks = [filled(DISK_SECTORS * SECTOR, seed=seed) for seed in (1, 2)]
    guest = Guest(make_bench({(0, unit): ata(engine, disks[unit]) for unit in (0, 1)}))
    guest.command(READ, 5, 1)
    first = guest.read(200)
    guest.command(READ, 5, 1, unit=1)
    second = guest.read(100)
    for unit in (0, 1, 0, 1):
        guest.set(6, LBA | unit * DEV)
        data = guest.read(78)
        first, second = (first + data, second) if not unit else (first, second + data)
    guest.set(6, LBA)
    first += guest.read(512 - len(first))
    guest.set(6, LBA | DEV)
    second += guest.read(512 - len(second))
    for data, seed in ((first, 1), (second, 2)):
        assert data[:8] == bytes([seed]) + bytes(7)
        assert data[8:16] == (5 * 32).to_bytes(8, "little")
        assert [data[at] for at in range(0, 512, 16)] == [seed] * 32


# -- interrupts ----------------------------------------------------------------------------------


def rises(guest: Guest) -> int:
    """How often INTRQ has risen since this was asked."""
    count = sum(level for _, level in guest.bench.interrupts)
    guest.bench.interrupts.clear()
    return count


def test_hostile_4_1_interrupts_come_when_the_standard_says(
    make_bench: MakeBench, engine: Engine
) -> None:
    """PIO in: each block. PIO out: not before the first, after each. DMA and the rest: once."""
    guest, _ = everything(make_bench, engine)
    guest.command(SET_MULTIPLE, count=4)
    assert guest.irq
    assert guest.alternate == REST
    assert guest.irq, "Alternate Status is no acknowledgement"
    assert guest.status == REST
    assert not guest.irq
    assert rises(guest) == 1
    for opcode, size in ((READ, 512), (READ_MULTIPLE, 2048)):
        guest.command(opcode, 0, 10)
        left = 5120
        while left:
            assert guest.irq, "there is a block"
            assert guest.status & DRQ
            assert not guest.irq
            guest.read(min(size, left))
            left -= min(size, left)
        assert not guest.irq, "the last block has told enough"
        assert rises(guest) == -(-5120 // size)
    for opcode, size in ((WRITE, 512), (WRITE_MULTIPLE, 2048)):
        guest.command(opcode, 0, 10)
        assert not guest.irq, "the host knows that the first block is wanted"
        left = 5120
        while left:
            assert guest.alternate & DRQ
            guest.write(bytes(min(size, left)))
            left -= min(size, left)
            assert guest.irq
            assert not guest.status & ERR
            assert not guest.irq
        assert rises(guest) == -(-5120 // size)
    for opcode in (READ_DMA, WRITE_DMA):
        guest.table([(DATA, 5120)])
        guest.command(opcode, 0, 10)
        assert not guest.irq
        guest.start(opcode == READ_DMA)
        assert guest.irq
        assert guest.bm_status == INTERRUPT
        assert guest.status == REST
        guest.stop()
        assert rises(guest) == 1
    for opcode in (FLUSH, 0x40, 0xE5, 0xFF, 0x10):
        guest.command(opcode)
        assert guest.irq
        assert guest.status & REST == REST
        assert rises(guest) == 1


def test_hostile_4_1_packet_interrupts(make_bench: MakeBench, engine: Engine) -> None:
    """None for the packet; each block in and out; and the end (ATA/ATAPI-6 section 9.8)."""
    guest = Guest(make_bench({(0, 0): atapi(engine)}))
    guest.set(4, 0xFE)
    guest.set(7, PACKET)
    assert not guest.irq
    guest.reset()
    guest.packet(bytes.fromhex("28 00 00000000 00 0003 00"), limit=4096)
    for size in (4096, 2048):
        assert guest.irq
        assert guest.registers[1:5] == [2, guest.get(3), size & 0xFF, size >> 8]
        assert guest.status & DRQ
        assert not guest.irq
        guest.read(size)
    assert guest.irq
    assert guest.get(2) == 3
    assert not guest.status & (DRQ | ERR)
    assert rises(guest) == 3
    guest.packet(MODE_SELECT, limit=8)
    for size in (8, 8, 4):
        assert guest.irq, "a packet's data is asked for"
        assert guest.get(2) == 0
        assert guest.status & DRQ
        guest.write(bytes(size))
    assert guest.irq
    assert guest.get(2) == 3
    assert not guest.status & (DRQ | BSY)
    assert rises(guest) == 4


def test_hostile_4_1_nien_holds_the_line_and_not_the_interrupt(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest, _ = everything(make_bench, engine)
    guest.control(NIEN)
    guest.command(FLUSH)
    assert not guest.irq
    assert guest.bm_status == 0
    guest.control(0)
    assert guest.irq
    assert guest.bm_status == INTERRUPT
    guest.control(NIEN)
    assert not guest.irq
    assert guest.status == REST
    guest.control(0)
    assert not guest.irq


def test_hostile_4_1_the_bus_master_notes_only_that_intrq_rises(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Its Interrupt bit, once cleared, stays so while the line is up (SFF-8038i section 2.2)."""
    guest, _ = everything(make_bench, engine)
    guest.command(FLUSH)
    assert guest.irq
    assert guest.bm_status == INTERRUPT
    guest.bench.outb(guest.bm + 2, INTERRUPT)
    guest.set(6, 0)
    guest.control(0)
    assert guest.irq
    assert guest.bm_status == 0
    guest.command(FLUSH)
    assert guest.bm_status == INTERRUPT


def test_hostile_4_1_only_the_selected_drive_interrupts(
    make_bench: MakeBench, engine: Engine
) -> None:
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
    guest = Guest(make_bench({(0, 0): ata(engine, puppet), (0, 1): ata(engine)}))
    guest.command(READ, 0, 1)
    guest.set(6, DEV)
    puppet.complete_all()
    settle(engine)
    assert not guest.irq
    assert guest.status == REST
    guest.set(6, 0)
    assert guest.irq
    guest.set(6, DEV)
    assert not guest.irq
    guest.set(6, 0)
    assert guest.status & DRQ
    assert not guest.irq


def test_hostile_4_1_a_new_command_takes_the_old_interrupt_away(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest, _ = everything(make_bench, engine)
    guest.command(FLUSH)
    assert guest.irq
    guest.command(WRITE, 0, 1)
    assert not guest.irq
    guest.reset()
    guest.command(FLUSH)
    guest.reset()
    assert not guest.irq


def test_hostile_4_1_execute_device_diagnostic_tells_once_for_both(
    make_bench: MakeBench, engine: Engine
) -> None:
    for packets in ((False, False), (False, True), (True, False), (True, True)):
        drives = {(0, n): atapi(engine) if p else ata(engine) for n, p in enumerate(packets)}
        guest = Guest(make_bench(drives))
        guest.set(6, DEV)
        guest.set(7, DIAGNOSTIC)
        assert guest.irq
        assert rises(guest) == 1
        assert guest.get(6) & DEV == 0
        assert guest.error == 1
        assert not guest.status & (BSY | DRQ | ERR)
        assert not guest.irq
        for unit, packet in enumerate(packets):
            guest.set(6, unit * DEV)
            assert not guest.irq
            assert guest.registers[:5] == [1, 1, 1, *((0x14, 0xEB) if packet else (0, 0))]
    single = Guest(make_bench({(0, 0): ata(engine)}))
    single.set(7, DIAGNOSTIC)
    assert single.irq


# -- the function --------------------------------------------------------------------------------


def test_hostile_4_1_configuration_bytewise(make_bench: MakeBench, engine: Engine) -> None:
    """Every byte with every kind of value, in all widths: what is fixed stays fixed."""
    guest, _ = everything(make_bench, engine)
    bench = guest.bench
    fixed = [0x00, 0x01, 0x02, 0x03, 0x08, 0x0A, 0x0B, 0x0E, 0x3D, 0xF8, 0xF9, 0xFA, 0xFB]
    before = {at: bench.config_read(at, 1) for at in fixed}
    chance = random.Random(4)
    for width in (1, 2, 4):
        for at in range(0, 256, 1 if width == 1 else width):
            for value in (0, (1 << 8 * width) - 1, chance.getrandbits(8 * width)):
                bench.config_write(at, width, value)
                bench.config_read(at, width)
    assert {at: bench.config_read(at, 1) for at in fixed} == before
    assert bench.config_read(0, 4) == 0x71118086
    bench.ide.reset()
    bench.enable()
    guest.check_usable()


def test_hostile_4_1_bar_sizing(make_bench: MakeBench, engine: Engine) -> None:
    guest, _ = everything(make_bench, engine)
    bench = guest.bench
    bench.config_write(4, 2, 0)
    for at, size in ((0x10, 8), (0x14, 4), (0x18, 8), (0x1C, 4), (0x20, 16), (0x24, None)):
        bench.config_write(at, 4, 0xFFFFFFFF)
        mask = bench.config_read(at, 4)
        assert mask == (0 if size is None else (-size & 0xFFFFFFFF) | 1)
        for byte in range(4):
            bench.config_write(at + byte, 1, 0)
        assert bench.config_read(at, 4) == (0 if size is None else 1)


def test_hostile_4_1_native_mode_comes_and_goes_in_the_middle(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Ports and interrupt move; the drive does not notice, and no line stays up."""
    guest, _ = everything(make_bench, engine)
    bench = guest.bench
    for bar, base in ((0x10, 0xD000), (0x14, 0xD100)):
        bench.config_write(bar, 4, base)
    guest.command(READ, 3, 2)
    assert guest.irq
    guest.read(100)
    bench.config_write(9, 1, 0x8B)
    assert not guest.irq
    assert guest.alternate == 0xFF
    assert bench.ide.intx.level
    guest.base, guest.control_port = 0xD000, 0xD102
    assert guest.status & DRQ
    assert not bench.ide.intx.level
    guest.read(924)
    bench.config_write(9, 1, 0x8A)
    guest.base, guest.control_port = 0x1F0, 0x3F6
    assert guest.status == REST
    guest.check_usable()


def test_hostile_4_1_disabled_channels_do_not_answer(make_bench: MakeBench, engine: Engine) -> None:
    guest, second = everything(make_bench, engine)
    guest.bench.config_write(0x40, 2, 0)
    assert guest.status == guest.alternate == 0xFF
    assert second.alternate != 0xFF
    guest.set(7, IDENTIFY)
    guest.bench.config_write(0x41, 1, 0x80)
    assert guest.status == REST


def test_hostile_4_1_the_bus_master_block_needs_io_space(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest, _ = everything(make_bench, engine)
    guest.bench.config_write(4, 2, 4)
    assert guest.bench.inb(guest.bm + 2) == 0xFF
    guest.bench.config_write(4, 2, 5)
    assert guest.bm_status == 0


def test_hostile_4_11_the_log_is_rationed(
    make_bench: MakeBench, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A guest that is refused ten thousand times does not fill the host's disk."""
    caplog.set_level(logging.INFO)
    guest, _ = everything(make_bench, engine)
    guest.command(WRITE, 0, 1)
    for opcode in range(256):
        for _ in range(10):
            guest.set(7, opcode)
    guest.reset()
    for _ in range(500):
        guest.command(0xFF)
        guest.bench.outl(guest.int13_port, 0xFFFFFFFF)
        guest.bench.outw(guest.int13_port, 1)
        guest.table([(0xF0000000, 2)])
        guest.command(READ_DMA)
        guest.start(to_memory=True)
        guest.stop()
    assert len(caplog.records) < 50
    assert guest.error in (0, ABRT)
