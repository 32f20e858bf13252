"""The client: our own server behind it, and servers that lie."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.nbd import NbdDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Disk, Extent, Unmap
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    InvalidInput,
    IoError,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.nbd import link
from drivebay.disk.nbd.link import Wire, connect
from drivebay.disk.nbd.messages import (
    CHUNK_MAGIC,
    SIMPLE_MAGIC,
    ChunkHeader,
    ChunkType,
    Command,
    Error,
    RequestHeader,
    SimpleReply,
    TransmissionFlags,
)
from drivebay.disk.nbd.offering import Offer, Stage
from drivebay.disk.nbd.options import Export
from drivebay.disk.nbd.uri import Address
from drivebay.platform.engine import Engine
from drivebay.suspend import run
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, get, noise, put, view
from tests.nbd.support import WAIT, Serving

SIZE = 1 << 20
FLAGS = TransmissionFlags.of(
    HAS_FLAGS=True, SEND_FLUSH=True, SEND_FUA=True, SEND_TRIM=True, SEND_WRITE_ZEROES=True
)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        yield serving


@pytest.fixture
def disk(serving: Serving) -> Iterator[NbdDisk]:
    disk = NbdDisk(serving.uri, connections=2)
    yield disk
    disk.close()


class Over(NbdDisk):
    """Closes its server, too."""

    def __init__(self, folder: Path, sector_size: int, **how: Any) -> None:
        below = RamDisk(20 * sector_size, sector_size=sector_size)
        fill(below)
        self._serving = Serving(below, folder).__enter__()
        super().__init__(self._serving.uri, **how)

    def close(self) -> None:
        super().close()
        self._serving.__exit__(None, None, None)


@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[name for name, _ in checks()])
@pytest.mark.parametrize("how", [{}, {"connections": 3}, {"read_only": True}], ids=str)
def test_conformance(check: Check, how: dict[str, Any], tmp_path: Path) -> None:
    """Hostile 4.7, section 5."""
    for size in (512, 4096, 65536):

        def factory(size: int = size) -> Disk:
            folder = tmp_path / str(size)
            folder.mkdir(exist_ok=True)
            return Over(folder, size, **how)

        check(factory)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "fua", "zero", "hole", "trim", "read", "flush"]),
            st.integers(0, 300),
            st.integers(1, 200),
            st.integers(0, 255),
        ),
        max_size=25,
    )
)
def test_it_is_a_disk(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]]
) -> None:
    """Any operations, through client, socket and server: the model's bytes come back."""
    below = RamDisk(512 * 512)
    model = bytearray(below.byte_count)
    with Serving(below, tmp_path_factory.mktemp("nbd")) as serving:
        disk = NbdDisk(serving.uri, connections=2)
        for name, sector, count, value in steps:
            place = slice(sector * 512, (sector + count) * 512)
            if name in ("write", "fua"):
                model[place] = bytes([value]) * (count * 512)
                put(disk, sector, bytes(model[place]), name == "fua")
            elif name in ("zero", "hole"):
                model[place] = bytes(count * 512)
                run(disk.write_zeroes(sector, count, unmap=name == "hole"))
            elif name == "trim":
                run(disk.unmap(sector, count))
                model[place] = bytes(count * 512)  # what our RAM disk does
            elif name == "flush":
                run(disk.flush())
            assert get(disk, sector, count) == model[place]
        assert get(disk, 0, 512) == model
        disk.close()


def test_what_it_says_of_itself(disk: NbdDisk) -> None:
    assert (disk.sector_size, disk.physical_sector_size, disk.sector_count) == (512, 4096, 2048)
    assert disk.unmap_behaviour is Unmap.UNSPECIFIED
    assert disk.details["connections"] == 2


def test_extents_are_the_servers(serving: Serving, disk: NbdDisk) -> None:
    put(serving.disk, 8, bytes(range(256)) * 16)
    assert run(disk.extents(0, 2048)) == [
        Extent(0, 8, allocated=False, zero=True),
        Extent(8, 8, allocated=True, zero=False),
        Extent(16, 2032, allocated=False, zero=True),
    ]


def test_more_than_the_maximum_goes_in_parts(tmp_path: Path) -> None:
    with Serving(RamDisk(80 << 20), tmp_path) as serving:
        disk = NbdDisk(serving.uri, connections=2)
        data = noise(70 << 20)
        put(disk, 1, data)
        assert get(disk, 1, (70 << 20) >> 9) == data
        disk.close()


def test_operations_side_by_side_on_an_engine(serving: Serving, engine: Engine) -> None:
    data = fill(serving.disk)
    disk = NbdDisk(serving.uri)
    buffers = [view(4096) for _ in range(64)]
    ended: list[BaseException | None] = []
    for n, buffer in enumerate(buffers):
        engine.start(disk.read(n * 8, [buffer]), lambda _, error: ended.append(error))
    assert engine.run_until(lambda: len(ended) == 64, WAIT)
    assert b"".join(buffers) == data[: 64 * 4096] and not any(ended)
    disk.close()


def test_a_read_that_is_given_up_touches_its_buffers_no_more(
    tmp_path: Path, engine: Engine
) -> None:
    below = RamDisk(SIZE)
    fill(below)
    puppet = PuppetDisk(below)
    with Serving(puppet, tmp_path) as serving:
        disk = NbdDisk(serving.uri)
        buffer, errors = view(4096), []
        task = engine.start(disk.read(0, [buffer]), lambda _, error: errors.append(error))
        [held] = puppet.wait()
        assert task is not None and task.cancel() and len(errors) == 1
        held.complete()
        puppet.holds = lambda *_: False
        get(disk, 8, 1)  # its reply comes after that of the other
        assert not any(buffer)
        disk.close()


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoSpace(28, "full"), NoSpace),
        (ReadOnly("so"), ReadOnly),
        (IoError(5, "cable"), IoError),
        (InvalidInput("what"), InvalidInput),
    ],
)
@pytest.mark.parametrize("name", ["read", "write", "flush", "unmap", "write_zeroes"])
def test_the_servers_errors_are_ours(
    tmp_path: Path, name: str, error: DiskError, kind: type[DiskError]
) -> None:
    puppet = PuppetDisk(RamDisk(SIZE))
    with Serving(puppet, tmp_path) as serving:
        disk = NbdDisk(serving.uri)
        arguments: dict[str, tuple[Any, ...]] = {
            "read": (0, [view(512)]),
            "write": (0, [view(512)]),
            "flush": (),
        }
        outcome: list[BaseException] = []

        def perform() -> None:
            try:
                run(getattr(disk, name)(*arguments.get(name, (0, 8))))
            except DiskError as failure:
                outcome.append(failure)

        thread = threading.Thread(target=perform)
        thread.start()
        [held] = puppet.wait()
        held.fail(error)
        thread.join(WAIT)
        assert type(outcome[0]) is kind
        puppet.holds = lambda *_: False
        get(disk, 0, 8)
        disk.close()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("nbd:x", "begins with"),
        ("http://x/", "begins with"),
        ("nbd+unix:///x", "needs"),
        ("nbd://x/?socket=y", "has no"),
        ("nbd://x/?color=red", "color"),
        ("nbd://x:99999/", "out of range"),
        ("nbd+unix:///?socket=/does/not/exist", "No such file"),
    ],
)
def test_what_cannot_be_opened(uri: str, why: str) -> None:
    with pytest.raises(DiskOpenError, match=why):
        NbdDisk(uri)


def test_uris() -> None:
    """The examples of the NBD URI specification."""
    assert Address.parse("nbd://example.com/disk").export == "disk"
    assert Address.parse("nbd://example.com").export == ""
    assert Address.parse("nbd://example.com//disk").export == "/disk"
    assert Address.parse("nbd://example.com/hello%20world").export == "hello world"
    six = Address.parse("nbds://[::1]:1234/x?tls-certificates=/c")
    assert (six.host, six.port, six.tls, six.certificates) == ("::1", 1234, True, "/c")
    assert Address.parse("nbd+unix:///x?socket=/a%20b").socket == "/a b"


def test_a_read_only_export_is_opened_read_only(tmp_path: Path) -> None:
    with Serving(RamDisk(SIZE), tmp_path, read_only=True) as serving:
        with pytest.raises(DiskOpenError, match="read-only"):
            NbdDisk(serving.uri)
        NbdDisk(serving.uri, read_only=True).close()


# -- connections that end --------------------------------------------------------------------------


def test_what_was_under_way_is_asked_for_again(tmp_path: Path, engine: Engine) -> None:
    below = RamDisk(SIZE)
    data = fill(below)
    puppet = PuppetDisk(below)
    with Serving(puppet, tmp_path) as serving:
        disk = NbdDisk(serving.uri)
        buffer, ended = view(4096), []
        engine.start(disk.read(0, [buffer]), lambda _, error: ended.append(error))
        engine.start(disk.write(100, [view(512)]), lambda _, error: ended.append(error))
        first = puppet.wait(2)
        serving.drop_clients()
        serving.wait_until(lambda: len(puppet.held) == 2 and not set(first) & set(puppet.held))
        puppet.complete_all()
        assert engine.run_until(lambda: len(ended) == 2, WAIT)
        assert ended == [None, None] and buffer == data[:4096]
        assert not any(get(below, 100, 1))
        disk.close()


def test_a_flush_tells_once_that_writes_may_be_lost(serving: Serving) -> None:
    """What was answered but not flushed went with the connection, for all we know."""
    disk = NbdDisk(serving.uri)
    put(disk, 0, bytes(512))
    run(disk.flush())
    serving.drop_clients()
    get(disk, 0, 1)
    run(disk.flush())  # all was flushed
    put(disk, 0, bytes(512), fua=True)
    serving.drop_clients()
    get(disk, 0, 1)
    run(disk.flush())  # all was stable
    put(disk, 0, bytes(512))
    serving.drop_clients()
    get(disk, 0, 1)
    with pytest.raises(IoError, match="perhaps writes"):
        run(disk.flush())
    run(disk.flush())
    disk.close()


def test_another_connection_proves_that_nothing_is_lost(serving: Serving) -> None:
    disk = NbdDisk(serving.uri, connections=2)
    put(disk, 0, bytes(512))
    serving.call(serving.server.clients[0].close)
    for _ in range(4):
        get(disk, 0, 1)
    run(disk.flush())
    disk.close()


def test_a_new_connection_says_nothing_of_what_the_old_server_lost(tmp_path: Path) -> None:
    """Of two connections one is made again to a server that was started anew, before the other is
    found dead: what the first server had not flushed is lost, and the flush must say so.
    """
    with Serving(RamDisk(SIZE), tmp_path, owned=False) as first:
        disk = NbdDisk(first.uri, connections=2)
        put(disk, 0, noise(512))
        Path(first.path).unlink()
        second = Serving(RamDisk(SIZE), tmp_path).__enter__()
        first.call(first.server.clients[0].close)
        second.wait_until(lambda: second.server.connected)
    with pytest.raises(IoError, match="perhaps writes"):
        run(disk.flush())
    run(disk.flush())
    disk.close()
    second.__exit__(None, None, None)


def test_a_disk_is_closed_while_it_connects_again(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = NbdDisk(serving.uri)
    connecting, closing = threading.Event(), disk._links[0]._closing

    def late(address: Address) -> Any:
        connecting.set()
        assert closing.wait(WAIT)
        return connect(address)

    monkeypatch.setattr(link, "connect", late)
    serving.drop_clients()
    assert connecting.wait(WAIT)
    closer = threading.Thread(target=disk.close, daemon=True)
    closer.start()
    closer.join(WAIT)
    assert not closer.is_alive()


def test_a_size_that_has_changed_is_noticed(tmp_path: Path) -> None:
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        disk = NbdDisk(serving.uri)
        heard: list[int] = []
        disk.on_resize(heard.append)
        run(serving.disk.resize(4096))
        serving.drop_clients()
        get(disk, 0, 1)
        assert (heard, disk.sector_count) == ([4096], 4096)
        put(disk, 4000, noise(512))
        disk.close()


def test_a_server_that_stays_away(tmp_path: Path) -> None:
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        disk = NbdDisk(serving.uri, retry=0)
        get(disk, 0, 1)
    for _ in range(2):
        with pytest.raises(IoError, match="nbd"):
            get(disk, 0, 1)
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        get(disk, 0, 1)  # and is back
        disk.close()


def test_another_server_in_its_place_must_be_able_to_do_the_same(tmp_path: Path) -> None:
    with Serving(RamDisk(SIZE), tmp_path) as serving:
        disk = NbdDisk(serving.uri, retry=0)
    with Serving(RamDisk(SIZE), tmp_path, read_only=True):
        with pytest.raises(IoError, match="less than before"):
            get(disk, 0, 1)
        disk.close()


@pytest.mark.parametrize("name", ["_receive_into", "send"])
@pytest.mark.parametrize("fault", [errno.EIO, errno.ECONNRESET, errno.ENOBUFS, errno.ETIMEDOUT])
@pytest.mark.parametrize("at", range(1, 14, 2))
def test_the_nth_call_of_the_socket_fails(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, name: str, fault: int, at: int
) -> None:
    """Hostile 4.8: what is lost is made good, or said; the data are never wrong."""
    data = fill(serving.disk)
    disk = NbdDisk(serving.uri, retry=WAIT)
    left = [at]
    call = getattr(Wire, name)

    def harmed(wire: Wire, *arguments: Any, **how: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise OSError(fault, "harmed")
        return call(wire, *arguments, **how)

    monkeypatch.setattr(Wire, name, harmed)
    for n in range(6):
        assert get(disk, n * 200, 200) == data[n * 102400 :][:102400]
        put(disk, 2000 + n, noise(512, n))
    try:
        run(disk.flush())
    except IoError:
        run(disk.flush())
    assert get(disk, 2000, 6) == b"".join(noise(512, n) for n in range(6))
    assert left[0] <= 0, "it was never called so often"
    disk.close()


# -- servers that lie ------------------------------------------------------------------------------

Answer = Callable[[RequestHeader], bytes]


class Liar:
    """Shakes hands as it should, then answers each request with what `answer` says."""

    def __init__(
        self, folder: Path, answer: Answer, *, structured: bool = True, once: bool = False
    ) -> None:
        self.path = str(folder / "liar.sock")
        self._answer, self._structured, self._once = answer, structured, once
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        self._listener.close()  # nobody is let in twice
        with client, client.makefile("rb") as stream:
            offer = Offer({"": lambda: Export(SIZE, FLAGS)})
            client.sendall(offer.greeting)
            while offer.stage is Stage.HAGGLING:
                out = offer.receive(stream.read(offer.wanted))
                if not self._structured and out[-20:-4].endswith(b"\0\0\0\x08\0\0\0\1"):
                    out = out[:-8] + struct.pack(">II", (1 << 31) + 1, 0)
                client.sendall(out)
            while header := stream.read(RequestHeader.size):
                request = RequestHeader.unpack(header)
                if request.type == Command.WRITE:
                    stream.read(request.length)
                with contextlib.suppress(ConnectionError):  # who lies may be hung up on
                    client.sendall(self._answer(request))
                if self._once:
                    return


def chunk(request: RequestHeader, kind: int, payload: bytes = b"", flags: int = 1) -> bytes:
    return ChunkHeader(CHUNK_MAGIC, flags, kind, request.cookie, len(payload)).pack() + payload


def data(request: RequestHeader, start: int, length: int, flags: int = 1) -> bytes:
    place = (request.offset + start).to_bytes(8, "big")
    return chunk(request, ChunkType.OFFSET_DATA, place + b"d" * length, flags)


def hole(request: RequestHeader, start: int, length: int, flags: int = 1) -> bytes:
    payload = struct.pack(">QI", request.offset + start, length)
    return chunk(request, ChunkType.OFFSET_HOLE, payload, flags)


LIES: dict[str, Answer] = {
    "nothing": lambda r: b"",
    "garbage": lambda r: b"\xff" * 64,
    "a simple reply": lambda r: SimpleReply(SIMPLE_MAGIC, 0, r.cookie).pack() + bytes(r.length),
    "another cookie": lambda r: data(RequestHeader(0, 0, 0, 99, r.offset, 4096), 0, 4096),
    "too little": lambda r: data(r, 0, r.length - 512),
    "no data": lambda r: chunk(r, ChunkType.NONE),
    "too much": lambda r: data(r, 0, r.length + 512),
    "elsewhere": lambda r: data(r, 512, r.length),
    "before": lambda r: data(r, -512, 512, 0) + data(r, 0, r.length),
    "twice": lambda r: data(r, 0, r.length, 0) + data(r, 0, r.length),
    "overlapping": lambda r: data(r, 0, 1024, 0) + data(r, 512, r.length - 512),
    "a hole over data": lambda r: data(r, 0, r.length, 0) + hole(r, 512, 512),
    "an empty hole": lambda r: hole(r, 0, 0, 0) + data(r, 0, r.length),
    "a long hole": lambda r: hole(r, 0, (1 << 32) - 1),
    "a short hole": lambda r: chunk(r, ChunkType.OFFSET_HOLE, bytes(11)),
    "4 GiB": lambda r: chunk(r, ChunkType.OFFSET_DATA)[:-4] + b"\xff" * 4 + bytes(1 << 16),
    "a long error": lambda r: chunk(r, ChunkType.ERROR)[:-4] + b"\xff" * 4 + bytes(1 << 16),
    "extents": lambda r: chunk(r, ChunkType.BLOCK_STATUS, bytes(12)),
    "too many parts": lambda r: b"".join(chunk(r, ChunkType.NONE, b"", 0) for _ in range(5000)),
    "the middle": lambda r: data(r, 0, r.length)[:1000],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_an_error_never_wrong_data(tmp_path: Path, lie: str) -> None:
    disk = NbdDisk(Liar(tmp_path, LIES[lie], once=True).uri, retry=0)
    with pytest.raises(IoError):
        get(disk, 8, 8)
    disk.close()


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        struct.pack(">I", 1),
        struct.pack(">III", 1, 0, 0),
        struct.pack(">III", 2, 512, 0),
        struct.pack(">IIII", 1, 512, 0, 7),
    ],
)
def test_block_status_that_makes_no_sense(tmp_path: Path, lie: bytes) -> None:
    liar = Liar(tmp_path, lambda r: chunk(r, ChunkType.BLOCK_STATUS, lie))
    disk = NbdDisk(liar.uri, retry=0)
    with pytest.raises(IoError):
        run(disk.extents(0, 8))
    disk.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda r: data(r, 2048, 2048, 0) + hole(r, 0, 2048),
        lambda r: data(r, 0, 1, 0) + data(r, 4095, 1, 0) + data(r, 1, 4094),
        lambda r: data(r, 0, 4096, 0) + chunk(r, ChunkType.NONE),
    ],
)
def test_data_may_come_in_any_order(tmp_path: Path, answer: Answer) -> None:
    disk = NbdDisk(Liar(tmp_path, answer).uri, retry=0)
    assert set(get(disk, 8, 8)) <= {0, ord("d")}
    disk.close()


def test_an_error_after_data_is_an_error(tmp_path: Path) -> None:
    def answer(r: RequestHeader) -> bytes:
        error = struct.pack(">IH", Error.EIO, 5) + b"cable" + (2048).to_bytes(8, "big")
        return data(r, 0, 2048, 0) + chunk(r, ChunkType.ERROR_OFFSET, error)

    disk = NbdDisk(Liar(tmp_path, answer).uri, retry=0)
    with pytest.raises(IoError, match="cable"):
        get(disk, 8, 8)
    disk.close()


def test_a_server_without_structured_replies(tmp_path: Path) -> None:
    def answer(r: RequestHeader) -> bytes:
        return SimpleReply(SIMPLE_MAGIC, 0, r.cookie).pack() + b"s" * r.length

    disk = NbdDisk(Liar(tmp_path, answer, structured=False).uri, retry=0)
    assert get(disk, 8, 8) == b"s" * 4096
    assert run(disk.extents(0, 4)) == [Extent(0, 4, allocated=True, zero=False)]
    disk.close()


def test_extents_that_are_no_whole_sectors(tmp_path: Path) -> None:
    """A sector that is part hole, part data holds data."""
    lengths = struct.pack(">IIIIIII", 1, 700, 3, 1000, 0, 10_000, 3)
    liar = Liar(tmp_path, lambda r: chunk(r, ChunkType.BLOCK_STATUS, lengths))
    disk = NbdDisk(liar.uri, retry=0)
    assert run(disk.extents(0, 16)) == [
        Extent(0, 1, allocated=False, zero=True),
        Extent(1, 1, allocated=True, zero=False),
        Extent(2, 1, allocated=True, zero=False),
        Extent(3, 1, allocated=True, zero=False),
        Extent(4, 12, allocated=False, zero=True),
    ]
    disk.close()
