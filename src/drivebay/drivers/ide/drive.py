"""What the drivers of disks and of packet devices share."""

from __future__ import annotations

from drivebay.ata.registers import Feature, Opcode
from drivebay.drivers.ide.channel import AtaCommand, IdeChannel
from drivebay.drivers.ide.identity import Identity

__all__ = ["IdeDrive"]


class IdeDrive:
    """Drive `unit` of a channel. Methods raise `IdeError` when a command fails."""

    identify_opcode = Opcode.IDENTIFY_DEVICE

    def __init__(self, channel: IdeChannel, unit: int) -> None:
        self.channel, self.unit = channel, unit

    def identify(self) -> Identity:
        """What the drive says of itself."""
        return Identity(self.pio_in(AtaCommand(self.identify_opcode), 512))

    def set_features(self, feature: int, count: int = 0, lba: int = 0) -> None:
        """SET FEATURES with a subcommand of `Feature`."""
        self.non_data(AtaCommand(Opcode.SET_FEATURES, feature, count, lba))

    def set_transfer_mode(self, kind: int, mode: int) -> None:
        """Choose mode number `mode` of a `TransferMode`."""
        self.set_features(Feature.SET_TRANSFER_MODE, kind << 3 | mode)

    def check_power_mode(self) -> int:
        """What the count register says, a `Power`."""
        self.non_data(AtaCommand(Opcode.CHECK_POWER_MODE))
        return self.channel.get("Count")

    def non_data(self, command: AtaCommand) -> None:
        """A command of this drive that moves no data."""
        self.channel.non_data(self.unit, command)

    def pio_in(self, command: AtaCommand, length: int, block: int = 512) -> bytes:
        """A command of this drive that gives `length` bytes."""
        return self.channel.pio_in(self.unit, command, length, block)

    def pio_out(self, command: AtaCommand, data: bytes, block: int = 512) -> None:
        """A command of this drive that takes `data`."""
        self.channel.pio_out(self.unit, command, data, block)
