"""The socket: its mode, its clients, and what hostile ones say."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivebay.hosts.control.client import Control, ControlError
from drivebay.hosts.control.messages import LONGEST
from drivebay.hosts.control.server import MOST_CLIENTS
from drivebay.hosts.control.session import Session

from .support import Served, controller, ram, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path, controller("vda", {"": ram()})) as found:
        yield found


def connect(served: Served) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(served.path)
    return client


def ask(client: socket.socket, line: bytes) -> Any:
    client.sendall(line)
    with client.makefile("rb") as file:
        return json.loads(file.readline())


VERSION = b'{"jsonrpc": "2.0", "id": 1, "method": "version"}\n'


def test_only_its_owner_may_use_it_and_it_is_removed(tmp_path: Path) -> None:
    with serve(tmp_path, controller("vda", {"": ram()})) as served:
        mode = os.stat(served.path).st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not os.path.exists(served.path)


def test_a_request_in_single_bytes(served: Served) -> None:
    with connect(served) as client:
        for byte in VERSION[:-1]:
            client.sendall(bytes([byte]))
        assert ask(client, b"\n")["result"]["protocol"] == 1


def test_half_a_line_and_gone(served: Served) -> None:
    for _ in range(50):
        with connect(served) as client:
            client.sendall(VERSION[:20])
    with served.control() as control:
        assert control.version().protocol == 1


def test_rubbish_is_answered_and_the_connection_lives(served: Served) -> None:
    with connect(served) as client:
        assert ask(client, b"\0\xff" * 100 + b"\n")["error"]["code"] == -32700
        assert ask(client, b"x" * (LONGEST + 1) + b"\n")["error"]["code"] == -32700
        assert ask(client, VERSION)["id"] == 1


def test_an_endless_line_is_not_kept(served: Served) -> None:
    with connect(served) as client:
        for _ in range(200):
            client.sendall(b"[" * LONGEST)
        assert ask(client, b"\n")["error"]["code"] == -32700
        assert ask(client, VERSION)["id"] == 1


def test_a_thousand_connects(served: Served) -> None:
    """Those that are too many are told so and hung up on; the first are served on."""
    clients = [connect(served) for _ in range(MOST_CLIENTS)]
    for client in clients:
        assert ask(client, VERSION)["id"] == 1
    for _ in range(1000):
        with connect(served) as client, client.makefile("rb") as file:
            error = json.loads(file.readline())["error"]
            assert error["message"] == f"{MOST_CLIENTS} clients are connected"
            assert file.read() == b""
    with pytest.raises(ControlError, match="clients are connected"), served.control() as control:
        control.version()
    clients.pop().close()
    while True:
        try:
            with served.control() as control:
                assert control.version().protocol == 1
            break
        except ControlError as error:  # it has not been seen to leave yet
            assert "clients are connected" in str(error)
    for client in clients:
        assert ask(client, VERSION)["id"] == 1
        client.close()


def test_who_reads_no_answers_waits_and_others_do_not(served: Served) -> None:
    request = b'{"jsonrpc": "2.0", "id": 1, "method": "tree"}\n'
    with connect(served) as deaf, served.control() as other:
        deaf.setblocking(False)
        sent = 0
        stuffed: list[Session] = []
        while not stuffed:
            with contextlib.suppress(BlockingIOError):
                sent += deaf.send(request * 1000)
            assert sent < 64 << 20, "the server reads without end"
            assert other.version().protocol == 1
            stuffed = [each for each in served.server._clients.values() if each._stuffed]
        assert len(stuffed[0]._queue) * len(request) < 1 << 20


def test_requests_of_one_client_are_all_answered(served: Served) -> None:
    with connect(served) as client, client.makefile("rb") as file:
        for first in range(0, 2000, 500):
            lines = [
                b'{"jsonrpc": "2.0", "id": %d, "method": "version"}\n' % n
                for n in range(first, first + 500)
            ]
            client.sendall(b"".join(lines))
            answers = [json.loads(file.readline())["id"] for _ in lines]
            assert answers == list(range(first, first + 500))


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="No such file") as caught:
        Control(str(tmp_path / "nothing"))
    assert "--control" in caught.value.hint


def test_a_server_that_goes_is_a_line_too(tmp_path: Path) -> None:
    with serve(tmp_path, controller("vda", {"": ram()})) as served:
        control = served.control()
        assert control.version().protocol == 1
    with pytest.raises(ControlError, match="control socket"):
        control.version()
    control.close()


def test_a_request_that_is_too_long_is_not_sent(served: Served) -> None:
    with served.control() as control:
        with pytest.raises(ControlError, match="a request of"):
            control.info("x" * LONGEST)
        assert control.version().protocol == 1
