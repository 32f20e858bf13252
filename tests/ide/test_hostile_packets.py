"""Packets: addresses and lengths that lie, for every command: hostile.md 2.2, 2.6 and 4.3."""

from __future__ import annotations

import logging
import random
import struct

import pytest

from drivebay.ata import device as ata_device
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    BLOCK,
    BSY,
    CANARY,
    DATA,
    DEVICE_RESET,
    DISC_BLOCKS,
    DRQ,
    ERR,
    IDENTIFY_PACKET,
    INTERRUPT,
    PACKET,
    READ,
    Breaking,
    Guest,
    atapi,
    filled,
    pattern,
)

DISC = pattern(DISC_BLOCKS * BLOCK, 2)
REQUEST_SENSE = bytes.fromhex("03 00 00 00 12 00")
ILLEGAL, NOT_READY, HARDWARE = 5, 2, 4
OUT_OF_RANGE = (5, 0x21, 0)


def make(make_bench: MakeBench, engine: Engine, empty: bool = False) -> Guest:
    memory = GuestMemory.of_size(0x40000)
    guest = Guest(make_bench({(0, 0): atapi(engine, empty=empty)}, memory=memory))
    guest.lay_canaries()
    return guest


def drain(guest: Guest) -> bytes:
    """Every block until the end, each as long as the registers say; as the port has it."""
    data = b""
    for _ in range(2000):
        if not guest.alternate & DRQ:
            assert guest.get(2) & 3 == 3, "status"
            return data
        reason, size = guest.get(2) & 3, guest.get(4) | guest.get(5) << 8
        assert reason == 2, "data to the host"
        assert size
        data += guest.read(size + size % 2)[:size]
    raise AssertionError("it never ends")


def sense(guest: Guest) -> tuple[int, int, int]:
    guest.packet(REQUEST_SENSE)
    data = drain(guest)
    assert len(data) == 18
    return data[2] & 0xF, data[12], data[13]


def refused(guest: Guest) -> tuple[int, int, int]:
    """The sense of the packet that has just failed; the Error register has its key."""
    assert guest.status & (BSY | DRQ | ERR) == ERR
    key = guest.error >> 4
    got = sense(guest)
    assert got[0] == key
    assert sense(guest) == (0, 0, 0), "it has been told"
    return got


def reads(lba: int, count: int) -> list[bytes]:
    cdbs = [
        struct.pack(">BBIBHB", 0x28, 0, lba, 0, count & 0xFFFF, 0),
        struct.pack(">BBIIBB", 0xA8, 0, lba, count, 0, 0),
    ]
    for selection in (0x10, 0xF8):  # 2048 and 2352 bytes of a sector
        triple = (count & 0xFFFFFF).to_bytes(3, "big")
        cdbs.append(struct.pack(">BBI3sBBB", 0xBE, 0, lba, triple, selection, 0, 0))
    return cdbs


@pytest.mark.parametrize("dma", [False, True])
def test_hostile_2_2_cve_2020_29443_reads_past_the_end(
    make_bench: MakeBench, engine: Engine, dma: bool
) -> None:
    """LBA 0xFFFFFFFF, counts up to the largest, sums that wrap in 32 bits: 5/21/00, no data."""
    guest = make(make_bench, engine)
    guest.table([(DATA, 0)])
    n = DISC_BLOCKS
    bad = [(0xFFFFFFFF, 1), (0xFFFFFFFF, 2), (0x80000000, 1), (n, 1), (n - 1, 2), (0, n + 1)]
    bad += [(1, 0xFFFF), (0xFFFFFFFF, 0xFFFF), (n, 0), (0xFFFFFFFF, 0)]
    for lba, count in bad:
        for cdb in reads(lba, count):
            guest.packet(cdb, dma=dma)
            guest.start(to_memory=True)
            guest.settle()
            assert refused(guest) == OUT_OF_RANGE, (lba, count, cdb.hex())
            guest.stop()
    for lba, count in ((0, 0xFFFFFF), (1, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)):
        for cdb in reads(lba, count)[1:]:
            guest.packet(cdb, dma=dma)
            assert refused(guest) == OUT_OF_RANGE
    assert guest.peek(DATA, 0x10000) == bytes([CANARY]) * 0x10000
    guest.check_usable()


def test_hostile_2_2_residual_is_what_was_moved(make_bench: MakeBench, engine: Engine) -> None:
    """OpenVMM 1e0034928: reads of every shape deliver exactly their bytes, by PIO and by DMA."""
    guest = make(make_bench, engine)
    for lba, count in ((0, 0), (0, 1), (DISC_BLOCKS - 1, 1), (3, 5), (0, DISC_BLOCKS)):
        wanted = DISC[lba * BLOCK : (lba + count) * BLOCK]
        for limit in (0xFFFF, 0xFFFE, 2048, 2047, 4096, 5120, 512, 3, 2, 1):
            if limit < 512 and count > 1:
                continue
            guest.packet(reads(lba, count)[0], limit=limit)
            assert drain(guest) == wanted, (lba, count, limit)
            assert not guest.status & ERR
        guest.lay_canaries()
        guest.table([(DATA, 0), (DATA + 0x10000, 0)])
        guest.packet(reads(lba, count)[1], dma=True)
        guest.start(to_memory=True)
        guest.settle()
        assert guest.bm_status & INTERRUPT or not count
        assert guest.peek(DATA, len(wanted)) == wanted
        assert guest.peek(DATA + len(wanted), 64) == bytes([CANARY]) * 64
        guest.stop()


def test_hostile_2_2_blocks_keep_within_the_byte_count_limit(
    make_bench: MakeBench, engine: Engine
) -> None:
    """No DRQ block is longer than the host allowed, and all but the last are even."""
    guest = make(make_bench, engine)
    for limit in [*range(2, 40), 2047, 2048, 2049, 4095, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]:
        for cdb in (reads(0, 2)[0], bytes.fromhex("12 00 00 00 24 00"), REQUEST_SENSE):
            guest.packet(cdb, limit=limit)
            sizes = []
            while guest.alternate & DRQ:
                sizes.append(guest.get(4) | guest.get(5) << 8)
                guest.read(sizes[-1] + sizes[-1] % 2)
            assert max(sizes) <= limit
            assert not any(size % 2 for size in sizes[:-1])
    guest.packet(reads(0, 1)[0], limit=0)
    assert guest.status & ERR
    assert guest.error & ABRT
    guest.check_usable()


def test_hostile_2_6_every_cdb_opcode(make_bench: MakeBench, engine: Engine) -> None:
    """256 operation codes with 0s, 1s and noise, by PIO and DMA, with and without a medium."""
    chance = random.Random(3)
    for empty in (False, True):
        guest = make(make_bench, engine, empty)
        for opcode in range(256):
            for rest in (bytes(11), b"\xff" * 11, chance.randbytes(11)):
                for dma in (False, True):
                    guest.table([(DATA, 0)] * 3)
                    guest.packet(bytes([opcode]) + rest, dma=dma)
                    if dma:
                        guest.start(to_memory=True)
                        guest.settle()
                        guest.stop()
                        guest.start(to_memory=False)
                        guest.settle()
                        guest.stop()
                    else:
                        guest.read(0x8000)
                        guest.write(bytes(0x8000))
                    guest.set(7, DEVICE_RESET)
                    assert not guest.alternate & (BSY | DRQ)
                    assert guest.registers[:5] == [1, 1, 1, 0x14, 0xEB]
        drive = guest.channel.drives[0]
        drive.unit.lock(False, persistent=True)  # type: ignore[union-attr]
        guest.check_usable()


def test_hostile_2_6_every_allocation_length(make_bench: MakeBench, engine: Engine) -> None:
    """What answers gives no more than asked for, and what is given is a prefix of the whole."""
    guest = make(make_bench, engine)
    six = {
        0x12: "12 00 00 00 {:02x} 00",
        0x03: "03 00 00 00 {:02x} 00",
        0x1A: "1a 00 3f 00 {:02x} 00",
    }
    ten = {
        0x5A: "5a 00 3f 00 00 00 00 {:04x} 00",
        0x46: "46 00 00 00 00 00 00 {:04x} 00",
        0x43: "43 00 00 00 00 00 00 {:04x} 00",
        0x4A: "4a 01 00 00 10 00 00 {:04x} 00",
        0x51: "51 00 00 00 00 00 00 {:04x} 00",
        0x52: "52 01 00 00 00 01 00 {:04x} 00",
    }
    for layout in (*six.values(), *ten.values()):
        large = 255 if "02x" in layout else 65535
        guest.packet(bytes.fromhex(layout.format(large)))
        if guest.alternate & ERR:
            guest.packet(bytes.fromhex(layout.format(large)))
        whole = drain(guest)
        for length in [*range(256), large]:
            guest.packet(bytes.fromhex(layout.format(length)), limit=0xFFFE)
            got = drain(guest)
            assert not guest.status & ERR, layout
            assert len(got) == min(length, len(whole)), (layout, length)
    guest.check_usable()


def test_hostile_2_6_parameter_lists_of_all_lengths(make_bench: MakeBench, engine: Engine) -> None:
    """MODE SELECT: shorter, longer and odder than what is in it (work item 4051)."""
    guest = make(make_bench, engine)
    guest.packet(bytes.fromhex("5a 00 01 00 00 00 00 00ff 00"))
    page = drain(guest)
    for length in [*range(64), 255, 4096, 65535]:
        for filler in (b"\0", b"\xff", page):
            for dma in (False, True):
                cdb = bytes.fromhex("55 10 00 00 00 00 00") + length.to_bytes(2, "big") + b"\0"
                data = (filler * 65536)[:length]
                guest.poke(DATA, data)
                guest.table([(DATA, 0)])
                guest.packet(cdb, dma=dma, limit=30)
                if dma and length:
                    guest.start(to_memory=False)
                    guest.settle()
                    guest.stop()
                else:
                    guest.write(data + bytes(length % 2))
                assert not guest.alternate & (BSY | DRQ), (length, dma)
                assert guest.get(2) & 3 == 3
    guest.check_usable()


def test_hostile_2_2_a_packet_in_pieces_and_too_long(make_bench: MakeBench, engine: Engine) -> None:
    """12 bytes are a packet, in whatever widths; what is written beyond is nobody's."""
    guest = make(make_bench, engine)
    cdb = reads(5, 1)[0].ljust(12, b"\0")
    for width in (1, 2, 4):
        guest.set(4, 0)
        guest.set(5, 8)
        guest.set(7, PACKET)
        assert guest.get(2) & 3 == 1, "a command packet is wanted"
        for at in range(0, 12, width):
            assert guest.alternate & DRQ
            item = int.from_bytes(cdb[at : at + width], "little")
            guest.bench.ports.write(guest.base, width, item)
        guest.write(b"\xff" * 64, width)
        assert drain(guest) == DISC[5 * BLOCK : 6 * BLOCK]
    guest.set(7, PACKET)
    guest.write(cdb[:8])
    assert guest.read(64) == bytes(64)
    guest.set(7, IDENTIFY_PACKET)
    assert guest.alternate & DRQ
    guest.write(cdb[8:])
    assert guest.registers[1] & 3 == 2, "it was the packet that went on"
    guest.set(7, DEVICE_RESET)
    guest.check_usable()


def test_hostile_2_2_dmadir_and_ovl(make_bench: MakeBench, engine: Engine) -> None:
    guest = make(make_bench, engine)
    guest.set(1, 2)
    guest.set(7, PACKET)
    assert guest.status & ERR
    assert guest.error == ABRT
    guest.set(1, 0)
    guest.check_usable()


def test_hostile_2_2_an_empty_drive_says_so(make_bench: MakeBench, engine: Engine) -> None:
    guest = make(make_bench, engine, empty=True)
    for cdb in reads(0, 1) + [bytes([opcode]) + bytes(11) for opcode in (0x00, 0x25, 0x2B)]:
        guest.packet(cdb)
        assert refused(guest)[:2] == (NOT_READY, 0x3A), cdb.hex()
    guest.command(READ)
    assert guest.error == ABRT


@pytest.mark.parametrize("dma", [False, True])
def test_hostile_4_8_bugs_of_ours_are_hardware_errors(
    make_bench: MakeBench,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    dma: bool,
) -> None:
    """A disk that raises what no disk may: that packet fails with a sense, others do not."""
    broken = Breaking(filled(DISC_BLOCKS * BLOCK, seed=2), lambda name, sector, count: ValueError())
    guest = Guest(make_bench({(0, 0): atapi(engine, broken)}))
    guest.table([(DATA, BLOCK)])
    monkeypatch.setattr(ata_device, "guest_log", RationedLog(ata_device.log))
    for _ in range(100):
        guest.command(0xFF)  # refusals do not hide it
        guest.packet(reads(1, 1)[0], dma=dma)
        if dma:
            guest.start(to_memory=True)
        assert refused(guest) == (HARDWARE, 0x44, 0)
        guest.stop()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert 0 < len(errors) < 30, "logged, and rationed"
    caplog.clear()
    broken.fault = lambda name, sector, count: None
    guest.packet(reads(1, 1)[0])
    assert drain(guest) == DISC[BLOCK : 2 * BLOCK]
    guest.check_usable()
