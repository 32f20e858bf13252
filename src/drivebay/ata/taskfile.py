"""The task file: what a command is given, and what it leaves behind.

Each register but Device and Command is two deep (ATA/ATAPI-6 section 6.20): a write moves the old
content to the "previous" byte, which 48-bit commands take for the upper half. Here the two bytes
are one number, previous byte above the current one. A FIS fills the same registers at once.
"""

from __future__ import annotations

from typing import Final, Self

from drivebay.ata.registers import DeviceRegister

__all__ = ["TaskFile"]

HEAD = int(DeviceRegister.HEAD)
FEATURES, COUNT, LOW, MID, HIGH, DEVICE = range(1, 7)
SIZE: Final = 8


class TaskFile:
    """The Command Block registers as the host wrote them, and as the device left them.

    `registers` are numbered as in the Command Block: 1 is Features, 2 Count, 3 to 5 the LBA ones.
    `auxiliary` is the one that only a FIS has. `packet` is none of them: the one that came with the
    command, for whoever looks at it.
    """

    __slots__ = ("auxiliary", "command", "device", "packet", "registers")

    def __init__(self) -> None:
        self.registers = [0] * SIZE
        self.device = 0
        self.command = 0
        self.auxiliary = 0
        self.packet = b""

    def copy(self) -> TaskFile:
        """The registers as they are now."""
        other = TaskFile()
        other.registers[:] = self.registers
        other.device, other.command = self.device, self.command
        other.auxiliary = self.auxiliary
        return other

    @property
    def features(self) -> int:
        """Subcommands and flags."""
        return self.registers[FEATURES]

    @features.setter
    def features(self, value: int) -> None:
        self.registers[FEATURES] = value

    @property
    def count(self) -> int:
        """Sectors, or what else a command counts."""
        return self.registers[COUNT]

    @count.setter
    def count(self, value: int) -> None:
        self.registers[COUNT] = value

    @property
    def lba_low(self) -> int:
        """LBA bits 7 to 0 and 31 to 24, or the sector."""
        return self.registers[LOW]

    @lba_low.setter
    def lba_low(self, value: int) -> None:
        self.registers[LOW] = value

    @property
    def lba_mid(self) -> int:
        """LBA bits 15 to 8 and 39 to 32: a page of a log."""
        return self.registers[MID]

    @property
    def lba28(self) -> int:
        """The 28-bit address, its top four bits in Device; also cylinder, head and sector."""
        _, _, _, low, mid, high, _, _ = self.registers
        return (self.device & HEAD) << 24 | (high & 0xFF) << 16 | (mid & 0xFF) << 8 | low & 0xFF

    @lba28.setter
    def lba28(self, value: int) -> None:
        self.registers[LOW : HIGH + 1] = value & 0xFF, value >> 8 & 0xFF, value >> 16 & 0xFF
        self.device = self.device & ~HEAD | value >> 24 & HEAD

    @property
    def lba48(self) -> int:
        """The 48-bit address: the previous bytes are its upper half."""
        _, _, _, low, mid, high, _, _ = self.registers
        current = (high & 0xFF) << 16 | (mid & 0xFF) << 8 | low & 0xFF
        return ((high & 0xFF00) << 8 | mid & 0xFF00 | low >> 8) << 24 | current

    @lba48.setter
    def lba48(self, value: int) -> None:
        current, previous = value, value >> 16  # 24 bits on, and one byte up
        self.registers[LOW : HIGH + 1] = (
            current & 0xFF | previous & 0xFF00,
            current >> 8 & 0xFF | previous >> 8 & 0xFF00,
            current >> 16 & 0xFF | previous >> 16 & 0xFF00,
        )

    @property
    def lba_mid_high(self) -> int:
        """LBA mid and high as one number: the cylinder, a packet's byte count, a signature."""
        return (self.registers[HIGH] & 0xFF) << 8 | self.registers[MID] & 0xFF

    @lba_mid_high.setter
    def lba_mid_high(self, value: int) -> None:
        self.registers[MID], self.registers[HIGH] = value & 0xFF, value >> 8 & 0xFF

    def save(self) -> list[int]:
        """The registers in order."""
        return [*self.registers[:DEVICE], self.device, self.command, self.auxiliary]

    @classmethod
    def restore(cls, state: list[int]) -> Self:
        """The registers that `save` gave."""
        self = cls()
        self.load(state)
        return self

    def load(self, state: list[int]) -> None:
        """Take what `save` gave."""
        *self.registers[:DEVICE], self.device, self.command, self.auxiliary = state
