"""Against a real libata: a Linux guest with an AHCI disk of QEMU's, in which this package runs.

The guest has no Python, so this one is taken along: interpreter, libraries and standard library in
a tar archive, on a disk of its own.
"""

from __future__ import annotations

import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from drivebay.ata.passthrough import RecordedAnswers
from drivebay.guests import elf
from drivebay.guests.linux import LinuxGuest
from drivebay.platform.engine import Engine
from tests.ide.support import noise

from .in_guest import SEED, read_only

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent.parent
STDLIB = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {
    *("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"),
    *("site-packages", "dist-packages", "pydoc_data"),
}
OURS = ("__init__.py", "ide/__init__.py", "ide/support.py", "ahci/__init__.py", "ahci/support.py")
SIZE = 32 << 20
RUN = """
tar -x -f /dev/vda -C /mnt && mount -o bind /dev /mnt/dev &&
mount -o bind /sys /mnt/sys &&
export PYTHONHOME=/ PYTHONPATH=/ours PYTHONDONTWRITEBYTECODE=1 &&
chroot /mnt /bin/python -m tests.passthrough.in_guest /dev/sg0 /tmp/tape &&
cat /mnt/tmp/tape
"""


def python_files() -> Iterator[tuple[Path, str]]:
    """Files, and their names in the guest."""
    interpreter = Path(sys.executable).resolve()
    yield interpreter, "bin/python"
    programs = [interpreter, *Path(msgspec.__file__).parent.glob("*.so")]
    version = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    for path in STDLIB.rglob("*"):
        inside = path.relative_to(STDLIB)
        if path.is_file() and not LEFT_OUT & set(inside.parts) and "_tkinter" not in path.name:
            yield path, f"{version}/{inside}"
            if path.suffix == ".so" and "lib-dynload" in inside.parts:
                programs.append(path)
    try:
        libraries = elf.libraries(programs, Path("/"))
    except FileNotFoundError as error:
        pytest.skip(f"this Python cannot be taken along: {error}")
    for library in libraries:
        yield library.resolve(), f"lib/x86_64-linux-gnu/{library.name}"
        if library.name == elf.LOADER:
            yield library.resolve(), f"lib64/{library.name}"
    if elf.LOADER not in {library.name for library in libraries}:
        yield Path("/lib64", elf.LOADER).resolve(), f"lib64/{elf.LOADER}"


def package_files() -> Iterator[tuple[Path, str]]:
    for folder, name in (
        (ROOT / "src/drivebay", "drivebay"),
        (Path(msgspec.__file__).parent, "msgspec"),
        (ROOT / "tests/passthrough", "tests/passthrough"),
    ):
        for path in folder.rglob("*"):
            if path.is_file():
                yield path, f"ours/{name}/{path.relative_to(folder)}"
    for part in OURS:
        yield ROOT / "tests" / part, f"ours/tests/{part}"


def test_a_drive_through_libata(engine: Engine, tmp_path: Path) -> None:
    luggage, scratch = tmp_path / "python.tar", tmp_path / "scratch.img"
    with tarfile.open(luggage, "w") as archive:
        for folder in ("dev", "sys", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, name in (*python_files(), *package_files()):
            archive.add(path, name)
    scratch.write_bytes(noise(1 << 20, SEED).ljust(SIZE, b"\0"))
    arguments = [
        *("-drive", f"if=none,id=python,format=raw,readonly=on,file={luggage}"),
        *("-device", "virtio-blk-pci,drive=python"),
        *("-drive", f"if=none,id=scratch,format=raw,file={scratch}"),
        *("-device", "ich9-ahci,id=ahci"),
        *("-device", "ide-hd,bus=ahci.0,drive=scratch,serial=SCRATCH"),
    ]
    with LinuxGuest(qemu_args=arguments, modules=["sg"]) as guest:
        result = guest.run(RUN, timeout=300)
    assert "all is well" in result.output, result.output[-3000:]
    image = scratch.read_bytes()
    assert image[: 1 << 20] == noise(1 << 20, SEED)
    assert image[4096 * 512 :][:20480] == noise(20480, 4096)
    assert image[4200 * 512 :][:20480] == noise(20480, 4200)
    assert image[5000 * 512 :][:65536] == noise(65536, 1)
    tape = [line for line in result.output.splitlines() if line.startswith("{")]
    read_only(engine, RecordedAnswers(tape), noise(1 << 20, SEED))
