"""The initramfs writer, read back by a small parser of the same format."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from drivebay.guests.cpio import TRAILER, Archive


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, mode and data of each entry up to the trailer."""
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = (at + 110 + name_size + 3) & ~3
        if name == TRAILER:
            return
        yield name, mode, archive[data_at : data_at + size]
        at = (data_at + size + 3) & ~3


def test_what_was_added_comes_back_with_its_folders_first() -> None:
    archive = Archive()
    archive.file("bin/tool", b"12345", 0o755)
    archive.link("/bin/alias", "tool")
    archive.device("dev/console", 5, 1)
    assert list(entries(archive.build())) == [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("bin/tool", stat.S_IFREG | 0o755, b"12345"),
        ("bin/alias", stat.S_IFLNK | 0o777, b"tool"),
        ("dev", stat.S_IFDIR | 0o755, b""),
        ("dev/console", stat.S_IFCHR | 0o600, b""),
    ]


def test_the_first_of_a_name_wins() -> None:
    archive = Archive()
    archive.file("bin/dd", b"real")
    archive.link("bin/dd", "busybox")
    assert "/bin/dd" in archive
    assert [data for name, _, data in entries(archive.build()) if name == "bin/dd"] == [b"real"]


def test_another_archive_may_follow() -> None:
    assert len(Archive().build()) % 512 == 0
