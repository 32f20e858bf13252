"""`scsi`: fio in a guest that has our vhost-user SCSI host and QEMU's own; then what a command
costs in here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.guest import Attached, compare_disks
from benchmarks.inprocess import PEER, bare_reads, opened
from benchmarks.pci_guest import MODES, Inside, disk_of_model, jobs
from benchmarks.peers import Server
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.cli.backend import Backend
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.controllers.virtio.scsi_registers import (
    CDB_BYTES,
    SENSE_BYTES,
    ScsiAnswer,
    ScsiRequest,
)
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.drivers.virtio_scsi import REQUESTS, VirtioScsi, lun_field
from drivebay.guests.linux import LinuxGuest
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.scsi.cdb import Read10
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target

BASE = 0x10001000
RAM_START, RAM_SIZE = 0x80000000, 16 << 20
BLOCK = 4096
BATCH = 32
SAMPLE_COMMANDS = 32_000
THREADS = ("", "iothread")
"""Where QEMU's own host does its work."""

JOBS = tuple(replace(job, goal=1.0) for job in jobs(0.7, 0.7))


def measure(run: Run) -> Iterator[Result]:
    """In a guest, then in this process."""
    yield from _in_guest(run)
    with on_cpu(last_cpu()):
        for job in IN_PROCESS:
            with opened(run, job.disk) as disk:
                yield _in_process(run, job, disk)


# -- in a guest ------------------------------------------------------------------------------------


def _in_guest(run: Run) -> Iterator[Result]:
    with Backend(["--scsi", f"file:{run.file},product=OURS"]) as backend:
        ours = Server("drivebay", run.file, backend.pid)
        words = backend.qemu_arguments(run.qemu.version)
        words += ["-object", "iothread,id=iothread"]
        version = ".".join(map(str, run.qemu.version))
        names: list[str] = []
        for n, thread in enumerate(THREADS):
            with_thread = f",iothread={thread}" if thread else ""
            words += ["-device", f"virtio-scsi-pci,id=theirs{n},num_queues=1{with_thread}"]
            for mode in MODES:
                number = len(names)
                names.append(f"QEMU {version} ({', '.join(filter(None, (mode, thread)))})")
                words += [
                    *("-blockdev", f"driver=file,node-name=file{number},locking=off"
                      f",filename={run.file},aio={mode}"),
                    *("-device", f"scsi-hd,drive=file{number},bus=theirs{n}.0"
                      f",product=PEER{number},share-rw=on"),
                ]  # fmt: skip
        run.progress.say(f"booting a guest with {1 + len(names)} disks")
        guest = LinuxGuest(qemu_args=words, tools=["fio"], qemu=run.qemu, progress=run.progress.say)
        with guest:
            mine = Attached(disk_of_model(guest, "OURS"), ours)
            peers = [
                Attached(disk_of_model(guest, f"PEER{n}"), Inside(name))
                for n, name in enumerate(names)
            ]
            yield from compare_disks(run, "scsi", guest, mine, peers, JOBS)


# -- in this process -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """READs (10) of 4 KiB, `depth` with one notification."""

    disk: str
    depth: int

    @property
    def name(self) -> str:
        return f"scsi/in-process-randread-4k-qd{self.depth}-{self.disk}"


IN_PROCESS = [Local(disk, depth) for disk in ("file", "mem") for depth in (BATCH, 1)]


def _in_process(run: Run, job: Local, disk: Disk) -> Result:
    bench = Bench(job, disk)
    count = round(SAMPLE_COMMANDS * run.scale) // job.depth
    figures = run.alternate(job.name, lambda: Sample(bench.run(count)), bare_reads(run))
    bench.engine.close()
    return compare(job.name, "us", figures, PEER)


class Bench:
    """A host and its driver, with their registers between them."""

    def __init__(self, job: Local, disk: Disk) -> None:
        self.engine = Engine()
        target = Target(self.engine)
        target.add(0, ScsiDisk(disk))
        memory, space = GuestMemory.of_size(RAM_SIZE, RAM_START), MmioSpace()
        space.map(BASE, MmioTransport(ScsiDevice(target, self.engine), memory, Line(_nobody)))
        arena = Arena(memory, RAM_START, RAM_SIZE)
        split = ~(1 << RingFeature.RING_PACKED)
        self.driver = VirtioScsi(space, BASE, arena, poll=self.engine.turn, features=split)
        while self.driver.command(0, bytes(6)).status:  # TEST UNIT READY: attentions come first
            pass
        self.blocks, self.each = disk.byte_count // BLOCK, BLOCK // disk.sector_size
        self.chains: list[tuple[memoryview, list[Buffer]]] = []
        for _ in range(job.depth):
            request, data = arena.take(ScsiRequest.size + CDB_BYTES), arena.take(BLOCK, BLOCK)
            answer = arena.take(ScsiAnswer.size + SENSE_BYTES)
            chain = [
                Buffer(request, ScsiRequest.size + CDB_BYTES, False),
                Buffer(answer, ScsiAnswer.size + SENSE_BYTES, True),
                Buffer(data, BLOCK, True),
            ]
            view = memory.view(request, ScsiRequest.size + CDB_BYTES)
            view[: ScsiRequest.size] = ScsiRequest(lun_field(0), 1, 0, 0, 0).pack()
            self.chains.append((view[ScsiRequest.size :], chain))

    def run(self, count: int) -> float:
        """Microseconds of the host for each of `count` batches' commands."""
        driver, ring, clock = self.driver, self.driver.ring(REQUESTS), time.perf_counter
        spent = 0.0
        for _ in range(count):
            for cdb, chain in self.chains:
                lba = random.randrange(self.blocks) * self.each
                cdb[: Read10.size] = Read10(
                    logical_block_address=lba, transfer_length=self.each
                ).pack()
                ring.add(chain)
            if not ring.kick_wanted():
                raise RuntimeError("the device asks for no notification")
            start = clock()
            driver.notify(REQUESTS)
            spent += clock() - start
            if sum(1 for _ in ring.take()) != len(self.chains):
                raise RuntimeError("the device has not answered at once")
            driver.acknowledge()
            ring.want_interrupt()
        return spent / (count * len(self.chains)) * 1e6


def _nobody(_level: bool) -> None:
    """Nobody is interrupted."""
