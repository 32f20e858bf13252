"""A server on an engine of its own, and a client that says what it is told to."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from drivebay.disk.contract import Disk
from drivebay.disk.nbd.messages import (
    CHUNK_MAGIC,
    IHAVEOPT,
    REPLY_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    ChunkHeader,
    ChunkType,
    Command,
    Greeting,
    Option,
    OptionHeader,
    Rep,
    RepHeader,
    RequestHeader,
    SimpleReply,
)
from drivebay.disk.nbd.options import packed_queries, packed_wish
from drivebay.hosts.listening import listen
from drivebay.hosts.nbd.server import NbdServer
from drivebay.platform.engine import Engine

WAIT = 20.0
SIZE = 1 << 20
DATA = -ChunkType.OFFSET_DATA


class Serving:
    """`disk` on a socket in `folder`, by a thread, while it is entered."""

    def __init__(self, disk: Disk, folder: Path, **how: Any) -> None:
        self.disk, self.path, self._how = disk, str(folder / "nbd.sock"), how
        self.engine = Engine()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def __enter__(self) -> Self:
        self.server = NbdServer(self.disk, self.engine, listen(self.path), **self._how)
        self._thread = threading.Thread(target=self.engine.run, daemon=True)
        self._thread.start()
        return self

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` gives on the engine's thread."""
        done = threading.Event()
        got: list[Any] = []

        def call() -> None:
            got.append(function())
            done.set()

        self.engine.later(call)
        assert done.wait(WAIT)
        return got[0]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds on the engine's thread."""
        met = threading.Event()

        def look() -> None:
            if condition():
                met.set()
            else:
                self.engine.after(0.002, look)

        self.engine.later(look)
        assert met.wait(WAIT), "it never came to that"

    def drop_clients(self) -> None:
        def drop() -> None:
            for client in self.server.clients:
                client.close()

        self.call(drop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call(self.server.close)
        self.wait_until(lambda: not self.server.connected)
        self.engine.stop()
        self._thread.join()
        self.engine.close()


class RawClient:
    """A client by hand."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT)
        self.socket.connect(path)
        self.greeting = Greeting.unpack(self.take(Greeting.size))

    def take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hung_up(self) -> bool:
        """Whether the server has, once it has sent what it had to."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        return True

    def close(self) -> None:
        self.socket.close()

    # -- handshake -------------------------------------------------------------------------------

    def flags(self, flags: int = 3) -> None:
        self.send(struct.pack(">I", flags))

    def ask(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.send(option_bytes(option, data))
        replies = []
        while True:
            header = RepHeader.unpack(self.take(RepHeader.size))
            assert (header.magic, header.option) == (REPLY_MAGIC, option)
            replies.append((header.type, self.take(header.length)))
            if header.type == Rep.ACK or header.type >> 31:
                return replies

    def go(self, structured: bool = True, allocation: bool = True, name: str = "") -> Self:
        self.flags()
        if structured:
            assert self.ask(Option.STRUCTURED_REPLY) == [(Rep.ACK, b"")]
            if allocation:
                self.ask(Option.SET_META_CONTEXT, packed_queries(name, ["base:allocation"]))
        assert self.ask(Option.GO, packed_wish(name, []))[-1][0] == Rep.ACK
        return self

    # -- transmission ----------------------------------------------------------------------------

    def reply(self, length: int = 0) -> tuple[int, int, bytes]:
        """Cookie, error or minus the chunk's type, and data. `length` is that of a simple read."""
        head = self.take(SimpleReply.size)
        if head[:4] == SIMPLE_MAGIC.to_bytes(4, "big"):
            simple = SimpleReply.unpack(head)
            return simple.cookie, simple.error, b"" if simple.error else self.take(length)
        chunk = ChunkHeader.unpack(head + self.take(4))
        assert chunk.magic == CHUNK_MAGIC and chunk.flags == 1
        payload = self.take(chunk.length)
        if chunk.type == 0x8001:
            return chunk.cookie, int.from_bytes(payload[:4], "big"), payload[6:]
        return chunk.cookie, -chunk.type, payload

    def do(self, command: int, *arguments: int, data: bytes = b"") -> tuple[int, bytes]:
        self.send(request(command, *arguments) + data)
        cookie, error, payload = self.reply()
        assert cookie == 1
        return error, payload


def option_bytes(option: int, data: bytes = b"") -> bytes:
    return OptionHeader(IHAVEOPT, option, len(data)).pack() + data


def request(
    command: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 1
) -> bytes:
    return RequestHeader(REQUEST_MAGIC, flags, command, cookie, offset, length).pack()


def write(offset: int, data: bytes, flags: int = 0, cookie: int = 1) -> bytes:
    return request(Command.WRITE, offset, len(data), flags, cookie) + data


def tools(*names: str) -> Sequence[str]:
    """Where programs are; `./do test` installs them as root, else the test is skipped."""
    found = [shutil.which(name) for name in names]
    if missing := [name for name, path in zip(names, found, strict=True) if path is None]:
        pytest.skip(f"apt-get install nbdkit nbdkit-plugin-python libnbd-bin fio: no {missing}")
    return [path for path in found if path]


def data_of(payload: bytes, offset: int) -> bytes:
    assert payload[:8] == offset.to_bytes(8, "big")
    return payload[8:]
