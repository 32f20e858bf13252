"""An image that pycdlib has made, read back block by block through the drive."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from drivebay.disk.errors import DiskOpenError, ReadOnly
from drivebay.disk.spec import open_disk
from drivebay.scsi import cdb
from drivebay.scsi.dvd import Dvd
from drivebay.suspend import run
from tests.scsi.support import BLOCK, noise, perform, quiet

FILES = {"/HELLO.TXT;1": b"hello, drive\n", "/NOISE.BIN;1": noise(100_000)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("iso") / "disc.iso"
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident="DRIVEBAY")
    for name, data in FILES.items():
        iso.add_fp(io.BytesIO(data), len(data), name)
    iso.write(str(path))
    iso.close()
    return path


class DriveFile(io.RawIOBase):
    """What is in the drive, as a file."""

    def __init__(self, drive: Dvd) -> None:
        self._drive, self._at = drive, 0
        capacity = perform(drive, bytes([0x25, *bytes(9)]))
        self._size = (int.from_bytes(capacity[:4]) + 1) * BLOCK

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        first, last = self._at // BLOCK, -(-end // BLOCK)
        if end <= self._at:
            return 0
        command = cdb.Read12(logical_block_address=first, transfer_length=last - first)
        data = perform(self._drive, command)[self._at - first * BLOCK :][: end - self._at]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@pytest.mark.parametrize("spec", ["iso:{}", "file:{}", "memdiff:iso:{}", "memdiff:{}"])
def test_an_iso_is_read_back(image: Path, spec: str) -> None:
    disk = open_disk(spec.format(image))
    drive = quiet(disk)
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BufferedReader(DriveFile(drive)))
    assert iso.pvd.volume_identifier.startswith(b"DRIVEBAY")
    for name, data in FILES.items():
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, iso_path=name)
        assert out.getvalue() == data
    iso.close()
    disk.close()


def test_an_iso_is_read_only_and_whole_blocks(image: Path, tmp_path: Path) -> None:
    disk = open_disk(f"iso:{image}")
    assert (disk.read_only, disk.sector_size) == (True, BLOCK)
    with pytest.raises(ReadOnly):
        run(disk.write(0, [memoryview(bytearray(BLOCK))]))
    disk.close()
    odd = tmp_path / "odd.iso"
    odd.write_bytes(bytes(BLOCK + 512))
    with pytest.raises(DiskOpenError, match=r"odd\.iso"):
        open_disk(f"iso:{odd}")


def test_an_iso_that_is_missing_is_not_to_be_created(tmp_path: Path) -> None:
    with pytest.raises(DiskOpenError) as caught:
        open_disk(f"iso:{tmp_path}/no.iso")
    assert str(caught.value) == f"{tmp_path}/no.iso: No such file or directory"
    assert caught.value.hint == ""
