"""What a PCI function in another process costs its guest: accesses, and what each takes."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.guest import Attached, Job, fio
from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.vfio_user.codec import encode
from drivebay.hosts.vfio_user.messages import Command, RegionAccess
from drivebay.testing.vfio_user import Monitor

SAMPLE_SECONDS = 0.6
ROUND_TRIPS = 10_000
EVENTS = ("memory_region_ops_read", "memory_region_ops_write")
OURS = "vfio-user:"
"""What QEMU's names for the BARs of our functions begin with."""
BARE = "a bare blocking echo in Python"
ECHO = """
import socket
with socket.socket(fileno=0) as connection:
    while data := connection.recv(64):
        connection.send(data)
"""


class Trace:
    """The register accesses that a guest makes, as QEMU traces them into `log`, its -D."""

    def __init__(self, guest: LinuxGuest, log: Path) -> None:
        self.guest, self._log = guest, log

    def take(self, disk: Attached, job: Job, seconds: float, names: str) -> Sample:
        """Accesses of each request to registers of these names, a regular expression."""
        start = self._log.stat().st_size
        self._enable(True)
        requests = fio(self.guest, disk, job, seconds).requests
        self._enable(False)
        wanted = re.compile(rf"name '({names})")
        with self._log.open() as log:
            log.seek(start)
            return Sample(sum(bool(wanted.search(line)) for line in log) / requests)

    def _enable(self, enable: bool) -> None:
        for name in EVENTS:
            self.guest.qmp.execute("trace-event-set-state", name=name, enable=enable)


def per_request(
    run: Run, part: str, trace: Trace, jobs: Sequence[Job], ours: Attached, peer: Attached, own: str
) -> Iterator[Result]:
    """Accesses of each request of `jobs`; `own` are QEMU's names for the registers of its own."""
    for job in jobs:
        name, seconds = f"{part}/accesses-{job.name}", SAMPLE_SECONDS * run.scale
        figures = run.alternate(
            name,
            partial(trace.take, ours, job, seconds, OURS),
            partial(trace.take, peer, job, seconds, rf"({own})'"),
        )
        yield compare(name, "accesses", figures, peer.server.name)


def round_trip(run: Run, part: str, path: str, access: RegionAccess) -> Result:
    """A register read by a client that does nothing else, beside an echo of as many bytes."""
    request = encode(Command.REGION_READ, access.pack())
    count = round(ROUND_TRIPS * run.scale)
    name = f"{part}/register-round-trip"
    with Monitor(path) as monitor, _echo() as echo:
        monitor.socket.setblocking(True)
        figures = run.alternate(
            name,
            partial(_ask, monitor.socket, request, count),
            partial(_ask, echo, request, count),
        )
    return compare(name, "us", figures, BARE)


def _ask(connection: socket.socket, request: bytes, count: int) -> Sample:
    send, receive = connection.send, connection.recv
    start = time.perf_counter()
    for _ in range(count):
        send(request)
        receive(64)
    return Sample((time.perf_counter() - start) / count * 1e6)


@contextmanager
def _echo() -> Iterator[socket.socket]:
    """A process that answers with what it is told."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", ECHO], stdin=theirs.fileno())
    with process, ours:
        yield ours
        ours.shutdown(socket.SHUT_RDWR)
