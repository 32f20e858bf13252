"""The file systems that guests start in: busybox, drivers and tools in a cpio archive each."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from drivebay.guests import elf
from drivebay.guests.cache import build_once, digest
from drivebay.guests.cpio import Archive
from drivebay.guests.errors import GuestError
from drivebay.guests.kernel import Modules
from drivebay.guests.process import capture

INIT = Path(__file__).with_name("init.sh")

# Modules that init loads before it looks at the hardware.
LOADED = ("virtio_pci", "virtio_blk")

# Modules that are there to be found by hardware, by `mount`, or by name.
AVAILABLE = (
    *("virtio_mmio", "virtio_scsi", "sd_mod", "sr_mod", "sg", "nvme", "ahci", "ata_piix"),
    *("ata_generic", "floppy", "hv_vmbus", "hv_storvsc", "qemu_fw_cfg", "loop"),
    *("ext4", "vfat", "isofs", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
    *("crc32c_generic", "crc32c_intel"),
)

# Programs of the base file system, which every guest has.
BASE_TOOLS = (
    *("dash", "dd", "truncate", "mount", "umount", "losetup"),
    *("mke2fs", "mkfs.ext4", "mkfs.ext3", "mkfs.ext2", "e2fsck", "fsck.ext4", "tune2fs"),
    *("resize2fs", "dumpe2fs", "debugfs", "badblocks"),
    *("lsblk", "blkid", "blkdiscard", "blockdev", "wipefs", "sfdisk", "fstrim", "findmnt"),
)

# Programs (patterns of names) that cost time or space to have, added when a command uses them.
EXTRA_TOOLS: dict[str, tuple[str, ...]] = {
    "fio": ("fio",),
    "hdparm": ("hdparm",),
    "smartctl": ("smartctl",),
    "nvme": ("nvme",),
    "sg3-utils": ("sg_*",),
    "dosfstools": ("mkfs.fat", "mkfs.vfat", "fsck.fat", "fsck.vfat"),
    "sqlite3": ("sqlite3",),
}

PROGRAM_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin")


def tools_for(command: str) -> tuple[str, ...]:
    """Return the names in EXTRA_TOOLS that the shell text `command` seems to use."""
    words = re.split(r"[^\w.-]+", command)
    return tuple(
        name
        for name, programs in EXTRA_TOOLS.items()
        if any(fnmatch.filter(words, program) for program in programs)
    )


def initramfs(tree: Path, modules: Modules, tools: Sequence[str] = ()) -> Path:
    """Return a cached initramfs with the base file system and `tools` (names in EXTRA_TOOLS).

    `tree` holds the unpacked guest packages; `modules` are those of the kernel to be started.
    """
    if unknown := sorted(set(tools) - set(EXTRA_TOOLS)):
        raise GuestError(
            f"no guest tool is called {unknown[0]!r}", "known: " + ", ".join(EXTRA_TOOLS)
        )
    chosen = sorted(set(tools))
    contents = (tree, modules.folder, INIT.read_bytes(), LOADED, AVAILABLE, BASE_TOOLS, chosen)

    def build(path: Path) -> None:
        base = Archive()
        _add_skeleton(base)
        _add_modules(base, modules)
        _add_programs(base, tree, BASE_TOOLS)
        _add_busybox(base, tree)
        extra = Archive()
        _add_programs(extra, tree, [name for tool in chosen for name in EXTRA_TOOLS[tool]])
        path.write_bytes(base.build() + extra.build())

    name = "-".join(["initramfs", *chosen, digest(*contents)])
    return build_once(name, build)


def _add_skeleton(archive: Archive) -> None:
    for folder in ("dev", "mnt", "proc", "root", "run", "sys"):
        archive.folder(folder)
    archive.folder("tmp", 0o1777)
    archive.device("dev/console", 5, 1)  # what the kernel gives init as its standard output
    archive.link("usr/bin", "../bin")
    archive.link("usr/sbin", "../sbin")
    archive.link("bin/sh", "dash")
    archive.link("etc/mtab", "/proc/self/mounts")
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\ndisk:x:6:\n")
    archive.file("init", INIT.read_bytes(), 0o755)


def _add_modules(archive: Archive, modules: Modules) -> None:
    """Add LOADED and what this kernel has of AVAILABLE, with tables for busybox modprobe."""
    names = [name for name in LOADED + AVAILABLE if modules.has(name)]
    folder = f"lib/modules/{modules.folder.name}"
    paths = modules.closure(names)
    for path in paths:
        archive.file(f"{folder}/{path}", (modules.folder / path).read_bytes())
    archive.file(f"{folder}/modules.dep", modules.dep_lines(paths).encode())
    archive.file(f"{folder}/modules.alias", modules.alias_lines(paths).encode())
    builtin = (modules.folder / "modules.builtin").read_bytes()
    archive.file(f"{folder}/modules.builtin", builtin)
    archive.file("etc/modules", "\n".join(n for n in LOADED if modules.has(n)).encode() + b"\n")


def _add_programs(archive: Archive, tree: Path, names: Iterable[str]) -> None:
    """Add the programs `names` and the libraries that they need."""
    programs = [path for name in names for path in _programs(tree, name)]
    for path in programs:
        archive.file(f"bin/{path.name}", path.read_bytes(), 0o755)
    for library in elf.libraries(programs, tree):
        archive.file(f"lib/x86_64-linux-gnu/{library.name}", library.read_bytes(), 0o755)
    archive.link(f"lib64/{elf.LOADER}", f"/lib/x86_64-linux-gnu/{elf.LOADER}")


def _programs(tree: Path, pattern: str) -> list[Path]:
    found = [path for folder in PROGRAM_FOLDERS for path in sorted((tree / folder).glob(pattern))]
    if not found:
        raise GuestError(f"the guest packages have no program {pattern!r}", f"looked in {tree}")
    return found


def _add_busybox(archive: Archive, tree: Path) -> None:
    """Add busybox under the names of all that it can do and no other program is there for."""
    (busybox,) = _programs(tree, "busybox")
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.link("sbin/modprobe", "/bin/busybox")  # the kernel calls it by this path
    for applet in capture([busybox, "--list"]).stdout.split():
        archive.link(f"bin/{applet}", "busybox")
