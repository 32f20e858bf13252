"""Fault rules on ATA and ATAPI drives, on whatever channels or ports they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from drivebay.ata.command import ABRT, Aborted
from drivebay.ata.device import Device, Reset
from drivebay.ata.disk import AtaDisk
from drivebay.ata.escorted import AtaEscort
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Error
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.errors import DiskError
from drivebay.lab.dialects import ata, scsi
from drivebay.lab.rules import Fail, Rewrite, Rule, Subject
from drivebay.lab.torment import CoreFaults, Extent
from drivebay.platform.engine import Engine
from drivebay.scsi.errors import sense_of

__all__ = ["ATA", "AtaFaults"]

ATA: Final = ata.VOCABULARY
ICRC: Final = int(Error.ICRC)
"""What the cable has spoilt is aborted, too."""
WIDTHS: Final = {"features": 16, "count": 16, "lba": 48, "device": 8, "auxiliary": 32}


class AtaFaults(CoreFaults[TaskFile, tuple[int, int]]):
    """Has `rules` work on `drives`, by the numbers of their ports, until `close`; `name` is what
    their controller is called. `plug` and `unplug` are for drives that come and go.

    Where a rule counts commands, it counts those of all drives that it meets. A drive that dies is
    busy until it is reset.
    """

    def __init__(
        self,
        drives: Mapping[int, Device],
        engine: Engine,
        rules: Iterable[Rule] = (),
        name: str = "ata",
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        super().__init__(engine, rules, name, remove)
        self.drives: dict[int, Device] = {}
        for port, drive in drives.items():
            self.plug(port, drive)

    def plug(self, port: int, drive: Device) -> None:
        """A drive has come."""
        self.drives[port] = drive
        drive.observer = _Port(self, port)

    def unplug(self, port: int) -> None:
        """One has gone."""
        self.drives.pop(port).observer = None

    def close(self) -> None:
        """Nothing is done to commands any more."""
        super().close()
        for port in tuple(self.drives):
            self.unplug(port)

    def describe(self, queue: int, command: TaskFile) -> Subject:
        """By the ATA dialect."""
        return ata.describe(queue, command, self.name)

    def extent(self, subject: Subject) -> Extent:
        """In the drive's disk."""
        drive = self.drives.get(subject.queue)
        if not isinstance(drive, AtaDisk):
            return Extent()
        return Extent(drive.disk, subject.lba or 0, subject.count, drive.sector_size)

    def refusal(self, subject: Subject, command: TaskFile, action: Fail) -> Exception:
        """Bits of Error by their names; or a sense, which a packet device keeps to be asked for."""
        sense = scsi.SENSES.get(action.status)
        if sense is None:
            bits = int(getattr(Error, action.status))
            return Aborted(bits | ABRT if bits == ICRC else bits, "fault rule")
        drive = self.drives.get(subject.queue)
        return drive.checked(sense) if isinstance(drive, PacketDevice) else Aborted(ABRT)

    def failure(self, subject: Subject, error: DiskError) -> Exception:
        """As it is; a packet device keeps the sense for it."""
        drive = self.drives.get(subject.queue)
        if isinstance(drive, PacketDevice):
            return drive.checked(sense_of(error, subject.lba))
        return error

    def rewritten(self, command: TaskFile, action: Rewrite) -> TaskFile:
        """Other registers."""
        for name in {**action.values, **action.steps}:
            register = "lba48" if name == "lba" else name
            value = action.values.get(name, getattr(command, register))
            value += action.steps.get(name, 0)
            setattr(command, register, value & (1 << WIDTHS[name]) - 1)
        return command

    def misdirected(self, subject: Subject, command: TaskFile, blocks: int) -> TaskFile:
        """Another address, in the form that the command has."""
        assert subject.lba is not None
        if command.packet:
            return command
        if ata.is_48_bit(command):
            command.lba48 = subject.lba + blocks
        else:
            command.lba28 = subject.lba + blocks
        return command

    def die(self, subject: Subject, why: str) -> None:
        """Busy, until somebody resets it."""
        self.drives[subject.queue].reset(Reset.SOFTWARE)


class _Port:
    """The observer of one drive: commands do not say whose they are."""

    def __init__(self, faults: AtaFaults, port: int) -> None:
        self._faults, self._port = faults, port

    def command(self, queue: int, tag: int, command: TaskFile) -> AtaEscort | None:
        """Who goes with a command."""
        return self._faults.command(self._port, tag, command)
