"""A Debian kernel taken apart: the ELF image that QEMU starts directly, and its modules."""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from drivebay.guests.cache import build_once
from drivebay.guests.errors import GuestError

# Offsets in the setup header (Documentation/arch/x86/boot.rst).
SETUP_SECTS, PAYLOAD = 0x1F1, 0x248

_DECODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor().decompress(data),
    b"\x1f\x8b": lambda data: zlib.decompressobj(wbits=31).decompress(data),
}


def vmlinux(bzimage: bytes) -> bytes:
    """Return the uncompressed ELF kernel inside `bzimage`; raises ValueError if there is none.

    Started through PVH it need not unpack itself, which takes seconds under emulation.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise ValueError("not a Linux bzImage")
    offset, length = struct.unpack_from("<II", bzimage, PAYLOAD)
    start = (bzimage[SETUP_SECTS] + 1) * 512 + offset
    payload = bzimage[start : start + length]
    for magic, decode in _DECODERS.items():
        if payload.startswith(magic):
            image = decode(payload)
            if image.startswith(b"\x7fELF"):
                return image
    raise ValueError(f"unknown kernel compression {payload[:6].hex()}")


class Kernel:
    """The kernel image and the modules of one unpacked tree."""

    def __init__(self, tree: Path) -> None:
        images = sorted(tree.glob("boot/vmlinuz-*"))
        if not images:
            raise GuestError(f"no kernel in {tree}", "remove the folder to fetch it again")
        self.bzimage = images[-1]
        self.release = self.bzimage.name.removeprefix("vmlinuz-")
        self.modules = Modules(tree / "lib/modules" / self.release)

    def elf(self) -> Path:
        """Return the uncompressed kernel, unpacked into the cache once."""

        def build(path: Path) -> None:
            path.write_bytes(vmlinux(self.bzimage.read_bytes()))

        return build_once(f"vmlinux-{self.release}-{int(self.bzimage.stat().st_mtime)}", build)


class Modules:
    """A kernel's module folder with its `modules.dep`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._needs: dict[str, list[str]] = {}
        self._paths: dict[str, str] = {}
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._paths[module_name(path)] = path
            self._needs[path] = needs.split()
        builtin = (folder / "modules.builtin").read_text().splitlines()
        self._builtin = {module_name(path) for path in builtin}

    def closure(self, names: Iterable[str]) -> list[str]:
        """Return the paths of `names` and of all they need, each after what it needs.

        Names are as `modprobe` takes them; what is built into the kernel needs nothing. Raises
        KeyError for a module that this kernel does not have.
        """
        order: dict[str, None] = {}

        def visit(path: str) -> None:
            if path not in order:
                for need in self._needs[path]:
                    visit(need)
                order[path] = None

        for name in map(module_name, names):
            if name not in self._builtin:
                visit(self._paths[name])
        return list(order)

    def has(self, name: str) -> bool:
        """Return whether the kernel has `name`, as a module or built in."""
        return module_name(name) in self._paths or module_name(name) in self._builtin

    def dep_lines(self, paths: Iterable[str]) -> str:
        """Return a `modules.dep` for `paths` only."""
        return "".join(f"{path}: {' '.join(self._needs[path])}\n" for path in paths)

    def alias_lines(self, paths: Iterable[str]) -> str:
        """Return a `modules.alias` for `paths` only: how hardware and mount find a module."""
        wanted = {module_name(path) for path in paths}
        lines = (self.folder / "modules.alias").read_text().splitlines()
        return "".join(f"{line}\n" for line in lines if line.rpartition(" ")[2] in wanted)


def module_name(path: str) -> str:
    """Return the name that the kernel knows a module file by: `a/virtio-blk.ko` is virtio_blk."""
    return re.sub(r"\.ko(\.\w+)?$", "", path.rpartition("/")[2]).replace("-", "_")
