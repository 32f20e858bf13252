"""A drive that is held begins no command: one that comes is busy until it is let go."""

from __future__ import annotations

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode, Status
from drivebay.platform.engine import Engine

from .support import Bench, filled, noise

COMMAND, CONTROL = 0x1F0, 0x3F6
SRST = 0x04
BSY, DRQ = int(Status.BSY), int(Status.DRQ)


def bench(engine: Engine) -> tuple[Bench, AtaDisk]:
    drive = AtaDisk(filled(1 << 20, 1), engine)
    drive.hold(True)
    found = Bench(engine, {(0, 0): drive})
    found.enable()
    return found, drive


def read_sector(found: Bench) -> None:
    """READ SECTORS of sector 3."""
    for register, value in ((2, 1), (3, 3), (4, 0), (5, 0), (6, 0xE0), (7, Opcode.READ_SECTORS)):
        found.outb(COMMAND + register, value)


def test_it_begins_when_it_is_let_go(engine: Engine) -> None:
    found, drive = bench(engine)
    read_sector(found)
    assert found.inb(COMMAND + 7) & BSY
    found.outb(COMMAND + 3, 9)  # a busy drive's registers are its own
    drive.hold(False)
    found.wait(lambda: found.inb(COMMAND + 7) & DRQ)
    assert found.ins(COMMAND, 512) == noise(1 << 20, 1)[3 * 512 : 4 * 512]


def test_a_reset_forgets_it(engine: Engine) -> None:
    found, drive = bench(engine)
    read_sector(found)
    found.outb(CONTROL, SRST)
    found.outb(CONTROL, 0)
    assert not found.inb(COMMAND + 7) & (BSY | DRQ)
    drive.hold(False)
    assert not found.inb(COMMAND + 7) & (BSY | DRQ)


def test_another_drive_goes_on_with_it(engine: Engine) -> None:
    found, drive = bench(engine)
    read_sector(found)
    other = Bench(engine, {(0, 0): AtaDisk(drive.disk, engine)}, found.memory)
    other.ide.restore(found.ide.save())
    other.wait(lambda: other.inb(COMMAND + 7) & DRQ)
    assert other.ins(COMMAND, 512) == noise(1 << 20, 1)[3 * 512 : 4 * 512]
