"""A virtio device over vfio-user, worked by our own driver; and memory that is not shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.pci import PciAddress, PciConfig
from drivebay.drivers.virtio_blk import VirtioBlkPci
from drivebay.hosts.listening import listen
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import FeatureFlags, FeatureIndex, Irq
from drivebay.hosts.vfio_user.messages import Region as RegionIndex
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.pci import ConfigAddress, Header
from drivebay.platform.virtio import DeviceStatus
from drivebay.testing.vfio_user import Monitor, RefusedByServer

RAM = 1 << 20
AT = PciAddress(0, 0)
PLACE = 0xFE000000
MESSAGES = [(0xFEE00000, 0x40), (0xFEE00000, 0x41)]


class Ports:
    """Configuration mechanism 1, with nothing on the bus but the monitor's function."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor, self._address = monitor, 0

    def _register(self, port: int) -> int:
        return int(ConfigAddress(self._address) & 0xFC) + (port & 3)

    def read(self, port: int, width: int) -> int:
        return self._monitor.read(RegionIndex.CONFIG, self._register(port), width)

    def write(self, port: int, width: int, value: int) -> None:
        if port == 0xCF8:
            self._address = value
        else:
            self._monitor.write(RegionIndex.CONFIG, self._register(port), width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        raise NotImplementedError


class Memory:
    """The function's two BARs, where `PciConfig.place` puts them."""

    def __init__(self, monitor: Monitor, bars: dict[int, int]) -> None:
        self._monitor, self._bars = monitor, bars

    def _find(self, address: int) -> tuple[int, int]:
        bar = max((base, bar) for bar, base in self._bars.items() if base <= address)[1]
        return bar, address - self._bars[bar]

    def read(self, address: int, width: int) -> int:
        return self._monitor.read(*self._find(address), width)

    def write(self, address: int, width: int, value: int) -> None:
        bar, offset = self._find(address)
        self._monitor.write(bar, offset, width, value)


class Machine:
    """A served virtio function."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.path = engine, str(folder / "virtio.sock")
        self.memory = ClientMemory()
        self.device = BlockDevice(RamDisk(1 << 20), engine)
        self.function = VirtioPci(self.device, self.memory)
        self.server = VfioUserServer(self.function, self.memory, engine, listen(self.path))

    def turn(self) -> None:
        self.engine.turn(0.001)

    def monitor(self, *, shared: bool = True) -> Monitor:
        return Monitor(self.path, poll=self.turn, start=False, shared=shared)

    def driver(self, monitor: Monitor, *, map_ram: bool = True) -> VirtioBlkPci:
        monitor.negotiate()
        region = monitor.ram.region
        if map_ram:
            monitor.dma_map(RAM, region.length, region.mmap_offset)
        ports = Ports(monitor)
        config = PciConfig(ports)
        config.place(AT, 0, PLACE)
        mmio = Memory(monitor, {bar: config.address(AT, bar) for bar in (0, 1)})
        ram = monitor.memory.view(region.guest_address, region.length)
        arena = Arena(GuestMemory([Region(RAM, ram)]), RAM, region.length)
        return VirtioBlkPci(ports, mmio, AT, arena, poll=self.turn, messages=MESSAGES)


@pytest.fixture
def machine(engine: Engine, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(engine, tmp_path)
    yield machine
    machine.server.close()


def test_blocks_are_written_and_read_by_messages(machine: Machine) -> None:
    data = bytes(range(256)) * 16
    vectors = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    with machine.monitor() as monitor:
        driver = machine.driver(monitor)
        monitor.wire(Irq.MSIX, vectors)
        driver.ring().want_interrupt()
        driver.write(3, data)
        assert driver.read(3, len(data)) == data
        assert os.eventfd_read(vectors[1])
    for vector in vectors:
        os.close(vector)


def test_a_ring_in_memory_that_is_not_shared_is_broken(machine: Machine) -> None:
    """A copy of it would never show what the guest has put in later."""
    with machine.monitor() as monitor:
        driver = machine.driver(monitor, map_ram=False)
        assert driver.status & DeviceStatus.DEVICE_NEEDS_RESET


def test_the_client_goes_and_another_comes(machine: Machine) -> None:
    for _ in range(3):
        with machine.monitor() as monitor:
            machine.driver(monitor).read(0, 512)
        assert machine.engine.run_until(lambda: machine.function.at_rest, 5)
        assert machine.function.config_read(Header.Command.offset, 2) == 0


def test_it_cannot_be_migrated(machine: Machine) -> None:
    with machine.monitor() as monitor:
        monitor.negotiate()
        with pytest.raises(RefusedByServer):
            monitor.feature(FeatureFlags.of(GET=1, INDEX=FeatureIndex.MIGRATION))


def test_memory_is_taken_away_and_comes_back(machine: Machine) -> None:
    """A ring sleeps meanwhile."""
    with machine.monitor() as monitor:
        driver = machine.driver(monitor)
        region = monitor.ram.region
        monitor.dma_unmap(RAM, region.length)
        pending = driver.submit(0, 0, 512)
        monitor.dma_map(RAM, region.length, region.mmap_offset)
        assert driver.wait(pending) == 0
        assert not driver.status & DeviceStatus.DEVICE_NEEDS_RESET
