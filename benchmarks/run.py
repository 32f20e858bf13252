"""What every part of the benchmark is given, and how it takes figures."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from benchmarks.progress import Progress
from drivebay.disk.backends.linux import file_system
from drivebay.guests.qemu import Qemu, find_qemu

FILE_MEGABYTES = 256


class Sample(NamedTuple):
    """One figure, and the CPU time that the server spent on how many requests for it."""

    value: float
    cpu_seconds: float = 0.0
    requests: int = 0


class Series(NamedTuple):
    """The figures of one side."""

    samples: Sequence[Sample]

    @property
    def median(self) -> float:
        return statistics.median(sample.value for sample in self.samples)

    @property
    def spread(self) -> float:
        """The distance between the largest and the smallest, as a part of the median."""
        values = [sample.value for sample in self.samples]
        return (max(values) - min(values)) / self.median

    @property
    def cpu_us(self) -> float | None:
        """Of the server, for each request."""
        requests = sum(sample.requests for sample in self.samples)
        return sum(s.cpu_seconds for s in self.samples) * 1e6 / requests if requests else None


Take = Callable[[], Sample]


@dataclass
class Run:
    """One run of the benchmark: `rounds` samples of each side, `scale` times as long as usual."""

    progress: Progress
    rounds: int = 5
    scale: float = 1.0
    daemon: str | None = None
    """A qemu-storage-daemon other than that of `qemu`."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Remove the file and the folder."""
        self._stack.close()

    @cached_property
    def folder(self) -> Path:
        """A folder for sockets."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="drivebay-")))

    @cached_property
    def qemu(self) -> Qemu:
        return find_qemu(self.progress.say)

    @cached_property
    def file(self) -> Path:
        """The file that both sides serve: without holes, in memory where there is room."""
        self.progress.say(f"filling {FILE_MEGABYTES} MiB in {_roomy_folder()}")
        file = tempfile.NamedTemporaryFile(prefix="drivebay-bench-", dir=_roomy_folder())  # noqa: SIM115
        self._stack.enter_context(file)
        for _ in range(FILE_MEGABYTES):
            file.write(os.urandom(1 << 20))
        file.flush()
        return Path(file.name)

    @property
    def file_system(self) -> str:
        with self.file.open("rb") as file:
            return file_system(file.fileno())

    def alternate(self, what: str, ours: Take, peer: Take) -> tuple[Series, Series]:
        """Take both in turn, `rounds` times; each once before that does not count."""
        first, second = self.in_turn(what, [ours, peer])
        return first, second

    def in_turn(self, what: str, takes: Sequence[Take]) -> list[Series]:
        """The same with any number."""
        rounds = []
        for n in range(self.rounds + 1):
            self.progress.tick(f"{what}: {max(n, 1)} of {self.rounds}")
            rounds.append([take() for take in takes])
        return [Series(samples) for samples in zip(*rounds[1:], strict=True)]


def _roomy_folder() -> str:
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize >> 20 > 2 * FILE_MEGABYTES:
            return "/dev/shm"
    return tempfile.gettempdir()


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Keep this thread on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_cpu() -> int:
    """The CPU that is most likely free of interrupts."""
    return max(os.sched_getaffinity(0))


def timed(call: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warn(text: str) -> None:
    """Say what makes the figures worth less."""
    sys.stderr.write(f"bench: warning: {text}\n")
