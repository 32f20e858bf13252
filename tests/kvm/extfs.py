"""File systems as images: made, spoiled and checked by e2fsprogs, outside of any guest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

PATH: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
BLOCK: Final = 4096
CONTENT: Final = b"a" * BLOCK
REPLAYED: Final = b"b" * BLOCK


def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
    """A tool of e2fsprogs; what it said. Fails if it ends otherwise than `codes`."""
    program = shutil.which(command[0], path=PATH)
    if program is None:
        pytest.skip("NOT TESTED: there is no e2fsprogs")
    done = subprocess.run([program, *command[1:]], check=False, capture_output=True, text=True)
    assert done.returncode in codes, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """A file system in a file, with a file `page` in it."""

    path: Path

    def facts(self) -> dict[str, str]:
        """What its superblock says."""
        lines = run("dumpe2fs", "-h", str(self.path)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def fact(self, name: str) -> str:
        return self.facts()[name].strip()

    def page(self) -> bytes:
        """The file's content, as the blocks have it: nothing is replayed."""
        (block,) = re.findall(r"\d+", run("debugfs", "-R", "blocks /page", str(self.path)))
        size = int(self.fact("Block size"))
        data = self.path.read_bytes()
        return data[int(block) * size :][:BLOCK]

    def check_after_mount(self) -> None:
        """It was mounted once, for writing, and not unmounted; and it is whole."""
        assert self.fact("Mount count") == "1"
        run("e2fsck", "-fy", str(self.path), codes=(0, 1))
        run("e2fsck", "-fn", str(self.path))


def make(path: Path, kind: str, kilobytes: int, *options: str) -> Image:
    """A new file system with the file in it."""
    root = path.with_suffix(".root")
    root.mkdir()
    (root / "page").write_bytes(CONTENT)
    with path.open("wb") as file:
        file.truncate(kilobytes << 10)
    run(f"mkfs.{kind}", "-q", *options, "-d", str(root), str(path))
    return Image(path)


def ext4(path: Path) -> Image:
    return make(path, "ext4", 32 << 10, "-b", str(BLOCK))


def dirty_ext4(path: Path) -> Image:
    """One that was not unmounted: its journal says that `page` is `REPLAYED`."""
    image = ext4(path)
    (block,) = re.findall(r"\d+", run("debugfs", "-R", "blocks /page", str(path)))
    new, commands = path.with_suffix(".page"), path.with_suffix(".commands")
    new.write_bytes(REPLAYED)
    commands.write_text(f"jo\njw -b {block} {new}\njc\n")
    run("debugfs", "-w", "-f", str(commands), str(path))
    assert "needs_recovery" in image.fact("Filesystem features")
    assert image.page() == CONTENT
    return image
