"""QEMU's ``virt`` machine of Arm, as far as a disk needs it: RAM and one virtio-mmio transport.

RAM is at 0x40000000. The transport is the last of QEMU's 32, where QEMU puts the first device:
registers at 0x0a003e00, shared interrupt 31 of those that begin at 16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.legacy import TransitionalTransport
from drivebay.controllers.virtio.mmio import MMIO_SIZE
from drivebay.controllers.virtio.registers import (
    ID_BYTES,
    MMIO_MAGIC,
    MMIO_VERSION,
    MmioRegisters,
)
from drivebay.disk.contract import Disk
from drivebay.machines.chips.clock import Clock
from drivebay.machines.drives import Fixed, Properties
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.machine import Drive, MachineError, TrayMoved
from drivebay.platform.memory import GuestMemory

__all__ = ["Virt"]

RAM_BASE: Final = 0x4000_0000
TRANSPORT_BASE: Final = 0x0A00_3E00
TRANSPORT_LINE: Final = 16 + 31
DRIVERS: Final = ("virtio-blk-device", "virtio-blk")


class _Slot:
    """Where the transport is; without a device it is a placeholder (virtio 1.2 section 4.2.2)."""

    size = MMIO_SIZE

    def __init__(self, version: int) -> None:
        self.version = version
        self.transport: TransitionalTransport | None = None

    def mmio_read(self, offset: int, width: int) -> int:
        """Read a register; of an empty slot there are three: its DeviceID is 0."""
        if self.transport is not None:
            return self.transport.mmio_read(offset, width)
        at = MmioRegisters.registers
        return {at["MagicValue"].offset: MMIO_MAGIC, at["Version"].offset: self.version}.get(
            offset, 0
        )

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write a register."""
        if self.transport is not None:
            self.transport.mmio_write(offset, width, value)


class Virt:
    """The machine, with `ram_size` bytes of RAM. `version` is that of the transport: 2, or 1 for
    the legacy register set.
    """

    def __init__(self, ram_size: int, engine: Engine, *, version: int = MMIO_VERSION) -> None:
        self.board = Board(engine, GuestMemory.of_size(ram_size, RAM_BASE))
        self.clock = Clock()
        self.tray_moved: TrayMoved = lambda _id, _opened: None
        self._slot = _Slot(version)
        self._drives: dict[str, Fixed] = {}
        self.board.mmio.map(TRANSPORT_BASE, self._slot)
        self.board.on_reset(self._reset)

    @property
    def drives(self) -> Mapping[str, Drive]:
        """The one block device, or none."""
        return self._drives

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """Put a ``virtio-blk-device`` on the transport. Raises `MachineError`."""
        if driver not in DRIVERS:
            raise MachineError(f"'{driver}' is no device of the virt machine: {DRIVERS[0]} is")
        if self._slot.transport is not None:
            raise MachineError("the virtio-mmio transport has a device already")
        if disk is None:
            raise MachineError(f"{driver} needs a drive")
        properties = Properties(driver, options)
        device = BlockDevice(
            disk,
            self.board.engine,
            serial=properties.text("serial", ID_BYTES),
            queues=properties.number("num-queues", 1, 1, 64),
            queue_size=properties.number("queue-size", 256, 4, 1024, power=True),
            packed=properties.switch("packed", False),
        )
        properties.end()
        self._slot.transport = TransitionalTransport(
            device, self.board.memory, self.board.line(TRANSPORT_LINE), version=self._slot.version
        )
        self._drives[id] = Fixed(disk)

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """Take the device off the transport."""
        transport = self._slot.transport
        if id not in self._drives or transport is None:
            raise MachineError(f"there is no device {id}")
        del self._drives[id]

        def ended() -> None:
            self._slot.transport = None
            gone()

        transport.reset(ended)

    def _reset(self) -> None:
        if self._slot.transport is not None:
            self._slot.transport.reset()
