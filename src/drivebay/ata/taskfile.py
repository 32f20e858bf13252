"""The task file: what a command is given, and what it leaves behind.

Each register but Device and Command is two deep (ATA/ATAPI-6 section 6.20): a write moves the old
content to the "previous" byte, which 48-bit commands take for the upper half. Here the two bytes
are one number, previous byte above the current one. A FIS fills the same registers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

from drivebay.ata.registers import DeviceRegister

__all__ = ["TaskFile"]

HEAD = int(DeviceRegister.HEAD)


@dataclass(slots=True)
class TaskFile:
    """The Command Block registers as the host wrote them, and as the device left them."""

    features: int = 0
    count: int = 0
    lba_low: int = 0
    lba_mid: int = 0
    lba_high: int = 0
    device: int = 0
    command: int = 0

    @property
    def lba28(self) -> int:
        """The 28-bit address, its top four bits in Device; also cylinder, head and sector."""
        return (
            (self.device & HEAD) << 24
            | (self.lba_high & 0xFF) << 16
            | (self.lba_mid & 0xFF) << 8
            | self.lba_low & 0xFF
        )

    @lba28.setter
    def lba28(self, value: int) -> None:
        self.lba_low, self.lba_mid, self.lba_high = (value >> at & 0xFF for at in (0, 8, 16))
        self.device = self.device & ~HEAD | value >> 24 & HEAD

    @property
    def lba48(self) -> int:
        """The 48-bit address: the previous bytes are its upper half."""
        low, mid, high = self.lba_low, self.lba_mid, self.lba_high
        current = (high & 0xFF) << 16 | (mid & 0xFF) << 8 | low & 0xFF
        return ((high & 0xFF00) << 8 | mid & 0xFF00 | low >> 8) << 24 | current

    @lba48.setter
    def lba48(self, value: int) -> None:
        self.lba_low, self.lba_mid, self.lba_high = (
            value >> at & 0xFF | (value >> at + 24 & 0xFF) << 8 for at in (0, 8, 16)
        )

    @property
    def byte_count(self) -> int:
        """What the LBA mid and high registers hold for PACKET (section 8.23)."""
        return (self.lba_high & 0xFF) << 8 | self.lba_mid & 0xFF

    @byte_count.setter
    def byte_count(self, value: int) -> None:
        self.lba_mid, self.lba_high = value & 0xFF, value >> 8 & 0xFF

    def save(self) -> dict[str, int]:
        """The registers by name."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, int]) -> Self:
        """The registers that `save` gave."""
        return cls(**state)
