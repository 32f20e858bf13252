"""Lines of hostile.md that a floppy controller must survive; after each it still works."""

from __future__ import annotations

import random

import pytest

from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.floppy.controller import Phase
from drivebay.drivers.floppy import Via
from drivebay.platform.engine import Engine
from drivebay.testing import PuppetDisk

from .support import (
    BUFFER,
    DOR,
    DSR,
    EXECUTING,
    FIFO,
    HD,
    IDLE,
    MSR,
    RAM_SIZE,
    READ,
    RESULT,
    WRITE,
    Bench,
    content,
    noise,
)

MANY = 100_000


def works(bench: Bench) -> None:
    """After a reset the disk can be written and read, by DMA and by the FIFO."""
    bench.outb(0x0D, 0)
    for via in Via:
        disk = bench.disk(via)
        data = noise(3 * 512, 9)
        disk.write(16, data)
        assert disk.read(16, 3) == data


@pytest.mark.parametrize("ready", [False, True], ids=["no motor", "motor"])
def test_2000_bytes_into_the_fifo_for_each_of_256_commands(bench: Bench, ready: bool) -> None:
    """Section 2.1, VENOM: the index stays in bounds, and the controller comes back."""
    if ready:
        bench.motors(0)
    for opcode in range(256):
        bench.aim(512, to_memory=opcode & 1 == 0)
        bench.outb(FIFO, opcode)
        for at in range(1999):
            bench.outb(FIFO, at * 7 & 0xFF)
        assert len(bench.fdc._bytes) <= 9
        assert len(bench.fdc._buffer) <= 512
        bench.outs(bytes(2000))
        bench.ins(2000)
        bench.outb(DSR, 0x80)
        assert bench.inb(MSR) == IDLE
    works(bench)


@pytest.mark.parametrize("via", Via)
def test_every_command_on_absent_and_empty_drives(engine: Engine, via: Via) -> None:
    """Section 2.1, CVE-2021-20196: with the DOR selecting another drive between the bytes."""
    bench = Bench(engine)
    source = random.Random(1)
    for opcode in range(256):
        for unit in (1, 2, 3):
            bench.outb(DOR, 0xFC | unit)
            bench.command(0x03, 0, via is Via.PIO)
            bench.aim(512, to_memory=opcode & 1 == 0)
            for byte in (opcode, unit, 0, 0, 1, 2, 18, 0x1B, 0xFF):
                if bench.inb(MSR) & 0xC0 != 0x80:
                    break
                bench.outb(FIFO, byte)
                bench.outb(DOR, 0xFC | source.randrange(4))
            if opcode & 0x1F in (5, 6, 9, 12, 13, 17, 22, 25, 29, 2) and bench.inb(MSR) == RESULT:
                assert bench.inb(FIFO) & 0xC0 in (0x40, 0x80)
            bench.outb(DOR, 0xF8)
            bench.outb(DOR, 0xFC)
            assert bench.inb(MSR) == IDLE
    assert content(bench.ram) == noise(HD.byte_count)
    works(bench)


@pytest.mark.parametrize("opcode", [READ, 0xE6, 0x42, 0x56, 0xD6, 0x51, WRITE, 0xC5])
@pytest.mark.parametrize("via", Via)
def test_parameters_that_make_no_sense(bench: Bench, opcode: int, via: Via) -> None:
    """Section 2.1, CVE-2021-3507: EOT before R, N and DTL of 0 to 255, a count beyond the medium.

    Every command ends, and no byte of memory outside the buffer has changed.
    """
    canary = noise(RAM_SIZE)
    bench.memory.view(0, RAM_SIZE)[:] = canary
    bench.motors(0)
    bench.command(0x03, 0, via is Via.PIO)
    lines = [(1, n, 18, 0xFF) for n in range(256)] + [(1, 2, 18, dtl) for dtl in range(256)]
    lines += [(r, 2, eot, 0xFF) for r in (0, 1, 2, 18, 19, 255) for eot in (0, 1, 17, 18, 19, 255)]
    for r, n, eot, dtl in lines:
        bench.aim(0x10000, to_memory=opcode & 3 == 2, address=BUFFER)
        bench.send(opcode, 0x80, 0, 0, r, n, eot, 0x1B, dtl)
        for _ in range(80):
            if bench.inb(MSR) & 0x20 == 0:
                break
            if bench.inb(MSR) & 0x40:
                bench.ins(512)
            else:
                bench.outs(bytes(512))
        assert bench.inb(MSR) == RESULT, (r, n, eot, dtl)
        assert len(bench.result()) == 7
    assert bytes(bench.memory.view(0, BUFFER)) == canary[:BUFFER]
    rest = BUFFER + 0x10000
    assert bytes(bench.memory.view(rest, RAM_SIZE - rest)) == canary[rest:]
    works(bench)


@pytest.mark.parametrize("lenient", [False, True])
def test_random_accesses(engine: Engine, lenient: bool) -> None:
    """Section 2.1: ports 0x3F0 to 0x3F7 and those of DMA, 8, 16 and 32 bits wide."""
    bench = Bench(engine, lenient=lenient)
    source = random.Random(lenient)
    ports = [*range(0x3ED, 0x3F8)] * 3 + [*range(0x10), *range(0x81, 0x90), *range(0xC0, 0xE0)]
    chosen = source.choices(ports, k=MANY)
    for at, port in enumerate(chosen):
        width = 1 << at % 3
        if at & 8:
            value = bench.ports.read(port, width)
            assert 0 <= value < 1 << 8 * width
        else:
            bench.ports.write(port, width, source.getrandbits(8 * width))
    works(bench)


@pytest.mark.parametrize("name", ["read", "write", "flush"])
@pytest.mark.parametrize("how", ["dor", "dsr", "machine", "eject", "detach"])
@pytest.mark.parametrize("late", ["complete", "fail", "never"])
def test_resets_while_the_disk_works(bench: Bench, name: str, how: str, late: str) -> None:
    """Section 4.6: nothing comes late, neither data nor an interrupt."""
    bench.motors(0)
    bench.puppet.holds = lambda what, *_: what == name
    bench.store(b"\xcc" * 512)
    bench.aim(512, to_memory=name == "read")
    bench.send(READ if name == "read" else WRITE, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert bench.inb(MSR) == EXECUTING
    [held] = bench.puppet.held
    drive = bench.fdc.drives[0]
    assert drive is not None
    if how == "dor":
        bench.outb(DOR, 0x18)
        bench.outb(DOR, 0x1C)
    elif how == "dsr":
        bench.outb(DSR, 0x80)
    elif how == "machine":
        bench.fdc.reset()
    elif how == "eject":
        assert bench.fdc.eject(0) is bench.puppet
    else:
        assert bench.fdc.detach(0) is drive
    assert held.cancelled
    up = bench.line.level
    assert up == (how != "machine")
    if late != "never":
        held.complete()
    bench.engine.turn(0)
    assert bench.ram_at(512) == b"\xcc" * 512
    assert bench.line.level == up
    if how in ("eject", "detach"):
        assert bench.result()[:2] == [0x40, 0x01]
        bench.fdc.detach(0)
        bench.fdc.attach(0, FloppyDrive(bench.puppet))
    bench.puppet.holds = lambda *_: False
    works(bench)


class Stubborn(PuppetDisk):
    """Its operations cannot be called back, as system calls cannot."""

    def _hold(self, operation: object) -> None:
        operation.cancel = lambda: False  # type: ignore[attr-defined]
        super()._hold(operation)  # type: ignore[arg-type]


def test_a_reset_lasts_until_the_disk_has_let_go(engine: Engine) -> None:
    """Until then it may write to memory, and no new command may begin."""
    puppet = Stubborn(Bench(engine).ram)
    bench = Bench(engine, [FloppyDrive(puppet)])
    bench.motors(0)
    bench.aim(512)
    bench.send(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    [held] = puppet.held
    bench.outb(DSR, 0x80)
    assert (bench.inb(MSR), bench.line.level) == (0, False)
    bench.outb(FIFO, 0x10)
    assert bench.ins(4) == bytes(4)
    held.complete()
    bench.engine.turn(0)
    assert (bench.inb(MSR), bench.line.level) == (IDLE, True)
    puppet.holds = lambda *_: False
    works(bench)


def test_dma_to_where_no_memory_is(bench: Bench) -> None:
    """Section 4.2: what is read goes nowhere, and ones are written."""
    bench.motors(0)
    bench.aim(1024, address=0xFFFC00)
    assert bench.command(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:3] == [0, 0, 0]
    bench.aim(512, to_memory=False, address=0xFF0000)
    assert bench.command(WRITE, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:3] == [0, 0, 0]
    assert content(bench.ram)[:512] == b"\xff" * 512
    works(bench)


def test_opcodes_while_another_command_is_under_way(bench: Bench) -> None:
    """Section 4.1: in every phase bytes that nobody asked for change nothing."""
    bench.motors(0)
    bench.puppet.holds = lambda *_: True
    bench.aim(512)
    bench.send(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    for opcode in range(256):
        bench.outb(FIFO, opcode)
        assert bench.inb(FIFO) == 0
    assert bench.fdc._phase is Phase.EXECUTE
    bench.puppet.complete_all()
    bench.engine.turn(0)
    assert bench.result() == [0, 0, 0, 0, 0, 2, 2]
    bench.puppet.holds = lambda *_: False
    works(bench)
