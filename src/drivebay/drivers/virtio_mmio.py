"""How a driver of a virtio device finds its registers over MMIO (virtio 1.2 section 4.2)."""

from __future__ import annotations

from collections.abc import Callable

from drivebay.controllers.virtio.registers import (
    MMIO_CONFIG,
    MMIO_MAGIC,
    MMIO_VERSION,
    MmioRegisters,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_driver import ALL_FEATURES, DeviceError, RegisterDriver
from drivebay.platform.mmio import MmioSpace

__all__ = ["MmioDriver"]


class MmioDriver(RegisterDriver):
    """The device at `base` of `space`, with its rings and buffers in `arena`.

    Raises `DeviceError` if there is none, or it does not do as it should.
    """

    def __init__(
        self,
        space: MmioSpace,
        base: int,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        features: int = ALL_FEATURES,
        queue_size: int | None = None,
    ) -> None:
        super().__init__(arena, poll)
        self._space, self._base = space, base
        self._find()
        self._initialise(features, queue_size)

    def _find(self) -> None:
        if self.get("MagicValue") != MMIO_MAGIC or self.get("Version") != MMIO_VERSION:
            raise DeviceError(f"no virtio device at {self._base:#x}")

    def get(self, register: str) -> int:
        """Read a register by name."""
        at = MmioRegisters.registers[register]
        return self._space.read(self._base + at.offset, 4)

    def set(self, register: str, value: int) -> None:
        """Write a register by name."""
        at = MmioRegisters.registers[register]
        self._space.write(self._base + at.offset, 4, value)

    def _read_config(self, offset: int) -> int:
        return self._space.read(self._base + MMIO_CONFIG + offset, 4)

    def write_config(self, offset: int, value: int, width: int = 1) -> None:
        """Write `width` bytes of the configuration space."""
        self._space.write(self._base + MMIO_CONFIG + offset, width, value)

    def acknowledge(self) -> None:
        """Take note of an interrupt."""
        cause = self.get("InterruptStatus")
        if cause:
            self.set("InterruptACK", cause)
