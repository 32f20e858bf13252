"""Fault rules on a virtio block device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.registers import SECTOR_SIZE, BlockStatus
from drivebay.controllers.virtio.requests import Refused
from drivebay.lab.dialects import virtio
from drivebay.lab.dialects.virtio import Request
from drivebay.lab.rules import Fail, Rewrite, Rule, Subject
from drivebay.lab.torment import CoreFaults, Extent
from drivebay.platform.engine import Engine

__all__ = ["VIRTIO_BLK", "VirtioBlkFaults"]

VIRTIO_BLK: Final = virtio.VOCABULARY


class VirtioBlkFaults(CoreFaults[Request, int]):
    """Has `rules` work on `device`, called `name` in them, until `close`. Blocks are the 512 bytes
    of requests. One that dies says DEVICE_NEEDS_RESET and serves nothing before that.
    """

    def __init__(
        self,
        device: BlockDevice,
        engine: Engine,
        rules: Iterable[Rule] = (),
        name: str = "virtio-blk",
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        super().__init__(engine, rules, name, remove)
        self.device = device
        device.observer = self

    def close(self) -> None:
        """Nothing is done to requests any more."""
        super().close()
        if self.device.observer is self:
            self.device.observer = None

    def describe(self, queue: int, command: Request) -> Subject:
        """By the virtio dialect."""
        return virtio.describe(queue, command, self.name)

    def extent(self, subject: Subject) -> Extent:
        """In the device's disk."""
        disk = self.device.disk
        ratio = disk.sector_size // SECTOR_SIZE
        lba = subject.lba or 0
        return Extent(disk, lba // ratio, -(-subject.count // ratio), SECTOR_SIZE)

    def refusal(self, subject: Subject, command: Request, action: Fail) -> Exception:
        """A status by its name."""
        return Refused(BlockStatus[action.status], "fault rule")

    def rewritten(self, command: Request, action: Rewrite) -> Request:
        """Another type, or another sector."""
        kind, sector, length = (
            action.values.get(name, value) + action.steps.get(name, 0)
            for name, value in zip(virtio.FIELDS, command, strict=True)
        )
        return kind & 0xFFFFFFFF, sector & (1 << 64) - 1, length

    def misdirected(self, subject: Subject, command: Request, blocks: int) -> Request:
        """Another sector."""
        kind, sector, length = command
        return kind, sector + blocks, length

    def die(self, subject: Subject, why: str) -> None:
        """The device needs a reset."""
        self.device.fail(why)
