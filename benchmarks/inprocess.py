"""`in-process`: our own driver over MMIO in this process: what a request costs, and where it goes.

Reads of 4 KiB, one at a time or 32 in a batch; the figure is microseconds of the device for each,
from the write to QueueNotify until that returns, beside a bare `os.preadv` of the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from benchmarks.stages import BLOCK, RAM_SIZE, RAM_START, StageBench, make_slots
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.registers import RingFeature
from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import VirtioBlk
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace

BASE = 0x10001000
PEER = "bare os.preadv"
BATCH = 32
FLOOR_US = 6.0
SAMPLE_REQUESTS = 16_000


@dataclass(frozen=True)
class Job:
    """One way to read: the disk, the ring, and how many requests with one notification."""

    disk: str
    ring: str
    depth: int

    @property
    def name(self) -> str:
        return f"in-process/randread-4k-qd{self.depth}-{self.ring}-{self.disk}"

    @property
    def indirect(self) -> bool:
        return self.ring.endswith("indirect")

    @property
    def features(self) -> int:
        packed = 1 << RingFeature.RING_PACKED
        return ~0 if self.ring == "packed" else ~packed


RINGS = ("split", "split-indirect", "packed")
JOBS = [
    Job(disk, ring, depth) for disk in ("file", "mem") for ring in RINGS for depth in (BATCH, 1)
]


class Times(NamedTuple):
    """Seconds of a sample: in the device, and with the driver's work."""

    device: float
    total: float


def measure(run: Run) -> Iterator[Result]:
    """Every job, then the stages of one of them."""
    with on_cpu(last_cpu()):
        for job in JOBS:
            with opened(run, job.disk) as disk:
                yield _compare(run, job, disk)
        yield from _stages(run)


@contextlib.contextmanager
def opened(run: Run, kind: str) -> Iterator[Disk]:
    """The benchmark's file, or as much memory, filled."""
    disk: Disk
    if kind == "file":
        disk = FileDisk(os.fspath(run.file))
    else:
        disk = RamDisk(64 << 20)
        noise = memoryview(os.urandom(1 << 20))
        for n in range(64):
            with contextlib.suppress(StopIteration):
                disk.write(n << 11, [noise]).send(None)
    try:
        yield disk
    finally:
        disk.close()


def _compare(run: Run, job: Job, disk: Disk) -> Result:
    bench = MmioBench(job, disk)
    count = round(SAMPLE_REQUESTS * run.scale) // job.depth
    totals = []

    def ours() -> Sample:
        times = bench.run(count)
        totals.append(times.total / (count * job.depth) * 1e6)
        return Sample(times.device / (count * job.depth) * 1e6)

    figures = run.alternate(job.name, ours, bare_reads(run))
    bench.engine.close()
    floor = FLOOR_US if job.depth > 1 else None
    total = sorted(totals)[len(totals) // 2]
    return compare(job.name, "us", figures, PEER, floor=floor, extra={"total_us": total})


def _stages(run: Run) -> Iterator[Result]:
    """Cumulative: each stage does what those before it do, and one thing more."""
    with opened(run, "file") as disk:
        for ring in ("split", "split-indirect"):
            bench = StageBench(disk, indirect=ring == "split-indirect")
            count = round(SAMPLE_REQUESTS * run.scale) // bench.depth
            takes = [partial(_stage, bench, stage, count) for stage in bench.stages]
            name = f"in-process/stage-{ring}"
            peer, *series = run.in_turn(name, [bare_reads(run), *takes])
            for stage, ours in zip(bench.stages, series, strict=True):
                yield compare(f"{name}-{stage}", "us", (ours, peer), PEER)
            bench.close()


def _stage(bench: StageBench, stage: str, count: int) -> Sample:
    return Sample(bench.run(stage, count) / (count * bench.depth) * 1e6)


def bare_reads(run: Run) -> Callable[[], Sample]:
    """The peer: the system call that a read comes to, in a loop."""
    blocks = run.file.stat().st_size // BLOCK
    count = round(SAMPLE_REQUESTS * run.scale)

    def take() -> Sample:
        buffers = itertools.cycle([[memoryview(bytearray(BLOCK))] for _ in range(BATCH)])
        offsets = [random.randrange(blocks) * BLOCK for _ in range(count)]
        fd, preadv = os.open(run.file, os.O_RDONLY), os.preadv
        try:
            start = time.perf_counter()
            for offset, buffer in zip(offsets, buffers, strict=False):
                preadv(fd, buffer, offset)
            return Sample((time.perf_counter() - start) / count * 1e6)
        finally:
            os.close(fd)

    return take


class MmioBench:
    """A device and its driver, with their registers between them."""

    def __init__(self, job: Job, disk: Disk) -> None:
        memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        self.engine = Engine()
        self.device = device = BlockDevice(disk, self.engine)
        space = MmioSpace()
        space.map(BASE, MmioTransport(device, memory, Line(lambda _level: None)))
        arena = Arena(memory, RAM_START, RAM_SIZE)
        poll = self.engine.turn
        self.driver = VirtioBlk(space, BASE, arena, poll=poll, features=job.features)
        self.slots = make_slots(arena, job.depth, indirect=job.indirect)
        self.blocks = disk.sector_count * disk.sector_size // BLOCK

    def run(self, count: int) -> Times:
        """So many batches; see Times."""
        driver, ring, clock = self.driver, self.driver.ring(), time.perf_counter
        device = 0.0
        began = clock()
        for _ in range(count):
            for slot in self.slots:
                slot.aim(self.blocks)
                ring.add(slot.chain, indirect=slot.table)
            if not ring.kick_wanted():
                raise RuntimeError("the device asks for no notification")
            start = clock()
            driver.notify(0)
            device += clock() - start
            if sum(1 for _ in ring.take()) != len(self.slots):
                raise RuntimeError("the device has not answered at once")
            driver.acknowledge()
            ring.want_interrupt()
        return Times(device, clock() - began)
