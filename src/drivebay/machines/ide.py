"""A PC with an IDE controller, whose drives come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ide import PIIX3, PiixIde
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.machines.drives import Fixed, Properties
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.platform.machine import Drive, MachineError, TrayMoved
from drivebay.platform.pci import PciIdentity
from drivebay.scsi.dvd import Dvd, PhysicalInterface
from drivebay.scsi.sense import POWER_ON_OR_RESET, Sense

__all__ = ["PcWithIde"]

BUSES: Final = ("ide.0", "ide.1")
SLOT, FUNCTION = 1, 1
DISK, DVD = "ide-hd", "ide-cd"
PLATE: Final = {"serial": ("serial", 20), "model": ("model", 40), "firmware": ("ver", 8)}
"""What IDENTIFY says of a drive: QEMU's name for it, and the characters it has room for."""


class _Dvd(Dvd):
    """A DVD drive as QEMU's: the first command after a reset works, though the guest was not told
    of the reset.
    """

    def attention(self, sense: Sense) -> None:
        """Of a reset nobody is told."""
        if sense != POWER_ON_OR_RESET:
            super().attention(sense)


class _Tray:
    """The owner's side of a DVD drive."""

    removable = True

    def __init__(self, dvd: _Dvd) -> None:
        self._dvd = dvd

    @property
    def disk(self) -> Disk | None:
        return self._dvd.disk

    @property
    def locked(self) -> bool:
        return self._dvd.locked

    @property
    def tray_open(self) -> bool:
        return self._dvd.tray_open

    def request_eject(self) -> None:
        self._dvd.events.eject_request()

    def move_tray(self, opened: bool) -> None:
        if opened:
            self._dvd.open_tray(force=True)
        else:
            self._dvd.close_tray()

    def insert(self, disk: Disk) -> None:
        try:
            self._dvd.insert(disk, close=False, force=True)
        except InvalidInput as error:
            raise MachineError(str(error)) from None

    def remove(self) -> Disk | None:
        return self._dvd.remove(force=True)


class PcWithIde:
    """`Pc` with a PIIX IDE function at 00:01.1: `board` is the PC, `ide` the function."""

    def __init__(self, ram_size: int, engine: Engine, *, identity: PciIdentity = PIIX3) -> None:
        self.board = Pc(engine, ram_size)
        self.clock = self.board.clock
        self.tray_moved: TrayMoved = lambda _id, _opened: None
        lines = (self.board.line(14), self.board.line(15))
        self.ide = PiixIde(self.board.memory, lines, identity)
        self.board.bus.plug(SLOT, FUNCTION, self.ide)
        self._drives: dict[str, Drive] = {}
        self._places: dict[str, tuple[int, int]] = {}

    @property
    def drives(self) -> Mapping[str, Drive]:
        """What is plugged in, by id."""
        return self._drives

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """Put an ``ide-hd`` or ``ide-cd`` on a channel: where ``bus`` (``ide.0``) and ``unit`` say,
        or in the first free place. Raises `MachineError`.
        """
        if driver not in (DISK, DVD):
            raise MachineError(f"'{driver}' is no device of the pc machine: {DISK} and {DVD} are")
        if disk is None and driver == DISK:
            raise MachineError(f"{driver} needs a drive")
        properties = Properties(driver, options)
        place = self._place(properties)
        plate = {
            name: text
            for name, (qemu, room) in PLATE.items()
            if (text := properties.text(qemu, room)) is not None
        }
        properties.end()
        try:
            if disk is not None and driver == DISK:
                self.ide.attach(*place, AtaDisk(disk, self.board.engine, **plate))
                self._drives[id] = Fixed(disk)
            else:
                self._plug_dvd(place, id, disk, plate)
        except InvalidInput as error:
            raise MachineError(str(error)) from None
        self._places[id] = place

    def _plug_dvd(
        self, place: tuple[int, int], id: str, disk: Disk | None, plate: Mapping[str, str]
    ) -> None:
        dvd = _Dvd(disk, interface=PhysicalInterface.ATAPI)
        dvd.on_tray(lambda opened: self.tray_moved(id, opened))
        self.ide.attach(*place, PacketDevice(dvd, self.board.engine, **plate))
        self._drives[id] = _Tray(dvd)

    def _place(self, properties: Properties) -> tuple[int, int]:
        """Channel and unit. Raises `MachineError` if somebody is there."""
        bus = properties.text("bus", 80)
        unit = properties.number("unit", -1, -1, 1)
        if bus is not None and bus not in BUSES:
            raise MachineError(f"Bus '{bus}' not found")
        taken = self._places.values()
        for channel, name in enumerate(BUSES):
            for each in (0, 1):
                if bus in (None, name) and unit in (-1, each) and (channel, each) not in taken:
                    return channel, each
        raise MachineError("somebody sits on that unit already, or all are taken")

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """Pull a drive; what it was doing is given up."""
        if id not in self._drives:
            raise MachineError(f"there is no device {id}")
        self.ide.detach(*self._places.pop(id))
        del self._drives[id]
        gone()
