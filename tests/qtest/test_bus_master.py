"""What QEMU's ide-test asks of the bus master: tables that fit, and tables that do not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from .libqtest import Qtest
from .test_ide import (
    ACTIVE,
    BSY,
    BUFFER,
    BUS_MASTER,
    COUNT,
    DEVICE,
    DF,
    DRDY,
    DRQ,
    ERR,
    FEATURE,
    HIGH,
    INTERRUPT,
    LINE,
    LOW,
    MIDDLE,
    PRDT,
    READ_DMA,
    START,
    STATUS,
    TO_MEMORY,
    config,
    enable,
    finish,
    pc,
    wait,
)

DATA_SET_MANAGEMENT, ABORTED = 0x06, 0x04
END = 1 << 31


def start(
    qtest: Qtest, command: int, count: int, table: bytes, *, feature: int = 0, abort: bool = False
) -> int:
    """One DMA command at sector 0, perhaps given up at once; the bus master's status in the end."""
    qtest.outp("b", DEVICE, 0x40)
    qtest.outp("b", BUS_MASTER, 0)
    qtest.outp("b", BUS_MASTER + 2, INTERRUPT)
    qtest.store(PRDT, table)
    qtest.outp("l", BUS_MASTER + 4, PRDT)
    registers = {FEATURE: feature, COUNT: count & 0xFF, LOW: 0, MIDDLE: 0, HIGH: 0}
    for register, value in (*registers.items(), (STATUS, command)):
        qtest.outp("b", register, value)
    qtest.outp("b", BUS_MASTER, START | (TO_MEMORY if command == READ_DMA else 0))
    if abort:
        qtest.outp("b", BUS_MASTER, 0)
    while (status := qtest.inp("b", BUS_MASTER + 2)) & (ACTIVE | INTERRUPT) == ACTIVE:
        qtest.ok("clock_step 400")
    assert qtest.irq(LINE) == bool(status & INTERRUPT)
    drive = qtest.inp("b", STATUS)
    assert drive & DRDY
    assert not drive & (BSY | DRQ)
    assert not qtest.irq(LINE)
    if status & ACTIVE:
        qtest.outp("b", BUS_MASTER, 0)
    return status


@pytest.mark.parametrize("sectors", [1, 2, 8, 128, 256])
def test_the_size_of_the_table(tmp_path: Path, sectors: int) -> None:
    """Bus Master IDE, revision 1.0: shorter than the transfer ends without an interrupt, equal with
    one, longer with one and is still active.
    """
    with pc(tmp_path, "mem:1M") as qtest:
        qtest.intercept()
        enable(qtest)
        wanted = sectors * 512
        sizes = {0, 512, 1024, wanted - 512, wanted - 2, wanted, wanted + 2, wanted + 512, 65024}
        for size in sorted(size & 0xFFFF for size in sizes if 0 <= size <= 0x10000):
            room = size or 0x10000
            expected = 0
            if room >= wanted:
                expected = INTERRUPT if room == wanted else ACTIVE | INTERRUPT
            table = struct.pack("<II", 0, size | END)
            assert start(qtest, READ_DMA, sectors, table) == expected, size
            assert not qtest.inp("b", STATUS) & (DF | ERR)
            given_up = start(qtest, READ_DMA, sectors, table, abort=True)
            assert given_up == expected & INTERRUPT, size
            assert not qtest.inp("b", STATUS) & (DF | ERR)


def test_without_bus_mastering(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M") as qtest:
        qtest.intercept()
        enable(qtest)
        config(qtest, 1, 1, 0x04, 3)
        status = start(qtest, READ_DMA, 512, bytes(8 * 4096))
        assert status == ACTIVE | INTERRUPT
        assert not qtest.inp("b", STATUS) & (DF | ERR)


def test_trim(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M") as qtest:
        qtest.intercept()
        enable(qtest)
        table = struct.pack("<II", BUFFER, 512 | END)
        for ranges, failed in (((0, 2), (6, 8)), False), (((10, 1), (2047, 2)), True):
            data = b"".join(struct.pack("<Q", count << 48 | sector) for sector, count in ranges)
            qtest.store(BUFFER, data.ljust(512, b"\0"))
            qtest.outp("b", COUNT, 0)  # a count of 16 bits: the high half comes first
            assert start(qtest, DATA_SET_MANAGEMENT, 1, table, feature=1) == INTERRUPT
            assert bool(qtest.inp("b", STATUS) & ERR) == failed
            assert bool(qtest.inp("b", FEATURE) & ABORTED) == failed


def test_a_dvd_by_dma(tmp_path: Path) -> None:
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(range(256)) * 16)
    with pc(tmp_path, f"file:{disc},dvd") as qtest:
        qtest.intercept()
        enable(qtest)
        qtest.store(PRDT, struct.pack("<II", BUFFER, 2048 | END))
        qtest.outp("l", BUS_MASTER + 4, PRDT)
        qtest.outp("b", DEVICE, 0)
        qtest.outp("b", FEATURE, 1)
        qtest.outp("b", STATUS, 0xA0)
        wait(qtest)
        for word in struct.unpack("<6H", struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0) + b"\0\0"):
            qtest.outp("w", 0x1F0, word)
        qtest.outp("b", BUS_MASTER, START | TO_MEMORY)
        assert finish(qtest) == INTERRUPT
        assert qtest.memory(BUFFER, 2048) == bytes(range(256)) * 8
