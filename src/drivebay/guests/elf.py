"""The little of ELF that is needed to find a program's shared libraries without running it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

LOADER = "ld-linux-x86-64.so.2"
LIBRARY_FOLDERS = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu/ceph",  # librados and librbd name it in their RUNPATH
)

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5


def needed(image: bytes) -> list[str]:
    """Return the names of the libraries that the 64-bit little-endian ELF `image` asks for.

    A static program or something that is not such a file needs none.
    """
    if image[:6] != b"\x7fELF\x02\x01":
        return []
    offset, entry_size, count = _program_headers(image)
    loads, dynamic = [], None
    for at in range(offset, offset + entry_size * count, entry_size):
        kind, _flags, start, address, _physical, size = struct.unpack_from("<IIQQQQ", image, at)
        if kind == PT_LOAD:
            loads.append((address, start, size))
        elif kind == PT_DYNAMIC:
            dynamic = image[start : start + size]
    if dynamic is None:
        return []
    names, strings = [], 0
    for tag, value in struct.iter_unpack("<QQ", dynamic):
        if tag == DT_NULL:
            break
        if tag == DT_NEEDED:
            names.append(value)
        elif tag == DT_STRTAB:
            strings = next(s + value - a for a, s, n in loads if a <= value < a + n)
    return [_string(image, strings + name) for name in names]


def _program_headers(image: bytes) -> tuple[int, int, int]:
    """Return offset, entry size and number of the program headers."""
    (offset,) = struct.unpack_from("<Q", image, 0x20)
    entry_size, count = struct.unpack_from("<HH", image, 0x36)
    return offset, entry_size, count


def _string(image: bytes, at: int) -> str:
    return image[at : image.index(b"\0", at)].decode()


def libraries(programs: Iterable[Path], tree: Path) -> list[Path]:
    """Return the libraries in `tree` that `programs` need, their own needs included.

    Raises FileNotFoundError, naming the library and who asks for it, when one is missing.
    """
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        program = waiting.pop()
        for name in needed(program.read_bytes()):
            if name not in found:
                found[name] = _find(name, tree, program)
                waiting.append(found[name])
    return sorted(found.values())


def _find(name: str, tree: Path, asker: Path) -> Path:
    for folder in LIBRARY_FOLDERS:
        if (path := tree / folder / name).exists():
            return path
    raise FileNotFoundError(f"{asker.name} needs {name}, which is not in {tree}")
