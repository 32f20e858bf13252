"""A recording: all that came to a PCI function, all it was answered, and all it did, in its order.

It is a gzip file of MessagePack arrays, each behind its length (4 bytes, little-endian). The first
is the header. Of the others some are *inputs*, which make the function work; *answers* to what it
asks while it works; and *outputs*, in which a replay must agree.

| entry | | fields |
|---|---|---|
| `plugged` | input | whether the host takes vectors, bytes that memory is moved by |
| `unplugged`, `reset` | input | |
| `read` | input | region, offset, width |
| `write` | input | region, offset, width, value |
| `run` | input | ticket of a callback, a timer or a wait that is over |
| `end` | input | the turn is over |
| `settle` | input | what has changed in copies of guest memory goes back |
| `relaid` | input | guest memory was laid out anew |
| `resized` | input | disk, its sectors |
| `save` | input | |
| `disk is` | answer | disk, what it is |
| `now` | answer | seconds |
| `memory` | answer | address, length, bytes there, or none if that is no RAM |
| `changed` | answer | pieces of what is kept of it that have changed: address, bytes |
| `disk` | answer | number of the operation, error or none, what was read |
| `allocated` | answer | disk, bytes or none |
| `cancel` | answer | number of the operation, whether it was given up |
| `value` | output | what was read of a register |
| `asked` | output | number, disk, operation, sector, count, CRC of the data, FUA or unmap |
| `store` | output | address, bytes |
| `message` | output | capability, vector |
| `line` | output | level of INTx |
| `settled` | behind these two | the host has what has changed in copies written back |
| `saved` | output | what `PciFunction.save` gives |
| `raised` | output | an exception that nobody in the function has caught |

A region is a BAR by its number, or the configuration space, `CONFIG`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from drivebay.disk.errors import DiskOpenError

__all__ = ["CONFIG", "INPUTS", "Entry", "Log", "Recording", "RecordingError"]

VERSION: Final = 1
CONFIG: Final = -1
MOST: Final = 64 << 20
"""Bytes of an entry; those that we write are far smaller."""
SYNC: Final = 1 << 20
"""Bytes after which what was written is there even if we are killed."""
INPUTS: Final = frozenset(
    {"plugged", "unplugged", "reset", "read", "write", "run", "end"}
    | {"settle", "relaid", "resized", "save"}
)

Entry = tuple[Any, ...]


class RecordingError(DiskOpenError):
    """A file is no recording that we can read."""


class Log:
    """Writes a recording to `path`. Raises `RecordingError` if that cannot be."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        try:
            self._file = gzip.GzipFile(path, "wb", compresslevel=1)
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}", "where shall it be written?"
            ) from None
        self._encode = msgspec.msgpack.Encoder(enc_hook=int).encode  # a register is one
        self._since = 0
        self("drivebay", VERSION, dict(header))

    def __call__(self, *entry: Any) -> None:
        """Write an entry. After `close` nothing is written."""
        if self.closed:
            return
        data = self._encode(entry)
        self._file.write(len(data).to_bytes(4, "little"))
        self._file.write(data)
        self._since += len(data)
        if self._since > SYNC:
            self._since = 0
            self._file.flush()

    @property
    def closed(self) -> bool:
        """Nothing is recorded any more."""
        return self._file.closed

    def close(self) -> None:
        """The recording is complete."""
        self._file.close()


class Recording:
    """The entries of a recording, by number; an incomplete last one is not there.

    Raises `RecordingError` if it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = self._read()
        try:
            first = next(entries, ())
        except (OSError, msgspec.DecodeError) as error:
            raise RecordingError(f"{path}: {error}", "a recording is made by --record") from None
        if len(first) != 3 or first[0] != "drivebay" or not isinstance(first[2], dict):
            raise RecordingError(f"{path} is no recording", "a recording is made by --record")
        if first[1] != VERSION:
            raise RecordingError(
                f"{path}: a recording of version {first[1]}", f"this drivebay knows {VERSION}"
            )
        self.header: dict[str, Any] = first[2]
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        """The entries behind the header; once."""
        return self._entries

    def _read(self) -> Iterator[Entry]:
        decode = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
        with gzip.open(self.path, "rb") as file:
            try:
                while len(head := file.read(4)) == 4:
                    length = int.from_bytes(head, "little")
                    if length > MOST:
                        raise OSError(f"an entry of {length} bytes")
                    data = file.read(length)
                    if len(data) < length:
                        return
                    yield decode(data)
            except (EOFError, zlib.error):  # its writer was killed
                return


def cut(source: Path, target: Path, count: int | None) -> None:
    """Write the first `count` entries behind the header of a recording, or all, as one."""
    recording = Recording(source)
    log = Log(target, recording.header)
    for entry in islice(recording, count):
        log(*entry)
    log.close()
