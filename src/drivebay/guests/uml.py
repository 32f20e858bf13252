"""The stock Linux guest as User-Mode Linux: a kernel that is a process, with vhost-user disks.

It boots in a second or two at native speed and needs no virtual machine monitor. Its virtio_uml
driver speaks vhost-user itself, so it is a second client beside QEMU.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drivebay.guests import debian
from drivebay.guests.cache import Progress, silent
from drivebay.guests.errors import GuestError
from drivebay.guests.guest import BOOT_SECONDS, Guest
from drivebay.guests.initramfs import initramfs
from drivebay.guests.kernel import Modules
from drivebay.guests.session import Session

VIRTIO_ID_BLOCK = 2
CONTROL = "ttyS0"


class UmlGuest(Guest):
    """A User-Mode Linux whose disks are the vhost-user servers at the sockets `disks`.

    `memory_mb` is its memory in MiB. The servers must listen before it starts. `tools` names
    extra tools (see initramfs.EXTRA_TOOLS); `append` is added to the kernel's command line.
    """

    def __init__(
        self,
        *,
        disks: Sequence[str | os.PathLike[str]] = (),
        memory_mb: int = 256,
        tools: Sequence[str] = (),
        append: str = "",
        boot_timeout: float = BOOT_SECONDS,
        progress: Progress = silent,
    ) -> None:
        super().__init__()
        self.disks = tuple(os.fspath(disk) for disk in disks)
        self.memory_mb = memory_mb
        self.append = append
        self.boot_timeout = boot_timeout
        uml = debian.tree(debian.UML, progress)
        modules = next(iter(uml.glob("usr/lib/uml/modules/*")))
        self._kernel = uml / "usr/bin/linux.uml"
        self._initramfs = initramfs(debian.tree(debian.GUEST, progress), Modules(modules), tools)
        self._folder: Path | None = None

    def _launch(self) -> Session:
        # The kernel keeps its process number and a control socket there.
        self._folder = Path(tempfile.mkdtemp(prefix="drivebay-uml-"))
        control, guest_control = socket.socketpair()
        line = guest_control.fileno()
        with guest_control:
            return Session(
                [
                    *(str(self._kernel), f"mem={self.memory_mb}M", f"initrd={self._initramfs}"),
                    *(f"uml_dir={self._folder}/", "con=null", "con0=null,fd:1", "ssl=null"),
                    *(f"ssl0=fd:{line}", f"drivebay_control={CONTROL}", "quiet", "panic=-1"),
                    *(f"virtio_uml.device={disk}:{VIRTIO_ID_BLOCK}" for disk in self.disks),
                    *self.append.split(),
                ],
                control=control,
                pass_fds=(line,),
                environment={"TMPDIR": memory_folder(self.memory_mb)},
                what="User-Mode Linux",
            )

    def _forget(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def memory_folder(megabytes: int) -> str:
    """Return a folder that can hold a guest's memory, in memory itself if there is room.

    Raises GuestError when there is none with room from which code may run.
    """
    folders = ("/dev/shm", tempfile.gettempdir())
    for folder in folders:
        try:
            room = os.statvfs(folder)
        except OSError:
            continue
        if room.f_bavail * room.f_frsize >> 20 >= megabytes and not room.f_flag & os.ST_NOEXEC:
            return folder
    raise GuestError(
        f"no room for {megabytes} MB of guest memory in {' or '.join(folders)}",
        "mount them larger and without noexec, or give the guest less memory",
    )
