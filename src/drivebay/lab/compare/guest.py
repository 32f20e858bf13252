"""The jobs in one Linux guest, on our controllers and on QEMU's own beside them.

In a virtual machine an access to a register is an exit. QEMU's trace counts them, for ours and for
its own alike; interrupts and commands are what the guest counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.guests.errors import GuestError
from drivebay.guests.linux import Accel, LinuxGuest
from drivebay.guests.qemu import Qemu, find_qemu
from drivebay.lab.compare.jobs import Contender, Job
from drivebay.lab.compare.lanes import Lane, Observed, Tracer, Worker, find_disks
from drivebay.lab.compare.results import OURS, Costs, Row
from drivebay.lab.compare.served import Served

__all__ = ["compare_in_guest", "peer_name"]

Progress = Callable[[str], None]

NO_DMA: Final = "libata.dma=0"
"""Linux then works every drive by PIO: those contenders have a guest of their own."""
PIO: Final = "ide-pio"


@dataclass(frozen=True)
class Peer:
    """One of QEMU's own: its arguments, and a pattern of what QEMU calls its registers."""

    arguments: tuple[str, ...]
    registers: str


DRIVE: Final = "drive=file-{plate},share-rw=on,write-cache={cache}"
IDE = Peer((f"ide-hd,model={{plate}},bus=ide.0,{DRIVE}",), "ide|bmdma|piix-bmdma")
AHCI = Peer(("ich9-ahci,id={plate}", f"ide-hd,model={{plate}},bus={{plate}}.0,{DRIVE}"), "ahci")
PEERS: Final = {
    "ide-pio": IDE,
    "ide-dma": IDE,
    "ahci": AHCI,
    "ahci-ncq": AHCI,
    "virtio-blk": Peer((f"virtio-blk-pci,serial={{plate}},{DRIVE}",), "virtio-pci.*"),
    "nvme": Peer(("nvme,serial={plate},dbcs=off", f"nvme-ns,{DRIVE}"), "nvme"),
    "nvme-dbbuf": Peer(("nvme,serial={plate}", f"nvme-ns,{DRIVE}"), "nvme"),
}
OUR_REGISTERS: Final = "vfio-user:.*|virtio-pci.*"


def peer_name(qemu: Qemu) -> str:
    """What its rows say."""
    return "QEMU " + ".".join(map(str, qemu.version))


def compare_in_guest(
    disk: Disk,
    contenders: Sequence[Contender],
    jobs: Sequence[Job],
    *,
    file: Path | None = None,
    rounds: int = 3,
    seconds: float = 1.0,
    cache: str = "",
    accel: Accel = "auto",
    progress: Progress = lambda _line: None,
) -> list[Row]:
    """Every job on every controller, `rounds` times in turn for `seconds` each, and once before
    that does not count. Jobs that write, write to the disk.

    `disk` is what our controllers serve, `file` the raw file behind it, which QEMU's own are given;
    without it there are none of QEMU's. `cache` is ``writethrough`` if theirs are to be so, too.
    Raises `GuestError`.
    """
    qemu = find_qemu(progress)
    if not qemu.has_vfio_user:
        version = ".".join(map(str, qemu.version))
        raise GuestError(
            f"QEMU {version} has no vfio-user-pci for PCI functions", "QEMU 10.1 has it"
        )
    rows: list[Row] = []
    for pio in (True, False):
        those = [each for each in contenders if each.in_guest and (each.name == PIO) == pio]
        if those:
            with tempfile.TemporaryDirectory(prefix="drivebay-") as folder:
                session = _Session(disk, file, Path(folder), those, cache, qemu)
                guest = session.guest(NO_DMA if pio else "", accel, progress)
                rows += session.run(guest, jobs, rounds, seconds, progress)
    return rows


class _Session:
    """One boot: its controllers, and who works which of them how."""

    def __init__(
        self,
        disk: Disk,
        file: Path | None,
        folder: Path,
        contenders: Sequence[Contender],
        cache: str,
        qemu: Qemu,
    ) -> None:
        self._qemu, self._cache = qemu, cache
        self._served = Served(disk, folder)
        self._log = folder / "trace"
        self._log.touch()
        self._arguments = ["-D", str(self._log)]
        self._bytes = disk.byte_count
        self._wanted: list[tuple[Contender, str, str, str]] = []
        for each in contenders:
            plate = f"OURS-{each.name}"
            self._arguments += self._served.add(each.name, plate)
            self._wanted.append((each, OURS, plate, OUR_REGISTERS))
            if file is not None and each.peer:
                plate = f"QEMU-{each.name}"
                self._arguments += self._own(each.name, plate, file)
                self._wanted.append((each, peer_name(qemu), plate, PEERS[each.name].registers))

    def _own(self, name: str, plate: str, file: Path) -> list[str]:
        """QEMU's arguments for one of its own."""
        path = str(file).replace(",", ",,")
        words = ["-blockdev", f"driver=file,node-name=file-{plate},locking=off,filename={path}"]
        cache = "off" if self._cache == "writethrough" else "on"
        for argument in PEERS[name].arguments:
            words += ["-device", argument.format(plate=plate, cache=cache)]
        return words

    def guest(self, append: str, accel: Accel, progress: Progress) -> LinuxGuest:
        """The guest, not started yet. Its machine has the PIIX3 of which QEMU's IDE is a part."""
        return LinuxGuest(
            qemu_args=self._arguments,
            tools=["fio"],
            machine="pc",
            append=append,
            accel=accel,
            qemu=self._qemu,
            progress=progress,
        )

    def run(
        self,
        guest: LinuxGuest,
        jobs: Sequence[Job],
        rounds: int,
        seconds: float,
        progress: Progress,
    ) -> list[Row]:
        """Boot, and do it all."""
        progress(f"booting a guest with {len(self._wanted)} disks")
        with self._served, guest:
            disks = find_disks(guest)
            worker = Worker(guest, self._bytes)
            tracer = Tracer(worker, self._log, self._served)
            lanes = [
                Lane(each, by, disks[plate], registers)
                for each, by, plate, registers in self._wanted
            ]
            samples: dict[Job, list[list[Observed]]] = {job: [] for job in jobs}
            for n in range(rounds + 1):
                for job in jobs:
                    progress(f"{f'round {n} of {rounds}' if n else 'warming up'}: {job.label}")
                    samples[job].append(worker.take(lanes, job, seconds if n else seconds / 4))
            rows = []
            for job in jobs:
                progress(f"counting: {job.label}")
                for lane, taken in zip(lanes, zip(*samples[job][1:], strict=True), strict=True):
                    rows.append(self._row(job, lane, taken, *tracer.costs(lane, job)))
            return rows

    def _row(
        self, job: Job, lane: Lane, taken: Sequence[Observed], costs: Costs, server_us: float
    ) -> Row:
        sized = lane.sized(job)
        return Row(
            lane.contender.name,
            lane.by,
            job.name,
            job.unit,
            sized.size,
            [sized.figure(each.done, each.seconds) for each in taken],
            costs,
            server_us=server_us if lane.by == OURS else None,
            cache=self._cache if job.write else "",
        )
