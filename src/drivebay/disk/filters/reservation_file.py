"""The file in which reservations outlive a power loss ("APTPL", "PTPL")."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import replace
from typing import Any, Final

from drivebay.disk.errors import DiskOpenError, from_os_error
from drivebay.disk.filters.reservation_state import MOST_REGISTRANTS, State
from drivebay.disk.reservations import ReservationType

__all__ = ["ReservationFile"]

FORMAT: Final = "drivebay reservations 1"
LONGEST: Final = 1 << 20
LONGEST_ID: Final = 256


class ReservationFile:
    """A state that `store` replaces whole, and that is there again when the file is opened again.

    A state that does not persist is stored as an empty one. One process has the file at a time: it
    holds a lock on the file of that name, whichever that is. Raises `DiskOpenError`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DiskOpenError(f"{path}: {error.strerror}") from error
        try:
            self._lock()
            self.state = self._load()
            """What was stored when it was opened."""
            self._stored: State | None = self.state
        except DiskOpenError:
            self.close()
            raise

    def store(self, state: State) -> None:
        """Store what of `state` persists, unless that is there already. Blocks.

        Raises `IoError`; the file then holds the old state or the new.
        """
        lasting = replace(state, generation=0) if state.persists else State()
        if lasting == self._stored:
            return
        try:
            self._replace(_encode(lasting))
        except OSError as error:
            self._stored = None  # it may be either
            raise from_os_error(error, f"store {self.path}") from error
        self._stored = lasting

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _replace(self, text: bytes) -> None:
        """Put a new file in the place of the old, at once; it is locked before it is seen."""
        new = f"{self.path}.new"
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pwrite(fd, text, 0) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
            os.rename(new, self.path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lock(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._fd), os.stat(self.path)):
                return
        raise DiskOpenError(
            f"{self.path}: another process keeps reservations there",
            "a disk with reservations is shared by the controllers of one process",
        )

    def _load(self) -> State:
        text = os.pread(self._fd, LONGEST + 1, 0)
        if not text:  # new
            return State()
        try:
            if len(text) > LONGEST:
                raise ValueError
            return _decode(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DiskOpenError(
                f"{self.path}: not a file of reservations",
                "to begin without any, name one that does not exist",
            ) from None


def _encode(state: State) -> bytes:
    return json.dumps(
        {
            "format": FORMAT,
            "persists": state.persists,
            "type": state.type and state.type.value,
            "holder": state.holder and state.holder.hex(),
            "registrants": [
                {"host": host.hex(), "key": f"{key:016x}"} for host, key in state.keys.items()
            ],
        },
        indent=1,
    ).encode()


def _decode(data: Any) -> State:
    """Raises one of many errors if `data` is not what `_encode` writes."""
    keys = {bytes.fromhex(one["host"]): int(one["key"], 16) for one in data["registrants"]}
    kind = data["type"] and ReservationType(data["type"])
    holder = data["holder"] and bytes.fromhex(data["holder"])
    sound = (
        data["format"] == FORMAT
        and isinstance(data["persists"], bool)
        and len(keys) <= MOST_REGISTRANTS
        and all(0 < key < 1 << 64 for key in keys.values())
        and all(len(host) <= LONGEST_ID for host in keys)
        and (holder in keys if kind and not kind.all_registrants else holder is None)
        and (bool(keys) if kind else True)
    )
    if not sound:
        raise ValueError
    return State(keys, kind or None, holder or None, data["persists"])
