"""`blob:` on Azurite, the official emulator of Azure Blob storage."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import obstore
import pytest
from obstore.store import from_url

from drivebay.disk.backends.blob import PART
from drivebay.disk.conformance import Check, checks
from drivebay.disk.errors import DiskOpenError, IoError
from drivebay.disk.formats.vhd.footer import DiskType, Footer
from drivebay.disk.spec import open_disk
from tests.blob.azurite import azurite, make_container
from tests.disk.support import get, noise

CONTENT = noise(32 * 512)


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with azurite() as url:
        make_container(url, "disks")
        yield url


@pytest.fixture(autouse=True)
def at_the_emulator(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", emulator)


def store(key: str, content: bytes) -> str:
    obstore.put(from_url("az://disks"), key, content)
    return f"az://disks/{key}"


@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
def test_the_suite(check: Check) -> None:
    url = store("suite.img", CONTENT)
    check(lambda: open_disk(f"blob:flat:{url}", read_only=True))


def test_a_large_blob_and_a_fixed_vhd_are_read_whole() -> None:
    content = noise(3 * PART)
    disk = open_disk(f"blob:flat:{store('a folder/large.img', content)}", read_only=True)
    assert disk.details["pinned"] == "etag"
    assert get(disk, 0, disk.sector_count) == content
    quarter = disk.sector_count // 12
    assert b"".join(get(disk, n * quarter, quarter) for n in range(12)) == content
    disk.close()
    image = CONTENT + Footer.make(len(CONTENT), DiskType.FIXED).pack()
    disk = open_disk(f"blob:vhd1:{store('fixed.vhd', image)}", read_only=True)
    assert get(disk, 0, disk.sector_count) == CONTENT
    disk.close()


def test_an_overwritten_blob_is_an_error_never_mixed_data() -> None:
    url = store("changing.img", CONTENT)
    disk = open_disk(f"blob:flat:{url}", read_only=True)
    assert get(disk, 0, 8) == CONTENT[:4096]
    store("changing.img", bytes(len(CONTENT)))
    with pytest.raises(IoError, match="the object was changed") as caught:
        get(disk, 16, 8)
    assert caught.value.errno == errno.ESTALE
    disk.close()


def test_what_is_not_there_is_one_line() -> None:
    for url in ("az://disks/nothing.img", "az://nowhere/nothing.img"):
        with pytest.raises(DiskOpenError, match="not found") as caught:
            open_disk(f"blob:flat:{url}", read_only=True)
        assert "\n" not in str(caught.value)
