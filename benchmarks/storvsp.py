"""StorVSP in this process: what a command costs the host, beside the bare reads it stands on."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator

from benchmarks.inprocess import PEER, bare_reads, opened
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.controllers.storvsp import StorVsp
from drivebay.controllers.storvsp.storvsp import SCSI
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.storvsc import StorVsc, VmbusDriver
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.vmbus_bus import VmBus
from drivebay.scsi.cdb import Read10
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target

RAM_SIZE = 16 << 20
BLOCK = 4096
SAMPLE_COMMANDS = 32_000
JOBS = [(disk, depth) for disk in ("file", "mem") for depth in (32, 1)]


def measure(run: Run) -> Iterator[Result]:
    """READs (10) of 4 KiB, some with one signal."""
    with on_cpu(last_cpu()):
        for name, depth in JOBS:
            with opened(run, name) as disk:
                yield _measure(run, f"storvsp/in-process-randread-4k-qd{depth}-{name}", disk, depth)


def _measure(run: Run, name: str, disk: Disk, depth: int) -> Result:
    bench = Bench(disk, depth)
    count = round(SAMPLE_COMMANDS * run.scale) // depth
    figures = run.alternate(name, lambda: Sample(bench.run(count)), bare_reads(run))
    bench.engine.close()
    return compare(name, "us", figures, PEER)


class Bench:
    """A controller and its driver on one bus."""

    def __init__(self, disk: Disk, depth: int) -> None:
        self.engine = Engine()
        target = Target(self.engine)
        target.add(0, ScsiDisk(disk))
        memory = GuestMemory.of_size(RAM_SIZE)

        def send(message: bytes) -> None:
            guest.receive(message)

        bus = VmBus(memory, send, lambda channel, vp: None)
        guest = VmbusDriver(bus.message, bus.signal, lambda: self.engine.turn(0))
        StorVsp(target, memory, self.engine, instance=uuid.UUID(int=1)).attach(bus)
        guest.connect()
        (offer,) = guest.find(SCSI)
        self.driver = StorVsc(guest, offer, Arena(memory, 0, RAM_SIZE), slots=depth)
        self.driver.run(bytes(6))  # TEST UNIT READY: an attention comes first
        self.depth = depth
        self.blocks, self.each = disk.byte_count // BLOCK, BLOCK // disk.sector_size

    def run(self, count: int) -> float:
        """Microseconds of the host for each of `count` batches' commands."""
        driver, channel, clock = self.driver, self.driver.channel, time.perf_counter
        spent = 0.0
        for _ in range(count):
            for slot in range(self.depth):
                lba = random.randrange(self.blocks) * self.each
                cdb = Read10(logical_block_address=lba, transfer_length=self.each).pack()
                driver.start(cdb, BLOCK, slot=slot, signal=False)
            start = clock()
            channel.kick()
            spent += clock() - start
            channel.take()
            if len(channel.ended) != self.depth:
                raise RuntimeError("the controller has not answered at once")
            channel.ended.clear()
        return spent / (count * self.depth) * 1e6
