"""A driver for the virtio block device, over MMIO or PCI: what a guest does, step by step.

It initialises the device as virtio 1.2 section 3.1 says, works it through registers and rings only,
and reads and writes whole requests, or hands out tokens for many at once::

    disk = VirtioBlk(space, 0x10001000, Arena(memory, 0x10000, 1 << 20), poll=engine.turn)
    disk.write(0, b"hello".ljust(512))
    disk.read(0, 512)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from drivebay.controllers.virtio.registers import (
    BlockConfig,
    BlockFeature,
    BlockRequest,
    BlockStatus,
    BlockType,
    Segment,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_driver import (
    ALL_FEATURES,
    DeviceError,
    Offered,
    RegisterDriver,
    RingDriver,
)
from drivebay.drivers.virtio_mmio import MmioDriver
from drivebay.drivers.virtio_pci import PciDriver
from drivebay.drivers.virtio_ring import Buffer

__all__ = [
    "ALL_FEATURES",
    "BlockDriver",
    "DeviceError",
    "Pending",
    "RegisterBlockDriver",
    "VirtioBlk",
    "VirtioBlkPci",
]


class Pending(Offered):
    """A request under way: where its data is, and in the end its status."""

    __slots__ = ("data", "length", "status_at")

    def __init__(self, data: int, length: int, status_at: int) -> None:
        super().__init__()
        self.data, self.length, self.status_at = data, length, status_at


class BlockDriver(RingDriver):
    """Requests over rings that a transport has set up."""

    def __init__(self, arena: Arena, poll: Callable[[], object]) -> None:
        super().__init__(arena, poll)
        self._free_slots: list[tuple[int, int]] = []

    def slot(self, length: int) -> tuple[int, int]:
        """Addresses of a header with its status byte behind it, and of `length` bytes of data."""
        for n, (header, capacity) in enumerate(self._free_slots):
            if capacity >= length:
                del self._free_slots[n]
                return header, header + 32
        header = self.arena.take(32 + length, 16)
        return header, header + 32

    def submit(
        self,
        kind: int,
        sector: int,
        length: int = 0,
        data: bytes | None = None,
        *,
        queue: int = 0,
        indirect: bool = False,
        kick: bool = True,
    ) -> Pending:
        """Start a request of `kind` with `length` bytes to read, or `data` to write."""
        length = len(data) if data is not None else length
        header, at = self.slot(length)
        status_at = header + BlockRequest.size
        struct.pack_into("<IIQ", self.memory.view(header, 16), 0, kind, 0, sector)
        self.memory.view(status_at, 1)[0] = 0xFF
        if data is not None:
            self.memory.view(at, length)[:] = data
        chain = [Buffer(header, 16, False)]
        if length:
            chain.append(Buffer(at, length, data is None))
        chain.append(Buffer(status_at, 1, True))
        table = self.arena.take(16 * len(chain)) if indirect else None
        pending = Pending(at, length, status_at)
        self.offer(queue, chain, pending, indirect=table, kick=kick)
        return pending

    def wait(self, pending: Pending, turns: int = 100_000) -> int:
        """Wait for a request; its status. Raises `DeviceError` if it never ends."""
        self.finish(pending, turns)
        return self.memory.view(pending.status_at, 1)[0]

    def request(
        self,
        kind: int,
        sector: int = 0,
        length: int = 0,
        data: bytes | None = None,
        *,
        queue: int = 0,
    ) -> bytes:
        """One request from start to end; what it read. Raises `DeviceError` unless it went well."""
        pending = self.submit(kind, sector, length, data, queue=queue)
        status = self.wait(pending)
        got = bytes(self.memory.view(pending.data, pending.length))
        self._free_slots.append((pending.data - 32, pending.length))
        if status != BlockStatus.OK:
            raise DeviceError(f"request type {kind} at sector {sector}", status)
        return got

    def read(self, sector: int, length: int) -> bytes:
        """`length` bytes from `sector` (of 512 bytes) on."""
        return self.request(BlockType.IN, sector, length)

    def write(self, sector: int, data: bytes) -> None:
        """Write `data` from `sector` on."""
        self.request(BlockType.OUT, sector, data=data)

    def flush(self) -> None:
        """Make what was written stable."""
        self.request(BlockType.FLUSH)

    def identity(self) -> str:
        """The serial."""
        return self.request(BlockType.GET_ID, length=20).rstrip(b"\0").decode()

    def discard(self, segments: Sequence[tuple[int, int]]) -> None:
        """Discard ranges: sector and count each."""
        self._segments(BlockType.DISCARD, [Segment(s, n, 0) for s, n in segments])

    def write_zeroes(self, segments: Sequence[tuple[int, int]], *, unmap: bool = False) -> None:
        """Zero ranges: sector and count each."""
        self._segments(BlockType.WRITE_ZEROES, [Segment(s, n, int(unmap)) for s, n in segments])

    def _segments(self, kind: int, segments: Sequence[Segment]) -> None:
        self.request(kind, data=b"".join(segment.pack() for segment in segments))


class RegisterBlockDriver(RegisterDriver, BlockDriver):
    """The same for a device behind registers."""

    @property
    def config(self) -> BlockConfig:
        """The configuration space."""
        return BlockConfig.unpack(self.read_config(BlockConfig.size))

    def queues_of_device(self) -> int:
        """How many there are."""
        return self.config.num_queues if self.has(BlockFeature.MQ) else 1


class VirtioBlk(MmioDriver, RegisterBlockDriver):
    """The device at `base` of `space`, with its rings and buffers in `arena`; see `MmioDriver`."""


class VirtioBlkPci(PciDriver, RegisterBlockDriver):
    """The device that is the PCI function `at`; see `PciDriver`."""
