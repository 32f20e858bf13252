"""The SG_IO header, and a device whose ioctl a test answers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends import sg
from drivebay.disk.backends.sg import SgDevice, SgIoHeader
from drivebay.disk.errors import DiskOpenError

SG_IO = 0x2285
CDB = bytes(range(0x80, 0x90))
Answer = Callable[[SgIoHeader], None]


class FakeIoctl:
    """Answers SG_IO by what `answer` does to the header; `headers` are as they came."""

    def __init__(self) -> None:
        self.headers: list[SgIoHeader] = []
        self.cdbs: list[bytes] = []
        self.answer: Answer = lambda header: None

    def __call__(self, fd: int, request: int, header: Any) -> Any:
        if request != SG_IO:
            return (30536).to_bytes(4, "little")
        asked = SgIoHeader.unpack(header)
        self.headers.append(SgIoHeader.unpack(header))
        self.cdbs.append(ctypes.string_at(asked.command, asked.cmd_len))
        self.answer(asked)
        header[:] = asked.pack()
        return 0


@pytest.fixture
def ioctl(monkeypatch: pytest.MonkeyPatch) -> FakeIoctl:
    fake = FakeIoctl()
    monkeypatch.setattr(fcntl, "ioctl", fake)
    return fake


def test_the_header_is_laid_out_as_the_kernel_has_it() -> None:
    """Offsets of struct sg_io_hdr, x86-64."""
    header = bytearray(range(88))
    parsed = SgIoHeader.unpack(header)
    assert parsed.cmd_len == 8
    assert parsed.iovec_count == 0x0B0A
    assert parsed.data_length & 0xFF == 12
    assert [parsed.data & 0xFF, parsed.command & 0xFF, parsed.sense & 0xFF] == [16, 24, 32]
    assert [parsed.timeout & 0xFF, parsed.pack_id & 0xFF, parsed.user & 0xFF] == [40, 48, 56]
    assert [parsed.status, parsed.sense_written, parsed.host_status & 0xFF] == [64, 67, 68]
    assert [parsed.driver_status & 0xFF, parsed.residual & 0xFF, parsed.info & 0xFF] == [70, 72, 80]


def test_one_buffer_is_the_drives_own(ioctl: FakeIoctl) -> None:
    data = bytearray(512)

    def answer(header: SgIoHeader) -> None:
        ctypes.memmove(header.data, b"read", 4)
        header.residual = 508

    ioctl.answer = answer
    with SgDevice("/dev/null") as device:
        assert device.execute(CDB, "in", [memoryview(data)], 2.5) == (0, b"", 508)
    (header,) = ioctl.headers
    assert (header.interface_id, header.direction, header.cmd_len) == (0x53, -3, 16)
    assert (header.data_length, header.timeout, header.mx_sb_len) == (512, 2500, 64)
    assert ioctl.cdbs == [CDB]
    assert data[:5] == b"read\0"


def test_several_buffers_are_one_to_the_drive(ioctl: FakeIoctl) -> None:
    data = bytearray(b"0123456789")
    parts = [memoryview(data)[:3], memoryview(data)[5:]]
    seen = []

    def take(header: SgIoHeader) -> None:
        seen.append(ctypes.string_at(header.data, header.data_length))

    def give(header: SgIoHeader) -> None:
        ctypes.memmove(header.data, b"abcdefgh", 8)

    with SgDevice("/dev/null") as device:
        ioctl.answer = take
        device.execute(CDB, "out", parts, 1)
        assert seen == [b"01256789"]
        device.execute(CDB, "out", [memoryview(b"constant")], 1)
        assert seen[1] == b"constant"
        ioctl.answer = give
        device.execute(CDB, "in", parts, 1)
    assert data == b"abc34defgh"
    assert [header.direction for header in ioctl.headers] == [-2, -2, -3]


def test_without_data(ioctl: FakeIoctl) -> None:
    def answer(header: SgIoHeader) -> None:
        ctypes.memmove(header.sense, b"\x72\x01\x00\x1d", 4)
        header.status, header.sense_written, header.driver_status = 2, 4, 8

    ioctl.answer = answer
    with SgDevice("/dev/null") as device:
        assert device.execute(CDB[:12], "none", [], 1e9) == (2, b"\x72\x01\x00\x1d", 0)
    (header,) = ioctl.headers
    assert (header.direction, header.data, header.data_length) == (-1, 0, 0)
    assert (header.cmd_len, header.timeout) == (12, 0x7FFFFFFF)


def test_signals_wait(ioctl: FakeIoctl) -> None:
    blocked: list[bool] = []

    def is_blocked() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    ioctl.answer = lambda header: blocked.append(is_blocked())
    with SgDevice("/dev/null") as device:
        device.execute(CDB, "none", [], 1)
    assert blocked == [True]
    assert not is_blocked()


def test_a_sense_that_comes_with_the_timeout_is_none(ioctl: FakeIoctl) -> None:
    def answer(header: SgIoHeader) -> None:
        header.status, header.sense_written, header.duration = 2, 18, 1000

    ioctl.answer = answer
    with SgDevice("/dev/null") as device:
        assert device.execute(CDB, "none", [], 2)[0] == 2
        with pytest.raises(TimeoutError):
            device.execute(CDB, "none", [], 1)


@pytest.mark.parametrize(
    ("host", "driver", "number"),
    [
        (1, 0, errno.ENODEV),
        (3, 0, errno.ETIMEDOUT),
        (4, 0, errno.ENODEV),
        (7, 0, errno.EIO),
        (0, 6, errno.ETIMEDOUT),
        (0, 4, errno.EIO),
    ],
)
def test_troubles_of_the_host_are_errors(
    ioctl: FakeIoctl, host: int, driver: int, number: int
) -> None:
    def answer(header: SgIoHeader) -> None:
        header.host_status, header.driver_status = host, driver

    ioctl.answer = answer
    with SgDevice("/dev/null") as device, pytest.raises(OSError) as caught:
        device.execute(CDB, "none", [], 1)
    assert caught.value.errno == number


def test_how_much_the_host_moves(
    ioctl: FakeIoctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sg, "SYSFS", tmp_path)
    with SgDevice("/dev/null") as device:
        assert device.max_transfer is None
        queue = tmp_path / "dev/char/1:3/device/block/sda/queue"
        queue.mkdir(parents=True)
        (queue / "max_hw_sectors_kb").write_text("100\n")
        assert device.max_transfer == 102400


def test_who_may_not_open_it_is_told_who_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(DiskOpenError, match="Permission denied") as caught:
        SgDevice("/dev/sg0")
    assert "root" in caught.value.hint


def test_what_is_no_scsi_device_is_not_opened(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for path in (str(plain), "/dev/null"):
        with pytest.raises(DiskOpenError, match="no SCSI device"):
            SgDevice(path)
    with pytest.raises(DiskOpenError, match="No such file"):
        SgDevice(str(tmp_path / "absent"))
