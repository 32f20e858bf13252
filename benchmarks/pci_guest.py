"""fio in a guest: disks behind our PCI controllers, and behind QEMU's own of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accesses import Trace, per_request, round_trip
from benchmarks.guest import Attached, Job, compare_disks
from benchmarks.peers import PeerError, Server
from benchmarks.report import Result
from benchmarks.run import Run
from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.vfio_user.messages import RegionAccess

MODES = ("threads", "io_uring")
"""How QEMU moves the data of its own disks."""


@dataclass(frozen=True)
class Kind:
    """A kind of controller: how a guest gets QEMU's, whose `{n}`-th drive is one of its modes.

    `registers` are QEMU's names for its own, `status` is one of ours that an interrupt handler
    reads.
    """

    name: str
    machine: str
    controller: tuple[str, ...]
    bus: str
    jobs: tuple[Job, ...]
    registers: str
    status: RegionAccess


def jobs(iops: float | None = None, megabytes: float | None = None) -> tuple[Job, ...]:
    """The jobs, with the floors of a kind."""
    return (
        Job("randread", "4k", 1, "IOPS", floor=iops),
        Job("randread", "4k", 32, "IOPS", floor=iops),
        Job("randwrite", "4k", 1, "IOPS", floor=iops),
        Job("randwrite", "4k", 32, "IOPS", floor=iops),
        Job("read", "1M", 1, "MB/s", floor=megabytes),
        Job("write", "1M", 1, "MB/s", floor=megabytes),
    )


COUNTED = (
    Job("randread", "4k", 1, "IOPS"),
    Job("randread", "4k", 32, "IOPS"),
    Job("read", "1M", 1, "IOPS"),
)
AHCI = Kind(
    "ahci",
    "q35,sata=off",
    ("-device", "ich9-ahci,id=theirs"),
    "theirs.{n}",
    jobs(0.5, 0.9),
    "ahci",
    RegionAccess(offset=8, region=5, count=4),
)
IDE = Kind(
    "ide",
    "pc",
    (),
    "ide.{n}",
    jobs(),
    "ide|bmdma|piix-bmdma",
    RegionAccess(offset=7, region=0, count=1),
)


def measure_ahci(run: Run) -> Iterator[Result]:
    """AHCI, against QEMU's ich9-ahci."""
    yield from _measure(run, AHCI)


def measure_ide(run: Run) -> Iterator[Result]:
    """IDE in native mode, against QEMU's PIIX3."""
    yield from _measure(run, IDE)


def _measure(run: Run, kind: Kind) -> Iterator[Result]:
    with Backend([f"--{kind.name}", f"file:{run.file},model=OURS"]) as backend:
        ours = Server("drivebay", run.file, backend.pid)
        yield round_trip(run, kind.name, backend.controllers[0]["socket"], kind.status)
        trace = run.folder / f"{kind.name}.trace"
        trace.touch()
        words = [*backend.qemu_arguments(run.qemu.version), *kind.controller, "-D", str(trace)]
        for n, mode in enumerate(MODES):
            words += _drive(run, kind, n, mode)
        run.progress.say(f"booting a guest with {1 + len(MODES)} disks")
        guest = LinuxGuest(
            qemu_args=words,
            tools=["fio"],
            qemu=run.qemu,
            machine=kind.machine,
            progress=run.progress.say,
        )
        with guest:
            version = ".".join(map(str, run.qemu.version))
            peers = [
                Attached(disk_of_model(guest, f"PEER{n}"), Inside(f"QEMU {version} ({mode})"))
                for n, mode in enumerate(MODES)
            ]
            mine = Attached(disk_of_model(guest, "OURS"), ours)
            yield from compare_disks(run, kind.name, guest, mine, peers, kind.jobs)
            traced = Trace(guest, trace)
            yield from per_request(run, kind.name, traced, COUNTED, mine, peers[0], kind.registers)


class Inside(Server):
    """QEMU serves its own disks: its CPU time is the guest's."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Path(), 0)

    def cpu_seconds(self) -> float:
        """Not to be told apart."""
        return 0.0


def _drive(run: Run, kind: Kind, n: int, mode: str) -> Sequence[str]:
    bus = kind.bus.format(n=n)
    return [
        *("-blockdev", f"driver=file,node-name=file{n},locking=off,filename={run.file},aio={mode}"),
        *("-device", f"ide-hd,drive=file{n},bus={bus},model=PEER{n},share-rw=on"),
    ]


def disk_of_model(guest: LinuxGuest, model: str) -> str:
    """The guest's name for the disk of that model."""
    found = guest.run(f"grep -l '^{model} *$' /sys/block/sd*/device/model").output.split()
    if len(found) != 1:
        raise PeerError(f"the guest has no disk of model {model}")
    return f"/dev/{found[0].split('/')[3]}"
