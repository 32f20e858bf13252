"""A running guest: its process, its console, and the line over which it takes commands."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from drivebay.guests.errors import GuestError
from drivebay.guests.process import Leash

CONSOLE_TAIL = 16384  # bytes of console that an error looks at
CONSOLE_LINES = 12
PANIC = "Kernel panic"
END_SECONDS = 10.0  # how long a guest may take to power off

OnOutput = Callable[[bytes], None]


@dataclass(frozen=True)
class Result:
    """What became of a command: its exit status, all it wrote, and its wall time in seconds."""

    status: int
    output: str
    seconds: float


class Session:
    """A started guest that runs shell commands one after the other.

    The guest is a process of its own and is killed, with all it started, when the session is
    closed and when this process ends.

    `control` is our end of the line to init.sh; `what` names the guest in errors.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        control: socket.socket,
        pass_fds: Sequence[int],
        environment: Mapping[str, str] | None = None,
        what: str = "the guest",
    ) -> None:
        self.what = what
        self._control = control
        self._ready = select.poll()
        self._ready.register(control, select.POLLIN)
        self._received = bytearray()
        # Files, not pipes: nobody has to read them for the guest to go on.
        self._console: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._errors,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            control.close()
            raise GuestError(f"cannot start {command[0]}: {error.strerror}") from error
        self._leash = Leash(self.process.pid, group=True)

    def wait_ready(self, timeout: float) -> None:
        """Wait until init takes commands; GuestError if that takes over `timeout` seconds."""
        self._receive_until(b"ready\n", time.monotonic() + timeout, None)

    def run(
        self, script: str, *, timeout: float = 120.0, on_output: OnOutput | None = None
    ) -> Result:
        """Run the shell text `script` in the guest and return what became of it.

        Its standard output and error go to `on_output` as they come. Raises GuestError, with
        the guest killed, when it does not end within `timeout` seconds, or when the guest panics
        or ends before it does. What `script` leaves in the background may go on writing: give it
        an output of its own (`>/dev/null 2>&1 &`).
        """
        started = time.monotonic()
        token = secrets.token_hex(16).encode()
        line = token + b" " + base64.b64encode(script.encode()) + b"\n"
        deadline = started + timeout
        self._send(line)
        output = self._receive_until(b"\0" + token + b" ", deadline, on_output)
        status = self._receive_until(b"\n", deadline, None)
        return Result(int(status), output.decode(errors="replace"), time.monotonic() - started)

    def close(self) -> None:
        """Power the guest off, in order; it is killed if it takes too long."""
        with contextlib.suppress(OSError, GuestError):
            self._send(b"poweroff\n")
            self.process.wait(END_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0)
        self.kill()

    def kill(self) -> None:
        """End the guest at once; it may be dead already."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._leash.go()
        self._control.close()

    def console(self) -> str:
        """Return the last lines of the guest's console and of its monitor's complaints.

        After a kernel panic they begin where it does.
        """
        text = _tail(self._console) + _tail(self._errors)
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if "warning: " not in line]
        for number, line in enumerate(lines):
            if PANIC in line:
                return "\n".join(lines[number : number + CONSOLE_LINES])
        return "\n".join(lines[-CONSOLE_LINES:])

    def _send(self, line: bytes) -> None:
        try:
            self._control.sendall(line)
        except OSError:
            raise self._ended() from None

    def _receive_until(self, mark: bytes, deadline: float, on_output: OnOutput | None) -> bytes:
        """Return what comes before `mark`, handing it on as it comes."""
        shown = searched = 0
        while (found := self._received.find(mark, searched)) < 0:
            # All but what may be the beginning of the mark.
            begun = self._received.find(mark[:1], max(0, len(self._received) - len(mark) + 1))
            searched = begun if begun >= 0 else len(self._received)
            shown = self._show(shown, searched, on_output)
            self._received += self._receive(deadline)
        self._show(shown, found, on_output)
        before = bytes(self._received[:found])
        del self._received[: found + len(mark)]
        return before

    def _show(self, start: int, end: int, on_output: OnOutput | None) -> int:
        """Hand on what was received from `start` to `end`; return where to go on."""
        if on_output and end > start:
            on_output(bytes(self._received[start:end]))
        return max(start, end)

    def _receive(self, deadline: float) -> bytes:
        """Return the next bytes of the control line."""
        while (left := deadline - time.monotonic()) > 0:
            # The line stays open when a helper process of the guest outlives it: look at both.
            if self._ready.poll(1000 * min(left, 0.5)):
                with contextlib.suppress(ConnectionResetError):
                    if data := self._control.recv(65536):
                        return data
                raise self._ended()
            if self.process.poll() is not None:
                raise self._ended()
        self.kill()
        raise GuestError(
            f"{self.what} did not answer in time and was ended",
            "a longer timeout, or look at what it waits for",
            self.console(),
        )

    def _ended(self) -> GuestError:
        """Return the error for a guest that is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        self.kill()
        console = self.console()
        if PANIC in console:
            return GuestError(f"{self.what} panicked", "", console)
        status = self.process.returncode
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return GuestError(f"{self.what} ended by itself ({how})", "", console)


def _tail(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    start = max(0, size - CONSOLE_TAIL)
    return os.pread(file.fileno(), CONSOLE_TAIL, start).decode(errors="replace")
