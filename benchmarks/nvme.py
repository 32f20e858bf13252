"""`nvme`: fio in a guest that has our NVMe function and QEMU's; then what a command costs in here.

``python -m benchmarks.nvme FILE SOCKET SOCKET`` serves the file as two controllers. The second does
not offer doorbells in memory.
"""

from __future__ import annotations

import random
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.accesses import Trace, per_request, round_trip
from benchmarks.guest import Attached, Job, compare_disks, fio
from benchmarks.inprocess import PEER, bare_reads, opened
from benchmarks.pci_guest import COUNTED, MODES, Inside, jobs
from benchmarks.peers import PeerError, Server, started
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.controllers.nvme import Nvme, Subsystem
from drivebay.controllers.nvme.opcodes import NvmOpcode
from drivebay.disk.backends.file import FileDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme import NvmeDriver
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import RegionAccess
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.board import Board
from drivebay.platform.engine import LONG_MOMENT, Engine, Lookout
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Command, Header, PciBus

BAR = 0xFE000000
RAM_SIZE = 16 << 20
BATCH = 32
SAMPLE_COMMANDS = 32_000
SAMPLE_SECONDS = 0.6
SERIALS = ("OURS", "REGISTERS")
CSTS = RegionAccess(offset=0x1C, region=0, count=4)
DEVICE = '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"%s"}}'

IOPS = tuple(replace(job, goal=1.5 if job.unit == "IOPS" else 1.0) for job in jobs(1.0, 0.9))
REGISTERS = tuple(replace(job, floor=None, goal=None) for job in IOPS if job.kind == "randread")


def measure(run: Run) -> Iterator[Result]:
    """In a guest, then in this process."""
    yield from _in_guest(run)
    with on_cpu(last_cpu()):
        for job in IN_PROCESS:
            with opened(run, job.disk) as disk:
                yield _in_process(run, job, disk)


# -- in a guest ------------------------------------------------------------------------------------


def _in_guest(run: Run) -> Iterator[Result]:
    sockets = [run.folder / f"{name}.sock" for name in SERIALS]
    command = [sys.executable, "-m", "benchmarks.nvme", str(run.file), *map(str, sockets)]
    with started("drivebay", sockets[-1], command) as server:
        yield round_trip(run, "nvme", str(sockets[0]), CSTS)
        trace = run.folder / "nvme.trace"
        trace.touch()
        words = ["-D", str(trace)]
        for path in sockets:
            words += ["-device", DEVICE % path]
        for n, mode in enumerate(MODES):
            words += [
                *("-blockdev", f"driver=file,node-name=file{n},locking=off,filename={run.file}"
                  f",aio={mode}"),
                *("-device", f"nvme,serial=PEER{n}"),
                *("-device", f"nvme-ns,drive=file{n},share-rw=on"),
            ]  # fmt: skip
        run.progress.say(f"booting a guest with {2 + len(MODES)} disks")
        guest = LinuxGuest(qemu_args=words, tools=["fio"], qemu=run.qemu, progress=run.progress.say)
        with guest:
            version = ".".join(map(str, run.qemu.version))
            ours, registers = (_attached(guest, serial, server) for serial in SERIALS)
            peers = [
                _attached(guest, f"PEER{n}", Inside(f"QEMU {version} ({mode})"))
                for n, mode in enumerate(MODES)
            ]
            yield from compare_disks(run, "nvme", guest, ours, peers, IOPS)
            yield from compare_disks(run, "nvme/registers-only", guest, registers, peers, REGISTERS)
            traced = Trace(guest, trace)
            for part, disk in (("nvme", ours), ("nvme/registers-only", registers)):
                yield from per_request(run, part, traced, COUNTED, disk, peers[0], "nvme")
                yield from _interrupts(run, part, guest, disk, peers[0])


def _attached(guest: LinuxGuest, serial: str, server: Server) -> Attached:
    """The disk of the controller with that serial number."""
    found = guest.run(f"grep -l '^{serial} *$' /sys/class/nvme/nvme*/serial").output.split()
    if len(found) != 1:
        raise PeerError(f"the guest has no NVMe controller {serial}")
    return Attached(f"/dev/{found[0].split('/')[4]}n1", server)


def _interrupts(
    run: Run, part: str, guest: LinuxGuest, ours: Attached, peer: Attached
) -> Iterator[Result]:
    """Interrupts of each request, as the guest counts them."""

    def take(disk: Attached, job: Job) -> Sample:
        before = _counted(guest, disk)
        requests = fio(guest, disk, job, SAMPLE_SECONDS * run.scale).requests
        return Sample((_counted(guest, disk) - before) / requests)

    for job in COUNTED:
        name = f"{part}/interrupts-{job.name}"
        figures = run.alternate(name, partial(take, ours, job), partial(take, peer, job))
        yield compare(name, "interrupts", figures, peer.server.name)


def _counted(guest: LinuxGuest, disk: Attached) -> int:
    controller = re.sub(r"n\d+$", "", disk.device.removeprefix("/dev/"))
    lines = guest.run(f"grep -E ' {controller}q[0-9]+$' /proc/interrupts").output
    return sum(int(line.split()[1]) for line in lines.splitlines())


# -- in this process -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """Reads of 4 KiB, `depth` with one ring of a doorbell, or with it in memory."""

    disk: str
    depth: int
    in_memory: bool = False

    @property
    def name(self) -> str:
        memory = "-in-memory" if self.in_memory else ""
        return f"nvme/in-process-randread-4k-qd{self.depth}{memory}-{self.disk}"


IN_PROCESS = [
    Local(disk, depth, in_memory)
    for disk in ("file", "mem")
    for depth in (BATCH, 1)
    for in_memory in (False, True)
]


def _in_process(run: Run, job: Local, disk: Disk) -> Result:
    bench = Bench(job, disk)
    count = round(SAMPLE_COMMANDS * run.scale) // job.depth
    figures = run.alternate(job.name, lambda: Sample(bench.run(count)), bare_reads(run))
    bench.engine.close()
    return compare(job.name, "us", figures, PEER)


class Bench:
    """A controller and its driver, with their registers between them."""

    def __init__(self, job: Local, disk: Disk) -> None:
        self.engine = Engine()
        board = Board(self.engine, GuestMemory.of_size(RAM_SIZE))
        self.nvme = nvme = Nvme(board.memory, self.engine, queues=1)
        nvme.add(1, disk)
        PciBus(board.ports, board.mmio).plug(4, 0, nvme)
        nvme.config_write(Header.BAR0.offset, 4, BAR)
        nvme.config_write(Header.Command.offset, 2, Command.of(MemorySpace=1, BusMaster=1))
        arena = Arena(board.memory, 1 << 20, RAM_SIZE - (1 << 20))
        turn = partial(self.engine.turn, 0)
        self.driver = NvmeDriver(board.mmio, BAR, arena, poll=turn, depth=256, buffer=4 << 20)
        self.namespace = self.driver.namespace(1)
        if job.in_memory:
            self.driver.use_doorbell_buffers()
        self.depth = job.depth
        self.blocks = disk.byte_count // 4096

    def run(self, count: int) -> float:
        """Microseconds of the controller for each of `count` batches' commands."""
        driver, clock, turn = self.driver, time.perf_counter, self.engine.turn
        queue, each = self.namespace.queue, 4096 // self.namespace.block
        spent = 0.0
        for _ in range(count):
            for slot in range(self.depth):
                place = random.randrange(self.blocks) * each
                read = driver.command(
                    NvmOpcode.READ,
                    nsid=1,
                    dwords=(place, 0, each - 1),
                    data=(driver.buffer + 4096 * slot, 4096),
                    cid=queue.next_id(),
                )
                queue.put(read)
            start = clock()
            queue.ring()
            turn(0)
            spent += clock() - start
            if queue.reap() != self.depth:
                raise RuntimeError("the controller has not answered at once")
            queue.done.clear()
        return spent / (count * self.depth) * 1e6


# -- a server --------------------------------------------------------------------------------------


def serve(file: str, *paths: str) -> None:
    """Serve the file at both sockets, until this process is killed."""
    engine, disk = Engine(), FileDisk(file)
    with ExitStack() as stack:
        for path, serial in zip(paths, SERIALS, strict=True):
            memory = ClientMemory()
            function = Nvme(
                memory,
                engine,
                subsystem=Subsystem(serial=serial, nqn=f"nqn.2026-01.drivebay:{serial}"),
                doorbell_buffers=serial == "OURS",
                linger=Lookout(engine),
                linger_long=Lookout(engine, LONG_MOMENT),
            )
            function.add(1, disk)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen()
            VfioUserServer(function, memory, engine, listener)
        engine.run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
