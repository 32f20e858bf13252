"""Debian packages unpacked beside the system: no root, no chroot, nothing installed.

apt works on a root of its own in the cache folder (its own lists, its own empty idea of what is
installed), so it fetches a package with all that it depends on; `dpkg-deb -x` unpacks each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drivebay.guests import elf
from drivebay.guests.cache import Progress, build_once, cache_dir, digest, silent
from drivebay.guests.errors import GuestError
from drivebay.guests.process import StrPath, capture

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LAYOUT = 2  # counts up when the way packages are unpacked changes

# Programs that only a package's installation scripts need: apt is told they are there already.
ABSENT = (
    *("adduser", "debconf", "dpkg", "initramfs-tools", "libpam-modules", "libpam-runtime"),
    *("libpam0g", "linux-base", "passwd", "perl", "perl-base", "python3", "tar", "udev"),
)

# What no guest reads; a third of the space.
PRUNE = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/lib/x86_64-linux-gnu/gconv",
)


@dataclass(frozen=True)
class PackageSet:
    """Packages that are fetched together and unpacked into one tree.

    `megabytes` is the free space that fetching and unpacking needs; `prune` are patterns of
    folders in the tree that are thrown away.
    """

    name: str
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    megabytes: int
    prune: tuple[str, ...] = ()


QEMU = PackageSet(
    "qemu",
    ("trixie", "trixie-backports"),
    ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "seabios", "ovmf"),
    400,
)

GUEST = PackageSet(
    "guest",
    ("bookworm",),
    (
        "linux-image-amd64",
        "kmod",
        "busybox-static",
        "dash",
        "coreutils",
        "e2fsprogs",
        "mount",
        "util-linux",
        "fdisk",
        "fio",
        "hdparm",
        "smartmontools",
        "nvme-cli",
        "sg3-utils",
        "dosfstools",
        "sqlite3",
    ),
    800,
    (
        "lib/modules/*/kernel/sound",
        "lib/modules/*/kernel/net",
        "lib/modules/*/kernel/drivers/gpu",
        "lib/modules/*/kernel/drivers/media",
        "lib/modules/*/kernel/drivers/net",
    ),
)

UML = PackageSet("uml", ("bookworm",), ("user-mode-linux",), 300)

ALL = (QEMU, GUEST, UML)


def tree(wanted: PackageSet, progress: Progress = silent) -> Path:
    """Return the folder that `wanted` is unpacked in, fetching it first if it is not there.

    Raises GuestError without apt, network or disk space. Downloads that were cut short go on
    where they stopped.
    """
    name = f"{wanted.name}-{digest(LAYOUT, ABSENT, PRUNE, wanted)}"

    def build(path: Path) -> None:
        root = cache_dir() / f"apt-{wanted.name}"
        _check_space(path.parent, wanted)
        _make_root(root, wanted)
        _apt(root, ["update"], f"{wanted.name}: package lists", progress)
        install = ["-y", "--download-only", "install", *wanted.packages]
        if len(wanted.suites) > 1:
            install = ["-t", wanted.suites[-1], *install]
        _apt(root, install, f"{wanted.name}: fetching", progress)
        _unpack(sorted((root / "cache/archives").glob("*.deb")), path, wanted, progress)
        shutil.rmtree(root)

    return build_once(name, build, progress)


def _check_space(folder: Path, wanted: PackageSet) -> None:
    free = shutil.disk_usage(folder).free >> 20
    if free < wanted.megabytes:
        raise GuestError(
            f"{cache_dir()} has {free} MB free, the {wanted.name} packages need {wanted.megabytes}",
            "free some, or set DRIVEBAY_CACHE to a folder on another file system",
        )


def _make_root(root: Path, wanted: PackageSet) -> None:
    """Write the configuration of apt's private root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise GuestError(
            "guests are made of Debian packages, and this system has no apt-get",
            "run on Debian or Ubuntu, or copy the cache folder of such a machine",
        )
    for part in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (root / "state/status").write_text("\n".join(map(_installed_stanza, ABSENT)))
    mirror = os.environ.get("DRIVEBAY_DEBIAN_MIRROR") or MIRROR
    signed = f"[signed-by={_keyring()}]"
    lines = (f"deb {signed} {mirror} {suite} main\n" for suite in wanted.suites)
    (root / "etc/sources.list").write_text("".join(lines))
    (root / "apt.conf").write_text(
        f'Dir "{root}";\n'
        f'Dir::State "{root}/state";\n'
        f'Dir::State::status "{root}/state/status";\n'
        f'Dir::Cache "{root}/cache";\n'
        f'Dir::Etc "{root}/etc";\n'
        'APT::Architecture "amd64";\n'
        'APT::Architectures "amd64";\n'
        'APT::Install-Recommends "false";\n'
        'APT::Sandbox::User "root";\n'  # the user _apt may not write to our folder
        'Acquire::Languages "none";\n'
        'Acquire::Retries "3";\n' + _system_proxy()
    )


def _installed_stanza(package: str) -> str:
    return (
        f"Package: {package}\nStatus: install ok installed\nVersion: 99:1\n"
        "Architecture: amd64\nMulti-Arch: allowed\nMaintainer: none\nDescription: none\n"
    )


def _system_proxy() -> str:
    """Return the proxy settings of the system's own apt as configuration lines."""
    dump = capture(["apt-config", "dump", "Acquire::http", "Acquire::https"]).stdout
    lines = (line for line in dump.splitlines() if "::Proxy" in line and not line.endswith(' "";'))
    return "".join(f"{line}\n" for line in lines)


def _keyring() -> Path:
    """Return Debian's archive keys, by way of the system's own apt where it is not Debian."""
    if KEYRING.exists():
        return KEYRING

    def build(path: Path) -> None:
        done = capture(["apt-get", "download", "debian-archive-keyring"], path.parent)
        packages = list(path.parent.glob("*.deb"))
        if done.returncode or not packages:
            raise GuestError(
                "Debian's archive keys are not on this system and apt cannot fetch them",
                "apt-get update && apt-get install debian-archive-keyring",
            )
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(path)], check=True)

    return build_once("keyring", build) / KEYRING.relative_to("/")


def _apt(root: Path, arguments: Sequence[str], step: str, progress: Progress) -> None:
    """Run apt-get on the private `root`, reporting each large package as it comes."""
    progress(step)
    command = ["apt-get", "-q", *arguments]
    with subprocess.Popen(
        command,
        env={**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        complaints = []
        for line in process.stdout:
            if line.startswith(("E:", "Err:", "W: Failed")):
                complaints.append(line.strip())
            elif got := re.match(r"Get:\d+ \S+ \S+ \S+ (\S+) \S+ \S+ (\[.* MB\])", line):
                progress(f"{step} {got[1]} {got[2]}")
    # apt-get update reports a mirror that cannot be reached as a warning only.
    if process.returncode or complaints:
        raise _apt_error(step, complaints or [f"apt-get ended with {process.returncode}"])


def _apt_error(step: str, complaints: list[str]) -> GuestError:
    text = " ".join(complaints)
    reason = complaints[-1].removeprefix("E: ")
    if "free space" in text or "No space" in text:
        hint = "free some space, or set DRIVEBAY_CACHE to a folder on another file system"
    elif re.search(r"resolv|connect|fetch|timed out|unreachable", text, re.IGNORECASE):
        hint = "is the network up? set http_proxy or DRIVEBAY_DEBIAN_MIRROR if one is needed"
    else:
        hint = "try again; DRIVEBAY_DEBIAN_MIRROR chooses another mirror"
    return GuestError(f"{step} failed: {reason}", hint)


def _unpack(packages: list[Path], path: Path, wanted: PackageSet, progress: Progress) -> None:
    progress(f"{wanted.name}: unpacking {len(packages)} packages")
    path.mkdir()
    for package in packages:
        done = capture(["dpkg-deb", "-x", package, path])
        if done.returncode:
            raise GuestError(f"cannot unpack {package.name}: {done.stderr.strip()}")
    for pattern in PRUNE + wanted.prune:
        for folder in path.glob(pattern):
            shutil.rmtree(folder)
    for modules in path.glob("lib/modules/*"):
        _depmod(path, modules.name)


def _depmod(path: Path, release: str) -> None:
    """Write the module tables that the kernel package's installation script would write."""
    libraries = path / "lib/x86_64-linux-gnu"
    command: list[StrPath] = [
        *(libraries / elf.LOADER, "--library-path", f"{libraries}:{path}/usr/lib/x86_64-linux-gnu"),
        *("--argv0", "depmod", path / "bin/kmod", "-b", path, release),
    ]
    done = capture(command)
    if done.returncode:
        raise GuestError(f"cannot list the modules of kernel {release}: {done.stderr.strip()}")
