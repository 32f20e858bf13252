"""What is recorded, and how it lies in a ``.dbtrace`` file: as cheap to write as can be.

A record is a tuple that begins with its `Kind`, a time in nanoseconds and the number of its source.
What a record holds of a command is what its controller has: nothing is decoded before somebody
reads it. Records go to the file in batches: a `Batch`, then a MessagePack array of them. Batches of
a server that was started again follow those of the one before.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import msgspec

from drivebay.ata.taskfile import TaskFile
from drivebay.scsi.status import Status
from drivebay.scsi.target import Outcome
from drivebay.wire import U16, U32, Struct

__all__ = [
    "FORMAT",
    "MAGIC",
    "Batch",
    "Kind",
    "Record",
    "Source",
    "TraceError",
    "encode",
    "native_command",
    "native_outcome",
    "read_records",
]

MAGIC: Final = int.from_bytes(b"DBTR", "little")
FORMAT: Final = 1
MOST_BYTES: Final = 64 << 20
"""Of a batch that is read."""

Record = Sequence[Any]


class TraceError(Exception):
    """What is read is no trace, or cannot be what is asked for."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Kind(enum.IntEnum):
    """What a record is of, and what follows time and source."""

    CLOCK = 0
    """A recorder has begun: the same moment in nanoseconds since 1970."""
    SOURCE = 1
    """Who has this number from now on: the fields of a `Source`."""
    BEGAN = 2
    """A command: queue, tag, command."""
    ENDED = 3
    """Queue, tag, outcome."""
    READ = 4
    """A register: place, offset, width, value."""
    WRITE = 5
    """The same."""
    INTERRUPT = 6
    """Which one, and its level; 2 for a message."""
    DISK = 7
    """An operation on a disk: when it began, its name, sector, count, error, data."""
    LOST = 8
    """So many records that nobody had the time to write."""


class Source(msgspec.Struct, frozen=True):
    """Who records come from: `name` is the controller's, `dialect` the language of its commands."""

    name: str
    dialect: str = ""
    part: str = ""
    """Which of its parts: a port, the place of a disk."""
    block: int = 512
    """Bytes of what its commands count."""
    sector_size: int = 512
    """Of a disk."""

    def __str__(self) -> str:
        return f"{self.name}/{self.part}" if self.part else self.name


class Batch(Struct, size=12):
    """Stands before each batch."""

    magic: U32
    format: U16
    reserved: U16
    length: U32


def _plain(value: object) -> Any:
    if isinstance(value, int):  # a register
        return int(value)
    if isinstance(value, TaskFile):
        return value.save()
    raise TypeError(f"a {type(value).__name__} cannot be recorded")


_encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[Any, ...]]).decode


def encode(records: Sequence[Record]) -> bytes:
    """A batch of them."""
    content = _encode(records)
    return Batch(MAGIC, FORMAT, 0, len(content)).pack() + content


def read_records(
    stream: BinaryIO, after_batch: Callable[[], object] = lambda: None
) -> Iterator[Record]:
    """The records of a file or a pipe, as they come; one that is cut in a batch ends before it.
    `after_batch` is called when those of a batch have been taken.

    Raises `TraceError` for what is none.
    """
    while len(head := stream.read(Batch.size)) == Batch.size:
        batch = Batch.unpack(head)
        if batch.magic != MAGIC:
            raise TraceError("this is no trace", "drivebay serve --trace FILE.dbtrace makes one")
        if batch.format != FORMAT:
            raise TraceError(f"a trace of format {batch.format}", f"this drivebay reads {FORMAT}")
        if batch.length > MOST_BYTES:
            raise TraceError(f"a batch of {batch.length} bytes", "the file is damaged")
        content = stream.read(batch.length)
        if len(content) < batch.length:
            return
        try:
            yield from _decode(content)
        except msgspec.DecodeError as error:
            raise TraceError(f"a batch that is none: {error}", "the file is damaged") from None
        after_batch()


# -- commands again as their controllers have them -----------------------------------------------


def native_command(dialect: str, plain: Any) -> Any:
    """The command that was recorded. Raises `TraceError` for what is none."""
    try:
        return _COMMANDS.get(dialect, _same)(plain)
    except (TypeError, ValueError, KeyError) as error:
        raise TraceError(f"{dialect}: a command {plain!r:.80}: {error}") from None


def native_outcome(dialect: str, plain: Any) -> Any:
    """How it ended. Raises `TraceError`."""
    try:
        return _OUTCOMES.get(dialect, _same)(plain)
    except (TypeError, ValueError, KeyError) as error:
        raise TraceError(f"{dialect}: an outcome {plain!r:.80}: {error}") from None


def _same(plain: Any) -> Any:
    return plain


def _outcome(plain: Any) -> Outcome:
    return Outcome(**{**plain, "status": Status(plain["status"])})


_COMMANDS: Final[dict[str, Callable[[Any], Any]]] = {
    "nvme": tuple,
    "virtio": tuple,
    "ata": TaskFile.restore,
}
_OUTCOMES: Final[dict[str, Callable[[Any], Any]]] = {
    "nvme": tuple,
    "ata": tuple,
    "scsi": _outcome,
}
