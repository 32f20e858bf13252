"""`ide`: an IDE controller in this process: what a register costs, and what a request comes to.

The driver's accesses are recorded once, as Linux makes them, and made again without the driver; the
figure is microseconds of the controller for each request, beside a bare `os.preadv` of as much.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from benchmarks.inprocess import opened
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import IdeDisk, IdeDriver, Via
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import ConfigMechanism1, PciBus
from drivebay.platform.ports import Hold, PortRegion

RAM_SIZE = 8 << 20
COUNT, STATUS = 0x1F2, 0x1F7
NOTHING = 0x300
PLACES = 64
REGISTER_FLOOR_US = 0.4
SAMPLE_ACCESSES = 400_000
SAMPLE_REQUESTS = 8_000
PREADV, EMPTY_PORT = "bare os.preadv", "a port that does nothing"


@dataclass(frozen=True)
class Job:
    """Reads of `sectors` by one route."""

    name: str
    via: Via
    sectors: int


JOBS = [
    Job("dma-read-4k", Via.DMA, 8),
    Job("pio-read-4k", Via.PIO, 8),
    Job("multiple-read-4k", Via.MULTIPLE, 8),
    Job("int13-read-4k", Via.INT13, 8),
    Job("dma-read-1m", Via.DMA, 2048),
]


class Accesses(NamedTuple):
    """What a driver did for one request: what it put in memory, and each access."""

    memory: bytes
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]


class Nothing(PortRegion):
    """A port that takes what comes."""

    size = 1

    def port_write(self, offset: int, width: int, value: int) -> None:
        pass

    def port_read(self, offset: int, width: int) -> int:
        return 0


class Tape:
    """The board's ports, and what was done with them."""

    def __init__(self, board: Board) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._ports = board.ports

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.calls.append((call, arguments))
        return call(*arguments)

    def read(self, port: int, width: int) -> int:
        return int(self._do(self._ports.read, port, width))

    def write(self, port: int, width: int, value: int) -> Hold | None:
        self._do(self._ports.write, port, width, int(value))
        return None

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        self._do(self._ports.read_string, port, width, buffer)

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        self._do(self._ports.write_string, port, width, data)


class IdeBench:
    """A controller with one drive, and its driver."""

    def __init__(self, disk: Disk) -> None:
        self.engine = Engine()
        self.memory = GuestMemory.of_size(RAM_SIZE)
        self.board = Board(self.engine, self.memory)
        lines = (self.board.line(14), self.board.line(15))
        ide = PiixIde(self.memory, lines, PIIX4)
        self.drive = AtaDisk(disk, self.engine)
        ide.attach(0, 0, self.drive)
        bus = PciBus(self.board.ports, self.board.mmio)
        bus.plug(1, 0, ide)
        self.board.ports.map(0xCF8, ConfigMechanism1(bus))
        self.board.ports.map(NOTHING, Nothing())
        self.tape = Tape(self.board)
        arena = Arena(self.memory, 0x10000, RAM_SIZE - 0x10000)
        driver = IdeDriver(
            self.tape,
            arena,
            poll=partial(self.engine.turn, 0),
            raised=lambda number: self.board.line(14 + number).level,
        )
        self.disk: IdeDisk = driver.disk(0, 0)
        self.disk.set_multiple(16)

    def record(self, job: Job) -> list[Accesses]:
        """The same request at many places."""
        found = []
        for _ in range(PLACES):
            lba = random.randrange(self.disk.sectors // job.sectors) * job.sectors
            self.tape.calls.clear()
            data = self.disk.read(lba, job.sectors, job.via)
            if len(data) != job.sectors * 512:
                raise RuntimeError("the drive has not answered")
            found.append(Accesses(bytes(self.disk.channel.packet_bytes), tuple(self.tape.calls)))
        return found

    def replay(self, requests: Sequence[Accesses], count: int) -> float:
        """Make `count` requests again; the seconds that their accesses take."""
        clock, spent = time.perf_counter, 0.0
        packet = self.disk.channel.packet_bytes
        for memory, calls in itertools.islice(itertools.cycle(requests), count):
            packet[:] = memory
            start = clock()
            for call, arguments in calls:
                call(*arguments)
            spent += clock() - start
            if self.drive.busy:
                raise RuntimeError("the drive has not answered at once")
        return spent


def measure(run: Run) -> Iterator[Result]:
    """Registers, then requests."""
    with on_cpu(last_cpu()), opened(run, "file") as disk:
        bench = IdeBench(disk)
        yield _registers(run, bench, "register-write", (_write, COUNT), (_write, NOTHING))
        yield _registers(run, bench, "status-read", (_read, STATUS), (_read, NOTHING))
        for job in JOBS:
            yield _requests(run, bench, job)
        bench.engine.close()


Loop = tuple[Callable[[Board, int, int], None], int]


def _registers(run: Run, bench: IdeBench, what: str, ours: Loop, peer: Loop) -> Result:
    count = round(SAMPLE_ACCESSES * run.scale)

    def take(loop: Callable[[Board, int, int], None], port: int) -> Sample:
        start = time.perf_counter()
        loop(bench.board, port, count)
        return Sample((time.perf_counter() - start) / count * 1e6)

    name = f"ide/{what}"
    figures = run.alternate(name, partial(take, *ours), partial(take, *peer))
    return compare(name, "us", figures, EMPTY_PORT, floor=REGISTER_FLOOR_US)


def _write(board: Board, port: int, count: int) -> None:
    write = board.ports.write
    for _ in range(count):
        write(port, 1, 8)


def _read(board: Board, port: int, count: int) -> None:
    read = board.ports.read
    for _ in range(count):
        read(port, 1)


def _requests(run: Run, bench: IdeBench, job: Job) -> Result:
    requests = bench.record(job)
    size = job.sectors * 512
    count = max(round(SAMPLE_REQUESTS * run.scale * 8 / max(job.sectors, 8)), PLACES)

    def ours() -> Sample:
        return Sample(bench.replay(requests, count) / count * 1e6)

    name = f"ide/{job.name}"
    figures = run.alternate(name, ours, _bare_reads(run, size, count))
    accesses = {"accesses": len(requests[0].calls)}
    return compare(name, "us", figures, PREADV, extra=accesses)


def _bare_reads(run: Run, size: int, count: int) -> Callable[[], Sample]:
    """The peer: the system call that a read comes to, in a loop."""
    places = run.file.stat().st_size // size

    def take() -> Sample:
        buffer = [memoryview(bytearray(size))]
        offsets = [random.randrange(places) * size for _ in range(count)]
        fd, preadv = os.open(run.file, os.O_RDONLY), os.preadv
        try:
            start = time.perf_counter()
            for offset in offsets:
                preadv(fd, buffer, offset)
            return Sample((time.perf_counter() - start) / count * 1e6)
        finally:
            os.close(fd)

    return take
