"""A writer of newc cpio archives, the format of an initramfs."""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

TRAILER = "TRAILER!!!"


class Archive:
    """A newc archive in memory; parent folders are added by themselves.

    Several archives may follow each other in one initramfs: the kernel unpacks one by one.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path.lstrip("/") in self._names

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add the folder `path` unless it is there already."""
        self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add the file `path` with `data` unless there is one already."""
        self._entry(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add the symbolic link `path` to `target` unless there is something already."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add the character device `path`."""
        self._entry(path, stat.S_IFCHR | mode, b"", (major, minor))

    def build(self) -> bytes:
        """Return the archive, padded so that another may follow it."""
        end = _record(TRAILER, 0, b"", 0)
        body = b"".join([*self._parts, end])
        return body + bytes(-len(body) % 512)

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = path.lstrip("/")
        if name in self._names:
            return
        for parent in reversed(PurePosixPath(name).parents):
            if str(parent) != "." and str(parent) not in self._names:
                self.folder(str(parent))
        self._names.add(name)
        self._parts.append(_record(name, mode, data, len(self._names), device))


def _record(
    name: str, mode: int, data: bytes, inode: int, device: tuple[int, int] = (0, 0)
) -> bytes:
    """Return one entry: 13 hexadecimal fields, the name, the data, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)
