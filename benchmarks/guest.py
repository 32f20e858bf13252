"""fio in a guest: the same jobs on a disk of ours and on the peer's, in one boot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.peers import PeerError, Server, drivebay, storage_daemons
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample
from drivebay.guests.linux import LinuxGuest

PROBE_SECONDS = 0.6
SAMPLE_SECONDS = 1.2
FIRST_SLOT = 0x10
QUEUE_SIZE = 256


@dataclass(frozen=True)
class Job:
    """What fio is told to do; `unit` says what counts."""

    kind: str
    block: str
    depth: int
    unit: str
    floor: float | None = None
    goal: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.block.lower()}-qd{self.depth}"


JOBS = (
    Job("randread", "4k", 1, "IOPS"),
    Job("randread", "4k", 32, "IOPS", floor=1.0),
    Job("randwrite", "4k", 1, "IOPS"),
    Job("randwrite", "4k", 32, "IOPS", floor=1.0),
    Job("read", "128k", 4, "MB/s"),
    Job("write", "128k", 4, "MB/s"),
    Job("read", "1M", 1, "MB/s", floor=0.9),
    Job("write", "1M", 1, "MB/s", floor=0.9),
    Job("read", "1M", 4, "MB/s", floor=0.9),
    Job("write", "1M", 4, "MB/s", floor=0.9),
)


class Attached(NamedTuple):
    """A disk of the guest: its device there, and who serves it."""

    device: str
    server: Server


def measure_virtio_blk(run: Run) -> Iterator[Result]:
    """Every job on a vhost-user disk of ours, and on the peer's in its best mode for it."""
    with drivebay(run) as ours, storage_daemons(run) as peers:
        servers = [ours, *peers]
        run.progress.say(f"booting a guest with {len(servers)} disks")
        words = [word for n, server in enumerate(servers) for word in vhost_user_blk(n, server)]
        guest = LinuxGuest(qemu_args=words, tools=["fio"], qemu=run.qemu, progress=run.progress.say)
        with guest:
            disks = [Attached(device_at(guest, n), server) for n, server in enumerate(servers)]
            yield from compare_disks(run, "virtio-blk", guest, disks[0], disks[1:])


def vhost_user_blk(number: int, server: Server) -> list[str]:
    """QEMU's arguments for a disk behind a vhost-user socket, in a PCI slot of its own."""
    return [
        *("-chardev", f"socket,id=disk{number},path={server.socket}"),
        "-device",
        f"vhost-user-blk-pci,chardev=disk{number},addr={FIRST_SLOT + number:#x}"
        f",num-queues=1,queue-size={QUEUE_SIZE}",
    ]


def device_at(guest: LinuxGuest, number: int) -> str:
    """The guest's name for the disk in a PCI slot."""
    slot = f"/sys/bus/pci/devices/0000:00:{FIRST_SLOT + number:02x}.0"
    found = guest.run(f"ls -d {slot}/virtio*/block/*").output.split()
    if len(found) != 1:
        raise PeerError(f"the guest has no disk in slot {slot}")
    return "/dev/" + found[0].rpartition("/")[2]


def compare_disks(
    run: Run,
    part: str,
    guest: LinuxGuest,
    ours: Attached,
    peers: Sequence[Attached],
    jobs: Sequence[Job] = JOBS,
) -> Iterator[Result]:
    """Every job on our disk, and on that of the peers that does best in it."""

    def take(disk: Attached, job: Job, seconds: float) -> Sample:
        return fio(guest, disk, job, seconds * run.scale)

    for job in jobs:
        run.progress.tick(f"{part}/{job.name}: choosing the peer's mode")
        rates = {disk: take(disk, job, PROBE_SECONDS).value for disk in peers}
        peer = max(peers, key=lambda disk: rates[disk])
        figures = run.alternate(
            f"{part}/{job.name}",
            partial(take, ours, job, SAMPLE_SECONDS),
            partial(take, peer, job, SAMPLE_SECONDS),
        )
        yield compare(
            f"{part}/{job.name}",
            job.unit,
            figures,
            peer.server.name,
            floor=job.floor,
            goal=job.goal,
        )


def fio(guest: LinuxGuest, disk: Attached, job: Job, seconds: float) -> Sample:
    """Run one job for so many seconds."""
    before = disk.server.cpu_seconds()
    result = guest.run(
        f"fio --name=job --filename={disk.device} --ioengine=libaio --direct=1 --thread"
        f" --rw={job.kind} --bs={job.block} --iodepth={job.depth} --norandommap=1"
        f" --time_based --runtime={round(seconds * 1000)}ms --gtod_reduce=1 --output-format=json"
    )
    cpu = disk.server.cpu_seconds() - before
    found = re.search(r"^\{.*", result.output, re.DOTALL | re.MULTILINE)
    if result.status or not found:
        raise PeerError(f"fio on {disk.device} of {disk.server.name}: {result.output[-300:]}")
    side = json.loads(found[0])["jobs"][0]["write" if "write" in job.kind else "read"]
    rate = (side["total_ios"] if job.unit == "IOPS" else side["io_bytes"] / 1e6) * 1000
    return Sample(rate / side["runtime"], cpu, side["total_ios"])
