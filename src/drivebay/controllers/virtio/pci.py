"""The PCI transport, virtio 1.2 section 4.1, without its legacy interface: a PCI function.

::

    bus.plug(5, 0, VirtioPci(BlockDevice(disk, engine), board.memory))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from drivebay.controllers.virtio.pci_structures import Notifications, PciAccess, Structure
from drivebay.controllers.virtio.registers import (
    NO_VECTOR,
    PCI_COMMON_SIZE,
    PCI_CONFIG,
    PCI_ISR,
    PCI_NOTIFY,
    PciRegisters,
    PciStructure,
)
from drivebay.controllers.virtio.transport import CONFIG, RegisterTransport, half
from drivebay.platform.interrupts import Line, Message
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Bar, BarKind, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import add_capabilities
from drivebay.platform.pci_messages import MsixCapability
from drivebay.platform.ports import Hold, PortRegion
from drivebay.platform.virtio import Device

__all__ = ["PciRegisterBlock", "VirtioPci", "identity_of"]

REGISTERS, MSIX, PORT = 0, 1, 2
VENDOR: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040
MASS_STORAGE: Final = 0x010000
SIZE: Final = 0x1000
ADDRESSES: Final = (0x20, 0x28, 0x30)
"""64-bit fields, which a driver may write as a whole."""


def identity_of(device: Device) -> PciIdentity:
    """Who a function with `device` says it is, section 4.1.2. The subsystem is QEMU's."""
    return PciIdentity(
        VENDOR,
        FIRST_DEVICE + device.device_id,
        MASS_STORAGE,
        revision=1,
        subsystem_vendor=VENDOR,
        subsystem=0x1100,
        interrupt_pin=1,
    )


class PciRegisterBlock(RegisterTransport):
    """The structures of section 4.1.4 in one block, an `MmioRegion`. `messages` are sent if they
    are enabled, and else `line` is worked. Without `may_master` nothing is taken from a queue; what
    was taken before still ends.
    """

    name = "virtio-pci"
    registers = PciRegisters
    config_at = PCI_CONFIG
    size = SIZE

    def __init__(
        self, device: Device, memory: GuestMemory, line: Line, messages: MsixCapability
    ) -> None:
        self._messages = messages
        self.may_master = False
        super().__init__(device, memory, line)

    def _clear(self) -> None:
        super()._clear()
        self._config_vector = NO_VECTOR
        self._vectors = [NO_VECTOR] * len(self._setups)

    def master(self, allowed: bool) -> None:
        """Bus mastering goes on or off."""
        if allowed and not self.may_master:
            self.may_master = True
            for index in tuple(self._running):
                self._device.kick(index)
            self.start_ready()
        self.may_master = allowed

    def _live(self) -> bool:
        return self.may_master and super()._live()

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write a register, or bytes of the configuration space."""
        if width == 8 and offset in ADDRESSES:
            super().mmio_write(offset, 4, value)
            super().mmio_write(offset + 4, 4, value >> 32)
        else:
            super().mmio_write(offset, width, value)

    # -- the common configuration (section 4.1.4.3) ----------------------------------------------

    write_device_feature_select = RegisterTransport.select_offered
    read_device_feature = RegisterTransport.offered
    write_driver_feature_select = RegisterTransport.select_chosen
    write_driver_feature = RegisterTransport.choose
    read_device_status = RegisterTransport.status
    write_device_status = RegisterTransport.set_status
    write_queue_select = RegisterTransport.select_queue
    write_queue_size = RegisterTransport.choose_size
    read_queue_enable = RegisterTransport.queue_ready
    read_queue_desc_low, write_queue_desc_low = half("descriptors", 0)
    read_queue_desc_high, write_queue_desc_high = half("descriptors", 32)
    read_queue_driver_low, write_queue_driver_low = half("driver", 0)
    read_queue_driver_high, write_queue_driver_high = half("driver", 32)
    read_queue_device_low, write_queue_device_low = half("device", 0)
    read_queue_device_high, write_queue_device_high = half("device", 32)

    def read_device_feature_select(self) -> int:
        """Which feature bits `device_feature` shows."""
        return self._device_features_sel

    def read_driver_feature_select(self) -> int:
        """Which `driver_feature` is about."""
        return self._driver_features_sel

    def read_driver_feature(self) -> int:
        """What the driver has chosen of them."""
        return self._features >> 32 * min(self._driver_features_sel, 2) & 0xFFFFFFFF

    def read_num_queues(self) -> int:
        """How many there are."""
        return len(self._setups)

    def read_config_generation(self) -> int:
        """Changes whenever the configuration space does."""
        return self.generation() & 0xFF

    def read_queue_select(self) -> int:
        """Which queue the next registers are about."""
        return self._queue_sel

    def read_queue_size(self) -> int:
        """Its size, at first the largest; 0 if there is no such queue."""
        setup = self.selected()
        return 0 if setup is None else setup.size

    def write_queue_enable(self, value: int) -> None:
        """The driver has finished setting it up. It cannot take it back (section 4.1.4.3.2)."""
        if value == 1:
            self.set_queue_ready(1)

    def read_queue_notify_off(self) -> int:
        """All notifications go to one place."""
        return 0

    def write_queue_notify(self, value: int) -> None:
        """There is work in queue `value`."""
        if self.may_master:
            self.notify(value)

    def save(self) -> dict[str, Any]:
        """And the vectors: the configuration's, then those of the queues."""
        return {**super().save(), "vectors": [self._config_vector, *self._vectors]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The same. Raises `ValueError`."""
        super().restore(state)
        self._config_vector, *self._vectors = map(self._existing, state["vectors"])

    # -- interrupts (sections 4.1.4.5, 4.1.5.1.2) ------------------------------------------------

    def read_config_msix_vector(self) -> int:
        """The vector for changes of the configuration."""
        return self._config_vector

    def write_config_msix_vector(self, value: int) -> None:
        """One that there is not reads back as none."""
        self._config_vector = self._existing(value)

    def read_queue_msix_vector(self) -> int:
        """The vector of the selected queue."""
        return self._vectors[self._queue_sel] if self.selected() is not None else NO_VECTOR

    def write_queue_msix_vector(self, value: int) -> None:
        """One that there is not reads back as none."""
        if self.selected() is not None:
            self._vectors[self._queue_sel] = self._existing(value)

    def _existing(self, vector: int) -> int:
        return vector if vector < self._messages.vectors else NO_VECTOR

    def _signal(self, index: int) -> Message:
        return partial(self._used_of, index)

    def _used_of(self, index: int) -> None:
        if self._messages.enabled:
            self._send(self._vectors[index])
        else:
            self._used()

    def _interrupt(self, cause: int) -> None:
        super()._interrupt(cause)
        if cause == CONFIG and self._messages.enabled:
            self._send(self._config_vector)

    def _send(self, vector: int) -> None:
        if vector != NO_VECTOR and not self._resetting:
            self._messages.notify(vector)

    def drive_line(self) -> None:
        """The line is up while there is a cause that the driver has not seen, unless messages tell
        of them.
        """
        self._line.set(bool(self._interrupts) and not self._messages.enabled)

    def read_ISR_status(self) -> int:
        """Why the line is up; it is not any more."""
        causes, self._interrupts = self._interrupts, 0
        self.drive_line()
        return causes


class _NotifyPort(PortRegion):
    """Where notifications can go, too: a hypervisor knows an OUT without decoding anything."""

    size = 4

    def __init__(self, notify: Callable[[int], None]) -> None:
        self._notify = notify

    def port_read(self, offset: int, width: int) -> int:
        """Nothing is to be read here."""
        return 0

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """The number of a queue, in 16 bits."""
        if (offset, width) == (0, 2):
            self._notify(value)
        return None


class VirtioPci(PciFunction):
    """`device` as a function: its registers are at BAR0, its MSI-X table at BAR1. With
    `notify_port` BAR2 is a port for notifications.

    There is a vector for the configuration and one for each queue.
    """

    migratable = False  # as it cannot wait until nothing is under way

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        *,
        notify_port: bool = False,
        identity: PciIdentity | None = None,
    ) -> None:
        self.device = device
        self.msix = MsixCapability(1 + len(device.queue_sizes), MSIX)
        pin = Line(self._pin_changed)
        self.transport = block = PciRegisterBlock(device, memory, pin, self.msix)
        bars = {
            REGISTERS: Bar(BarKind.MEMORY32, SIZE, block),
            MSIX: self.msix.whole_bar(),
        }
        structures: list[Structure] = []
        if notify_port:
            bars[PORT] = Bar(BarKind.IO, _NotifyPort.size, _NotifyPort(block.write_queue_notify))
            structures.append(Notifications(PORT, 0))  # the first is what we prefer
        structures += [
            Structure(PciStructure.COMMON_CFG, REGISTERS, 0, PCI_COMMON_SIZE),
            Notifications(REGISTERS, PCI_NOTIFY),
            Structure(PciStructure.ISR_CFG, REGISTERS, PCI_ISR, 1),
            Structure(PciStructure.DEVICE_CFG, REGISTERS, PCI_CONFIG, SIZE - PCI_CONFIG),
            PciAccess(),
        ]
        super().__init__(identity or identity_of(device), bars)
        add_capabilities(self, [self.msix, *structures])
        self.msix.switched = block.drive_line

    def _pin_changed(self, level: bool) -> None:
        self.intx.set(level)

    def command_changed(self) -> None:
        """Bus mastering goes on or off."""
        self.transport.master(self.bus_master)

    @property
    def at_rest(self) -> bool:
        """Whether no queue runs, and nothing of one that did is in flight."""
        return self.transport.at_rest

    def save(self) -> dict[str, Any]:
        """All but the requests that are under way: it is of use when there are none."""
        return {**super().save(), "msix": self.msix.save(), "transport": self.transport.save()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it up. Raises `ValueError` if it is of another function, or requests are under way
        now.
        """
        if not self.device.at_rest:
            raise ValueError("requests are under way")
        self.transport.reset()  # no queue runs before all is as it was
        self.msix.restore(state["msix"])
        super().restore(state)
        self.transport.restore(state["transport"])

    def reset(self) -> None:
        """Power on."""
        self.transport.reset()
        super().reset()
        self.msix.reset()
