"""The MMIO transport for drivers from before virtio 1.0: virtio 1.2 section 4.2.4.

Such a driver says where a ring is by one page number, knows no FEATURES_OK, and may use a ring
before DRIVER_OK. Its three registers lie where the others leave room, so that one block answers
drivers of both times, whichever version it shows.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.registers import MMIO_VERSION, RingFeature
from drivebay.controllers.virtio.transport import DRIVER_OK
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import Device
from drivebay.wire import Access, Register32

__all__ = ["LEGACY_VERSION", "TransitionalTransport"]

LEGACY_VERSION: Final = 1

GUEST_PAGE_SIZE: Final = 0x028
QUEUE_ALIGN: Final = 0x03C
QUEUE_PFN: Final = 0x040

DEFAULT_ALIGN: Final = 4096
VERSION_1: Final = 1 << RingFeature.VERSION_1


class TransitionalTransport(MmioTransport):
    """Registers of `device` for drivers of every version; `version` is what they are told: 2, or 1
    for the legacy interface.
    """

    def __init__(
        self, device: Device, memory: GuestMemory, line: Line, *, version: int = MMIO_VERSION
    ) -> None:
        self._version = version
        self._page_size = 0  # bytes; a reset does not change it: drivers set it before
        super().__init__(device, memory, line)
        self._registers |= {
            GUEST_PAGE_SIZE: Access("GuestPageSize", Register32, None, self._set_page_size),
            QUEUE_ALIGN: Access("QueueAlign", Register32, None, self._set_align),
            QUEUE_PFN: Access("QueuePFN", Register32, self._pfn, self._set_pfn),
        }

    def _clear(self) -> None:
        super()._clear()
        self._aligns: dict[int, int] = {}  # bytes, by queue
        self._pfns: dict[int, int] = {}  # who sets one is a legacy driver

    def read_Version(self) -> int:
        """2, or 1 for the legacy interface."""
        return self._version

    def read_DeviceFeatures(self) -> int:
        """32 of the offered feature bits; the legacy interface has no more than 32 (section 6)."""
        if self._version == LEGACY_VERSION and self._device_features_sel:
            return 0
        return super().read_DeviceFeatures()

    # -- the legacy registers --------------------------------------------------------------------

    def _set_page_size(self, value: int) -> None:
        """GuestPageSize: bytes in a page, a power of two."""
        if value and not value & (value - 1):
            self._page_size = value

    def _set_align(self, value: int) -> None:
        """QueueAlign: where the used ring starts, in bytes, a power of two."""
        if value and not value & (value - 1):
            self._aligns[self._queue_sel] = value

    def _pfn(self) -> int:
        """QueuePFN: the page at which the selected ring starts, 0 while there is none."""
        setup = self.selected()
        return self._pfns.get(self._queue_sel, 0) if setup is not None and setup.ready else 0

    def _set_pfn(self, value: int) -> None:
        """The ring starts at this page and is ready; 0 takes it back."""
        if not value:
            self.set_queue_ready(0)
            return
        setup = self._setup()
        if setup is None or not self._page_size:
            return
        align = self._aligns.get(self._queue_sel, DEFAULT_ALIGN)
        setup.descriptors = value * self._page_size
        setup.driver = setup.descriptors + 16 * setup.size
        # Flags, index, ring and the used event of section 2.7.7, then up to the next `align`.
        setup.device = -(-(setup.driver + 2 * (setup.size + 3)) // align) * align
        self._pfns[self._queue_sel] = value
        self.set_queue_ready(1)

    # -- without FEATURES_OK (section 3.1.2) -----------------------------------------------------

    @property
    def _early(self) -> bool:
        """Whether the driver knows neither FEATURES_OK nor that it must wait for DRIVER_OK."""
        known = self._version == LEGACY_VERSION or self._pfns
        return bool(known and not self._features & VERSION_1)

    def _settled(self) -> bool:
        if super()._settled():
            return True
        if not self._early or not self._acceptable():
            return False
        if not self._running:
            self._device.set_features(self._features)
        return True

    def _live(self) -> bool:
        """A legacy driver may use its rings before DRIVER_OK."""
        return self._settled() and bool(self._early or self._status & DRIVER_OK)
