"""Where a recorder's batches go: into a file as they are, or to a process that makes lines, a
timeline or packets of them, as that takes longer than the commands do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from drivebay.lab.trace.formats import NATIVE, format_of
from drivebay.lab.trace.records import MAGIC, Batch, TraceError

__all__ = ["ConverterSink", "FileSink", "open_sink"]

LAST_SECONDS: Final = 30.0
"""So long a converter may take for what it was given last."""


class FileSink:
    """Appends to the trace `path`, behind its last whole batch. Raises `TraceError` if it cannot be
    opened, or is something else.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            hint = "name a file that can be written"
            raise TraceError(f"{path}: {error.strerror}", hint) from None
        try:
            end = _end(self._fd, path)
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, batch: bytes) -> None:
        """Append it. Raises `OSError`."""
        _write(self._fd, batch)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _end(fd: int, path: str) -> int:
    """Where the last batch ends that is whole: whoever wrote the next may have been killed."""
    at, size = 0, os.fstat(fd).st_size
    while len(head := os.pread(fd, Batch.size, at)) == Batch.size:
        batch = Batch.unpack(head)
        if batch.magic != MAGIC:
            raise TraceError(f"{path} is no trace", "it is not overwritten: name another file")
        if at + Batch.size + batch.length > size:
            break
        at += Batch.size + batch.length
    return at


class ConverterSink:
    """Hands it to a ``drivebay lab trace`` that appends to `path`, or prints lines if that is
    ``-``.
    """

    def __init__(self, path: str) -> None:
        command = [sys.executable, "-m", "drivebay.cli.main", "lab", "trace", "-", "--to", path]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.stderr if path == "-" else subprocess.DEVNULL,
            process_group=0,  # Ctrl-C ends us, and then it
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin

    def write(self, batch: bytes) -> None:
        """Hand it over; waits while there is no room. Raises `OSError`."""
        _write(self._pipe.fileno(), batch)

    def close(self) -> None:
        """There is no more: have it end."""
        self._pipe.close()
        try:
            self._process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def open_sink(path: str) -> FileSink | ConverterSink:
    """What takes batches for the file `path`, by the ending of its name. Raises `TraceError`."""
    if format_of(path) == NATIVE:
        return FileSink(path)
    return ConverterSink(path)
