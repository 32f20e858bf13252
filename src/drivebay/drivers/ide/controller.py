"""Finding the controller and its drives, as firmware and an operating system do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from drivebay.drivers.arena import Arena
from drivebay.drivers.ide.cd import IdeCd
from drivebay.drivers.ide.channel import ChannelPorts, IdeChannel
from drivebay.drivers.ide.disk import IdeDisk
from drivebay.drivers.ide.drive import IdeDrive
from drivebay.drivers.ide.errors import IdeError
from drivebay.drivers.pci import PciAddress, PciConfig, Ports
from drivebay.platform.pci import Header

__all__ = ["IdeDriver"]

MASS_STORAGE, IDE = 0x01, 0x01
NATIVE: Final = (0x01, 0x04)  # of the programming interface
LEGACY: Final = ((0x1F0, 0x3F6, 0x1E0), (0x170, 0x376, 0x160))
ADDRESS_MASK: Final = 0xFFFC
PACKET_SIGNATURE: Final = [0x14, 0xEB]
DRDY: Final = 0x40


class IdeDriver:
    """The IDE function on PCI bus 0, its two channels, and the drives on them::

        arena = Arena(board.memory, 0x10000, 1 << 20)
        driver = IdeDriver(board.ports, arena, poll=lambda: engine.turn(0))
        driver.disk(0, 0).read(0, 8)

    `raised` says whether a channel's interrupt is up; without it the drives are polled. The bus
    master is put at port `base`, and in `native` mode the channels' blocks at the 32 ports after
    its 16. Raises `IdeError` if there is no controller.
    """

    def __init__(
        self,
        ports: Ports,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        raised: Callable[[int], bool] | None = None,
        base: int = 0xC000,
        native: bool = False,
    ) -> None:
        self.config = PciConfig(ports)
        self.address = self._find()
        self._set_up(base, native)
        self.channels = tuple(
            IdeChannel(
                ports,
                self._places(number),
                arena,
                poll=poll,
                raised=partial(raised, number) if raised is not None else None,
            )
            for number in (0, 1)
        )
        self.drives: dict[tuple[int, int], IdeDrive] = {}
        """By channel and unit."""
        for number, channel in enumerate(self.channels):
            channel.reset()
            for unit in (0, 1):
                drive = _identify(channel, unit)
                if drive is not None:
                    self.drives[number, unit] = drive

    def disk(self, channel: int, unit: int) -> IdeDisk:
        """The disk there. Raises `IdeError` if there is none."""
        drive = self.drives.get((channel, unit))
        if not isinstance(drive, IdeDisk):
            raise IdeError(f"no disk {channel}:{unit}")
        return drive

    def cd(self, channel: int, unit: int) -> IdeCd:
        """The CD or DVD drive there. Raises `IdeError` if there is none."""
        drive = self.drives.get((channel, unit))
        if not isinstance(drive, IdeCd):
            raise IdeError(f"no CD drive {channel}:{unit}")
        return drive

    # -- the function ----------------------------------------------------------------------------

    def _find(self) -> PciAddress:
        address = self.config.find(MASS_STORAGE, IDE)
        if address is None:
            raise IdeError("no IDE controller on PCI bus 0")
        return address

    def _set_up(self, base: int, native: bool) -> None:
        config, address = self.config, self.address
        config.write(address, Header.BAR4.offset, 4, base)
        if native:
            interface = config.read(address, Header.ProgIF.offset, 1)
            config.write(address, Header.ProgIF.offset, 1, interface | sum(NATIVE))
            for bar in range(4):
                config.write(address, Header.BAR0.offset + 4 * bar, 4, base + 16 + 8 * bar)
        config.enable(address)

    def _places(self, number: int) -> ChannelPorts:
        """Where a channel's blocks are; the Control Block's port is the third of its BAR."""
        command, control, int13 = LEGACY[number]
        if self.config.read(self.address, Header.ProgIF.offset, 1) & NATIVE[number]:
            command, control = self._bar(2 * number), self._bar(2 * number + 1) + 2
        return ChannelPorts(command, control, self._bar(4) + 8 * number, int13)

    def _bar(self, number: int) -> int:
        value = self.config.read(self.address, Header.BAR0.offset + 4 * number, 4)
        return value & ADDRESS_MASK


def _identify(channel: IdeChannel, unit: int) -> IdeDrive | None:
    """What answers as drive `unit`, after a reset (ATA/ATAPI-6 section 9.12)."""
    try:
        status, (_, _, *kind) = channel.signature(unit)
    except IdeError:
        return None
    if kind == PACKET_SIGNATURE:
        return IdeCd(channel, unit)
    if kind == [0, 0] and status & DRDY:
        return IdeDisk(channel, unit)
    return None
