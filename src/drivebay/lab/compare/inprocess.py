"""The jobs on the controllers in this process: no guest, and no exits that cost anything."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.lab.compare.benches import BENCHES, Bench
from drivebay.lab.compare.counting import Meter
from drivebay.lab.compare.jobs import Contender, Job
from drivebay.lab.compare.results import OURS, Costs, Row

__all__ = ["compare_in_process"]

BATCHES: Final = 8
"""Of the run in which accesses are counted."""


def compare_in_process(
    disk: Disk,
    contenders: Sequence[Contender],
    jobs: Sequence[Job],
    *,
    rounds: int = 3,
    seconds: float = 1.0,
    cache: str = "",
    progress: Callable[[str], None] = lambda _line: None,
) -> list[Row]:
    """Every job on every controller, `rounds` times in turn for `seconds` each, and once before
    that does not count. Jobs that write, write zeroes to the disk.
    """
    figures: dict[tuple[Job, Contender], list[float]] = {}
    with benches(disk, contenders) as timed:
        for n in range(rounds + 1):
            for job in jobs:
                progress(f"{f'round {n} of {rounds}' if n else 'warming up'}: {job.label}")
                for each, bench in zip(contenders, timed, strict=True):
                    rate = _rate(bench, disk, job, seconds if n else seconds / 5, n)
                    if n:
                        figures.setdefault((job, each), []).append(rate)
    return [
        Row(
            each.name,
            OURS,
            job.name,
            job.unit,
            job.size,
            samples,
            _costs(each, disk, job),
            cache=cache if job.write else "",
        )
        for (job, each), samples in figures.items()
    ]


@contextmanager
def benches(disk: Disk, contenders: Sequence[Contender]) -> Iterator[list[Bench]]:
    """One for each, on the same disk."""
    with ExitStack() as stack:
        found = []
        for each in contenders:
            found.append(BENCHES[each.name](disk, None))
            stack.callback(found[-1].close)
        yield found


def _rate(bench: Bench, disk: Disk, job: Job, seconds: float, seed: int) -> float:
    """The figure of so many seconds."""
    places, clock = job.places(disk.byte_count, seed), time.perf_counter
    count, start = 0, clock()
    while (spent := clock() - start) < seconds or not count:
        bench.move(list(itertools.islice(places, job.depth)), job.size, job.write)
        count += job.depth
    return job.figure(count, spent)


def _costs(contender: Contender, disk: Disk, job: Job) -> Costs:
    """What each I/O takes, counted on a controller of its own."""
    meter = Meter()
    bench = BENCHES[contender.name](disk, meter)
    places, at_once, count = job.places(disk.byte_count), 0, BATCHES * job.depth
    bench.move([next(places)], job.size, job.write)  # the first has more to do than others
    meter.clear()
    for _ in range(BATCHES):
        batch = list(itertools.islice(places, job.depth))
        at_once = max(at_once, bench.move(batch, job.size, job.write))
    bench.close()
    return Costs(
        accesses=meter.accesses / count,
        register_bytes=meter.bytes / count,
        kicks=0,
        interrupts=meter.interrupts / count,
        commands=1,
        in_flight=at_once,
    )
