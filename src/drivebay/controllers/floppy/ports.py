"""Where a PC has the registers: 0x3F0 to 0x3F5, and 0x3F7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.controllers.floppy.controller import FloppyController
from drivebay.controllers.floppy.registers import FloppyBlock
from drivebay.platform.ports import ByteRead, ByteWrite, PortRegion, PortSpace

__all__ = ["BASE", "FloppyPorts", "map_floppy"]

BASE: Final = 0x3F0
FIFO: Final = FloppyBlock.Fifo.offset


def _undriven() -> int:
    return 0xFF


def _ignored(_value: int) -> None:
    pass


class FloppyPorts(PortRegion):
    """`size` registers from `first` on. They are a byte each: wider accesses are as many, as on an
    8-bit bus.
    """

    def __init__(self, controller: FloppyController, first: int, size: int) -> None:
        self.size, self.first, self._controller = size, first, controller
        bound = FloppyBlock.bind(controller)
        registers = [bound[first + at] for at in range(size)]
        self._reads: list[ByteRead] = [each.read or _undriven for each in registers]
        self._writes: list[ByteWrite] = [each.write or _ignored for each in registers]

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        registers = self._reads[offset : offset + width]
        return sum(read() << 8 * at for at, read in enumerate(registers))

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        for at, write in enumerate(self._writes[offset : offset + width]):
            write(value >> 8 * at & 0xFF)

    def byte_read(self, offset: int) -> ByteRead:
        """The register itself."""
        return self._reads[offset]

    def byte_write(self, offset: int) -> ByteWrite:
        """The register itself."""
        return self._writes[offset]

    def port_read_string(self, offset: int, width: int, buffer: memoryview) -> None:
        """REP INS."""
        if width == 1 and self.first + offset == FIFO:
            self._controller.read_fifo(buffer)
        else:
            super().port_read_string(offset, width, buffer)

    def port_write_string(self, offset: int, width: int, data: memoryview) -> None:
        """REP OUTS."""
        if width == 1 and self.first + offset == FIFO:
            self._controller.write_fifo(data)
        else:
            super().port_write_string(offset, width, data)


def map_floppy(controller: FloppyController, ports: PortSpace) -> Callable[[], None]:
    """Put `controller` at its ports; returns what takes it away."""
    unmaps = (
        ports.map(BASE, FloppyPorts(controller, 0, 6)),
        ports.map(BASE + 7, FloppyPorts(controller, 7, 1)),
    )

    def unmap() -> None:
        for each in unmaps:
            each()

    return unmap
