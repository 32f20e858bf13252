"""ATA and ATAPI drives that come and go in a machine, by QEMU's names and properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from drivebay.ata.device import Device
from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.machines.drives import Fixed, Properties
from drivebay.platform.engine import Engine
from drivebay.platform.machine import Drive, MachineError, TrayMoved
from drivebay.scsi.dvd import Dvd, PhysicalInterface
from drivebay.scsi.sense import POWER_ON_OR_RESET, Sense

__all__ = ["AtaBay"]

Place = TypeVar("Place")

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


class AtaBay(Generic[Place]):
    """The places for drives of one `machine`: what `attach` and `detach` know a place by, for each
    bus and unit, in the order in which they fill up.
    """

    def __init__(
        self,
        machine: str,
        engine: Engine,
        places: Mapping[tuple[str, int], Place],
        attach: Callable[[Place, Device], None],
        detach: Callable[[Place], object],
    ) -> None:
        self._machine, self._engine = machine, engine
        self._all, self._attach, self._detach = places, attach, detach
        self.tray_moved: TrayMoved = lambda _id, _opened: None
        self.drives: dict[str, Drive] = {}
        """What is plugged in, by id."""
        self._places: dict[str, Place] = {}

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """Put an ``ide-hd`` or ``ide-cd`` where ``bus`` (``ide.0``) and ``unit`` say, or in the
        first free place. Raises `MachineError`.
        """
        if driver not in (DISK, DVD):
            raise MachineError(
                f"'{driver}' is no device of the {self._machine} machine: {DISK} and {DVD} are"
            )
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
                self._attach(place, AtaDisk(disk, self._engine, **plate))
                self.drives[id] = Fixed(disk)
            else:
                self._plug_dvd(place, id, disk, plate)
        except InvalidInput as error:
            raise MachineError(str(error)) from None
        self._places[id] = place

    def _plug_dvd(self, place: Place, id: str, disk: Disk | None, plate: Mapping[str, str]) -> None:
        dvd = _Dvd(disk, interface=PhysicalInterface.ATAPI)
        dvd.on_tray(lambda opened: self.tray_moved(id, opened))
        self._attach(place, PacketDevice(dvd, self._engine, **plate))
        self.drives[id] = _Tray(dvd)

    def _place(self, properties: Properties) -> Place:
        """Raises `MachineError` if somebody is there."""
        wanted = properties.text("bus", 80)
        unit = properties.number("unit", -1, -1, max(unit for _, unit in self._all))
        if wanted is not None and wanted not in {bus for bus, _ in self._all}:
            raise MachineError(f"Bus '{wanted}' not found")
        for (bus, each), place in self._all.items():
            if wanted in (None, bus) and unit in (-1, each) and place not in self._places.values():
                return place
        raise MachineError("somebody sits on that unit already, or all are taken")

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """Pull a drive; what it was doing is given up. Raises `MachineError`."""
        if id not in self.drives:
            raise MachineError(f"there is no device {id}")
        self._detach(self._places.pop(id))
        del self.drives[id]
        gone()
