"""Bytes in, messages out: the vfio-user wire without a socket.

Unlike vhost-user's, this one takes whatever has come, as each system call is a good part of a
register access: where descriptors come with bytes, the kernel ends the read after them, so they
belong to the last message that began. Whoever gets a message owns its descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from drivebay.hosts.peer import PeerError, close_all
from drivebay.hosts.vfio_user.messages import MAX_FDS, MAX_SIZE, Command, Flags, Header

__all__ = ["NO_REPLY", "REPLY", "TYPE", "Codec", "Message", "encode", "error_reply", "reply"]

HEADER: Final = Header.size
TYPE, ERROR, NO_REPLY = int(Flags.TYPE), int(Flags.ERROR), int(Flags.NO_REPLY)
REPLY: Final = 1
VHOST_USER: Final = bytes((0, 0, 1, 0, 0, 0))
"""What follows the first two bytes of its messages: a small number's rest, and version 1."""

pack_header, unpack_header = Header.layout.pack, Header.layout.unpack_from

_NAMES: Final = {int(command): command.name for command in Command}


class Message(NamedTuple):
    """A command, or the reply to one."""

    id: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in the specification."""
        return _NAMES.get(self.command, f"command {self.command}")

    @property
    def is_reply(self) -> bool:
        """Whether it answers a command of ours."""
        return self.flags & TYPE == REPLY

    @property
    def failed(self) -> bool:
        """Whether it is a reply that says so; `error` is an errno, or 0."""
        return bool(self.flags & ERROR)

    @property
    def wants_reply(self) -> bool:
        """Whether it is a command that must be answered."""
        return not self.flags & NO_REPLY

    def close_fds(self) -> None:
        """Close the descriptors that came with it."""
        close_all(self.fds)


class Codec:
    """The receiving half of a connection."""

    wanted: Final = MAX_SIZE
    """How many bytes to read next, at most."""

    def __init__(self) -> None:
        self._buffer = b""
        self._fds: list[int] = []

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> list[Message]:
        """Take bytes; the messages that they end. Raises `PeerError`."""
        if self._buffer:
            data = self._buffer + data
        elif len(data) >= HEADER and not fds:  # mostly it is one message, and all of it
            identity, command, size, flags, error = unpack_header(data)
            if size == len(data):
                return [Message(identity, command, flags, error, data[HEADER:], ())]
        carried = len(self._fds)  # descriptors of the message under way
        self._fds += fds
        messages: list[Message] = []
        at, end = 0, len(data)
        while end - at >= 8:
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            if not HEADER <= size <= MAX_SIZE:
                raise PeerError(_odd_size(data[at : at + 8], size))
            if end - at < size:
                break
            identity, command, _, flags, error = unpack_header(data, at)
            payload = data[at + HEADER : at + size]
            messages.append(Message(identity, command, flags, error, payload, ()))
            at += size
        self._buffer = data[at:]
        if self._fds:
            self._hand_out(messages, carried)
        return messages

    def _hand_out(self, messages: list[Message], carried: int) -> None:
        if messages and carried:
            messages[0] = messages[0]._replace(fds=tuple(self._fds[:carried]))
            del self._fds[:carried]
        if messages and not self._buffer:
            last = messages[-1]
            messages[-1] = last._replace(fds=last.fds + tuple(self._fds))
            self._fds.clear()
        if len(self._fds) > MAX_FDS:
            raise PeerError(f"more than {MAX_FDS} descriptors in a message")

    def close(self) -> None:
        """Close the descriptors of a message that never became whole."""
        close_all(self._fds)
        self._fds = []


def _odd_size(start: bytes, size: int) -> str:
    if start[2:] == VHOST_USER:
        return "it speaks vhost-user: QEMU attaches to this socket by -device vfio-user-pci"
    return f"a message of {size} bytes: is this a vfio-user client?"


def encode(
    command: int, payload: bytes = b"", identity: int = 0, flags: int = 0, error: int = 0
) -> bytes:
    """A message."""
    return pack_header(identity, command, HEADER + len(payload), flags, error) + payload


def reply(message: Message, payload: bytes = b"") -> bytes:
    """The answer to `message`."""
    size = HEADER + len(payload)
    return pack_header(message.id, message.command, size, REPLY, 0) + payload


def error_reply(message: Message, error: int) -> bytes:
    """The answer that says `message` was not done, and why: an errno."""
    return pack_header(message.id, message.command, HEADER, REPLY | ERROR, error)
