"""The server, by a client that does as it likes (hostile.md 2.9)."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import IoError, Medium, MediumError, NoSpace
from drivebay.disk.nbd.messages import ChunkType, Command, Error
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import fill, get, noise, put
from tests.nbd.support import DATA, SIZE, RawClient, Serving, data_of, request, write

STATUS = -ChunkType.BLOCK_STATUS


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 511, 512, 4096, 65536, 65537, SIZE - 5])
def test_reads_of_any_bytes(content: bytes, client: RawClient, length: int) -> None:
    for offset in (0, 5, SIZE - length):
        if offset + length <= SIZE:
            kind, payload = client.do(Command.READ, offset, length)
            assert kind == DATA and data_of(payload, offset) == content[offset : offset + length]


def test_reads_without_structured_replies(content: bytes, serving: Serving) -> None:
    client = RawClient(serving.path).go(structured=False)
    for length in (512, 100, 1 << 17):
        client.send(request(Command.READ, 512, length, cookie=9))
        assert client.reply(length) == (9, 0, content[512 : 512 + length])
    client.send(request(Command.READ, SIZE, 512))
    assert client.reply() == (1, Error.EINVAL, b"")
    client.close()


@pytest.mark.parametrize("length", [1, 513, 4096, 65536, 65537, 300_000])
@pytest.mark.parametrize("offset", [0, 7, 4096])
def test_writes_of_any_bytes(
    content: bytes, disk: RamDisk, client: RawClient, length: int, offset: int
) -> None:
    new = noise(length, 5)
    client.send(write(offset, new, cookie=3))
    assert client.reply() == (3, 0, b"")
    assert get(disk, 0, SIZE >> 9) == content[:offset] + new + content[offset + length :]


def test_replies_come_as_requests_end(tmp_path: Path) -> None:
    disk = RamDisk(SIZE)
    content = fill(disk)
    puppet = PuppetDisk(disk)
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(b"".join(request(Command.READ, n << 12, 4096, cookie=n) for n in range(4)))
        held = puppet.wait(4)
        for n in (2, 0, 3, 1):
            held[n].complete()
            cookie, _, payload = client.reply()
            assert cookie == n
            assert data_of(payload, n << 12) == content[n << 12 : (n + 1) << 12]
        client.close()


def test_large_reads_one_after_the_other(content: bytes, client: RawClient) -> None:
    """More than the socket takes: what was asked for meanwhile is not forgotten."""
    client.send(b"".join(request(Command.READ, 0, SIZE, cookie=n) for n in range(64)))
    for n in range(64):
        cookie, kind, payload = client.reply()
        assert (cookie, kind, data_of(payload, 0) == content) == (n, DATA, True)


def test_flush_fua_and_the_rest_reach_the_disk(tmp_path: Path) -> None:
    disk = RecordingDisk(RamDisk(SIZE))
    with Serving(disk, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(write(0, bytes(512), flags=1))
        client.reply()
        for command, flags in [(3, 0), (4, 0), (4, 1), (6, 0), (6, 1), (6, 2), (6, 16), (5, 0)]:
            assert client.do(command, 512, 1024, flags) == (0, b"")
        client.close()
    calls = [(call.name, call.count, call.fua, call.unmap) for call in disk.calls]
    assert calls == [
        ("write", 1, True, False),
        ("flush", 0, False, False),
        ("unmap", 2, False, False),
        ("unmap", 2, False, False),
        ("flush", 0, False, False),
        ("write_zeroes", 2, False, True),
        ("write_zeroes", 2, True, True),
        ("write_zeroes", 2, False, False),
        ("write_zeroes", 2, False, True),
        ("read", 2, False, False),
    ]


def test_trim_leaves_what_it_does_not_cover(
    content: bytes, disk: RamDisk, client: RawClient
) -> None:
    assert client.do(Command.TRIM, 100, 2000) == (0, b"")
    assert get(disk, 0, 8) == content[:512] + bytes(1536) + content[2048:4096]
    assert client.do(Command.TRIM, 3000, 100) == (0, b"")
    assert get(disk, 5, 3) == content[2560:4096]


def test_zeroes_of_any_bytes(content: bytes, disk: RamDisk, client: RawClient) -> None:
    assert client.do(Command.WRITE_ZEROES, 100, 2000) == (0, b"")
    assert client.do(Command.WRITE_ZEROES, 3000, 9, 1) == (0, b"")
    expected = bytearray(content)
    expected[100:2100] = bytes(2000)
    expected[3000:3009] = bytes(9)
    assert get(disk, 0, SIZE >> 9) == expected


def test_block_status(disk: RamDisk, client: RawClient) -> None:
    put(disk, 8, b"x" * 4096)
    kind, payload = client.do(Command.BLOCK_STATUS, 0, SIZE)
    assert (kind, payload[:4]) == (STATUS, b"\0\0\0\1")
    found = list(struct.iter_unpack(">II", payload[4:]))
    assert found == [(4096, 3), (4096, 0), (SIZE - 8192, 3)]
    _, payload = client.do(Command.BLOCK_STATUS, 5000, 10_000, 8)
    assert payload[4:] == struct.pack(">II", 8192 - 5000, 0)


def test_block_status_must_be_selected(serving: Serving) -> None:
    client = RawClient(serving.path).go(allocation=False)
    assert client.do(Command.BLOCK_STATUS, 0, 512)[0] == Error.EINVAL
    client.close()


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (Command.READ, SIZE, 1, 0, Error.EINVAL),
        (Command.READ, SIZE - 1, 2, 0, Error.EINVAL),
        (Command.READ, (1 << 64) - 1, 1, 0, Error.EINVAL),
        (Command.READ, (1 << 64) - 512, 512, 0, Error.EINVAL),
        (Command.READ, 1 << 63, 512, 0, Error.EINVAL),
        (Command.READ, 0, 0, 0, Error.EINVAL),
        (Command.READ, 0, (1 << 32) - 1, 0, Error.EINVAL),
        (Command.READ, 0, 512, 1, Error.EINVAL),
        (Command.FLUSH, 0, 0, 0, 0),
        (Command.TRIM, SIZE, 512, 0, Error.EINVAL),
        (Command.TRIM, 0, 512, 2, Error.EINVAL),
        (Command.CACHE, SIZE, 512, 0, Error.EINVAL),
        (Command.WRITE_ZEROES, SIZE - 1, 2, 0, Error.ENOSPC),
        (Command.WRITE_ZEROES, 0, 512, 18, Error.ENOTSUP),
        (Command.BLOCK_STATUS, SIZE - 512, 1024, 0, Error.EINVAL),
        (Command.RESIZE, 0, 512, 0, Error.EINVAL),
        (99, 0, 512, 0, Error.EINVAL),
    ],
)
def test_what_makes_no_sense_is_refused(
    content: bytes,
    disk: RamDisk,
    client: RawClient,
    command: int,
    offset: int,
    length: int,
    flags: int,
    error: int,
) -> None:
    assert client.do(command, offset, length, flags)[0] == error
    assert client.do(Command.READ, 0, 512)[0] == DATA
    assert get(disk, 0, SIZE >> 9) == content


def test_a_read_longer_than_the_maximum_takes_no_memory(tmp_path: Path) -> None:
    with Serving(RamDisk(1 << 40), tmp_path) as serving:
        client = RawClient(serving.path).go()
        assert client.do(Command.READ, 0, (32 << 20) + 1)[0] == Error.EOVERFLOW
        assert serving.call(lambda: serving.server.clients[0]._session._held) <= 1 << 20  # type: ignore[union-attr]
        client.close()


@pytest.mark.parametrize(
    ("offset", "length", "flags", "error"),
    [
        (SIZE - 1, 2, 0, Error.ENOSPC),
        ((1 << 64) - 512, 512, 0, Error.ENOSPC),
        (0, 512, 0x80, Error.EINVAL),
        (SIZE, 200_000, 0, Error.ENOSPC),
        (0, (32 << 20) + 1, 0, Error.ENOSPC),
    ],
)
def test_the_data_of_a_refused_write_are_no_requests(
    content: bytes,
    disk: RamDisk,
    client: RawClient,
    offset: int,
    length: int,
    flags: int,
    error: Error,
) -> None:
    evil = request(Command.WRITE_ZEROES, 0, SIZE) * (length // 28 + 1)
    client.send(request(Command.WRITE, offset, length, flags, cookie=4) + evil[:length])
    cookie, found, _ = client.reply()
    assert (cookie, found) == (4, error)
    assert client.do(Command.READ, 0, 512)[0] == DATA
    assert get(disk, 0, SIZE >> 9) == content


def test_a_read_only_export_takes_no_changes(content: bytes, disk: RamDisk, tmp_path: Path) -> None:
    with Serving(disk, tmp_path, read_only=True) as serving:
        client = RawClient(serving.path).go()
        client.send(write(0, bytes(600)))
        assert client.reply()[1] == Error.EPERM
        for command in (Command.TRIM, Command.WRITE_ZEROES):
            assert client.do(command, 0, 512)[0] == Error.EPERM
        assert client.do(Command.FLUSH) == (0, b"")
        client.close()
    assert get(disk, 0, SIZE >> 9) == content


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (IoError(errno.ETIMEDOUT, "cable"), Error.EIO),
        (NoSpace(errno.EDQUOT, "full"), Error.ENOSPC),
        (MediumError(Medium.UNRECOVERED_READ, 3), Error.EIO),
    ],
)
@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.FLUSH, Command.TRIM])
@pytest.mark.parametrize("length", [512, 1 << 17])
def test_a_disk_that_fails(
    tmp_path: Path, command: Command, error: Exception, number: Error, length: int
) -> None:
    puppet = PuppetDisk(RamDisk(SIZE))
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        data = bytes(length) if command == Command.WRITE else b""
        client.send(request(command, 0, length) + data)
        [held] = puppet.wait()
        held.fail(error)  # type: ignore[arg-type]
        _, found, text = client.reply()
        assert (found, text) == (number, str(error).encode())
        puppet.holds = lambda *_: False
        assert client.do(Command.READ, 0, 512)[0] == DATA
        client.close()


def test_a_bug_in_a_disk_is_an_error_of_one_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RamDisk):
        def read(self, sector: int, buffers: object) -> None:  # type: ignore[override]
            return self.fails()  # type: ignore[return-value]

        async def fails(self) -> None:
            raise ZeroDivisionError

    with Serving(Broken(SIZE), tmp_path) as serving:
        client = RawClient(serving.path).go()
        for length in (512, 1 << 17):
            assert client.do(Command.READ, 0, length)[0] == Error.EIO
        assert client.do(Command.FLUSH) == (0, b"")
        client.close()
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


# -- edges of sectors ------------------------------------------------------------------------------


def test_a_write_beside_one_that_changes_part_of_its_sector(tmp_path: Path) -> None:
    """What is read, changed and written back must not undo a write that came between."""
    disk = RamDisk(SIZE)
    puppet = PuppetDisk(disk)
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(write(10, b"part", cookie=1))
        [reading] = puppet.wait()
        client.send(write(0, b"w" * 512, cookie=2) + request(Command.TRIM, 512, 512, cookie=3))
        client.send(request(Command.WRITE_ZEROES, 0, 512, cookie=4))
        client.send(request(Command.FLUSH, cookie=5))
        puppet.wait(2)
        assert [held.name for held in puppet.held] == ["read", "flush"]
        reading.complete()
        for cookie in (1, 5, 2, 3, 4):
            puppet.holds = lambda *_: False
            puppet.complete_all()
            found, error, _ = client.reply()
            assert error == 0 and found in (1, 2, 3, 4, 5), cookie
        client.close()
    assert get(disk, 0, 1)[:10] in (b"w" * 10, bytes(10))


def test_a_part_of_a_sector_waits_for_writes_of_the_whole(tmp_path: Path) -> None:
    disk = RamDisk(SIZE)
    puppet = PuppetDisk(disk)
    with Serving(puppet, tmp_path) as serving:
        client = RawClient(serving.path).go()
        client.send(write(0, b"w" * 512, cookie=1))
        [whole] = puppet.wait()
        client.send(write(10, b"part", cookie=2) + request(Command.FLUSH, cookie=3))
        puppet.wait(2)
        assert [held.name for held in puppet.held] == ["write", "flush"]
        puppet.holds = lambda *_: False
        whole.complete()
        puppet.complete_all()
        assert {client.reply()[0] for _ in range(3)} == {1, 2, 3}
        client.close()
    assert get(disk, 0, 1) == b"w" * 10 + b"part" + b"w" * 498
