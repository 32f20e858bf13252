"""Encrypted disks, against the published vectors and against others who keep the same format."""

from __future__ import annotations

import builtins
import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Unmap
from drivebay.disk.errors import DiskOpenError, IllegalBlock, IoError
from drivebay.disk.filters.crypt import PIECE, Crypt
from drivebay.disk.filters.xts import BATCH, FEWEST, BatchedXts, SectorXts, Xts, xts
from drivebay.disk.spec import SpecError, open_disk
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import Stepped, fill, get, noise, put, view

KEY = bytes(range(64))

# IEEE 1619-2007 annex B, vector 10: XTS-AES-256, data unit FFh of 512 bytes.
VECTOR_KEY = bytes.fromhex(
    "2718281828459045235360287471352662497757247093699959574966967627"
    "3141592653589793238462643383279502884197169399375105820974944592"
)
VECTOR_SECTOR = 0xFF
VECTOR_PLAIN = bytes(range(256)) * 2
VECTOR_CIPHER = bytes.fromhex(
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
    "5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd"
    "5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0"
    "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca"
    "2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0"
    "b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f"
    "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec"
    "583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a"
    "84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1"
    "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae"
    "9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29"
    "a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac"
    "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f"
    "645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385"
    "1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa"
    "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"
)


def test_the_published_vector() -> None:
    below = RamDisk(1 << 20)
    disk = Crypt(below, VECTOR_KEY)
    put(disk, VECTOR_SECTOR, VECTOR_PLAIN)
    assert get(below, VECTOR_SECTOR, 1) == VECTOR_CIPHER
    assert get(disk, VECTOR_SECTOR, 1) == VECTOR_PLAIN


def test_the_published_vector_among_others() -> None:
    below = RamDisk(1 << 20)
    disk = Crypt(below, VECTOR_KEY)
    put(disk, VECTOR_SECTOR - 100, noise(100 * 512) + VECTOR_PLAIN + noise(100 * 512))
    assert get(below, VECTOR_SECTOR, 1) == VECTOR_CIPHER


@pytest.mark.parametrize(
    "count", [1, FEWEST - 1, FEWEST, FEWEST + 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 5]
)
@pytest.mark.parametrize("sector", [0, 1, (1 << 32) - 3, (1 << 54) - 5])
def test_many_at_once_are_the_same_as_one_by_one(sector: int, count: int) -> None:
    batched: Xts = BatchedXts(KEY)
    single: Xts = SectorXts(KEY, 512)
    data = memoryview(noise(512 * count, count))
    secret, expected, back = view(len(data)), view(len(data)), view(len(data))
    batched.encrypt(sector, data, secret)
    single.encrypt(sector, data, expected)
    assert secret == expected
    batched.decrypt(sector, secret, back)
    assert back == data
    single.decrypt(sector, secret, expected)
    assert expected == data


def test_without_numpy_it_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert type(xts(KEY, 512)) is SectorXts
    monkeypatch.undo()
    assert type(xts(KEY, 512)) is BatchedXts
    assert type(xts(KEY, 4096)) is SectorXts


@pytest.mark.parametrize("sector_size", [512, 4096, 65536])
def test_what_lies_below_is_not_what_was_written(sector_size: int) -> None:
    below = RamDisk(32 * sector_size, sector_size=sector_size)
    disk = Crypt(below, KEY)
    data = fill(disk)
    secret = get(below, 0, 32)
    assert all(
        secret[at : at + 16] != data[at : at + 16] for at in range(0, len(data), sector_size // 2)
    )
    sectors = [secret[at : at + sector_size] for at in range(0, len(data), sector_size)]
    put(disk, 0, bytes(len(data)))
    assert len({get(below, n, 1) for n in range(32)} | set(sectors)) == 64


def test_zeroes_are_written_as_noise() -> None:
    below = RecordingDisk(RamDisk(1 << 20))
    disk = Crypt(below, KEY)
    fill(disk)
    below.calls.clear()
    run(disk.write_zeroes(3, 40, fua=True, unmap=True))
    assert [(call.name, call.fua) for call in below.calls] == [("write", True)]
    assert get(disk, 3, 40) == bytes(40 * 512)
    assert any(get(below, 3, 40))


def test_the_callers_buffers_are_not_changed() -> None:
    disk = Crypt(RamDisk(1 << 20), KEY)
    data = [memoryview(bytearray(noise(size, size))) for size in (1, 511, 1024, 70000 - 1536 + 144)]
    before = [bytes(part) for part in data]
    whole = b"".join(before)
    count = len(whole) // 512
    run(disk.write(5, [*data[:3], data[3][: count * 512 - 1536]]))
    assert [bytes(part) for part in data] == before
    run(disk.write(5, [memoryview(whole).toreadonly()[: count * 512]]))
    assert get(disk, 5, count) == whole[: count * 512]


def test_a_read_never_shows_what_is_encrypted() -> None:
    below = RamDisk(1 << 20)
    disk = Crypt(below, KEY)
    put(disk, 0, noise(PIECE))
    buffer = memoryview(bytearray(b"-" * (PIECE // 2)))
    read = Stepped(disk.read(0, [buffer]))
    while read.calls:
        assert buffer == b"-" * len(buffer)
        read.work()
    assert buffer == noise(PIECE)[: len(buffer)]


def test_large_work_is_done_by_a_worker_in_pieces() -> None:
    size = 3 * PIECE + 512
    below = RecordingDisk(RamDisk(4 * PIECE))
    disk = Crypt(below, KEY)
    data = memoryview(noise(size))
    write = Stepped(disk.write(1, [data[:700], data[700:]]))
    while write.calls:
        write.work()
    assert write.done
    assert [call.count * 512 for call in below.calls] == [PIECE, PIECE, PIECE, 512]
    back = view(size)
    run(disk.read(1, [back[:5], back[5:]]))
    assert back == data


def test_a_large_request_that_does_not_fit_changes_nothing() -> None:
    below = RamDisk(3 * PIECE)
    disk = Crypt(below, KEY)
    fill(below)
    before = get(below, 0, below.sector_count)
    for operation in (
        disk.write(1, [view(3 * PIECE)]),
        disk.write_zeroes(1, below.sector_count),
        disk.unmap(1, below.sector_count),
        disk.read(1, [view(3 * PIECE)]),
    ):
        with pytest.raises(IllegalBlock):
            run(operation)
    assert get(below, 0, below.sector_count) == before


def test_what_a_resize_adds_reads_zero() -> None:
    below = RamDisk(1 << 20)
    disk = Crypt(below, KEY)
    data = fill(disk)
    run(disk.resize(5000))
    assert get(disk, 0, 2048) == data
    assert not any(get(disk, 2048, 5000 - 2048))


def test_a_resize_that_cannot_be_filled_is_none() -> None:
    below = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: name == "write")
    disk = Crypt(below, KEY)
    resize = Stepped(disk.resize(4096))
    while not below.held:
        resize.work()
    with pytest.raises(IoError):
        below.held[0].fail(IoError(errno.EIO, "cable"))
        resize.work()
    assert disk.sector_count == 2048


def test_nothing_is_offered_to_be_unmapped() -> None:
    disk = Crypt(RamDisk(1 << 20), KEY)
    data = fill(disk)
    assert disk.unmap_behaviour is Unmap.IGNORED
    run(disk.unmap(0, disk.sector_count))
    assert get(disk, 0, disk.sector_count) == data
    assert not any(extent.zero for extent in run(disk.extents(0, disk.sector_count)))


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["write", "zero", "unmap"]), st.integers(0, 63), st.integers(0, 64)
        ),
        max_size=20,
    )
)
def test_any_writes_read_back(steps: list[tuple[str, int, int]]) -> None:
    below = RamDisk(64 * 512)
    disk = Crypt(below, KEY)
    model = bytearray(fill(disk))
    for seed, (name, sector, length) in enumerate(steps):
        count = min(length, 64 - sector)
        if name == "write":
            model[sector * 512 : (sector + count) * 512] = data = noise(count * 512, seed)
            put(disk, sector, data)
        elif name == "zero":
            model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
            run(disk.write_zeroes(sector, count))
        else:
            run(disk.unmap(sector, count))
    assert get(disk, 0, 64) == model
    assert get(Crypt(below, KEY), 0, 64) == model


# -- the key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "key: No such file or directory"),
        (b"", "key: a key of 64 bytes is wanted, this has 0"),
        (KEY[:63], "key: a key of 64 bytes is wanted, this has 63"),
        (KEY + b"\n", "key: a key of 64 bytes is wanted, this has more"),
        (KEY[:32] * 2, "key: the two halves of the key are equal"),
    ],
)
def test_a_bad_key_file_is_one_line_and_changes_nothing(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 16))
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(DiskOpenError) as caught:
        open_disk(f"crypt:xts-aes-256:{tmp_path}/key:{image}")
    assert str(caught.value) == f"{tmp_path}/{message}"
    assert image.read_bytes() == bytes(1 << 16)
    FileDisk(str(image)).close()  # it is not locked any more


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **more)

    monkeypatch.delitem(sys.modules, "drivebay.disk.filters.xts")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DiskOpenError, match="cryptography is not installed") as caught:
        open_disk(f"crypt:xts-aes-256:{tmp_path}/key:mem:1M")
    assert "drivebay[crypt]" in caught.value.hint


def test_the_grammar(tmp_path: Path) -> None:
    (tmp_path / "key:1").write_bytes(KEY)
    disk = open_disk(f"crypt:xts-aes-256:{tmp_path}/key::1:mem:1M")
    assert disk.details == {"cipher": "aes-xts-plain64"}
    disk.close()
    for text, expected in (
        ("crypt:aes:key:mem:1M", "a cipher: xts-aes-256"),
        ("crypt:xts-aes-256", "':' and a key file"),
        ("crypt:xts-aes-256:", "a key file"),
        ("crypt:xts-aes-256:key", "':' and a disk"),
    ):
        with pytest.raises(SpecError) as caught:
            open_disk(text)
        assert caught.value.expected == expected
