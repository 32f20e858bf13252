"""Where the microseconds of a request go: the device's steps, one more at a time."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.requests import any_frame, plain_frame
from drivebay.controllers.virtio.split import SplitQueue
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer, SplitDriverRing
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import QueueSetup, RingAddresses
from drivebay.suspend import DONE

BLOCK = 4096
RAM_START, RAM_SIZE = 0x80000000, 16 << 20
RING_SIZE = 256


class Slot(NamedTuple):
    """Guest memory of one request."""

    header: memoryview
    chain: Sequence[Buffer]
    table: int | None

    def aim(self, blocks: int) -> None:
        """Make it a read of one of the first `blocks` blocks of the disk."""
        sector = random.randrange(blocks) * (BLOCK // 512)
        struct.pack_into("<IIQ", self.header, 0, 0, 0, sector)


def make_slots(arena: Arena, count: int, *, indirect: bool) -> list[Slot]:
    """`count` requests of a block, laid out as Linux does it."""
    found = []
    for _ in range(count):
        header, data = arena.take(32, 16), arena.take(BLOCK, BLOCK)
        status = header + 16
        chain = [Buffer(header, 16, False), Buffer(data, BLOCK, True), Buffer(status, 1, True)]
        table = arena.take(16 * len(chain)) if indirect else None
        found.append(Slot(arena.memory.view(header, 16), chain, table))
    return found


class StageBench:
    """Runs batches of reads of `disk` as far as a stage goes, which does all that the last one did.

    - `ring`: chains are taken from the ring and given back;
    - `parse`: their requests are taken apart and checked;
    - `read`: their data is read and their status set;
    - `device`: the device itself does it, with its statistics and interrupt decisions.
    """

    stages = ("ring", "parse", "read", "device")

    def __init__(self, disk: Disk, *, indirect: bool, depth: int = 32) -> None:
        self.depth = depth
        self._disk = disk
        self._blocks = disk.sector_count * disk.sector_size // BLOCK
        self._memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        self._arena = Arena(self._memory, RAM_START, RAM_SIZE)
        self._slots = make_slots(self._arena, depth, indirect=indirect)
        self._engine = Engine()
        self._made: dict[str, tuple[SplitDriverRing, Callable[[], None]]] = {}

    def run(self, stage: str, count: int) -> float:
        """The seconds that the stage takes for so many batches."""
        if stage not in self._made:
            self._made[stage] = self._make(stage)
        ring, serve = self._made[stage]
        clock, spent = time.perf_counter, 0.0
        for _ in range(count):
            for slot in self._slots:
                slot.aim(self._blocks)
                ring.add(slot.chain, indirect=slot.table)
            start = clock()
            serve()
            spent += clock() - start
            if sum(1 for _ in ring.take()) != self.depth:
                raise RuntimeError(f"stage {stage} has not answered every request")
            ring.want_interrupt()
        return spent

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    def _make(self, stage: str) -> tuple[SplitDriverRing, Callable[[], None]]:
        """A ring for the stage, and what serves a batch in it."""
        ring = SplitDriverRing(self._arena, RING_SIZE, event_idx=True)
        addresses = RingAddresses(*ring.addresses)
        setup = QueueSetup(self._memory, RING_SIZE, addresses, lambda: None)
        if stage == "device":
            device = BlockDevice(self._disk, self._engine)
            device.set_features(device.features & ~(1 << RingFeature.RING_PACKED))
            device.start_queue(0, setup)
            return ring, lambda: device.kick(0)
        queue = SplitQueue(setup, event_idx=True)
        serve = {"ring": self._ring, "parse": self._parse, "read": self._read}[stage]
        return ring, lambda: serve(queue)

    def _ring(self, queue: SplitQueue) -> None:
        done: list[int] = []
        for head, _ in queue.chains():
            done += (head, 1)
        _give_back(queue, done)

    def _parse(self, queue: SplitQueue) -> None:
        memory = self._memory
        done: list[int] = []
        for head, rows in queue.chains():
            frame = plain_frame(rows, memory.window) or any_frame(rows, memory)
            done += (head, frame[4])
        _give_back(queue, done)

    def _read(self, queue: SplitQueue) -> None:
        memory, read = self._memory, self._disk.read
        done: list[int] = []
        for head, rows in queue.chains():
            frame = plain_frame(rows, memory.window) or any_frame(rows, memory)
            _, sector, data, _, written, ram, status_at = frame
            if read(sector, data) is not DONE:
                raise RuntimeError("the disk has not read at once")
            ram[status_at] = 0
            done += (head, written)
        _give_back(queue, done)


def _give_back(queue: SplitQueue, done: list[int]) -> None:
    queue.push_all(done)
    queue.publish()
