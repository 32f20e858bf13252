"""The server, by clients that are many, broken or gone (hostile.md 2.9)."""

from __future__ import annotations

import errno
import gc
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.nbd.messages import Command, Option
from drivebay.hosts.nbd import session
from drivebay.hosts.nbd.server import MOST_HALF_OPEN
from drivebay.hosts.nbd.session import MOST_REQUESTS
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import get
from tests.nbd.support import DATA, SIZE, RawClient, Serving, data_of, option_bytes, request, write

# -- several clients -------------------------------------------------------------------------------


def test_clients_share_the_disk(serving: Serving) -> None:
    one, two = RawClient(serving.path).go(), RawClient(serving.path).go()
    one.send(write(0, b"y" * 512))
    one.reply()
    assert data_of(two.do(Command.READ, 0, 512)[1], 0) == b"y" * 512
    one.close()
    assert two.do(Command.FLUSH) == (0, b"")
    two.close()


def test_no_more_clients_than_it_is_shared_with(disk: RamDisk, tmp_path: Path) -> None:
    with Serving(disk, tmp_path, shared=1) as serving:
        client = RawClient(serving.path).go()
        with pytest.raises((EOFError, ConnectionError)):
            RawClient(serving.path).go()
        assert client.do(Command.FLUSH) == (0, b"")
        client.close()
        serving.wait_until(lambda: not serving.server.connected)
        RawClient(serving.path).go().close()


def test_a_thousand_half_open_connections(serving: Serving) -> None:
    """Hostile 2.9, CVE-2024-7409: clients that never negotiate."""
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    clients = []
    for _ in range(1000):
        clients.append(RawClient(serving.path))
        if len(clients) > 2 * MOST_HALF_OPEN:
            clients.pop(0).close()
    assert serving.call(lambda: len(serving.server.clients)) <= MOST_HALF_OPEN
    RawClient(serving.path).go().close()
    for client in clients:
        client.close()
    serving.wait_until(lambda: not serving.server.connected)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


def test_a_client_that_never_agrees_is_dropped_in_time(disk: RamDisk, tmp_path: Path) -> None:
    with Serving(disk, tmp_path, patience=0.01) as serving:
        client = RawClient(serving.path)
        assert client.hung_up()
        client.close()


def test_a_client_may_be_slow_once_it_has_agreed(disk: RamDisk, tmp_path: Path) -> None:
    with Serving(disk, tmp_path, patience=0.5) as serving:
        client = RawClient(serving.path).go()
        assert serving.call(lambda: serving.server.clients[0]._patience.callback) is None
        client.close()


# -- messages --------------------------------------------------------------------------------------


def test_byte_by_byte(content: bytes, disk: RamDisk, client: RawClient) -> None:
    """Hostile 2.9: each message one byte at a time."""
    for byte in request(Command.READ, 0, 512) + write(512, b"z" * 32 * 16):
        client.send(bytes([byte]))
    assert client.reply()[1] == DATA
    assert client.reply()[1] == 0
    assert get(disk, 1, 1) == b"z" * 512


def test_everything_at_once(serving: Serving) -> None:
    """Hostile 2.9: two messages in one packet, the handshake's and requests."""
    client = RawClient(serving.path)
    go = option_bytes(Option.GO, bytes(6))
    client.send(struct.pack(">I", 3) + go + request(Command.FLUSH, cookie=7) * 2)
    client.take(20 + 12 + 20 + 14 + 20)
    assert client.reply() == (7, 0, b"")
    assert client.reply() == (7, 0, b"")
    client.close()


@pytest.mark.parametrize("cut", range(0, 28 + 600, 37))
def test_a_client_that_leaves_in_the_middle(
    content: bytes, disk: RamDisk, serving: Serving, cut: int
) -> None:
    client = RawClient(serving.path).go()
    client.send(write(0, bytes(600))[:cut])
    client.close()
    serving.wait_until(lambda: not serving.server.connected)
    assert get(disk, 0, SIZE >> 9) == content


def test_garbage_closes_the_connection(serving: Serving) -> None:
    client, other = RawClient(serving.path).go(), RawClient(serving.path).go()
    client.send(b"\xff" * 28)
    assert client.hung_up()
    assert other.do(Command.FLUSH) == (0, b"")
    client.close()
    other.close()


def test_a_disconnect_waits_for_what_is_under_way(tmp_path: Path) -> None:
    disk = RamDisk(SIZE)
    puppet = PuppetDisk(disk)
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(write(0, b"q" * 512) + request(Command.DISC) + request(Command.FLUSH))
        [held] = puppet.wait()
        held.complete()
        assert client.reply() == (1, 0, b"")
        assert client.hung_up()
        client.close()
    assert get(disk, 0, 1) == b"q" * 512


def test_a_client_that_leaves_gives_up_what_is_under_way(tmp_path: Path) -> None:
    """Hostile 2.9: disconnect with requests held for ever."""
    puppet = PuppetDisk(RamDisk(SIZE))
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(request(Command.READ, 0, 512) * 3 + write(0, bytes(70_000)))
        held = puppet.wait(4)
        client.close()
        serving.wait_until(lambda: not serving.server.connected)
        assert all(one.cancelled for one in held)


def test_requests_under_way_are_limited(tmp_path: Path) -> None:
    puppet = PuppetDisk(RamDisk(SIZE))
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        count = 2 * MOST_REQUESTS
        client.send(b"".join(request(Command.READ, 0, 512, cookie=n) for n in range(count)))
        puppet.wait(MOST_REQUESTS)
        other = RawClient(serving.path).go()  # it is served meanwhile
        assert len(puppet.held) == MOST_REQUESTS
        puppet.holds = lambda *_: False
        puppet.complete_all()
        assert {client.reply()[0] for _ in range(count)} == set(range(count))
        other.close()
        client.close()


def test_a_client_that_reads_no_replies_holds_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MOST_HELD", 2 << 20)
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(b"".join(request(Command.READ, 0, SIZE, cookie=n) for n in range(100)))
        serving.wait_until(lambda: bool(serving.server.clients[0].busy))
        held = serving.call(lambda: serving.server.clients[0]._session._held)  # type: ignore[union-attr]
        assert held <= 4 << 20
        other = RawClient(serving.path).go()
        assert other.do(Command.READ, 0, 512)[0] == DATA
        assert [client.reply()[0] for _ in range(100)] == list(range(100))
        client.close()
        other.close()


# -- failing calls ---------------------------------------------------------------------------------


class Failing:
    """Stands in for a client's socket, and lets one call fail or do less than it could."""

    holds_back = False

    def __init__(self, channel: object, name: str, at: int, fault: int | None) -> None:
        self.socket = channel.socket  # type: ignore[attr-defined]
        self._name, self._left, self._fault = name, at, fault
        self.settled = True

    def recv_into(self, view: memoryview) -> int:
        if self._strikes("recv"):
            view = view[:1]
        return int(self.socket.recv_into(view))

    def send(self, parts: list[memoryview]) -> int:
        if self._strikes("send"):
            parts = [memoryview(parts[0])[:1]]
        try:
            return int(self.socket.sendmsg(parts))
        except BlockingIOError:
            return 0

    def push(self) -> None:
        pass

    def _strikes(self, name: str) -> bool:
        self._left -= name == self._name
        if name != self._name or self._left:
            return False
        if self._fault is not None:
            raise OSError(self._fault, os.strerror(self._fault))
        return True


@pytest.mark.parametrize("fault", [errno.EIO, errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS, None])
@pytest.mark.parametrize("name", ["recv", "send"])
def test_the_nth_call_of_the_socket_fails(
    content: bytes, serving: Serving, name: str, fault: int | None
) -> None:
    """Hostile 4.8: the connection ends, or the right data come; other clients see nothing."""
    other = RawClient(serving.path).go()
    for at in range(1, 8):
        client = RawClient(serving.path).go()

        def harm(at: int = at) -> None:
            victim = serving.server.clients[-1]
            victim._channel = Failing(victim._channel, name, at, fault)  # type: ignore[assignment]

        serving.call(harm)
        whole = 0
        try:
            for n in range(8):
                client.send(request(Command.READ, n * 512, 70_000, cookie=n))
                cookie, _, payload = client.reply()
                assert cookie == n
                assert data_of(payload, n * 512) == content[n * 512 : n * 512 + 70_000]
                whole += 1
        except (EOFError, ConnectionError):
            pass
        assert whole == 8 if fault is None else whole < 8
        client.close()
        assert other.do(Command.FLUSH) == (0, b"")
    other.close()


def test_a_disk_that_grows_is_as_large_for_the_next_client(
    disk: RamDisk, serving: Serving, client: RawClient
) -> None:
    def grow() -> None:
        serving.engine.start(disk.resize(2 * SIZE >> 9), lambda value, error: None)

    serving.call(grow)
    serving.wait_until(lambda: disk.byte_count == 2 * SIZE)
    assert client.do(Command.READ, SIZE, 512)[0] == DATA


@pytest.mark.parametrize("count", [1, 3])
def test_a_log_line_is_not_a_bug(
    serving: Serving, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Lines that a client can cause are warnings, and rationed."""
    for _ in range(count * 20):
        client = RawClient(serving.path).go()
        client.send(b"\0" * 28)
        assert client.hung_up()
        client.close()
    assert 1 <= len([r for r in caplog.records if r.levelno == logging.WARNING]) <= 12


def test_every_kind_of_disk_is_served(tmp_path: Path) -> None:
    def small() -> Disk:
        return RamDisk(SIZE, sector_size=4096)

    makers: list[Callable[[], Disk]] = [small, lambda: RecordingDisk(small())]
    for number, make in enumerate(makers):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Serving(make(), folder) as serving:
            client = RawClient(serving.path).go()
            client.send(write(100, b"abc"))
            assert client.reply()[1] == 0
            assert data_of(client.do(Command.READ, 99, 5)[1], 99) == b"\0abc\0"
            client.close()
