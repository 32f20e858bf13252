"""The whole comparison: a disk for it, who takes part, and what it was taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from drivebay import __version__
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.spec import Node, open_disk, parse
from drivebay.guests.kvm import kvm_works
from drivebay.guests.linux import Accel
from drivebay.guests.qemu import find_qemu
from drivebay.lab.compare.guest import compare_in_guest, peer_name
from drivebay.lab.compare.inprocess import compare_in_process
from drivebay.lab.compare.jobs import CONTENDERS, JOBS, WRITES, contender
from drivebay.lab.compare.results import Comparison, Row

__all__ = ["compare"]

MEGABYTES: Final = 256
"""Of the disk that is made where none is named."""

Progress = Callable[[str], None]


def compare(
    spec: str | None = None,
    *,
    vm: bool = True,
    only: Sequence[str] = (),
    rounds: int = 3,
    seconds: float = 1.0,
    caches: Sequence[str] = (),
    accel: Accel = "auto",
    progress: Progress = lambda _line: None,
) -> Comparison:
    """Compare controllers on the disk `spec`, in a guest or, without a `vm`, in this process.

    `only` names contenders; for each of `caches`, ``writeback`` or ``writethrough``, there are jobs
    that write to the disk. Without a spec it is a file with random data, made for this. Raises
    `KeyError` for a name that is none, `DiskOpenError` and `GuestError`.
    """
    those = [contender(name) for name in only] or list(CONTENDERS)
    notes = []
    if vm and (missing := [each.label for each in those if not each.in_guest]):
        notes.append(f"Not in a guest, as Linux has no driver for it: {', '.join(missing)}.")
    with _disk(spec, progress) as (text, node):
        file = _raw_file(node)
        if vm and file is None:
            notes.append(f"QEMU's own controllers are left out: they open a raw file, not {text}.")
        rows: list[Row] = []
        for number, cache in enumerate(caches or [""]):
            disk = open_disk(f"cache:{cache}:{text}" if cache else text, read_only=not cache)
            jobs = [*(JOBS if number == 0 else ()), *(WRITES if cache else ())]
            try:
                _check(text, disk)
                if vm:
                    rows += compare_in_guest(
                        disk,
                        those,
                        jobs,
                        file=file,
                        rounds=rounds,
                        seconds=seconds,
                        cache=cache,
                        accel=accel,
                        progress=progress,
                    )
                else:
                    rows += compare_in_process(
                        disk,
                        those,
                        jobs,
                        rounds=rounds,
                        seconds=seconds,
                        cache=cache,
                        progress=progress,
                    )
            finally:
                disk.close()
        about = _about(vm, accel) | {
            "disk": text if spec else f"{MEGABYTES} MiB of random data in {_folder()}",
            "taken": f"{rounds} rounds of {seconds:g} s",
        }
    return Comparison("guest" if vm else "in-process", about, notes, rows)


def _check(text: str, disk: Disk) -> None:
    """Raise `DiskOpenError` for a disk that the jobs cannot be done on."""
    sizes = [job.size for job in (*JOBS, *WRITES)]
    if disk.byte_count < max(sizes):
        raise DiskOpenError(f"{text}: {disk.byte_count} bytes", f"{max(sizes)} are needed")
    if disk.sector_size > min(sizes):
        raise DiskOpenError(
            f"{text}: sectors of {disk.sector_size} bytes", f"{min(sizes)} at most can be compared"
        )


@contextlib.contextmanager
def _disk(spec: str | None, progress: Progress) -> Iterator[tuple[str, Node]]:
    """The text of the disk, and what that means."""
    if spec is not None:
        yield spec, parse(spec)
        return
    progress(f"filling {MEGABYTES} MiB in {_folder()}")
    with tempfile.TemporaryFile(dir=_folder()) as file:
        for _ in range(MEGABYTES):  # with holes it would not be read at all
            file.write(os.urandom(1 << 20))
        file.flush()
        text = f"file:/proc/{os.getpid()}/fd/{file.fileno()}"  # it goes when we do, however we do
        yield text, parse(text)


def _folder() -> str:
    """In memory, where there is room."""
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize >> 20 > 2 * MEGABYTES:
            return "/dev/shm"
    return tempfile.gettempdir()


def _raw_file(node: Node) -> Path | None:
    """The file of a disk that is nothing else, and nothing was said of it."""
    path = node.text.removeprefix("file:")
    return Path(path).absolute() if node.kind == "file" and not {*";,"} & {*path} else None


def _about(vm: bool, accel: Accel) -> dict[str, str]:
    """The machine and the programs, in words that name nobody."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    kernel = re.match(r"[\d.]+\d", platform.release())
    found = {
        "machine": f"{os.cpu_count()} CPUs, {model[1].strip() if model else platform.machine()}",
        "kernel": kernel[0] if kernel else platform.release(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "drivebay": __version__,
    }
    if vm:
        kvm = accel == "kvm" or (accel == "auto" and kvm_works())
        found["guest"] = f"{peer_name(find_qemu())}, {'KVM' if kvm else 'TCG'}, one CPU, fio and dd"
    return found
