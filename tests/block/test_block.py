"""`block:` over loop devices, where this machine lets us have some, and over what sysfs may say."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends import block
from drivebay.disk.backends.block import BlockDisk, Queue
from drivebay.disk.backends.file import FileDisk
from drivebay.disk.buffers import aligned
from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Unmap
from drivebay.disk.errors import DiskOpenError, InvalidInput
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import fill, get, noise, put

MIB = 1 << 20

Attach = Callable[..., str]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Attach]:
    """Makes loop devices over new files."""
    with ExitStack() as stack:

        def attach(size: int = 64 * 512, sector_size: int = 512, name: str = "image") -> str:
            image = tmp_path / name
            with image.open("wb") as file:
                file.truncate(size)
            made = subprocess.run(
                ["losetup", "--find", "--show", "--sector-size", str(sector_size), str(image)],
                check=False,
                capture_output=True,
                text=True,
            )
            if made.returncode:
                pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
            device = made.stdout.strip()
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
            return device

        if shutil.which("losetup") is None:
            pytest.skip("no losetup")
        yield attach


SPECS = ["block:{}", "block:{};direct", "block:{};cache=writethrough", "{};cache=directsync"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
def test_the_suite(check: Check, spec: str, loop: Attach) -> None:
    text = spec.format(loop())
    check(lambda: open_disk(text))


@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
def test_the_suite_on_sectors_of_4096(check: Check, loop: Attach) -> None:
    device = loop(32 * 4096, 4096)
    check(lambda: open_disk(f"block:{device};direct"))


def test_the_sizes_are_the_devices(loop: Attach) -> None:
    device = loop(32 * 4096, 4096)
    disk = open_disk(f"block:{device}")
    assert isinstance(disk, BlockDisk)
    assert (disk.kind, disk.sector_size, disk.sector_count) == ("block", 4096, 32)
    assert disk.unmap_behaviour is Unmap.UNSPECIFIED
    assert disk.allocated_bytes is None
    disk.close()
    with pytest.raises(DiskOpenError, match="its sectors have 4096 bytes"):
        open_disk(f"block:{device};sector=512")
    disk = open_disk(f"block:{device};sector=64k")
    assert (disk.sector_size, disk.sector_count) == (65536, 2)
    disk.close()


def test_a_file_spec_of_a_device_is_the_same(loop: Attach) -> None:
    device = loop()
    for spec in (device, f"file:{device}", f"file:{device};create={64 * 512}"):
        disk = open_disk(spec)
        assert disk.kind == "block"
        disk.close()
    disk = open_disk(f"iso:{device}")
    assert (disk.kind, disk.sector_size, disk.read_only) == ("block", 2048, True)
    disk.close()


def test_memory_that_is_not_aligned_goes_through_some_that_is(loop: Attach) -> None:
    disk = open_disk(f"block:{loop()};direct")
    data = noise(8 * 512)
    crooked = aligned(8 * 512 + 3)[3:]
    crooked[:] = data
    for fua in (False, True):
        run(disk.write(8, [crooked[:700], crooked[700:]], fua))
    crooked[:] = bytes(len(crooked))
    run(disk.read(8, [crooked[:5], crooked[5:]]))
    assert crooked == data
    disk.close()


def test_an_unmap_reaches_the_device(loop: Attach, tmp_path: Path) -> None:
    disk = open_disk(f"block:{loop(4 * MIB)};direct")
    fill(disk)
    before = (tmp_path / "image").stat().st_blocks
    run(disk.unmap(2048, 4096))
    assert (tmp_path / "image").stat().st_blocks <= before - 4096
    run(disk.write_zeroes(0, 2048, fua=True, unmap=True))
    assert (tmp_path / "image").stat().st_blocks <= before - 6144
    assert get(disk, 0, 2048) == bytes(MIB)
    disk.close()


def test_a_new_size_is_noticed_by_a_refresh(loop: Attach, tmp_path: Path) -> None:
    device = loop()
    disk = open_disk(f"block:{device}")
    heard: list[int] = []
    disk.on_resize(heard.append)
    os.truncate(tmp_path / "image", 128 * 512)
    subprocess.run(["losetup", "--set-capacity", device], check=True)
    run(disk.refresh())
    assert (disk.sector_count, heard) == (128, [128])
    put(disk, 127, noise(512))
    with pytest.raises(InvalidInput, match="cannot be resized"):
        run(disk.resize(64))
    disk.close()


def test_one_writer(loop: Attach) -> None:
    device = loop()
    disk = open_disk(f"block:{device}")
    with pytest.raises(DiskOpenError, match=r"in use|busy"):
        open_disk(f"block:{device}")
    disk.close()
    open_disk(f"block:{device}").close()


def test_what_is_no_device_is_refused(tmp_path: Path, loop: Attach) -> None:
    (tmp_path / "file").write_bytes(bytes(512))
    for path, what in {
        tmp_path / "file": "is a file",
        tmp_path: "is a folder|Is a directory",
        Path("/dev/null"): "is a character device",
        tmp_path / "none": "No such file",
    }.items():
        with pytest.raises(DiskOpenError, match=what):
            open_disk(f"block:{path}")
    with pytest.raises(DiskOpenError, match="is a block device") as caught:
        FileDisk(loop())
    assert caught.value.hint.startswith("write block:/dev/loop")


# -- what sysfs and ioctls say ---------------------------------------------------------------------


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fills a sysfs of our own with a disk 8:0 and its partition 8:1."""
    monkeypatch.setattr(block, "SYSFS", tmp_path)

    def write(**values: str) -> None:
        disk = tmp_path / "devices" / "sda"
        (disk / "sda1").mkdir(parents=True)
        (disk / "sda1" / "partition").write_text("1\n")
        numbers = tmp_path / "dev" / "block"
        numbers.mkdir(parents=True)
        (numbers / "8:0").symlink_to(disk)
        (numbers / "8:1").symlink_to(disk / "sda1")
        for name, value in values.items():
            path = disk / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(value + "\n")

    return write


def test_a_partition_has_the_limits_of_its_disk(sysfs: Callable[..., None]) -> None:
    sysfs(
        queue__logical_block_size="512",
        queue__physical_block_size="4096",
        queue__discard_granularity="1048576",
        queue__discard_max_bytes="2147450880",
        queue__fua="1",
        queue__write_cache="write through",
        queue__zoned="none",
        device__wwid="naa.5000c500",
    )
    whole = Queue.of(os.makedev(8, 0))
    assert whole == Queue(
        512, 4096, 1 << 20, 2147450880, True, "write through", "none", "naa.5000c500"
    )
    assert Queue.of(os.makedev(8, 1)).identity == "naa.5000c500 1"


def test_a_sysfs_that_tells_nothing_is_a_plain_disk(sysfs: Callable[..., None]) -> None:
    sysfs(queue__fua="what?")
    assert Queue.of(os.makedev(8, 0)) == Queue(512, 512, 0, 0, False, "", "", "")
    assert Queue.of(os.makedev(9, 9)) == Queue(512, 512, 0, 0, False, "", "", "")


class Device(BlockDisk):
    """A file that is taken for the device of `queue`."""

    queue = Queue(512, 4096, 65536, 1 << 30, True, "write back", "none", "")

    def _check_type(self, mode: int) -> None:
        assert stat.S_ISREG(mode)

    def _limits(self, size: int, sector_size: int | None, read_only: bool) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Queue, "of", lambda device: self.queue)
            return super()._limits(size, sector_size, read_only)


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "device"
    path.write_bytes(noise(MIB))
    return str(path)


def test_a_discard_is_asked_in_bytes_and_one_that_is_not_known_is_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[Any, ...]]] = []

    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        asked.append((request, block.RANGE.unpack(argument)))
        raise OSError(95, "Operation not supported")

    disk = Device(path)
    assert (disk.unmap_behaviour, disk.optimal_unmap_sectors) == (Unmap.UNSPECIFIED, 128)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    run(disk.unmap(128, 256))
    assert asked == [(0x1277, (65536, 131072))]
    monkeypatch.setattr(fcntl, "ioctl", lambda *a: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(Exception, match=r"unmap .*: Input/output error"):
        run(disk.unmap(128, 256))
    disk.close()


def test_a_device_without_discard_offers_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "queue", Queue(512, 512, 0, 0, False, "", "", ""))
    disk = Device(path)
    assert disk.unmap_behaviour is Unmap.IGNORED
    assert get(disk, 0, 8) == noise(MIB)[:4096]
    run(disk.unmap(0, 8))
    assert get(disk, 0, 8) == noise(MIB)[:4096]
    disk.close()


def test_a_device_written_in_order_only_is_only_read(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoned = Queue(512, 512, 0, 0, False, "", "host-managed", "")
    monkeypatch.setattr(Device, "queue", zoned)
    with pytest.raises(DiskOpenError, match="only be written in order"):
        Device(path)
    Device(path, read_only=True).close()


def test_who_a_device_is_comes_from_itself(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for identity in ("", "naa.1", "naa.1 1", "naa.1"):
        monkeypatch.setattr(Device, "queue", Queue(512, 512, 0, 0, False, "", "", identity))
        disk = Device(path)
        ids.add(disk.disk_id)
        disk.close()
    assert len(ids) == 3
