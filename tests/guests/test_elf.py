"""Libraries are found without running anything."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from drivebay.guests.elf import libraries, needed


def elf(*names: str) -> bytes:
    """Return a shared object that needs `names` and does nothing; loaded at 0x10000."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    dynamic = b""
    offset = 1
    for name in names:
        dynamic += struct.pack("<QQ", 1, offset)
        offset += len(name) + 1
    dynamic_at = 64 + 2 * 56
    strings_at = dynamic_at + len(dynamic) + 32
    dynamic += struct.pack("<QQQQ", 5, 0x10000 + strings_at, 0, 0)
    size = strings_at + len(strings)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x10000, 0, size, size, 4096)
    at = 0x10000 + dynamic_at
    table = struct.pack("<IIQQQQQQ", 2, 4, dynamic_at, at, 0, len(dynamic), len(dynamic), 8)
    return header + load + table + dynamic + strings


def test_needed_names_in_order() -> None:
    assert needed(elf("libb.so.2", "liba.so.1")) == ["libb.so.2", "liba.so.1"]


@pytest.mark.parametrize("image", [b"", b"#!/bin/sh\n", elf()])
def test_other_files_and_static_programs_need_nothing(image: bytes) -> None:
    assert needed(image) == []


def test_needs_of_needs_are_found_once(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    program = tmp_path / "tool"
    program.write_bytes(elf("liba.so", "libc.so"))
    (folder / "liba.so").write_bytes(elf("libc.so"))
    (folder / "libc.so").write_bytes(elf())
    assert libraries([program], tmp_path) == [folder / "liba.so", folder / "libc.so"]


def test_a_missing_library_names_who_asks(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_bytes(elf("libgone.so"))
    with pytest.raises(FileNotFoundError, match=r"tool needs libgone\.so"):
        libraries([program], tmp_path)
