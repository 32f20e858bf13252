"""A PC whose kernel is started directly: what its firmware would have done before.

Such a kernel learns of virtio transports, which a PC has none of by itself, from ACPI tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from drivebay.controllers.virtio.mmio import MMIO_SIZE, MmioTransport
from drivebay.machines.acpi import Acpi, VirtioMmio, put_acpi
from drivebay.machines.chips.piix4 import PMBA, PMREGMISC, IsaRegisters, PowerRegisters
from drivebay.machines.pc import Pc
from drivebay.machines.smbios import put_smbios
from drivebay.platform.virtio import Device

__all__ = [
    "HYPERV",
    "PIRQS",
    "POWER_PORTS",
    "VIRTIO_MMIO_PLACES",
    "prepare",
    "put_virtio",
    "slots_of",
]

PIIX_SLOT: Final = 1
ISA, POWER = 0, 3
POWER_PORTS: Final = 0x600
HYPERV: Final = ("Microsoft Corporation", "Virtual Machine")
"""Who has made the machine, and what it is."""
PIRQS: Final = (10, 10, 11, 11)
"""The interrupts of PIRQA to PIRQD, as SeaBIOS routes them."""
VIRTIO_BASE: Final = 0xFE00_0000
VIRTIO_STRIDE: Final = 0x1000
FIRST_INTERRUPT: Final = 16
VIRTIO_MMIO_PLACES: Final = 8
"""The I/O APIC's inputs that no ISA interrupt has."""


def put_virtio(pc: Pc, number: int, device: Device) -> VirtioMmio:
    """Put a virtio device at one of the places, 0 to 7; `prepare` is to be told of it.

    Raises `ValueError` if there is no such place.
    """
    if not 0 <= number < VIRTIO_MMIO_PLACES:
        raise ValueError(f"virtio-mmio place {number}: there are {VIRTIO_MMIO_PLACES}")
    place = VirtioMmio(VIRTIO_BASE + number * VIRTIO_STRIDE, MMIO_SIZE, FIRST_INTERRUPT + number)
    transport = MmioTransport(device, pc.memory, pc.line(place.interrupt))
    pc.mmio.map(place.address, transport)
    pc.on_reset(transport.reset)
    return place


def prepare(
    pc: Pc, *, cpus: int = 1, virtio: Sequence[VirtioMmio] = (), vmbus: bool = False
) -> int:
    """Route PCI's interrupts, give power management its ports, write the ACPI tables; where those
    begin. It is firmware's work, and so to be done again after a reset.

    With `vmbus` the machine is Hyper-V's by its tables.
    """
    if vmbus:
        put_smbios(pc.memory, *HYPERV)
    isa, power = (pc.bus.functions[PIIX_SLOT, number] for number in (ISA, POWER))
    for at, number in zip(IsaRegisters.registers.values(), PIRQS, strict=True):
        isa.config_write(at.offset, 1, number)
    power.config_write(PowerRegisters.PMBA.offset, 4, POWER_PORTS & PMBA.ADDRESS)
    power.config_write(PowerRegisters.PMREGMISC.offset, 1, PMREGMISC.PMIOSE)
    return put_acpi(pc.memory, Acpi(cpus, POWER_PORTS, slots_of(pc), PIRQS, virtio, vmbus))


def slots_of(pc: Pc) -> list[int]:
    """The PCI slots with something in them."""
    return sorted({slot for slot, _ in pc.bus.functions})
