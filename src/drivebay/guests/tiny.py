"""A tiny Linux with its drivers built in, compiled from Debian's source.

Where KVM interprets kernel code, Debian's own kernel takes minutes and cannot load modules; this
one has found its disks in little more than one. What it has is in ``tiny.config``.
``python -m drivebay.guests.tiny`` has it made, and says where it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from drivebay.guests import debian
from drivebay.guests.cache import Progress, build_once, digest, silent
from drivebay.guests.errors import GuestError
from drivebay.guests.fetch import say

CONFIG = Path(__file__).with_name("tiny.config")
VERSION = "6.1"
SOURCE = debian.PackageSet("linux-source", ("bookworm",), (f"linux-source-{VERSION}",), 2500)

# Programs, and headers, that compile a kernel, by the Debian packages that have them.
TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "tar": "tar",
    "xz": "xz-utils",
    "strip": "binutils",
}
HEADERS = {"/usr/include/gelf.h": "libelf-dev", "/usr/include/stdio.h": "libc6-dev"}

INTERPRETED = (
    "rodata=off mitigations=off noxsave clearcpuid=umip,popcnt,cx16,smap,smep,erms,fsrm,fsgsbase,"
    "invpcid,pcid,avx"
)
"""Words for its command line: what a KVM that interprets kernel code cannot do. They do no harm."""

COMPLAINT_LINES = 12


def tiny_kernel(progress: Progress = silent) -> Path:
    """Return the kernel as an ELF file, compiled into the cache if it is not there.

    That takes some eight minutes of CPU time, at the lowest priority. Raises GuestError without
    network, disk space or compiler.
    """

    def build(path: Path) -> None:
        _check_tools()
        tree = debian.tree(SOURCE, progress)
        progress("tiny kernel: unpacking its source")
        archive = tree / f"usr/src/linux-source-{VERSION}.tar.xz"
        _run(["tar", "-xJf", str(archive), "-C", str(path.parent)])
        source = path.parent / f"linux-source-{VERSION}"
        progress("tiny kernel: compiling, which takes some minutes")
        _make(source, "allnoconfig")
        if lost := missing(CONFIG.read_text(), (source / ".config").read_text()):
            raise GuestError(f"the tiny kernel cannot have {lost[0]}", "what does it depend on?")
        _make(source, f"-j{len(os.sched_getaffinity(0))}", "vmlinux")
        _run(["strip", "-o", str(path), str(source / "vmlinux")])

    return build_once(f"tiny-{digest(SOURCE, CONFIG.read_bytes())}", build, progress)


def missing(wanted: str, config: str) -> list[str]:
    """Return the lines of `wanted` that are not so in the finished `config`."""
    have = set(config.splitlines())
    off = re.compile(r"# (CONFIG_\w+) is not set")
    return [
        line
        for line in wanted.splitlines()
        if (line.startswith("CONFIG_") and line not in have)
        or (
            (unset := off.fullmatch(line)) and any(each.startswith(f"{unset[1]}=") for each in have)
        )
    ]


def _check_tools() -> None:
    lost = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    lost += [package for header, package in HEADERS.items() if not Path(header).exists()]
    if lost:
        raise GuestError("this system cannot compile a kernel", f"apt-get install {' '.join(lost)}")


def _make(source: Path, *arguments: str) -> None:
    _run(["nice", "-n", "19", "make", "-C", str(source), "ARCH=x86_64", *arguments])


def _run(command: list[str]) -> None:
    # Names and times that go into the kernel: the same kernel for everybody.
    built = {"KBUILD_BUILD_USER": "drivebay", "KBUILD_BUILD_HOST": "drivebay"}
    built["KBUILD_BUILD_TIMESTAMP"] = "@0"
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **built, "KCONFIG_ALLCONFIG": os.fspath(CONFIG)},
    )
    if done.returncode:
        complaint = "\n".join(done.stderr.splitlines()[-COMPLAINT_LINES:])
        raise GuestError(f"tiny kernel: {command[0]} failed", "", complaint)


def main() -> int:
    """Have it, and print where it is; return the exit status."""
    try:
        sys.stdout.write(f"{tiny_kernel(say)}\n")
    except GuestError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
