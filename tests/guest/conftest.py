"""Real guests on disks that `drivebay serve` serves, as a user would start them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest
from drivebay.guests.uml import UmlGuest

FIO = (
    "fio --ioengine=libaio --direct=1 --iodepth=32 --bs=4k --verify=crc32c --verify_fatal=1"
    " --output-format=terse --terse-version=3 --group_reporting --randrepeat=0"
)


def virtio_blk(*disks: str) -> list[str]:
    return [word for disk in disks for word in ("--virtio-blk", disk)]


@contextmanager
def qemu_guest(disks: Sequence[str], **options: Any) -> Iterator[tuple[Backend, LinuxGuest]]:
    """A Linux guest under QEMU with these disks as vda, vdb, ..."""
    with (
        Backend(virtio_blk(*disks)) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), **options) as guest,
    ):
        yield backend, guest


@contextmanager
def uml_guest(disks: Sequence[str], **options: Any) -> Iterator[tuple[Backend, UmlGuest]]:
    """A Linux guest under User-Mode Linux with these disks as vda, vdb, ..."""
    with Backend(virtio_blk(*disks)) as backend:
        sockets = [controller["socket"] for controller in backend.controllers]
        with UmlGuest(disks=sockets, **options) as guest:
            yield backend, guest
