"""The IDE function over vfio-user, worked by our own driver through its registers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ide import PIIX4_NATIVE, PiixIde
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import IdeDriver
from drivebay.drivers.ide.disk import Via
from drivebay.hosts.listening import listen
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import MigrationState
from drivebay.hosts.vfio_user.messages import Region as RegionIndex
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory, Region
from drivebay.testing import PuppetDisk
from drivebay.testing.vfio_user import Monitor

RAM = 1 << 20
BAR_ADDRESS, BAR0 = 0xFFFC, 0x10


class MonitorPorts:
    """A PC's ports in front of a monitor: the function is at 00:00.0, its BARs where it says."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._address = 0
        self._sizes = {index: monitor.region_info(index)[0].size_ for index in range(6)}

    def _place(self, port: int) -> tuple[int, int] | None:
        """Region and offset behind a port."""
        if 0xCFC <= port < 0xD00:
            slot = self._address >> 8 & 0xFFFF
            return None if slot else (RegionIndex.CONFIG, (self._address & 0xFC) + port - 0xCFC)
        for index, size in self._sizes.items():
            bar = self._monitor.read(RegionIndex.CONFIG, BAR0 + 4 * index, 4) & BAR_ADDRESS
            if size and bar <= port < bar + size:
                return index, port - bar
        return None

    def read(self, port: int, width: int) -> int:
        place = self._place(port)
        return (1 << 8 * width) - 1 if place is None else self._monitor.read(*place, width)

    def write(self, port: int, width: int, value: int) -> None:
        if port == 0xCF8:
            self._address = value
        elif (place := self._place(port)) is not None:
            self._monitor.write(*place, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), width):
            buffer[at : at + width] = self.read(port, width).to_bytes(width, "little")

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        for at in range(0, len(data), width):
            self.write(port, width, int.from_bytes(data[at : at + width], "little"))


class Machine:
    """A served IDE function with one disk that a test holds in its hand."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.path = engine, str(folder / "ide.sock")
        self.ram, self.puppet = RamDisk(1 << 20), PuppetDisk(RamDisk(1 << 20))
        self.memory = ClientMemory()
        lines = (Line(lambda _: None), Line(lambda _: None))
        self.ide = PiixIde(self.memory, lines, PIIX4_NATIVE, switchable=True)
        self.ide.attach(0, 0, AtaDisk(self.ram, engine))
        self.ide.attach(1, 0, AtaDisk(self.puppet, engine))
        self.server = VfioUserServer(self.ide, self.memory, engine, listen(self.path))

    def turn(self) -> None:
        self.engine.turn(0.001)

    def monitor(self) -> Monitor:
        return Monitor(self.path, poll=self.turn, start=False)

    def driver(self, monitor: Monitor) -> IdeDriver:
        monitor.negotiate()
        region = monitor.ram.region
        monitor.dma_map(RAM, region.length, region.mmap_offset)  # tables take 32-bit addresses
        ram = monitor.memory.view(region.guest_address, region.length)
        arena = Arena(GuestMemory([Region(RAM, ram)]), RAM, region.length)
        return IdeDriver(MonitorPorts(monitor), arena, poll=self.turn, native=True)


@pytest.fixture
def machine(engine: Engine, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(engine, tmp_path)
    yield machine
    machine.server.close()


@pytest.mark.parametrize("via", [Via.PIO, Via.DMA])
def test_a_disk_is_written_and_read(machine: Machine, via: Via) -> None:
    data = bytes(range(256)) * 16
    with machine.monitor() as monitor:
        disk = machine.driver(monitor).disk(0, 0)
        disk.write(3, data, via=via)
        assert disk.read(3, 8, via=via) == data


def test_a_command_under_way_goes_on_in_another_process(
    machine: Machine, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Machine(engine, tmp_path / "other")
    with machine.monitor() as monitor, other.monitor() as second:
        disk = machine.driver(monitor).disk(0, 0)
        disk.write(5, b"moved".ljust(512))
        monitor.write(0, 2, 1, 1)  # one sector,
        monitor.write(0, 3, 1, 5)  # number 5,
        monitor.write(0, 7, 1, 0x20)  # READ SECTORS
        assert machine.engine.run_until(lambda: bool(monitor.read(0, 7, 1) & 8))
        monitor.go(MigrationState.STOP_COPY)
        state = monitor.take_state()
        second.negotiate()
        second.go(MigrationState.RESUMING)
        second.give_state(state)
        second.go(MigrationState.RUNNING)
        assert second.read(0, 7, 1) & 8  # DRQ: the sector waits there, too
        assert second.read(0, 0, 4).to_bytes(4, "little") == b"move"
    other.server.close()


class Gone(Exception):
    """The client has had enough."""


def test_a_client_may_leave_in_the_midst_of_dma(machine: Machine) -> None:
    """What was under way for it does nothing to the next one's memory."""
    puppet = machine.puppet
    with machine.monitor() as monitor:
        disk = machine.driver(monitor).disk(1, 0)

        def leave() -> None:
            machine.turn()
            if puppet.held:
                raise Gone

        disk.channel.poll = leave
        with pytest.raises(Gone):
            disk.read(0, 8)
    assert machine.engine.run_until(lambda: not machine.server.connected)
    with machine.monitor() as monitor:
        driver = machine.driver(monitor)
        before = bytes(monitor.memory.view(1 << 32, 1 << 20))
        puppet.holds = lambda _name, _sector, _count: False
        puppet.complete_all()
        for _ in range(10):
            machine.turn()
        assert bytes(monitor.memory.view(1 << 32, 1 << 20)) == before
        disk = driver.disk(1, 0)
        disk.write(0, b"next".ljust(512))
        assert disk.read(0, 1)[:4] == b"next"
