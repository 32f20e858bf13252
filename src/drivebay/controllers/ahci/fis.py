"""The FISes that a drive's registers make."""

from __future__ import annotations

from typing import Final

from drivebay.ata.device import Device
from drivebay.controllers.ahci.structures import (
    DmaSetupFis,
    FisFlags,
    FisType,
    PioSetupFis,
    RegisterD2hFis,
    SetDeviceBitsFis,
)

__all__ = ["dma_setup_fis", "pio_setup_fis", "register_fis", "set_device_bits_fis"]

INTERRUPT, TO_HOST = int(FisFlags.I), int(FisFlags.D)
NOT_BUSY: Final = 0x77
"""What of the status a Set Device Bits FIS has: all but BSY and DRQ."""


def register_fis(drive: Device, interrupt: bool) -> bytes:
    """The drive's registers as a FIS to the host."""
    taskfile = drive.taskfile
    lba = taskfile.lba48.to_bytes(6, "little")
    flags = INTERRUPT if interrupt else 0
    count = taskfile.count & 0xFFFF
    return RegisterD2hFis.layout.pack(
        FisType.REGISTER_D2H, flags, drive.status, drive.error, lba[:3], taskfile.device & 0xFF,
        lba[3:], 0, count, 0, 0,
    )  # fmt: skip


def pio_setup_fis(drive: Device, inward: bool, interrupt: bool, e_status: int) -> bytes:
    """The announcement of a DRQ block."""
    taskfile = drive.taskfile
    lba = taskfile.lba48.to_bytes(6, "little")
    flags = (TO_HOST if inward else 0) | (INTERRUPT if interrupt else 0)
    count = taskfile.count & 0xFFFF
    return PioSetupFis.layout.pack(
        FisType.PIO_SETUP, flags, drive.status, drive.error, lba[:3], taskfile.device & 0xFF,
        lba[3:], 0, count, 0, e_status, len(drive.block) & 0xFFFF, 0,
    )  # fmt: skip


def dma_setup_fis(tag: int, length: int, inward: bool) -> bytes:
    """A queued command begins to move `length` bytes."""
    flags = TO_HOST if inward else 0
    return DmaSetupFis.layout.pack(FisType.DMA_SETUP, flags, 0, tag, 0, 0, 0, length, 0)


def set_device_bits_fis(status: int, error: int, tags: int, interrupt: bool) -> bytes:
    """The queued commands in the mask `tags` are done."""
    kind, flags = FisType.SET_DEVICE_BITS, INTERRUPT if interrupt else 0
    return SetDeviceBitsFis.layout.pack(kind, flags, status & NOT_BUSY, error, tags)
