"""Linux on the disks that a user has: an object far away, SQLite layers, an encrypted image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from drivebay.cli.main import main
from drivebay.disk.formats.vhd.footer import DiskType, Footer
from drivebay.disk.spec import open_disk
from tests.blob.server import ObjectServer
from tests.disk.support import get, noise

from .conftest import FIO, qemu_guest
from .test_virtio_blk import ok

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

SIZE = 64 << 20


def test_an_object_behind_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest reads what is there, and its writes stay in memory."""
    monkeypatch.setenv("DRIVEBAY_AUTO_CACHE_PATH", str(tmp_path / "caches"))
    content = noise(1 << 20) * 16
    with ObjectServer(content + Footer.make(len(content), DiskType.FIXED).pack()) as server:
        spec = f"memdiff:autocache::blob:vhd1:{server.url}"
        for _ in range(2):  # the second time much of it is cached
            asked = len(server.requests)
            with qemu_guest([spec]) as (_, guest):
                digest = ok(guest, "sha256sum /dev/vda").split()[0]
                assert digest == hashlib.sha256(content).hexdigest()
                ok(guest, "mkfs.ext4 -q /dev/vda && fsck.ext4 -fn /dev/vda")
        assert len(server.requests) - asked < asked


@contextmanager
def sqldiff(folder: Path) -> Iterator[str]:
    open_disk(f"{folder}/base.img;create={SIZE}").close()
    open_disk(f"sqldiff:{folder}/top.dbhd;create:{folder}/base.img").close()
    yield f"sqldiff:{folder}/top.dbhd:{folder}/base.img"
    base = open_disk(f"{folder}/base.img", read_only=True)
    assert not any(get(base, 0, base.sector_count))
    base.close()


@contextmanager
def crypt_over_qcow2(folder: Path) -> Iterator[str]:
    assert main(["disk", "create", f"{folder}/x.qcow2", str(SIZE)]) == 0
    (folder / "key").write_bytes(noise(64))
    yield f"crypt:xts-aes-256:{folder}/key:{folder}/x.qcow2"
    assert main(["disk", "check", f"{folder}/x.qcow2"]) == 0


@contextmanager
def vhdx(folder: Path) -> Iterator[str]:
    assert main(["disk", "create", f"{folder}/x.vhdx", str(SIZE)]) == 0
    yield f"{folder}/x.vhdx"
    assert main(["disk", "check", f"{folder}/x.vhdx"]) == 0


@pytest.mark.parametrize("place", [sqldiff, crypt_over_qcow2, vhdx])
def test_what_one_guest_writes_the_next_reads(
    place: Callable[[Path], AbstractContextManager[str]], tmp_path: Path
) -> None:
    with place(tmp_path) as spec:
        with qemu_guest([spec], tools=["fio"]) as (_, guest):
            ok(guest, f"{FIO} --name=x --filename=/dev/vda --rw=randwrite --size=8M")
            ok(guest, "mkfs.ext4 -q /dev/vda && mkdir /m && mount /dev/vda /m")
            ok(guest, "dd if=/dev/urandom of=/m/file bs=1M count=8 && sync")
            digest = ok(guest, "sha256sum /m/file && umount /m")
        with qemu_guest([spec]) as (_, guest):
            ok(guest, "fsck.ext4 -fn /dev/vda && mkdir /m && mount -o ro /dev/vda /m")
            assert ok(guest, "sha256sum /m/file") == digest
