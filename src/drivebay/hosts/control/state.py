"""The file of a controller's state: MessagePack, with a head that says whose it is."""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec

from drivebay.hosts.control.messages import FileState, Refused

__all__ = ["read", "write"]

MAGIC: Final = "drivebay state"
FORMAT: Final = 1
MOST: Final = 64 << 20
"""Bytes of a file that is read."""


class _File(msgspec.Struct):
    magic: str
    format: int
    kind: str
    """Of the controller."""
    state: dict[str, Any]


def write(path: str, kind: str, state: Any) -> FileState:
    """Write it, for its owner's eyes: sectors may be in it. What was there is replaced only when it
    is whole. Raises `Refused`.
    """
    data = msgspec.msgpack.encode(_File(MAGIC, FORMAT, kind, state))
    begun = f"{path}.{os.getpid()}"
    try:
        file = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(file, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(file)
            os.rename(begun, path)
        except OSError:
            os.unlink(begun)
            raise
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "the path is the server's") from None
    return FileState(os.path.abspath(path), len(data))


def read(path: str, kind: str) -> tuple[dict[str, Any], FileState]:
    """The state that is in a file. Raises `Refused` for one that is not of this kind."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MOST + 1)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "controller.save writes one") from None
    if len(data) > MOST:
        raise Refused(f"{path}: more than {MOST} bytes", "no state is so large")
    try:
        file = msgspec.msgpack.decode(data, type=_File)
    except (msgspec.DecodeError, RecursionError):
        file = None
    if file is None or file.magic != MAGIC:
        raise Refused(f"{path}: is not a controller's state", "controller.save writes one")
    if file.format != FORMAT:
        raise Refused(f"{path}: a state of format {file.format}", f"we read format {FORMAT}")
    if file.kind != kind:
        raise Refused(f"{path}: the state of a controller of kind {file.kind}", f"{kind} is wanted")
    return file.state, FileState(os.path.abspath(path), len(data))
