"""A controller that is saved and restored between any two accesses of a driver."""

from __future__ import annotations

import pytest

from drivebay.controllers.floppy import FloppyDrive
from drivebay.drivers.floppy import FloppyDisk, Via
from drivebay.platform.engine import Engine
from drivebay.platform.ports import Hold
from drivebay.testing import PuppetDisk

from .support import DOR, HD, MSR, READ, Bench, content, filled, noise


class Wires:
    """Ports of whichever bench is behind them now: another one after each `every` accesses."""

    def __init__(self, bench: Bench, every: int) -> None:
        self.bench, self._every = bench, every
        self._left = every

    def _before(self) -> None:
        self._left -= 1
        if not self._left:
            self._left = self._every
            self.bench = self.bench.saved_and_restored()

    def read(self, port: int, width: int) -> int:
        self._before()
        return self.bench.ports.read(port, width)

    def write(self, port: int, width: int, value: int) -> Hold | None:
        self._before()
        return self.bench.ports.write(port, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        self._before()
        middle = len(buffer) // 2
        self.bench.ports.read_string(port, width, buffer[:middle])
        self.bench = self.bench.saved_and_restored()
        self.bench.ports.read_string(port, width, buffer[middle:])

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        self._before()
        middle = len(data) // 2
        self.bench.ports.write_string(port, width, data[:middle])
        self.bench = self.bench.saved_and_restored()
        self.bench.ports.write_string(port, width, data[middle:])


@pytest.mark.parametrize("via", Via)
@pytest.mark.parametrize("every", [1, 3])
def test_between_any_two_accesses(bench: Bench, via: Via, every: int) -> None:
    wires = Wires(bench, every)
    driver = bench.driver(ports=wires, raised=lambda: wires.bench.line.level)
    disk = FloppyDisk(driver, 0, HD, via)
    data = noise(6 * 512, 4)
    disk.write(15, data, opcode=0x09)
    assert disk.read(15, 3, opcode=0x0C) + disk.read(18, 3, opcode=0x0C) == data
    assert content(bench.ram)[15 * 512 : 21 * 512] == data


@pytest.mark.parametrize("opcode", [READ, 0xC5, 0x56, 0x42])
def test_while_the_disk_works(engine: Engine, opcode: int) -> None:
    """What it was doing is begun again, once."""
    puppet = PuppetDisk(filled(), lambda *_: True)
    bench = Bench(engine, [FloppyDrive(puppet)])
    bench.motors(0)
    bench.store(noise(2048, 5))
    bench.aim(2048, to_memory=opcode != 0xC5)
    bench.send(opcode, 0, 0, 0, 1, 2, 4, 0x1B, 0xFF)
    other = bench.saved_and_restored()
    bench.fdc.reset()
    assert len(puppet.held) == 1
    while puppet.held:
        puppet.complete_all()
        engine.turn(0)
    assert other.line.level
    assert other.result()[:3] == [0, 0, 0]
    puppet.holds = lambda *_: False
    assert opcode == 0x56 or other.ram_at(2048) == content(puppet)[:2048]


def test_what_commands_have_set(bench: Bench) -> None:
    bench.motors(1, 0)
    bench.outb(0x3F3, 2)
    bench.command(0x13, 0, 0x57, 0x21)
    bench.command(0x94)
    bench.seek(9)
    bench.send(0x0F, 1, 3)
    other = bench.saved_and_restored()
    assert other.line.level
    assert other.fdc.save() == bench.fdc.save()
    assert [other.inb(port) for port in (DOR, 0x3F3, MSR)] == [0x3C, 0xFE, 0x80]
    assert other.command(0x08) == [0x21, 3]
    assert other.command(0x0E) == bench.command(0x0E)


def test_other_drives_are_refused(engine: Engine, bench: Bench) -> None:
    state = bench.fdc.save()
    for drives in ([None], [FloppyDrive(), FloppyDrive()]):
        with pytest.raises(ValueError, match="saved with"):
            Bench(engine, drives).fdc.restore(state)
