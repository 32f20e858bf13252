"""The board that xv6's RISC-V kernel expects: RAM, and one virtio disk behind MMIO registers.

It is the part of QEMU's `virt` machine that `virtio_disk.c` sees; the addresses are those of xv6's
`memlayout.h`.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.disk.contract import Disk
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory

__all__ = ["DISK_IRQ", "RAM_BASE", "VIRTIO0", "Xv6"]

RAM_BASE: Final = 0x80000000
VIRTIO0: Final = 0x10001000
DISK_IRQ: Final = 1


QEMU_VENDOR: Final = 0x554D4551
"""xv6 takes no other."""


class _Transport(MmioTransport):
    def read_VendorID(self) -> int:
        """The letters ``QEMU``."""
        return QEMU_VENDOR


class Xv6(Board):
    """`disk` at 0x10001000 with interrupt line 1, and `ram_size` bytes of RAM at 0x80000000."""

    def __init__(self, engine: Engine, disk: Disk, ram_size: int = 128 << 20) -> None:
        super().__init__(engine, GuestMemory.of_size(ram_size, RAM_BASE))
        self.disk = BlockDevice(disk, engine)
        self.mmio.map(VIRTIO0, _Transport(self.disk, self.memory, self.line(DISK_IRQ)))
