"""The small Linux guest on a disk whose writes are recorded, and on what a power cut may leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

from drivebay.cli import virtio_blk
from drivebay.cli.backend import for_version
from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig
from drivebay.cli.terminal import progress
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.contract import Disk
from drivebay.disk.filters.record import Record
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.guests.errors import GuestError
from drivebay.guests.initramfs import tools_for
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.vhost_user.server import VhostUserServer
from drivebay.lab.powercut_disk import open_image
from drivebay.lab.powercut_serving import Serving
from drivebay.testing.history import Image

__all__ = ["BootCheck", "record"]

CONSOLE_LINES: Final = 5


def record(
    script: str,
    base: Disk,
    log: str,
    *,
    memory: str,
    timeout: float,
    on_output: Callable[[bytes], None],
) -> None:
    """Run `script` in a guest whose /dev/vda is `base`, and record what it changes to `log`.

    It is written to memory: `base` stays as it is, and is closed. What the script says are marks
    in the log. When it has ended so has the guest, as by a power cut. Raises `CliError` and
    `GuestError`.
    """
    top = RamLayer(base.byte_count, sector_size=base.sector_size)
    disk = Record(LayeredDisk.over(top, base), log)
    guest = _guest(script, memory=memory)
    try:
        with _Attached(guest, disk) as serving:

            def said(output: bytes) -> None:
                on_output(output)
                for start in range(0, len(output), disk.most_marked):
                    serving.start(disk.mark(output[start : start + disk.most_marked]))

            try:
                guest.start()
                result = guest.run(script, timeout=timeout, on_output=said)
            finally:
                guest.kill()
    finally:
        disk.close()
    if result.status:
        raise CliError(
            f"the command ended in the guest with status {result.status}",
            "what is recorded must have gone well",
        )


class BootCheck:
    """Boots the guest on each image as /dev/vda, where `script` must succeed.

    It may take `timeout` seconds.
    """

    def __init__(self, script: str, *, memory: str, timeout: float) -> None:
        self._script, self._memory, self._timeout = script, memory, timeout

    def __call__(self, image: Image, base: Disk) -> str | None:
        """What is wrong with `image`, or None."""
        disk = open_image(image, base)
        guest = _guest(self._script, memory=self._memory)
        try:
            with _Attached(guest, disk):
                try:
                    guest.start()
                    result = guest.run(self._script, timeout=self._timeout)
                except GuestError as error:
                    last = error.console.splitlines()[-CONSOLE_LINES:]
                    return "\n".join([error.message, *last])
                finally:
                    guest.kill()
        finally:
            disk.close()
        return f"status {result.status}: {result.output.strip()}" if result.status else None


def _guest(script: str, **options: Any) -> LinuxGuest:
    return LinuxGuest(tools=tools_for(script), progress=progress, **options)


class _Attached(Serving):
    """`disk` served to `guest` as virtio-blk."""

    def __init__(self, guest: LinuxGuest, disk: Disk) -> None:
        self._guest = guest
        super().__init__(
            lambda engine, listener: VhostUserServer(BlockDevice(disk, engine), engine, listener)
        )

    def __enter__(self) -> Self:
        super().__enter__()
        controller = ControllerConfig(virtio_blk.KIND, "vda", settings=virtio_blk.Rings())
        words = virtio_blk.qemu(controller, self.path)
        self._guest.qemu_args = tuple(for_version(words, self._guest.qemu.version))
        return self
