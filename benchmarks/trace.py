"""`trace`: what a command costs more while it is recorded to a file, beside the same without.

Reads of 4 KiB from memory by our own drivers, all in one process on one CPU. The figure is the CPU
time that a command takes more with its trace, the writer's thread and the file's end included; a
sample is the fastest of some, as what others do on the machine only adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks import inprocess, nvme
from benchmarks.report import Result
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.disk.contract import Disk
from drivebay.lab.taps import tap_into
from drivebay.lab.trace.recorder import Recorder
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.sinks import FileSink
from drivebay.platform.observer import Observed

SAMPLE_COMMANDS = 8_000
FASTEST_OF = 8
MOST_US = 3.0
PEER = "without a trace"

Work = Callable[[int], object]


def measure(run: Run) -> Iterator[Result]:
    """NVMe and virtio-blk, one command at a time and 32."""
    with on_cpu(last_cpu()), inprocess.opened(run, "mem") as disk:
        for depth in (1, inprocess.BATCH):
            yield _cost(run, f"nvme-qd{depth}", depth, *_nvme(disk, depth))
            yield _cost(run, f"virtio-blk-qd{depth}", depth, *_virtio(disk, depth))


def _nvme(disk: Disk, depth: int) -> tuple[Observed, str, Work]:
    bench = nvme.Bench(nvme.Local("mem", depth), disk)
    worker: Observed = bench.nvme.controller.worker
    return worker, "nvme", bench.run


def _virtio(disk: Disk, depth: int) -> tuple[Observed, str, Work]:
    bench = inprocess.MmioBench(inprocess.Job("mem", "split", depth), disk)
    return bench.device, "virtio", bench.run


def _cost(run: Run, job: str, depth: int, observed: Observed, dialect: str, work: Work) -> Result:
    count = round(SAMPLE_COMMANDS * run.scale) // depth

    def spent(do: Callable[[], object]) -> Sample:
        times = []
        for _ in range(FASTEST_OF):
            start = time.process_time()
            do()
            times.append(time.process_time() - start)
        return Sample(min(times) / (count * depth) * 1e6)

    def recorded() -> None:
        path = run.folder / "commands.dbtrace"
        with _recording(str(path), observed, dialect):
            work(count)
        path.unlink()

    name = f"trace/{job}"
    on, off = run.alternate(name, lambda: spent(recorded), lambda: spent(lambda: work(count)))
    return Result(
        name=name,
        unit="us",
        ours=on.median - off.median,
        peer=off.median,
        peer_name=PEER,
        spread=on.spread,
        spread_peer=off.spread,
        n=len(on.samples),
        floor=MOST_US,
    )


@contextmanager
def _recording(path: str, observed: Observed, dialect: str) -> Iterator[None]:
    recorder = Recorder(FileSink(path))
    end = tap_into(observed, recorder.tap(Source("disk", dialect)))
    try:
        yield
    finally:
        end()
        recorder.close()
        if recorder.lost:
            raise RuntimeError(f"{recorder.lost} records were lost")
