"""`layers`: what layers cost: chains, sparse disks, the RAM layer's memory, the SQLite layer.

Disks are driven in this process, one operation at a time, as an engine does it. The peer of the
chain is one of qcow2 images with the same content over the same file, in `qemu-img bench`, which is
QEMU's block layer without a guest, too.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import PATH, Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.disk.contract import Disk
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.sql import open_alone
from drivebay.disk.spec import open_disk
from drivebay.platform.engine import Engine

DEPTH = 100
WRITES = 64  # of 4 KiB, in each layer
READS = 20_000
STEP = 7919 * 4096  # far from the last read, and every block has its turn
SQL_WRITES = 8192
FLUSHES = 40
RAM_WRITES = 65536

WRITE_US = 1e6 / 15_000
OPEN = """
import sys
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
sys.stdin.readline()
disk = open_disk(sys.argv[1], read_only=True)
run(disk.read(0, [memoryview(bytearray(4096))]))
print("read", flush=True)
sys.stdin.read()
"""


def measure(run: Run) -> Iterator[Result]:
    """All of it."""
    with on_cpu(last_cpu()):
        yield from _ram_chain(run)
        yield from _stored_chain(run)
        yield from _sparse(run)
        yield _ram_layer(run)
        yield from _sql(run)


class Driver:
    """Operations on a disk, each to its end."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._engine = Engine(workers=1)
        self._ended: list[BaseException | None] = []

    def __call__(self, operation: Any) -> None:
        self._engine.start(operation, self._done)
        if not self._ended:
            self._engine.run_until(lambda: bool(self._ended), timeout=600)
        if error := self._ended.pop():
            raise error

    def _done(self, value: Any, error: BaseException | None) -> None:
        self._ended.append(error)

    def reads(self, count: int) -> Sample:
        """4 KiB reads a second, spread over the disk."""
        buffers = [memoryview(bytearray(4096))]
        read, size = self.disk.read, self.disk.sector_size
        blocks = self.disk.byte_count >> 12
        started = time.perf_counter()
        block = 0
        for _ in range(count):
            self(read((block << 12) // size, buffers))
            block = (block + STEP // 4096) % blocks
        return Sample(count / (time.perf_counter() - started))

    def close(self) -> None:
        self.disk.close()
        self._engine.close()


@contextmanager
def driving(disk: Disk) -> Iterator[Driver]:
    driver = Driver(disk)
    try:
        yield driver
    finally:
        driver.close()


def _blocks(layer: int, count: int) -> list[int]:
    """Where a layer of the chains was written: the same in ours and in QEMU's."""
    return random.Random(layer).sample(range(count), WRITES)


# -- chains ----------------------------------------------------------------------------------------


def _ram_chain(run: Run) -> Iterator[Result]:
    with driving(_in_memory(run.file, DEPTH)) as many, driving(_in_memory(run.file, 1)) as one:
        count = round(READS * run.scale)
        for driver in (many, one):
            driver.reads(count)
        figures = run.alternate("ram chain", partial(many.reads, count), partial(one.reads, count))
    name = f"layers/randread-4k-{DEPTH}-ram-layers"
    yield compare(name, "IOPS", figures, "one RAM layer", floor=0.5)


def _in_memory(base: Path, depth: int) -> Disk:
    disk = open_disk(f"file:{base}", read_only=True)
    for number in range(depth):
        disk = LayeredDisk.over(RamLayer(disk.byte_count), disk)
        driver = Driver(disk)
        for block in _blocks(number, disk.byte_count >> 12):
            driver(disk.write(block * 8, [memoryview(bytes([number + 1]) * 4096)]))
    return disk


def _stored_chain(run: Run) -> Iterator[Result]:
    if not all(map(shutil.which, ("qemu-img", "qemu-io"))):
        run.progress.say("no qemu-img here: the chain on disk is left out")
        return
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        run.progress.say(f"making two chains of {DEPTH}")
        spec = _make_sql_chain(run.file, folder)
        image = _make_qcow2_chain(run.file, folder)
        version = subprocess.check_output(["qemu-img", "--version"], text=True)
        found = re.search(r"version ([0-9.]+)", version)
        peer = f"qcow2 x{DEPTH}, qemu-img {found[1] if found else ''}"
        count = round(READS * run.scale)
        with driving(open_disk(spec, read_only=True)) as driver:
            driver.reads(count)
            takes = partial(driver.reads, count), partial(_qemu_reads, image, count)
            figures = run.alternate("stored chain", *takes)
        name = f"layers/randread-4k-{DEPTH}-sql-layers"
        yield compare(name, "IOPS", figures, peer)
        ours = [sys.executable, "-c", OPEN, spec]
        theirs = ["qemu-io", "-r", "-f", "qcow2", image]
        peer = peer.replace("img", "io")
        held: dict[str, list[float]] = {"ours": [], "theirs": []}
        takes = partial(_process, ours, held["ours"]), partial(_process, theirs, held["theirs"])
        figures = run.alternate("open, each a process", *takes)
        yield compare(f"layers/open-{DEPTH}-process", "per s", figures, peer)
        sides = [itertools.cycle(map(Sample, one)) for one in held.values()]
        figures = run.alternate("memory", *(partial(next, side) for side in sides))
        yield compare(f"layers/memory-{DEPTH}", "MiB", figures, peer)
        figures = run.alternate("open", partial(_opens, spec), partial(_process, theirs, []))
        yield compare(f"layers/open-{DEPTH}", "per s", figures, peer, floor=1)


def _make_sql_chain(base: Path, folder: str) -> str:
    spec = f"file:{base};sector=4k"
    for number in range(DEPTH):
        path = f"{folder}/{number}.dbhd"
        with driving(open_disk(f"sqldiff:{path};create:{spec}")) as driver:
            for block in _blocks(number, driver.disk.sector_count):
                driver(driver.disk.write(block, [memoryview(bytes([number + 1]) * 4096)]))
        spec = f"sqldiff:{path}:{spec}"
    return spec


def _make_qcow2_chain(base: Path, folder: str) -> str:
    below, form = str(base), "raw"
    for number in range(DEPTH):
        path = f"{folder}/{number}.qcow2"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", below, path]
        subprocess.run(create, check=True, capture_output=True, text=True)
        writes = []
        for block in _blocks(number, base.stat().st_size >> 12):
            writes += ["-c", f"write -q -P {number + 1} {block << 12} 4k"]
        command = ["qemu-io", "-f", "qcow2", *writes, path]
        subprocess.run(command, check=True, capture_output=True, text=True)
        below, form = path, "qcow2"
    return below


def _qemu_reads(image: str, count: int) -> Sample:
    command = ["qemu-img", "bench", "-f", "qcow2", "-c", str(count), "-d", "1", "-s", "4096"]
    command += ["-S", str(STEP), "-t", "writeback", "-U", image]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"completed in ([0-9.]+) seconds", done.stdout)
    assert found is not None, done.stdout
    return Sample(count / float(found[1]))


def _process(command: list[str], held: list[float]) -> Sample:
    """How often a second a process could start, open the chain and read; and the MiB it held."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("read 0 4k\n")
        process.stdin.flush()
        while "read" not in (line := process.stdout.readline()):
            if not line:
                raise subprocess.CalledProcessError(process.wait(), command)
        took = time.perf_counter() - started
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.close()
    [most] = re.findall(r"VmHWM:\s+([0-9]+) kB", status)
    held.append(int(most) / 1024)
    return Sample(1 / took)


def _opens(spec: str) -> Sample:
    started = time.perf_counter()
    with driving(open_disk(spec, read_only=True)) as driver:
        driver(driver.disk.read(0, [memoryview(bytearray(4096))]))
        return Sample(1 / (time.perf_counter() - started))


# -- memory ----------------------------------------------------------------------------------------


def _sparse(run: Run) -> Iterator[Result]:
    count = round(READS * run.scale)
    sizes = "16T", "1G"

    def written(size: str) -> Driver:
        driver = Driver(open_disk(f"memdiff:mem:{size}"))
        for block in range(0, 1 << 18, 16):  # as much in either, in the first gibibyte
            driver(driver.disk.write(block * 8, [memoryview(b"x" * 4096)]))
        return driver

    def reads(driver: Driver) -> Sample:
        buffers = [memoryview(bytearray(4096))]
        started = time.perf_counter()
        for at in range(count):
            driver(driver.disk.read((at * 7919 % (1 << 18)) * 8, buffers))
        return Sample(count / (time.perf_counter() - started))

    drivers = [written(size) for size in sizes]
    figures = run.alternate("sparse", *(partial(reads, driver) for driver in drivers))
    yield compare("layers/sparse-randread-4k-16t", "IOPS", figures, "1 GiB", floor=0.98)
    for driver in drivers:
        driver.close()

    def opens(size: str) -> Sample:
        started = time.perf_counter()
        for _ in range(100):
            open_disk(f"memdiff:mem:{size}").close()
        return Sample(100 / (time.perf_counter() - started))

    figures = run.alternate("sparse open", *(partial(opens, size) for size in sizes))
    yield compare("layers/sparse-open-16t", "per s", figures, "1 GiB", floor=0.98)

    def held(size: str) -> Sample:
        return Sample(_held_by(lambda: written(size)) / 1024)

    figures = run.alternate("sparse memory", *(partial(held, size) for size in sizes))
    yield compare("layers/sparse-memory-16t", "KiB", figures, "1 GiB")


def _ram_layer(run: Run) -> Result:
    """How much was written of what is held for it: 1 / 1.05 is the floor."""
    count = round(RAM_WRITES * run.scale)
    held: list[float] = []

    def ours() -> Sample:
        def write() -> Driver:
            driver = Driver(open_disk("memdiff:mem:16G"))
            data = [memoryview(os.urandom(4096))]
            for block in random.Random(1).sample(range(1 << 22), count):
                driver(driver.disk.write(block * 8, data))
            return driver

        held.append(_held_by(write))
        return Sample(count * 4096 / (1 << 20))

    figures = run.alternate("ram layer", ours, lambda: Sample(held[-1] / (1 << 20)))
    return compare("layers/ram-layer-randwrite-4k", "MiB", figures, "MiB held", floor=1 / 1.05)


def _held_by(make: Callable[[], Driver]) -> float:
    """Bytes that the disk of what is made holds: Python's, and those of its memory files."""
    tracemalloc.start()
    driver = make()
    python, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = python + (driver.disk.allocated_bytes or 0)
    driver.close()
    return held


# -- SQLite ----------------------------------------------------------------------------------------


def _sql(run: Run) -> Iterator[Result]:
    for sector_size in (512, 4096):
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            layer = open_alone(f"{folder}/disk.dbhd", 1 << 28, sector_size, read_only=False)
            with driving(LayeredDisk([layer])) as driver:
                fd = os.open(f"{folder}/bare", os.O_RDWR | os.O_CREAT)
                os.posix_fallocate(fd, 0, 1 << 28)
                yield from _sql_of(run, driver, fd, f"{sector_size}-byte-sectors")
                os.close(fd)


def _sql_of(run: Run, driver: Driver, fd: int, name: str) -> Iterator[Result]:
    """`fd` is a file as large as the disk, which the peer writes to."""
    count = round(SQL_WRITES * run.scale)
    blocks = random.Random(5).choices(range(driver.disk.byte_count >> 12), k=count)
    data = [memoryview(os.urandom(4096))]
    sectors = 4096 // driver.disk.sector_size

    def write(some: Sequence[int]) -> None:
        for block in some:
            driver(driver.disk.write(block * sectors, data))

    def write_bare(some: Sequence[int]) -> None:
        for block in some:
            os.pwritev(fd, data, block << 12)

    def flush() -> None:
        driver(driver.disk.flush())

    def sync() -> None:
        os.fdatasync(fd)

    def ours(counts: bool) -> Sample:
        return Sample(_writes(write, flush, blocks, counts))

    def bare(counts: bool) -> Sample:
        return Sample(_writes(write_bare, sync, blocks, counts))

    figures = run.alternate("sql writes", partial(ours, False), partial(bare, False))
    yield compare(f"layers/sql-randwrite-4k-{name}", "us", figures, "pwritev", floor=WRITE_US)
    figures = run.alternate("sql writes", partial(ours, True), partial(bare, True))
    yield compare(f"layers/sql-randwrite-4k-flushed-{name}", "us", figures, "pwritev, fdatasync")

    for batch in (1, 16):
        times = [0.0, 0.0]

        def flushes(batch: int = batch, times: list[float] = times) -> Sample:
            """Of each in turn: what a sync takes changes from one second to the next."""
            times[:] = 0.0, 0.0
            for at in range(0, FLUSHES * batch, batch):
                times[0] += _writes(write, flush, blocks[at : at + batch], None)
                times[1] += _writes(write_bare, sync, blocks[at : at + batch], None)
            return Sample(FLUSHES / times[0])

        def of_peer(times: list[float] = times) -> Sample:
            return Sample(FLUSHES / times[1])

        figures = run.alternate("sql flush", flushes, of_peer)
        job = f"layers/sql-flush-after-{batch}-{name}"
        yield compare(job, "per s", figures, "fdatasync", floor=1 / 1.2 if batch == 1 else None)


def _writes(
    write: Callable[[Sequence[int]], None],
    flush: Callable[[], None],
    blocks: Sequence[int],
    flush_counts: bool | None,
) -> float:
    """Microseconds for each of some writes, the flush after them left out or not; None: seconds of
    the flush alone.
    """
    started = time.perf_counter()
    write(blocks)
    written = time.perf_counter()
    flush()
    flushed = time.perf_counter()
    if flush_counts is None:
        return flushed - written
    return ((flushed if flush_counts else written) - started) / len(blocks) * 1e6


def _folder() -> Path:
    """On the disk, not in memory: there nothing would have to be synced."""
    PATH.parent.mkdir(exist_ok=True)
    return PATH.parent
