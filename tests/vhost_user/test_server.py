"""The server's sockets: who may come, when, and what is left when he goes."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.registers import BlockType
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.virtio_ring import Buffer
from drivebay.hosts.vhost_user.codec import encode
from drivebay.hosts.vhost_user.messages import Request
from drivebay.hosts.vhost_user.server import ServerError, VhostUserServer, listen
from drivebay.platform.engine import Engine
from drivebay.testing import FrontEnd, HungUp

from .conftest import MakeBay
from .support import Bay, hung_up, no_fd_is_left


class Recorder(FrontEnd):
    """Remembers what it has sent, message by message."""

    def __init__(self, bay: Bay) -> None:
        self.sent: list[tuple[bytes, tuple[int, ...]]] = []
        super().__init__(bay.path, poll=bay.turn)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.sent.append((data, tuple(fds)))
        super().send(data, fds)


class Dribbler(FrontEnd):
    """Sends one byte at a time, and lets the server run after each."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        for n in range(len(data)):
            super().send(data[n : n + 1], fds if not n else ())
            self._poll()


def test_a_whole_session_may_come_byte_by_byte(bay: Bay, packed: bool) -> None:
    with Dribbler(bay.path, poll=lambda: bay.engine.turn(0), packed=packed) as guest:
        guest.write(0, b"drop by drop".ljust(512))
        assert guest.read(0, 12 * 512)[:12] == b"drop by drop"
        guest.stop()


def test_two_messages_in_one_packet_are_two_messages(bay: Bay) -> None:
    with bay.raw() as peer:
        peer.send(encode(Request.GET_FEATURES) + encode(Request.GET_PROTOCOL_FEATURES))
        assert peer.receive().request == Request.GET_FEATURES
        assert peer.receive().request == Request.GET_PROTOCOL_FEATURES


def test_a_front_end_may_leave_after_any_byte(make_bay: MakeBay) -> None:
    bay = make_bay()
    with Recorder(bay) as recorder:
        handshake = list(recorder.sent)
        bay.engine.turn(0)
        recorder.disconnect()
        bay.until_free()
        with no_fd_is_left():
            for messages in range(len(handshake)):
                last, fds = handshake[messages]
                for length in range(len(last)):
                    client = socket.socket(socket.AF_UNIX)
                    client.connect(bay.path)
                    for data, with_fds in handshake[:messages]:
                        socket.send_fds(client, [data], with_fds)
                    if length:
                        socket.send_fds(client, [last[:length]], fds)
                    if length % 5 == 0:
                        bay.engine.turn(0)
                    client.close()
                    bay.engine.turn(0)
                    bay.until_free()
    bay.still_works()


def test_two_hundred_front_ends_leave_nothing_behind(bay: Bay, packed: bool) -> None:
    bay.still_works()
    rng = random.Random(5)
    with no_fd_is_left():
        for _ in range(200):
            guest = bay.guest(packed=packed)
            guest.write(0, b"x" * 512)
            leave = rng.randrange(3)
            if leave == 0:
                guest.stop()
            elif leave == 1:
                guest.submit(BlockType.IN, 0, 4096)
            guest.close()
            del guest
            bay.until_free()


def test_a_request_for_memory_that_is_none_leaves_nothing_behind(bay: Bay, packed: bool) -> None:
    with no_fd_is_left():
        with bay.guest(packed=packed) as guest:
            status = Buffer(guest.arena.take(1), 1, True)
            guest.ring().add([Buffer(0x10, 16, False), status])  # an error of the request
            guest.ring().add([Buffer(0x10, 16, False)])  # no place to say so: the ring is broken
            guest.notify(0)
            bay.settle()
        del guest
        bay.until_free()


def test_a_second_client_is_refused_and_the_first_served_on(
    bay: Bay, caplog: pytest.LogCaptureFixture
) -> None:
    with bay.guest() as guest:
        with bay.raw() as second, pytest.raises(HungUp):
            second.call(Request.GET_FEATURES)
        assert "refused a second client" in caplog.text
        guest.write(0, b"x" * 512)
    bay.still_works()


def test_a_client_that_says_nothing_makes_room(make_bay: MakeBay) -> None:
    bay = make_bay(patience=0.05)
    for said in (b"", encode(Request.GET_FEATURES)[:11]):
        with bay.raw() as silent:
            silent.socket.sendall(said)
            bay.settle()
            assert bay.server.connected
            bay.until_free()
            assert hung_up(silent.socket)
    with bay.guest() as guest:
        bay.engine.run_until(lambda: False, 0.1)
        guest.write(0, b"x" * 512)  # one that has said something may pause


def test_a_thousand_clients_that_say_nothing_leave_room_for_one_that_does(
    make_bay: MakeBay,
) -> None:
    bay = make_bay(patience=0.05)
    crowd = []
    for _ in range(1000):
        client = socket.socket(socket.AF_UNIX)
        client.connect(bay.path)
        crowd.append(client)
        bay.engine.turn(0)
        if len(crowd) > 100:
            crowd.pop(0).close()
    bay.until_free()
    bay.still_works()
    for client in crowd:
        client.close()


def test_a_flood_of_messages_leaves_others_their_turn(make_bay: MakeBay, engine: Engine) -> None:
    flooded, other = make_bay(), make_bay()
    with flooded.raw() as flood, other.guest() as guest:
        for n in range(20):
            flood.send(encode(Request.SET_OWNER) * 500)
            guest.write(n, b"x" * 512)
        assert not hung_up(flood.socket)


def test_no_descriptors_left_is_waited_for(
    bay: Bay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    class Full:
        accept = staticmethod(refuse)

        def __getattr__(self, name: str) -> object:
            return getattr(listener, name)

    listener = bay.server._listener
    monkeypatch.setattr(bay.server, "_listener", Full())
    with bay.raw() as client:
        bay.settle()
        bay.settle()
        assert caplog.text.count("cannot be accepted") == 1
        monkeypatch.setattr(bay.server, "_listener", listener)
        assert client.get(Request.GET_FEATURES)


def test_a_server_that_closes_lets_go_of_its_guest(bay: Bay) -> None:
    with bay.guest() as guest:
        bay.server.close()
        assert hung_up(guest.socket)
        assert not os.path.exists(bay.path)
        bay.server.close()  # twice does no harm


# -- the path -------------------------------------------------------------------------------------


def test_the_socket_is_never_seen_with_another_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = str(tmp_path / "s"), []
    chmod, umask = os.chmod, os.umask

    def watch(mask: int) -> int:
        if os.path.exists(path):
            seen.append(stat.S_IMODE(os.stat(path).st_mode))
        return umask(mask)

    monkeypatch.setattr(os, "umask", watch)
    old = umask(0)
    listen(path).close()
    assert umask(old) == 0  # ours is as it was
    assert seen == [0o600]
    assert os.chmod is chmod


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listen(path).close()
    with listen(path):
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_live_socket_is_left_alone(bay: Bay) -> None:
    with pytest.raises(ServerError, match="another server is listening there") as caught:
        listen(bay.path)
    assert "stop it" in caught.value.hint
    bay.settle()
    bay.still_works()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ServerError, match="not a socket"):
        listen(str(path))
    assert path.read_text() == "data"
    with pytest.raises(ServerError, match="not a socket"):
        listen(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=f"there is no folder {tmp_path}/a/b") as caught:
        listen(str(tmp_path / "a/b/s"))
    assert caught.value.hint == f"mkdir -p {tmp_path}/a/b"


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="the path is too long") as caught:
        listen(str(tmp_path / ("x" * 120)))
    assert "107 bytes" in caught.value.hint


def test_a_place_where_sockets_cannot_be_is_told() -> None:
    with pytest.raises(ServerError, match="socket /proc/s"):
        listen("/proc/s")


# -- socket activation ----------------------------------------------------------------------------

ACTIVATED = """
import os, socket
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.vhost_user.server import ServerError, VhostUserServer, inherited_sockets
from drivebay.platform.engine import Engine
try:
    [listener] = inherited_sockets()
except ServerError as error:
    raise SystemExit(f"{error}; {error.hint}")
assert "LISTEN_FDS" not in os.environ and not listener.get_inheritable()
assert inherited_sockets() == []
engine = Engine()
server = VhostUserServer(BlockDevice(RamDisk(1 << 20), engine), engine, listener, owned=False)
engine.run_until(lambda: server.connected, 10)
engine.run_until(lambda: not server.connected, 10)
server.close()
"""


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3]])
"""


def activate(fd: int, count: str) -> subprocess.Popen[str]:
    """Start a server as systemd does, with `fd` as its first socket."""
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, str(fd), count, ACTIVATED],
        pass_fds=[fd],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_socket_may_be_handed_over_by_systemd(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen(path) as listener:
        server = activate(listener.fileno(), "1")
        with FrontEnd(path) as guest:
            guest.write(0, b"x" * 512)
        assert server.wait(10) == 0
        assert os.path.exists(path)  # it is systemd's


@pytest.mark.parametrize("count", ["2", "many"])
def test_sockets_that_were_not_handed_over_are_an_error(count: str) -> None:
    with open("/dev/null") as nothing:
        server = activate(nothing.fileno(), count)
        _, errors = server.communicate(timeout=10)
    assert f"LISTEN_FDS={count}: there are no such sockets" in errors


def test_an_abstract_socket_can_be_served(engine: Engine) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0drivebay-test-%d" % os.getpid())
        listener.listen()
        device = BlockDevice(RamDisk(1 << 20), engine)
        server = VhostUserServer(device, engine, listener)
        name = listener.getsockname()
        with FrontEnd(name, poll=lambda: engine.turn(0.01)) as guest:
            guest.write(0, b"x" * 512)
        server.close()


def test_a_peer_cannot_fill_the_log(bay: Bay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(100):
        with bay.raw() as peer:
            peer.send(bytes(12))
            bay.until_free()
    assert len(caplog.records) < 20
