"""`vhost-user`: the servers behind a native load generator, without a guest in the way.

Where the two processes run decides small requests tenfold: on one CPU, or on a CPU each
(`-cross-cpu`), where every request wakes a halted CPU twice. See loadgen/README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import Server, drivebay, storage_daemons
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu

SOURCES = Path(__file__).with_name("loadgen")
BUILD = Path(__file__).parents[1] / "build"
PROBE_SECONDS = 0.25
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What loadgen is told to do."""

    kind: str
    block: str
    depth: int
    floor: float | None = None
    goal: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.block.lower()}-qd{self.depth}"


JOBS = (
    Job("randread", "4k", 1, floor=1.0, goal=1.5),
    Job("randread", "4k", 32, floor=1.0, goal=1.5),
    Job("randwrite", "4k", 1, floor=1.0, goal=1.5),
    Job("randwrite", "4k", 32, floor=1.0, goal=1.5),
    Job("randread", "128k", 8),
    Job("read", "1M", 1),
)


class Placement(NamedTuple):
    """The CPU of the server and that of the load generator."""

    suffix: str
    server: int
    client: int


def placements() -> list[Placement]:
    """One CPU for both; and, where there are two, a CPU each."""
    last, first = last_cpu(), min(os.sched_getaffinity(0))
    found = [Placement("", last, last)]
    if first != last:
        found.append(Placement("-cross-cpu", last, first))
    return found


def measure(run: Run) -> Iterator[Result]:
    """Every job in every placement, against the best mode of the peer for it; of the small ones on
    one CPU also against the best that goes through the page cache, as ours does.
    """
    loadgen = build(run)
    with drivebay(run) as ours, storage_daemons(run) as peers:
        cached = [peer for peer in peers if "direct" not in peer.name]
        for place in placements():
            for server in (ours, *peers):
                server.pin(place.server)
            for job in JOBS:
                yield _compare(run, loadgen, job, place, ours, peers)
                if job.floor and place.server == place.client:
                    alike = place._replace(suffix="-page-cache")
                    yield _compare(run, loadgen, job, alike, ours, cached)


def _compare(
    run: Run, loadgen: Path, job: Job, place: Placement, ours: Server, peers: list[Server]
) -> Result:
    name = f"vhost-user/{job.name}{place.suffix}"

    take = partial(load, loadgen, job=job, place=place)

    def probe(server: Server) -> float:
        run.progress.tick(f"{name}: trying {server.name}")
        return max(take(server, seconds=PROBE_SECONDS * run.scale).value for _ in range(2))

    peer = max(peers, key=probe)
    seconds = SAMPLE_SECONDS * run.scale
    figures = run.alternate(
        name, partial(take, ours, seconds=seconds), partial(take, peer, seconds=seconds)
    )
    return compare(name, "IOPS", figures, peer.name, floor=job.floor, goal=job.goal)


def load(loadgen: Path, server: Server, job: Job, place: Placement, seconds: float) -> Sample:
    """Run one job for so many seconds."""
    before = server.cpu_seconds()
    words = ["taskset", "-c", str(place.client), str(loadgen), str(server.socket)]
    words += [
        "--indirect",
        "--wait",
        "5",
        "--job",
        f"{job.kind},{job.block},{job.depth},{seconds:.3f}",
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    cpu = server.cpu_seconds() - before
    return Sample(figures["iops"], cpu, figures["requests"])


def build(run: Run) -> Path:
    """Compile the load generator if it changed."""
    program = BUILD / "loadgen"
    sources = [path for path in SOURCES.iterdir() if path.suffix in (".c", ".h")]
    if not program.exists() or program.stat().st_mtime < max(p.stat().st_mtime for p in sources):
        run.progress.say("compiling the load generator")
        BUILD.mkdir(exist_ok=True)
        files = [path for path in sources if path.suffix == ".c"]
        subprocess.run(["cc", "-O2", "-o", program, *files], check=True)
    return program
