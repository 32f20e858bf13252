"""A kernel is taken apart: its ELF image, and its modules in the order they load."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from drivebay.guests.kernel import Modules, module_name, vmlinux

IMAGE = b"\x7fELF kernel"


def bzimage(payload: bytes) -> bytes:
    """Return a bzImage with one setup sector besides the boot sector."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + bytes(16) + payload + b"what follows"


@pytest.mark.parametrize(
    "payload", [lzma.compress(IMAGE) + b"size", gzip.compress(IMAGE) + b"size"], ids=["xz", "gzip"]
)
def test_vmlinux_comes_out(payload: bytes) -> None:
    assert vmlinux(bzimage(payload)) == IMAGE


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="not a Linux bzImage"):
        vmlinux(bytes(2048))
    with pytest.raises(ValueError, match="unknown kernel compression"):
        vmlinux(bzimage(b"\x01\x02\x03\x04\x05\x06"))


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    (tmp_path / "modules.dep").write_text(
        "fs/ext4.ko: fs/jbd2.ko lib/crc16.ko\n"
        "fs/jbd2.ko: lib/crc16.ko\n"
        "lib/crc16.ko:\n"
        "block/virtio-blk.ko.xz: lib/crc16.ko\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/virtio_ring.ko\n")
    (tmp_path / "modules.alias").write_text("alias fs-ext4 ext4\nalias virtio:d2v* virtio_blk\n")
    return Modules(tmp_path)


def test_each_module_comes_after_what_it_needs(modules: Modules) -> None:
    assert modules.closure(["virtio_ring", "ext4", "virtio-blk"]) == [
        "lib/crc16.ko",
        "fs/jbd2.ko",
        "fs/ext4.ko",
        "block/virtio-blk.ko.xz",
    ]


def test_tables_are_cut_down_to_what_is_there(modules: Modules) -> None:
    assert modules.dep_lines(["lib/crc16.ko", "fs/jbd2.ko"]) == (
        "lib/crc16.ko: \nfs/jbd2.ko: lib/crc16.ko\n"
    )
    assert modules.alias_lines(["block/virtio-blk.ko.xz"]) == "alias virtio:d2v* virtio_blk\n"


def test_names_as_the_kernel_knows_them(modules: Modules) -> None:
    assert module_name("kernel/drivers/block/virtio-blk.ko.zst") == "virtio_blk"
    assert modules.has("virtio-ring")
    assert not modules.has("nvme")
    with pytest.raises(KeyError):
        modules.closure(["nvme"])
