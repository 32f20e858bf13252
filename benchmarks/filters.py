"""`filters`: what a filter costs where it changes nothing, and how fast `crypt` is.

The first are microseconds that a read of 4 KiB takes longer through a filter than without it, of a
disk that does nothing at all. The second are megabytes a second, beside the XTS of the library that
`crypt` stands on: a call for each sector, and one call for everything as if it were one sector.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, Series, last_cpu, on_cpu
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.cache import Cache
from drivebay.disk.filters.crypt import Crypt
from drivebay.disk.filters.delay import Delay
from drivebay.disk.filters.guarded import Guarded
from drivebay.disk.filters.latency import Fixed
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.disk.filters.stop_on_error import StopOnError
from drivebay.disk.filters.striped import Striped
from drivebay.disk.filters.throttle import Limits, Throttle
from drivebay.suspend import DONE
from drivebay.suspend import run as run_to_end

PEER = "the disk below, bare"
FLOOR_US = 2.0
READS = 500  # each turn
TURNS = 200
SECTOR = 512


class NullDisk(Disk):
    """Does nothing, at once."""

    kind = "null"
    sector_count = 1 << 21

    def read(self, sector: int, buffers: Buffers) -> Coroutine[Any, Any, None]:
        return DONE

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Coroutine[Any, Any, None]:
        return DONE


def guarded(below: Disk) -> Disk:
    shared = Prwrap(below)
    return Guarded(shared, shared.reservations.of(b"host", 0))


FILTERS: dict[str, Callable[[Disk], Disk]] = {
    "base": Filter,
    "cache-writeback": lambda below: Cache(below, "writeback"),
    "delay-0": lambda below: Delay(below, Fixed(0)),
    "guarded": guarded,
    "prwrap": Prwrap,
    "stop-on-error": lambda below: StopOnError(below, lambda name, error: False),
    "striped": lambda below: Striped([below, below]),
    "throttle": lambda below: Throttle(below, Limits()),
}


def measure(run: Run) -> Iterator[Result]:
    """Every filter, then crypt."""
    with on_cpu(last_cpu()):
        for name, make in FILTERS.items():
            yield _cost(run, name, make)
        for size in (4096, 64 << 10, 1 << 20):
            yield from _crypt(run, size)


def _cost(run: Run, name: str, make: Callable[[Disk], Disk]) -> Result:
    below = NullDisk()
    disk = make(below)
    bare, added = [], []
    for _ in range(run.rounds):
        run.progress.tick(f"filters/read-4k-{name}")
        # Short turns, so that somebody else's use of the CPU spoils few of them.
        turns = [(_reads(below), _reads(disk)) for _ in range(round(TURNS * run.scale))]
        bare.append(Sample(statistics.median(one for one, _ in turns)))
        added.append(Sample(statistics.median(two - one for one, two in turns)))
    figures = Series(added), Series(bare)
    return compare(f"filters/read-4k-{name}", "us", figures, PEER, floor=FLOOR_US)


def _reads(disk: Disk) -> float:
    """Microseconds for a read."""
    buffers = [memoryview(bytearray(4096))]
    start = time.perf_counter()
    for sector in range(0, 8 * READS, 8):
        try:
            disk.read(sector, buffers).send(None)
        except StopIteration:
            continue
        raise RuntimeError(f"{disk.kind} waits")
    return (time.perf_counter() - start) / READS * 1e6


def _crypt(run: Run, size: int) -> Iterator[Result]:
    key = os.urandom(64)
    disk = Crypt(NullDisk(), key)
    data = memoryview(os.urandom(size))
    into = bytearray(size + 16)
    aes = algorithms.AES(key)

    def sectors() -> None:
        for start in range(0, size, SECTOR):
            tweak = modes.XTS((start // SECTOR).to_bytes(16, "little"))
            Cipher(aes, tweak).encryptor().update_into(
                data[start : start + SECTOR], memoryview(into)[start:]
            )

    def whole() -> None:
        Cipher(aes, modes.XTS(bytes(16))).encryptor().update_into(data, into)

    def speed(call: Callable[[], object], megabytes: float) -> Callable[[], Sample]:
        count = max(round(megabytes * run.scale * (1 << 20)) // size, 1)

        def take() -> Sample:
            start = time.perf_counter()
            for _ in range(count):
                call()
            return Sample(count * size / 1e6 / (time.perf_counter() - start))

        return take

    name = f"filters/crypt-write-{size >> 10}k"
    ours, each, one = run.in_turn(
        name,
        [
            speed(lambda: run_to_end(disk.write(0, [data])), 32),
            speed(sectors, 8),
            speed(whole, 256),
        ],
    )
    peer = "cryptography, a call for each sector"
    yield compare(f"{name}-vs-library", "MB/s", (ours, each), peer, floor=0.5, goal=1.0)
    peer = "cryptography, as one sector of that size"
    yield compare(f"{name}-vs-one-call", "MB/s", (ours, one), peer)
