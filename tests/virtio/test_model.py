"""The device against a model: any requests at any depth, ended in any order.

The disk holds every operation until the test ends one of them. A sector's history says what a read
may return (hostile.md 4.9): the value of the last write that had ended when the read was sent, or
of any write that was under way at some moment of the read. Of writes that overlap in time any may
be the last.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.registers import BlockType, Segment
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import Pending
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk

from .bench import IOERR, OK, RAM_SIZE, RAM_START, RINGS, on_mmio

MOST, LEAST = 64, 24  # sectors
QUEUES, DEPTH = 4, 24
ZERO = 0

starts, counts, queues = st.integers(0, MOST - 1), st.integers(1, 6), st.integers(0, QUEUES - 1)


@dataclass
class Sector:
    """What one sector may hold: values that were written, each with when, and those under way."""

    settled: list[tuple[int, int]] = field(default_factory=lambda: [(ZERO, 0)])
    under_way: list[int] = field(default_factory=list)

    def possible(self) -> set[int]:
        return {value for value, _ in self.settled} | set(self.under_way)

    def settle(self, value: int, began: int, now: int) -> None:
        """A write has ended: it hides those that had ended before it began."""
        self.under_way.remove(value)
        self.settled = [(v, ended) for v, ended in self.settled if ended > began] + [(value, now)]


@dataclass
class Sent:
    """A request under way. `allowed` grows with each write that overlaps a read in time."""

    pending: Pending
    kind: int
    sectors: range
    value: int = ZERO
    began: int = 0
    allowed: list[set[int]] = field(default_factory=list)


class VirtioMachine(RuleBasedStateMachine):
    """MQ with four queues, on one kind of ring."""

    @initialize(ring=st.sampled_from(list(RINGS)), writeback=st.booleans())
    def power_on(self, ring: str, writeback: bool) -> None:
        self.engine = Engine(workers=0)
        self.ram = RamDisk(MOST * 512)
        self.recording = RecordingDisk(self.ram)
        self.recording.volatile_cache = True
        self.puppet = PuppetDisk(self.recording)
        memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        device = BlockDevice(self.puppet, self.engine, queues=QUEUES, queue_size=128)
        self.bench = bench = on_mmio(self.engine, self.puppet, memory, device)
        self.arena = Arena(memory, RAM_START, RAM_SIZE)
        self.driver = bench.driver(self.arena, features=RINGS[ring])
        self.sectors = [Sector() for _ in range(MOST)]
        self.capacity = MOST
        self.sent: list[Sent] = []
        self.values = self.now = 0
        self.switch(writeback)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.end_all()
            self.engine.close()
            self.ram.close()

    # -- what the guest does -----------------------------------------------------------------------

    def start(
        self, kind: int, sectors: range, queue: int, value: int = ZERO, data: bytes | None = None
    ) -> Sent | None:
        if len(self.sent) >= DEPTH:
            return None
        length = 512 * len(sectors) if kind == BlockType.IN else 0
        indirect = bool(self.values % 2)
        sector = sectors.start if kind in (BlockType.IN, BlockType.OUT) else 0
        pending = self.driver.submit(kind, sector, length, data, queue=queue, indirect=indirect)
        self.now += 1
        sent = Sent(pending, kind, sectors, value, self.now)
        self.sent.append(sent)
        if kind == BlockType.IN:
            sent.allowed = [self.sectors[n].possible() for n in sectors]
        elif kind != BlockType.FLUSH:
            for n in sectors:
                self.sectors[n].under_way.append(value)
            for other in self.sent:
                if other.kind == BlockType.IN:
                    for n, allowed in zip(other.sectors, other.allowed, strict=True):
                        if n in sectors:
                            allowed.add(value)
        return sent

    @rule(start=starts, count=counts, queue=queues)
    def read(self, start: int, count: int, queue: int) -> None:
        self.start(BlockType.IN, self.some(start, count), queue)

    @rule(start=starts, count=counts, queue=queues)
    def write(self, start: int, count: int, queue: int) -> None:
        self.values += 1
        sectors = self.some(start, count)
        data = struct.pack("<I", self.values) * (128 * len(sectors))
        self.start(BlockType.OUT, sectors, queue, self.values, data)

    @rule(start=starts, count=counts, queue=queues, unmap=st.booleans())
    def write_zeroes(self, start: int, count: int, queue: int, unmap: bool) -> None:
        sectors = self.some(start, count)
        data = Segment(sectors.start, len(sectors), int(unmap)).pack()
        self.start(BlockType.WRITE_ZEROES, sectors, queue, ZERO, data)

    @rule(start=starts, count=counts, queue=queues)
    def discard(self, start: int, count: int, queue: int) -> None:
        sectors = self.some(start, count)
        data = Segment(sectors.start, len(sectors), 0).pack()
        self.start(BlockType.DISCARD, sectors, queue, ZERO, data)

    @rule(queue=queues)
    def flush(self, queue: int) -> None:
        self.start(BlockType.FLUSH, range(0), queue)

    @rule(kind=st.sampled_from([BlockType.IN, BlockType.OUT]), count=counts, queue=queues)
    def go_past_the_end(self, kind: BlockType, count: int, queue: int) -> None:
        if len(self.sent) >= DEPTH:
            return
        data = bytes(512 * count) if kind == BlockType.OUT else None
        start = self.capacity - count + 1
        pending = self.driver.submit(kind, start, 512 * count, data, queue=queue)
        self.sent.append(Sent(pending, -1, range(0)))

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        """Of the write cache: without it each write that begins must be stable when it ends."""
        self.driver.write_config(32, int(on))

    # -- what the disk does ------------------------------------------------------------------------

    @rule(seed=st.integers(0, 1 << 16))
    def end_one(self, seed: int) -> None:
        self.engine.turn(0)
        held = self.puppet.held
        if held:
            random.Random(seed).choice(held).complete()
            self.settle()

    @rule(seed=st.integers(0, 1 << 16))
    def end_all(self, seed: int = 0) -> None:
        self.settle()
        while held := self.puppet.held:
            random.Random(seed).shuffle(held)
            for operation in held:
                operation.complete()
            self.settle()
        assert not self.sent

    @rule(count=st.integers(LEAST, MOST))
    def resize(self, count: int) -> None:
        """With nothing under way; what was cut off reads zero when it comes back."""
        self.end_all()
        run(self.ram.resize(count))
        for sector in self.sectors[count:]:
            sector.settled = [(ZERO, self.now)]
        self.capacity = count
        assert self.driver.config.capacity == count

    # -- the check ---------------------------------------------------------------------------------

    def some(self, start: int, count: int) -> range:
        start %= self.capacity
        return range(start, min(start + count, self.capacity))

    def settle(self) -> None:
        for _ in range(4):
            self.engine.turn(0)
        self.driver.collect()
        for sent in [sent for sent in self.sent if sent.pending.written is not None]:
            self.sent.remove(sent)
            self.ended(sent)

    def ended(self, sent: Sent) -> None:
        status = self.driver.memory.view(sent.pending.status_at, 1)[0]
        assert status == (IOERR if sent.kind == -1 else OK)
        if sent.kind == BlockType.IN:
            assert sent.pending.written == 512 * len(sent.sectors) + 1
            self.check(sent)
        elif sent.kind not in (BlockType.FLUSH, -1):
            self.now += 1
            for n in sent.sectors:
                self.sectors[n].settle(sent.value, sent.began, self.now)

    def check(self, sent: Sent) -> None:
        data = bytes(self.driver.memory.view(sent.pending.data, sent.pending.length))
        for n, allowed in enumerate(sent.allowed):
            words = set(struct.unpack_from("<128I", data, 512 * n))
            assert len(words) == 1, f"sector {sent.sectors[n]} is torn: {words}"
            assert words <= allowed, f"sector {sent.sectors[n]}: {words}, not of {allowed}"

    @invariant()
    def a_write_is_stable_when_the_cache_is_off(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.device._fua is not self.bench.device.writeback
            assert not self.bench.needs_reset


TestVirtio = VirtioMachine.TestCase
TestVirtio.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
