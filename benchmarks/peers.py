"""The servers: ours, and qemu-storage-daemon in each of its modes, on the same file."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.run import Run
from drivebay.cli.backend import Backend
from drivebay.guests.process import Leash

DAEMON = "qemu-storage-daemon"
START_SECONDS = 10.0


@dataclass(frozen=True)
class Mode:
    """How qemu-storage-daemon moves data: aio=, in a thread of its own, past the page cache."""

    aio: str
    iothread: bool = True
    direct: bool = False

    def __str__(self) -> str:
        words = [self.aio, *["iothread"] * self.iothread, *["direct"] * self.direct]
        return ", ".join(words)


MODES = (
    Mode("io_uring", iothread=False),
    Mode("io_uring"),
    Mode("io_uring", direct=True),
    Mode("threads", iothread=False),
    Mode("threads"),
    Mode("native", direct=True),
)


@dataclass(frozen=True)
class Server:
    """A process that serves a disk at a vhost-user socket."""

    name: str
    socket: Path
    pid: int

    def cpu_seconds(self) -> float:
        """What all its threads have used, those that have ended included."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pin(self, cpu: int) -> None:
        """Keep it on one CPU. The kernel's own io_uring workers in it cannot be kept anywhere."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread), {cpu})


class PeerError(Exception):
    """A server did not start."""


@contextlib.contextmanager
def drivebay(run: Run) -> Iterator[Server]:
    """`drivebay serve`; the process is the one that does the work."""
    socket = run.folder / "drivebay.sock"
    with Backend(["--virtio-blk", f"file:{run.file},socket={socket}"]) as backend:
        yield Server("drivebay", socket, backend.pid)


@contextlib.contextmanager
def storage_daemon(run: Run, mode: Mode) -> Iterator[Server]:
    """qemu-storage-daemon's vhost-user-blk export."""
    socket = run.folder / f"{str(mode).replace(', ', '-')}.sock"
    blockdev = f"driver=file,node-name=disk,locking=off,filename={run.file},aio={mode.aio}"
    export = "type=vhost-user-blk,id=export,node-name=disk,writable=on"
    command, environment = [*run.qemu.command(DAEMON)], run.qemu.environment
    version = ".".join(map(str, run.qemu.version))
    if run.daemon is not None:
        command, environment = [run.daemon], {}
        version = subprocess.check_output([run.daemon, "--version"], text=True).split()[2]
    command += ["--blockdev", blockdev + ",cache.direct=on" * mode.direct]
    command += ["--object", "iothread,id=thread"] if mode.iothread else []
    export += f",addr.type=unix,addr.path={socket}" + ",iothread=thread" * mode.iothread
    name = f"{DAEMON} {version} ({mode})"
    with started(name, socket, [*command, "--export", export], environment) as server:
        yield server


@contextlib.contextmanager
def started(
    name: str, socket: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A program that serves at `socket`; killed in the end. Raises `PeerError`."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    leash = Leash(process.pid)
    try:
        _wait_for(socket, process)
        yield Server(name, socket, process.pid)
    finally:
        process.kill()
        process.communicate()
        leash.go()


@contextlib.contextmanager
def storage_daemons(run: Run) -> Iterator[list[Server]]:
    """All of its modes that work here; `PeerError` if none does."""
    servers = []
    with contextlib.ExitStack() as stack:
        for mode in MODES:
            try:
                servers.append(stack.enter_context(storage_daemon(run, mode)))
            except PeerError as error:
                run.progress.say(f"{DAEMON} without the mode {mode}: {error}")
        if not servers:
            raise PeerError(f"{DAEMON} works in no mode")
        yield servers


def _wait_for(socket: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while not (socket.exists() and stat.S_ISSOCK(socket.stat().st_mode)):
        if process.poll() is not None:
            assert process.stderr is not None
            raise PeerError((process.stderr.read() or "it ended").strip().splitlines()[-1])
        if time.monotonic() > end:
            raise PeerError(f"no socket in {START_SECONDS:g} s")
        time.sleep(0.02)
