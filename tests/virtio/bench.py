"""A guest with one virtio block device at xv6's address, and words for what hostile guests do."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.controllers.virtio.registers import BlockRequest, RingFeature
from drivebay.controllers.virtio.transport import RegisterTransport
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.pci import PciAddress, PciConfig
from drivebay.drivers.virtio_blk import RegisterBlockDriver, VirtioBlk, VirtioBlkPci
from drivebay.drivers.virtio_ring import Buffer, PackedDriverRing, SplitDriverRing
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.pci import ConfigMechanism1, PciBus
from drivebay.platform.ports import PortSpace
from drivebay.platform.virtio import DeviceStatus

BASE = 0x10001000  # where xv6 looks for it
RAM_START, RAM_SIZE = 0x80000000, 16 << 20

AT = PciAddress(5, 0)
PORTS, REGISTERS = 0xC000, 0xFE000000
MESSAGES = [(0xFEE00000, 0x40 + vector) for vector in range(3)]
"""Of MSI-X: the configuration's, and two for queues."""

ALL = ~0
EVENT_IDX, PACKED = 1 << RingFeature.EVENT_IDX, 1 << RingFeature.RING_PACKED
SPLIT = ALL & ~PACKED
RINGS = {
    "split": SPLIT & ~EVENT_IDX,
    "split, event index": SPLIT,
    "packed": ALL & ~EVENT_IDX,
    "packed, event index": ALL,
}

OK, IOERR, UNSUPP = 0, 1, 2
NO_ANSWER = 0xFF
"""What a status byte holds before the device has written it."""


@dataclass
class Bench:
    """One device on the bench: everything a test may want to touch."""

    engine: Engine
    disk: Disk
    memory: GuestMemory
    device: BlockDevice
    transport: RegisterTransport
    line: Line
    space: MmioSpace
    connect: Callable[..., RegisterBlockDriver]
    """Makes a driver."""
    levels: list[bool] = field(default_factory=list)
    """Of the interrupt, as they change. A message is one that goes up."""

    def driver(self, arena: Arena | None = None, **options: Any) -> RegisterBlockDriver:
        arena = arena or Arena(self.memory, self.memory.regions[0].address, RAM_SIZE)
        return self.connect(arena, poll=lambda: self.engine.turn(0.01), **options)

    def guest(self, arena: Arena | None = None, **options: Any) -> Guest:
        return Guest(self, self.driver(arena, **options))

    def settle(self) -> None:
        """Let the device do all it can do now."""
        for _ in range(8):
            self.engine.turn(0)

    def finish(self) -> None:
        """Let the device finish all that it has begun."""
        runners = self.device._runners.values()
        assert self.engine.run_until(lambda: not any(runner._tasks for runner in runners), 5)
        self.settle()

    @property
    def needs_reset(self) -> bool:
        return DeviceStatus(self.transport.status()).DEVICE_NEEDS_RESET

    def still_works(self) -> None:
        """After a reset the device serves a driver as if nothing had been."""
        for features in (SPLIT, ALL):
            driver = self.driver(features=features)
            assert not self.needs_reset
            size = self.disk.sector_size
            if self.disk.read_only:
                driver.read(0, size)
                continue
            driver.write(size // 512, b"\xa5" * size)
            assert driver.read(size // 512, size) == b"\xa5" * size
            driver.flush()
        driver.reset()

    @contextmanager
    def survives(self, seconds: float = 1.0) -> Iterator[None]:
        """What happens inside takes not much longer than that of the processor, however busy the
        machine is, and afterwards the device still works.
        """
        started = time.process_time()
        yield
        self.settle()
        took = time.process_time() - started
        assert took < 5 * seconds, f"it took {took:.2f} s"
        self.still_works()


def on_mmio(engine: Engine, disk: Disk, memory: GuestMemory, device: BlockDevice) -> Bench:
    """A bench whose device is at xv6's address."""
    levels: list[bool] = []
    line, space = Line(levels.append), MmioSpace()
    transport = MmioTransport(device, memory, line)
    space.map(BASE, transport)
    connect = partial(VirtioBlk, space, BASE)
    return Bench(engine, disk, memory, device, transport, line, space, connect, levels)


class PciSlot:
    """A function on a bus of its own, its BARs where firmware would put them."""

    def __init__(self, function: VirtioPci) -> None:
        self.function, self.ports, self.space = function, PortSpace(), MmioSpace()
        self.levels: list[bool] = []
        self.messages: list[tuple[int, int]] = []
        function.msix.send = self._message
        bus = PciBus(self.ports, self.space, lambda _line, level: self.levels.append(level))
        bus.plug(*AT, function)
        self.ports.map(0xCF8, ConfigMechanism1(bus))
        self.config = PciConfig(self.ports)
        self.config.place(AT, PORTS, REGISTERS)

    def _message(self, address: int, data: int) -> None:
        self.messages.append((address, data))
        self.levels.append(True)


def on_pci(
    engine: Engine, disk: Disk, memory: GuestMemory, device: BlockDevice, *, messages: bool
) -> Bench:
    """A bench whose device is a PCI function, which interrupts by messages or not."""
    function = VirtioPci(device, memory)
    slot = PciSlot(function)
    told = MESSAGES if messages else ()
    connect = partial(VirtioBlkPci, slot.ports, slot.space, AT, messages=told)
    block = function.transport
    line = function.intx
    return Bench(engine, disk, memory, device, block, line, slot.space, connect, slot.levels)


TRANSPORTS = ["mmio", "pci", "pci, messages"]
OVER_ALL = pytest.mark.parametrize("transport", TRANSPORTS)
"""For a test that is about none: it runs over each."""


@pytest.fixture(params=TRANSPORTS)
def every_transport(request: pytest.FixtureRequest) -> str:
    """The same for all tests of a file."""
    return str(request.param)


MakeBench = Callable[..., Bench]


class Sent(NamedTuple):
    """A request as a guest has laid it out."""

    chain: list[Buffer]
    data: int
    length: int
    status_at: int


class Guest:
    """Whoever is behind the driver: he can put anything anywhere."""

    def __init__(self, bench: Bench, driver: RegisterBlockDriver) -> None:
        self.bench, self.driver, self.memory = bench, driver, bench.memory
        self.arena = driver.arena

    @property
    def split(self) -> SplitDriverRing:
        ring = self.driver.ring()
        assert isinstance(ring, SplitDriverRing)
        return ring

    @property
    def packed(self) -> PackedDriverRing:
        ring = self.driver.ring()
        assert isinstance(ring, PackedDriverRing)
        return ring

    def put(self, data: bytes) -> int:
        """The address of fresh memory that holds `data`."""
        address = self.arena.take(len(data))
        self.memory.view(address, len(data))[:] = data
        return address

    def get(self, address: int, length: int) -> bytes:
        return bytes(self.memory.view(address, length))

    def request(self, kind: int, sector: int = 0, *, out: bytes = b"", room: int = 0) -> Sent:
        """A request, laid out but not sent: data to write, or room to read into."""
        header = self.put(struct.pack("<IIQ", kind, 0, sector))
        status_at = self.put(bytes([NO_ANSWER]))
        chain = [Buffer(header, BlockRequest.size, False)]
        data = self.put(out or bytes(room))
        if out or room:
            chain.append(Buffer(data, len(out) or room, not out))
        chain.append(Buffer(status_at, 1, True))
        return Sent(chain, data, len(out) or room, status_at)

    def send(self, chain: Sequence[Buffer], *, indirect: bool = False) -> int:
        """Put a chain into the first ring and kick; its token."""
        table = self.arena.take(16 * len(chain)) if indirect else None
        token = self.driver.ring().add(chain, indirect=table)
        self.kick()
        return token

    def kick(self) -> None:
        self.driver.notify(0)
        self.bench.settle()

    def status(self, request: Sent) -> int:
        return self.memory.view(request.status_at, 1)[0]

    def ask(self, request: Sent, *, indirect: bool = False) -> int:
        """Send it and wait; its status, or `NO_ANSWER`."""
        self.send(request.chain, indirect=indirect)
        self.bench.finish()
        list(self.driver.ring().take())
        return self.status(request)

    def used(self) -> list[tuple[int, int]]:
        """What the device has given back since the last look: token and bytes written."""
        return list(self.driver.ring().take())
