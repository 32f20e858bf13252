"""A driver for the virtio block device over MMIO: what a guest does, step by step.

It initialises the device as virtio 1.2 section 3.1 says, works it through registers and rings only,
and reads and writes whole requests, or hands out tokens for many at once::

    disk = VirtioBlk(space, 0x10001000, Arena(memory, 0x10000, 1 << 20), poll=engine.turn)
    disk.write(0, b"hello".ljust(512))
    disk.read(0, 512)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from drivebay.controllers.virtio.registers import (
    MMIO_CONFIG,
    MMIO_MAGIC,
    MMIO_VERSION,
    BlockConfig,
    BlockFeature,
    BlockRequest,
    BlockStatus,
    BlockType,
    MmioRegisters,
    RingFeature,
    Segment,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import (
    Buffer,
    DriverRing,
    PackedDriverRing,
    SplitDriverRing,
)
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.virtio import DeviceStatus

__all__ = ["BlockDriver", "DeviceError", "Pending", "VirtioBlk"]

ALL_FEATURES: Final = ~0


class DeviceError(Exception):
    """The device is not what it should be, or a request did not end well."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what if status is None else f"{what}: status {status}")
        self.status = status


class Pending:
    """A request under way: where its data is, and in the end its status."""

    __slots__ = ("data", "length", "status_at", "written")

    def __init__(self, data: int, length: int, status_at: int) -> None:
        self.data, self.length, self.status_at = data, length, status_at
        self.written: int | None = None


class BlockDriver:
    """Requests over rings that a transport has set up.

    `poll` is called while a request is awaited: it lets the device run.
    """

    def __init__(self, arena: Arena, poll: Callable[[], object]) -> None:
        self.arena, self.memory, self._poll = arena, arena.memory, poll
        self.features = 0
        self._rings: list[DriverRing] = []
        self._pending: dict[tuple[int, int], Pending] = {}
        self._free_slots: list[tuple[int, int]] = []

    def notify(self, queue: int) -> None:
        """Tell the device that there is work in a queue."""
        raise NotImplementedError

    def acknowledge(self) -> None:
        """Take note of an interrupt."""

    def has(self, feature: BlockFeature | RingFeature) -> bool:
        """Whether a feature was negotiated."""
        return bool(self.features >> feature & 1)

    def make_ring(self, size: int) -> DriverRing:
        """A ring of the negotiated kind, in the arena."""
        kind = PackedDriverRing if self.has(RingFeature.RING_PACKED) else SplitDriverRing
        return kind(self.arena, size, event_idx=self.has(RingFeature.EVENT_IDX))

    def ring(self, queue: int = 0) -> DriverRing:
        """The ring of a queue."""
        return self._rings[queue]

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
        token = self._rings[queue].add(chain, indirect=table)
        pending = self._pending[queue, token] = Pending(at, length, status_at)
        if kick:
            self.kick(queue)
        return pending

    def kick(self, queue: int = 0) -> None:
        """Tell the device of what was submitted, if it wants to know."""
        if self._rings[queue].kick_wanted():
            self.notify(queue)

    def collect(self) -> int:
        """Take back what has ended; how many."""
        self.acknowledge()
        count = 0
        for queue, ring in enumerate(self._rings):
            for token, written in ring.take():
                self._pending.pop((queue, token)).written = written
                count += 1
            ring.want_interrupt()
        return count

    def wait(self, pending: Pending, turns: int = 100_000) -> int:
        """Wait for a request; its status. Raises `DeviceError` if it never ends."""
        for _ in range(turns):
            self.collect()
            if pending.written is not None:
                return self.memory.view(pending.status_at, 1)[0]
            self._poll()
        raise DeviceError("a request does not end")

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


class VirtioBlk(BlockDriver):
    """The device at `base` of `space`, with its rings and buffers in `arena`.

    Raises `DeviceError` if there is none, or it does not do as it should.
    """

    def __init__(
        self,
        space: MmioSpace,
        base: int,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        features: int = ALL_FEATURES,
        queue_size: int | None = None,
    ) -> None:
        super().__init__(arena, poll)
        self._space, self._base = space, base
        self._initialise(features, queue_size)

    # -- registers -------------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Read a register by name."""
        at = MmioRegisters.registers[register]
        return self._space.read(self._base + at.offset, 4)

    def set(self, register: str, value: int) -> None:
        """Write a register by name."""
        at = MmioRegisters.registers[register]
        self._space.write(self._base + at.offset, 4, value)

    @property
    def status(self) -> DeviceStatus:
        """The device status field."""
        return DeviceStatus(self.get("Status"))

    @property
    def config(self) -> BlockConfig:
        """The configuration space, read until its generation holds still (section 4.2.2.2)."""
        while True:
            generation = self.get("ConfigGeneration")
            data = b"".join(
                self._space.read(self._base + MMIO_CONFIG + n, 4).to_bytes(4, "little")
                for n in range(0, BlockConfig.size, 4)
            )
            if generation == self.get("ConfigGeneration"):
                return BlockConfig.unpack(data)

    def write_config(self, offset: int, value: int) -> None:
        """Write one byte of the configuration space."""
        self._space.write(self._base + MMIO_CONFIG + offset, 1, value)

    def notify(self, queue: int) -> None:
        """Tell the device that there is work in a queue."""
        self.set("QueueNotify", queue)

    def acknowledge(self) -> None:
        """Take note of an interrupt."""
        cause = self.get("InterruptStatus")
        if cause:
            self.set("InterruptACK", cause)

    # -- initialisation (section 3.1.1) ----------------------------------------------------------

    def _initialise(self, wanted: int, queue_size: int | None) -> None:
        if self.get("MagicValue") != MMIO_MAGIC or self.get("Version") != MMIO_VERSION:
            raise DeviceError(f"no virtio device at {self._base:#x}")
        self.reset()
        self._add_status(DeviceStatus.ACKNOWLEDGE)
        self._add_status(DeviceStatus.DRIVER)
        self.features = self._offered() & wanted
        for word in (0, 1):
            self.set("DriverFeaturesSel", word)
            self.set("DriverFeatures", self.features >> 32 * word & 0xFFFFFFFF)
        self._add_status(DeviceStatus.FEATURES_OK)
        if not self.status.FEATURES_OK:
            raise DeviceError("the device refuses the features")
        queues = self.config.num_queues if self.has(BlockFeature.MQ) else 1
        for index in range(queues):
            self._rings.append(self._set_up_queue(index, queue_size))
        self._add_status(DeviceStatus.DRIVER_OK)

    def _offered(self) -> int:
        offered = 0
        for word in (0, 1):
            self.set("DeviceFeaturesSel", word)
            offered |= self.get("DeviceFeatures") << 32 * word
        return offered

    def _set_up_queue(self, index: int, size: int | None) -> DriverRing:
        self.set("QueueSel", index)
        size = size or self.get("QueueNumMax")
        self.set("QueueNum", size)
        ring = self.make_ring(size)
        for area, address in zip(("Desc", "Driver", "Device"), ring.addresses, strict=True):
            self.set(f"Queue{area}Low", address & 0xFFFFFFFF)
            self.set(f"Queue{area}High", address >> 32)
        self.set("QueueReady", 1)
        return ring

    def _add_status(self, bit: int) -> None:
        self.set("Status", self.get("Status") | bit)

    def reset(self, turns: int = 1000) -> None:
        """Reset the device and wait until it says so (section 2.4)."""
        self.set("Status", 0)
        for _ in range(turns):
            if self.get("Status") == 0:
                return
            self._poll()
        raise DeviceError("the device does not reset")
