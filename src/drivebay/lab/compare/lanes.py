"""One disk of a guest, worked in one way: what a job does on it, and what that takes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from drivebay.guests.errors import GuestError
from drivebay.guests.linux import LinuxGuest
from drivebay.lab.compare.jobs import Contender, Job
from drivebay.lab.compare.results import OURS, Costs
from drivebay.lab.compare.served import Served

__all__ = ["GuestDisk", "Lane", "Observed", "Tracer", "Worker", "find_disks"]

PIO_SIZE: Final = 16 << 10
"""Bytes of an I/O of PIO's that is no 4 KiB: over a socket, 1 MiB takes half a minute."""
COUNTED_SECONDS: Final = 0.4
JOB_TIMEOUT: Final = 300.0

FIND_DISKS: Final = """
for d in /sys/block/*; do
	case ${d##*/} in
	sd*) read -r plate <$d/device/model ;; # without the spaces behind it
	vd*) read -r plate <$d/serial ;;
	nvme*) read -r plate <$d/device/serial ;;
	*) continue ;;
	esac
	pci=$(readlink -f $d | grep -o '/sys/devices/pci0000:00/0000:00:[0-9a-f.]*')
	[ $plate = ${plate%-ahci} ] || echo 1 >$d/device/queue_depth # then there is no NCQ
	echo $plate ${d##*/} $(ls $pci/msi_irqs 2>/dev/null || cat $pci/irq)
done
mount -t tracefs none /sys/kernel/tracing
"""
LEGACY_IRQS: Final = ("14", "15")
"""Of an IDE function without an interrupt of its own."""

WATCHED: Final = """
t=/sys/kernel/tracing
echo >$t/trace
for e in issue complete; do echo 1 >$t/events/block/block_rq_$e/enable; done
{job}
for e in issue complete; do echo 0 >$t/events/block/block_rq_$e/enable; done
awk '/block_rq_issue/ {{ n++; if (n > most) most = n }} /block_rq_complete/ {{ n-- }}
	END {{ print "in flight", most + 0 }}' $t/trace
"""
"""Linux tells of each command that it gives to a controller, and of its end."""
BEFORE_AND_AFTER: Final = "cat /proc/interrupts; echo commands $(cat /sys/block/{disk}/stat)"

FIO_READ, FIO_WRITE = "6,9", "47,50"
"""Where in fio's terse line (version 3, as its first field says) KiB and milliseconds are."""
COPIED: Final = re.compile(r"^(\d+) bytes .* copied, ([\d.e+-]+) s", re.MULTILINE)
ACCESS: Final = re.compile(r"^memory_region_ops_.* size (\d+) name '([^']*)'")
KICK: Final = "virtio_queue_notify"
EVENTS: Final = ("memory_region_ops_read", "memory_region_ops_write", KICK)


class GuestDisk(NamedTuple):
    """What the guest calls a disk, and the interrupts of its controller."""

    name: str
    irqs: tuple[str, ...]


def find_disks(guest: LinuxGuest) -> dict[str, GuestDisk]:
    """The guest's disks, by the model or serial number on their plates."""
    found = {}
    for line in guest.run(FIND_DISKS).output.splitlines():
        plate, name, *irqs = line.split()
        found[plate] = GuestDisk(name, LEGACY_IRQS if irqs == ["0"] else tuple(irqs))
    return found


class Observed(NamedTuple):
    """What a job has done: so many I/O in so many seconds."""

    done: int
    seconds: float


@dataclass(frozen=True)
class Lane:
    """`contender` by a maker, on a disk of a guest. `registers` is a pattern of QEMU's names."""

    contender: Contender
    by: str
    disk: GuestDisk
    registers: str

    def sized(self, job: Job) -> Job:
        """The job as it is done here."""
        slow = self.contender.name == "ide-pio" and job.sequential
        return replace(job, size=PIO_SIZE) if slow else job


class Worker:
    """Does jobs in a guest whose disks have `room` bytes. All methods raise `GuestError`."""

    def __init__(self, guest: LinuxGuest, room: int) -> None:
        self.guest, self._room = guest, room
        self._rates: dict[tuple[Lane, Job], float] = {}

    def take(self, lanes: Sequence[Lane], job: Job, seconds: float) -> list[Observed]:
        """Do a job in one lane after the other, for so many seconds in each."""
        if not job.sequential:
            return self.run(lanes, job, seconds)[0]
        for lane in lanes:
            if (lane, job) not in self._rates:
                self.run([lane], job, 0)  # once, to know how often
        return [self.run([lane], job, seconds)[0][0] for lane in lanes]

    def run(
        self, lanes: Sequence[Lane], job: Job, seconds: float, around: str = "{job}"
    ) -> tuple[list[Observed], str]:
        """The same as one command, with something `around` it, and all that was said meanwhile."""
        make = self._dd if job.sequential else _fio
        result = self.guest.run(around.format(job=make(lanes, job, seconds)), timeout=JOB_TIMEOUT)
        read = _copied if job.sequential else _fio_said
        found = read(lanes, job, result.output)
        if result.status or len(found) != len(lanes) or not all(each.done for each in found):
            where = ", ".join(f"{lane.contender.name} of {lane.by}" for lane in lanes)
            raise GuestError(f"{job.name} in a guest on {where}: {result.output[-300:].strip()}")
        for lane, each in zip(lanes, found, strict=True):
            self._rates[lane, job] = each.done / each.seconds
        return found, result.output

    def _dd(self, lanes: Sequence[Lane], job: Job, seconds: float) -> str:
        """As in Graf's talk, and again if it comes to the end too soon."""
        [lane] = lanes
        size = lane.sized(job).size
        count = max(round(self._rates.get((lane, job), 0) * seconds), 1)
        each = min(count, self._room // size)
        return (
            f"for n in $(seq {math.ceil(count / each)}); do\n"
            f"dd if=/dev/{lane.disk.name} of=/dev/null bs={size} count={each} iflag=direct\n"
            "done"
        )


def _fio(lanes: Sequence[Lane], job: Job, seconds: float) -> str:
    """One fio for all lanes: under emulation it takes a second to start."""
    jobs = "".join(f" --name={n} --filename=/dev/{lane.disk.name}" for n, lane in enumerate(lanes))
    kind, fields = ("randwrite", FIO_WRITE) if job.write else ("randread", FIO_READ)
    return (
        f"fio --ioengine=libaio --direct=1 --thread --rw={kind}"
        f" --bs={job.size} --iodepth={job.depth} --norandommap=1 --gtod_reduce=1 --time_based"
        f" --runtime={round(seconds * 1000)}ms --clocksource=clock_gettime --stonewall"
        f" --output-format=terse --terse-version=3{jobs} | cut -d';' -f1,{fields}"
    )


def _copied(lanes: Sequence[Lane], job: Job, output: str) -> list[Observed]:
    """What dd said."""
    found = COPIED.findall(output)
    moved, seconds = (sum(float(each[n]) for each in found) for n in (0, 1))
    return [Observed(round(moved) // lanes[0].sized(job).size, seconds)]


def _fio_said(lanes: Sequence[Lane], job: Job, output: str) -> list[Observed]:
    """What fio said: KiB and milliseconds."""
    found = re.findall(r"^3;(\d+);(\d+)$", output, re.MULTILINE)
    return [Observed(int(kib) * 1024 // job.size, max(int(ms), 1) / 1000) for kib, ms in found]


class Tracer:
    """Counts what jobs take, by QEMU's trace in `log` (its -D), and by what the guest knows."""

    def __init__(self, worker: Worker, log: Path, served: Served) -> None:
        self._worker, self._log, self._served = worker, log, served
        self._guest = worker.guest

    def costs(self, lane: Lane, job: Job) -> tuple[Costs, float]:
        """Of each I/O of a job that is run for this, and the microseconds of our thread for each.
        Raises `GuestError`.
        """
        registers = re.compile(lane.registers)
        start, kicks = self._log.stat().st_size, self._served.kicks
        interrupts, commands = self._counted(lane)
        self._trace(True)
        spent = self._served.cpu_seconds()
        [observed], output = self._worker.run([lane], job, COUNTED_SECONDS, WATCHED)
        spent = self._served.cpu_seconds() - spent
        self._trace(False)
        after = self._counted(lane)
        accesses = moved = notified = 0
        with self._log.open() as log:
            log.seek(start)
            for line in log:
                if line.startswith(KICK):
                    notified += 1
                elif (found := ACCESS.match(line)) and registers.fullmatch(found[2]):
                    accesses += 1
                    moved += int(found[1])
        count = observed.done
        flight = re.search(r"^in flight (\d+)", output, re.MULTILINE)
        costs = Costs(
            accesses=accesses / count,
            register_bytes=moved / count,
            kicks=(self._served.kicks - kicks if lane.by == OURS else notified) / count,
            interrupts=(after[0] - interrupts) / count,
            commands=(after[1] - commands) / count,
            in_flight=int(flight[1]) if flight else 0,
        )
        return costs, spent / count * 1e6

    def _trace(self, enable: bool) -> None:
        for name in EVENTS:
            self._guest.qmp.execute("trace-event-set-state", name=name, enable=enable)

    def _counted(self, lane: Lane) -> tuple[int, int]:
        """Interrupts of the disk's controller, and the disk's commands, so far."""
        output = self._guest.run(BEFORE_AND_AFTER.format(disk=lane.disk.name)).output
        interrupts = commands = 0
        for line in output.splitlines():
            first, *others = line.split()
            if first == "commands":  # reads are the first figure, writes the fifth
                commands = int(others[0]) + int(others[4])
            elif first.rstrip(":") in lane.disk.irqs:
                interrupts += sum(int(word) for word in others if word.isdigit())
        return interrupts, commands
