"""What the tests of the vhost-user host stand on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.contract import Disk
from drivebay.hosts.vhost_user.codec import Codec, Message, PeerError, encode
from drivebay.hosts.vhost_user.server import VhostUserServer
from drivebay.hosts.vhost_user.session import Session
from drivebay.platform.engine import Engine
from drivebay.testing import FrontEnd

ALL_FDS = (0, 1, 8, 253)  # 253 is the most that the kernel passes at once


def open_fds() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_fd_is_left() -> Iterator[None]:
    """What is opened inside is closed at its end, without the garbage collector's help."""
    gc.collect()  # what earlier tests have left
    gc.disable()
    logging.disable(logging.WARNING)  # pytest keeps what is logged, with all that hangs on it
    try:
        before = open_fds()
        yield
        assert open_fds() == before
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


@dataclass
class Bay:
    """A disk served on a socket, by an engine that runs while a front end waits."""

    engine: Engine
    disk: Disk
    device: BlockDevice
    server: VhostUserServer
    path: str

    def turn(self) -> None:
        self.engine.turn(0.01)

    def guest(self, **options: object) -> FrontEnd:
        return FrontEnd(self.path, poll=self.turn, **options)  # type: ignore[arg-type]

    def raw(self) -> FrontEnd:
        """A front end that has said nothing yet."""
        return self.guest(start=False)

    def until_free(self) -> None:
        assert self.engine.run_until(lambda: not self.server.connected, 2)

    def settle(self) -> None:
        """Take turns until nothing more happens."""
        for _ in range(5):
            self.engine.turn(0)

    def still_works(self) -> None:
        """Another guest comes, and is served."""
        self.until_free()
        with self.guest() as guest:
            guest.write(7, b"alive".ljust(512))
            assert guest.read(7, 512) == b"alive".ljust(512)
        self.until_free()


class Desk:
    """A session without a socket: what is said to it, and what it answers."""

    def __init__(self, device: BlockDevice, engine: Engine) -> None:
        self.answers: list[Message] = []
        self.codec = Codec()
        self.session = Session(device, engine, self._send, lambda: None)

    def _send(self, data: bytes, fd: int | None = None) -> None:
        fds = () if fd is None else (os.dup(fd),)
        codec = Codec()
        while data:
            head, data = data[: codec.wanted], data[codec.wanted :]
            self.answers += codec.receive(head, fds)
            fds = ()

    def say(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> list[Message]:
        """Hand a request over with duplicates of `fds`; its answers."""
        self.answers = []
        [message] = decode(encode(request, payload, NEED_REPLY=1), tuple(map(os.dup, fds)))
        self.session.handle(message)
        for answer in self.answers:
            answer.close_fds()
        return self.answers

    def refuses(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> bool:
        """Whether the session refuses a request, as a peer's mistake."""
        try:
            self.say(request, payload, fds)
        except (PeerError, OSError):
            return True
        return False

    def close(self) -> None:
        self.session.close()
        self.session.forget()


def decode(data: bytes, fds: tuple[int, ...] = ()) -> list[Message]:
    """The messages in `data`; the descriptors come with the first byte."""
    codec, messages = Codec(), []
    while data:
        taken = codec.wanted
        messages += codec.receive(data[:taken], fds)
        data, fds = data[taken:], ()
    return messages


def hung_up(client: socket.socket) -> bool:
    """Whether the other end of a socket has closed it."""
    with contextlib.suppress(BlockingIOError):
        try:
            return not client.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except ConnectionResetError:
            return True
    return False
