"""Somebody looks on at what crosses the seam between a virtual machine and its controllers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.floppy import FloppyDrive
from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.vfio_user.messages import Region
from drivebay.lab.trace.boards import WatchedPorts, watch_board
from drivebay.lab.trace.names import register_name, register_text
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.story import Access
from drivebay.platform.engine import Engine
from drivebay.platform.ports import PortSpace
from tests.ahci.support import Bench as AhciBench
from tests.floppy.support import Bench as FloppyBench
from tests.vfio_user.support import Bay, Ports, make_bay


class Seen:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, bool, int, int, int]] = []
        self.interrupts: list[tuple[str, bool | None]] = []

    def access(self, place: str, write: bool, offset: int, width: int, value: int) -> None:
        self.accesses.append((place, write, offset, width, value))

    def interrupt(self, name: str, level: bool | None) -> None:
        self.interrupts.append((name, level))


@pytest.fixture
def bay(engine: Engine, tmp_path: Path) -> Iterator[Bay]:
    bay = make_bay(engine, tmp_path)
    yield bay
    bay.server.close()
    bay.function.shared.close()


def test_registers_and_interrupts(bay: Bay) -> None:
    monitor = bay.monitor()
    monitor.write(0, 0, 4, 1)
    seen = Seen()
    bay.server.watch(seen)
    monitor.write(0, 8, 8, 7)
    assert monitor.read(0, 8, 4) == 7
    monitor.write(2, 1, 1, 5)
    monitor.read(Region.CONFIG, 0, 2)
    monitor.write(0, 24, 4, 1)
    assert seen.accesses == [
        ("BAR0", True, 8, 8, 7),
        ("BAR0", False, 8, 4, 7),
        ("BAR2", True, 1, 1, 5),
        ("config", False, 0, 2, 0x1AF4),
        ("BAR0", True, 24, 4, 1),
    ]
    assert seen.interrupts == [("INTx", True)]
    bay.server.watch(None)
    monitor.write(0, 24, 4, 0)
    assert len(seen.accesses) == 5 and len(seen.interrupts) == 1


def test_who_comes_later_is_watched_too(bay: Bay) -> None:
    seen = Seen()
    bay.server.watch(seen)
    monitor = bay.monitor()
    monitor.read(0, 0, 4)
    assert seen.accesses == [("BAR0", False, 0, 4, 0)]


def test_a_board(engine: Engine) -> None:
    """Ports and memory, those that are mapped later, too; and nothing is left when it ends."""
    bench = AhciBench(engine, {0: AtaDisk(RamDisk(1 << 20), engine)})
    seen = Seen()
    end = watch_board(bench.board, seen)
    bench.enable()
    driver = bench.driver()
    driver.disk(0).read(0, 1)
    assert ("Hba", True, 0x138, 4, 1) in seen.accesses
    source = Source("pc", "board")
    named = [register_text(Access(source, 0, write, place, *rest))
             for place, write, *rest in seen.accesses]  # fmt: skip
    assert "Hba P0CI 0x00000001" in named
    bench.board.line(5).set(True)
    assert seen.interrupts == [("line 5", True)]
    count = len(seen.accesses)
    end()
    driver.disk(0).read(0, 1)
    bench.board.line(5).set(False)
    assert (len(seen.accesses), len(seen.interrupts)) == (count, 1)


def test_the_ports_of_a_board(engine: Engine) -> None:
    bench = FloppyBench(engine, [FloppyDrive(RamDisk(1440 << 10))])
    seen = Seen()
    end = watch_board(bench.board, seen)
    bench.send(0x10)
    assert bench.result() == [0x90]
    bench.board.ports.read(0x3F7, 1)
    source = Source("pc", "board")
    names = {
        register_name(Access(source, 0, write, place, *rest))
        for place, write, *rest in seen.accesses
    }
    assert {"FloppyPorts Fifo", "FloppyPorts MainStatus", "FloppyPorts DigitalInput"} <= names
    end()


def test_strings_of_ports() -> None:
    """REP INS and OUTS are as many accesses as they have items, and go by in one piece."""
    seen = Seen()
    space = PortSpace()
    ports = Ports()
    space.map(0x1F0, ports)
    space.wrap(lambda region: WatchedPorts(region, seen))
    space.write_string(0x1F0, 2, memoryview(b"abcd"))
    buffer = bytearray(4)
    space.read_string(0x1F0, 2, memoryview(buffer))
    assert buffer == b"cdcd"
    assert space.read(0x1F1, 1) == ord("d")
    space.write(0x1F2, 1, 7)
    assert seen.accesses == [
        *(("Ports", True, 0, 2, 0x6261), ("Ports", True, 0, 2, 0x6463)),
        *(("Ports", False, 0, 2, 0x6463),) * 2,
        *(("Ports", False, 1, 1, 0x64), ("Ports", True, 2, 1, 7)),
    ]
    space.wrap(None)
    assert space.read(0x1F2, 1) == 7
    assert len(seen.accesses) == 6
