"""`nbd`: our server beside nbdkit (its memory plugin in C, and one in Python) and qemu-nbd, on
memory and on the same file, each behind a native client over a UNIX socket. fio's own NBD engine
costs more a request than any of the servers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peers import PeerError, Server, started
from benchmarks.report import Result, compare
from benchmarks.run import FILE_MEGABYTES, Run, Sample

SOURCE = Path(__file__).with_name("nbdload") / "nbdload.c"
BUILD = Path(__file__).parents[1] / "build"
SAMPLE_SECONDS = 0.7

PLUGIN = '''\
"""The shortest nbdkit plugin that keeps a disk in memory."""
import nbdkit

API_VERSION = 2
disk = bytearray({size})


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return 1


def get_size(handle):
    return len(disk)


def pread(handle, buffer, offset, flags):
    buffer[:] = memoryview(disk)[offset : offset + len(buffer)]


def pwrite(handle, buffer, offset, flags):
    disk[offset : offset + len(buffer)] = buffer


def flush(handle, flags):
    pass
'''


@dataclass(frozen=True)
class Job:
    """What the load generator is told to do."""

    kind: str
    block: str
    depth: int
    unit: str

    @property
    def bytes(self) -> int:
        return int(self.block[:-1]) << {"k": 10, "M": 20}[self.block[-1]]

    @property
    def name(self) -> str:
        depth = f"-qd{self.depth}" if self.unit == "IOPS" else ""
        return f"{self.kind}-{self.block.lower()}{depth}"


JOBS = (
    Job("randread", "4k", 32, "IOPS"),
    Job("randwrite", "4k", 32, "IOPS"),
    Job("read", "1M", 4, "MB/s"),
    Job("write", "1M", 4, "MB/s"),
)
FLOORS = {("nbdkit-python", "IOPS"): 3.0, ("qemu-nbd", "MB/s"): 0.9}


def measure(run: Run) -> Iterator[Result]:
    """Every job against every peer: ours on memory beside nbdkit, on the file beside qemu-nbd."""
    loadgen = build(run)
    with ExitStack() as stack:
        memory = stack.enter_context(_drivebay(run, f"mem:{FILE_MEGABYTES}M", "memory"))
        file = stack.enter_context(_drivebay(run, f"file:{run.file}", "file"))
        pairs = [
            (memory, "nbdkit-memory", stack.enter_context(_nbdkit(run, "memory"))),
            (memory, "nbdkit-python", stack.enter_context(_nbdkit(run, "python"))),
            (file, "qemu-nbd", stack.enter_context(_qemu_nbd(run))),
        ]
        for server in (memory, *(peer for _, _, peer in pairs[:2])):
            load(loadgen, server, Job("write", "1M", 4, "MB/s"), 1.0)  # so that no side reads holes
        for job in JOBS:
            for ours, short, peer in pairs:
                name = f"nbd/{job.name}-vs-{short}"
                take = partial(load, loadgen, job=job, seconds=SAMPLE_SECONDS * run.scale)
                figures = run.alternate(name, partial(take, ours), partial(take, peer))
                floor = FLOORS.get((short, job.unit))
                yield compare(name, job.unit, figures, peer.name, floor=floor)


def load(loadgen: Path, server: Server, job: Job, seconds: float) -> Sample:
    """Run one job for so many seconds."""
    before = server.cpu_seconds()
    words = [os.fspath(loadgen), os.fspath(server.socket), job.kind, str(job.bytes)]
    words += [str(job.depth), f"{seconds:.3f}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    value = figures["iops" if job.unit == "IOPS" else "mbps"]
    return Sample(value, server.cpu_seconds() - before, figures["requests"])


def build(run: Run) -> Path:
    """Compile the load generator if it changed."""
    program = BUILD / "nbdload"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        run.progress.say("compiling the load generator")
        BUILD.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
    return program


def _drivebay(run: Run, spec: str, name: str) -> AbstractContextManager[Server]:
    socket = run.folder / f"nbd-{name}.sock"
    command = [sys.executable, "-m", "drivebay.cli.main", "nbd", "serve", spec]
    return started("drivebay", socket, [*command, "--socket", os.fspath(socket)])


def _nbdkit(run: Run, kind: str) -> AbstractContextManager[Server]:
    program = shutil.which("nbdkit")
    if program is None:
        raise PeerError("apt-get install nbdkit nbdkit-plugin-python")
    socket = run.folder / f"nbdkit-{kind}.sock"
    arguments = [f"{FILE_MEGABYTES}M"]
    if kind == "python":
        plugin = run.folder / "plugin.py"
        plugin.write_text(PLUGIN.format(size=FILE_MEGABYTES << 20))
        arguments = [os.fspath(plugin)]
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    name = f"{' '.join(done.stdout.split()[:2])} ({kind} plugin)"
    return started(name, socket, [program, "-f", "-U", os.fspath(socket), kind, *arguments])


@contextmanager
def _qemu_nbd(run: Run) -> Iterator[Server]:
    """On a copy: it locks its file."""
    socket = run.folder / "qemu-nbd.sock"
    copy = Path(f"{run.file}.copy")
    shutil.copy(run.file, copy)
    command = [*run.qemu.command("qemu-nbd"), "-f", "raw", "-t", "-e", "4", "-k", os.fspath(socket)]
    name = f"qemu-nbd {'.'.join(map(str, run.qemu.version))}"
    try:
        with started(name, socket, [*command, os.fspath(copy)], run.qemu.environment) as server:
            yield server
    finally:
        copy.unlink()
