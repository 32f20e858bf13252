"""One IDE channel: two drives on a cable, and the ports that show them (ATA/ATAPI-6 section 7)."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from drivebay.ata.device import Device, Phase, Reset
from drivebay.ata.registers import DeviceControl, DeviceRegister, Opcode, Status
from drivebay.controllers.ide.busmaster import BusMaster
from drivebay.controllers.ide.int13 import EnlightenedInt13
from drivebay.controllers.ide.registers import CommandBlock, ControlBlock
from drivebay.platform.interrupts import Line
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory
from drivebay.platform.ports import ByteRead, ByteWrite, PortRegion

__all__ = ["Channel", "CommandPorts", "ControlPorts"]

guest_log = RationedLog(logging.getLogger(__name__))

BSY, DRQ = int(Status.BSY), int(Status.DRQ)
WORKING: Final = BSY | DRQ
HOB, SRST, NIEN = int(DeviceControl.HOB), int(DeviceControl.SRST), int(DeviceControl.nIEN)
DEV = int(DeviceRegister.DEV)
FLOATING: Final = 0xFFFFFF7F
"""What a cable without drives reads: DD7 is pulled down, so that nothing seems busy."""


class Channel:
    """The cable, and both drives' side of it. `line` is INTRQ.

    Every write goes to both drives; the Device register says which of them answers and executes. A
    drive that works takes no writes.
    """

    def __init__(self, number: int, memory: GuestMemory, line: Line) -> None:
        self.number = number
        self.drives: list[Device | None] = [None, None]
        self._attached: tuple[Device, ...] = ()
        self.bus_master = BusMaster(memory)
        self.int13 = EnlightenedInt13(self, memory)
        self._line = line
        self._pending = [False, False]  # a drive wants to interrupt
        self._selected = 0
        self._control = 0
        self.command_ports: PortRegion = CommandPorts(self)
        """Its Command Block; and its Control Block, where a PC has it."""
        self.control_ports: PortRegion = ControlPorts(self)

    def attach(self, unit: int, drive: Device) -> None:
        """Put `drive` on the cable as device `unit`. Raises `ValueError` if one is there."""
        if self.drives[unit] is not None:
            raise ValueError(f"IDE channel {self.number} has a device {unit}")
        self.drives[unit] = drive
        self._attached = tuple(each for each in self.drives if each is not None)
        drive.wire = self

    def detach(self, unit: int) -> Device | None:
        """Pull the drive: what it was doing is given up."""
        drive = self.drives[unit]
        if drive is not None:
            self.drives[unit] = None
            self._attached = tuple(each for each in self._attached if each is not drive)
            drive.reset(Reset.POWER_ON)
            drive.release()
            self._pending[unit] = False
            self._update_line()
        return drive

    # -- who answers -----------------------------------------------------------------------------

    @property
    def selected(self) -> Device | None:
        """The drive that executes commands, if there is one."""
        return self.drives[self._selected]

    @property
    def in_reset(self) -> bool:
        """Whether SRST is up."""
        return bool(self._control & SRST)

    def _shown(self) -> Device | None:
        """The drive whose registers are read: device 0 answers for a missing device 1, unless it is
        a packet device, which then shows zeroes (ATA/ATAPI-6 section 9.16.1).
        """
        drive = self.drives[self._selected]
        if drive is None and self._selected:
            return self.drives[0]
        return drive

    def read_register(self, number: int) -> int:
        """Count or one of the LBA registers, by its number in the Command Block."""
        drive = self._shown()
        if drive is None:
            return FLOATING & 0xFF
        if self.drives[self._selected] is None and drive.signature:
            return 0
        value = drive.taskfile.registers[number]
        return value >> 8 & 0xFF if self._control & HOB else value & 0xFF

    def write_register(self, number: int, value: int) -> None:
        """Features, Count or one of the LBA registers: two deep, in both drives."""
        if self._control & HOB:
            self._control &= ~HOB
        for drive in self._attached:
            if not drive.status & WORKING:
                registers = drive.taskfile.registers
                registers[number] = (registers[number] << 8 | value) & 0xFFFF

    # -- Command Block ---------------------------------------------------------------------------

    def read_Error(self) -> int:
        """Why the last command failed."""
        drive = self._shown()
        if drive is None:
            return FLOATING & 0xFF
        return 0 if self.drives[self._selected] is None and drive.signature else drive.error

    def read_Device(self) -> int:
        """As written; the address bits as the last command left them."""
        drive = self._shown()
        if drive is None:
            return FLOATING & 0xFF
        if self.drives[self._selected] is None and drive.signature:
            return 0
        return drive.taskfile.device & ~DEV | self._selected * DEV

    def write_Device(self, value: int) -> None:
        """Select a drive."""
        self._control &= ~HOB
        for drive in self._attached:
            if not drive.status & WORKING:
                drive.taskfile.device = value
        self._selected = 1 if value & DEV else 0
        self._update_line()

    def read_Status(self) -> int:
        """The selected drive's status; its interrupt is seen."""
        if self._pending[self._selected]:
            self._pending[self._selected] = False
            self._update_line()
        return self.status()

    def write_Command(self, value: int) -> None:
        """Begin a command on the selected drive, or on both: EXECUTE DEVICE DIAGNOSTIC."""
        self._control &= ~HOB
        if value == Opcode.EXECUTE_DEVICE_DIAGNOSTIC:
            self._selected = 0
            for drive in reversed(self._attached):
                self._execute(drive, value)
            self._pending[1] = False  # device 0 tells for both
            self._update_line()
        elif (selected := self.selected) is not None:
            self._execute(selected, value)

    def _execute(self, drive: Device, opcode: int) -> None:
        if drive.status & WORKING and opcode != Opcode.DEVICE_RESET:
            guest_log.warning("ide %d: command %#04x while busy: ignored", self.number, opcode)
            return
        self._pending[self._selected] = False
        self._update_line()
        drive.taskfile.command = opcode
        drive.execute()

    # -- Control Block ---------------------------------------------------------------------------

    def status(self) -> int:
        """Status, and nothing else happens."""
        drive = self.drives[self._selected]
        if drive is not None:
            return drive.status
        return 0 if self._selected and self.drives[0] is not None else FLOATING & 0xFF

    def control(self, value: int) -> None:
        """HOB, SRST and nIEN."""
        before, self._control = self._control, value
        if value & SRST and not before & SRST:
            self._selected = 0
            self._pending = [False, False]
            for drive in self._attached:
                drive.reset(Reset.SOFTWARE)
        elif before & SRST and not value & SRST:
            for drive in self._attached:
                drive.release()
        self._update_line()

    def reset(self) -> None:
        """Power-on."""
        self._control = self._selected = 0
        self._pending = [False, False]
        self.bus_master.reset()
        for drive in self._attached:
            drive.reset(Reset.POWER_ON)
            drive.release()
        self._update_line()

    # -- data ------------------------------------------------------------------------------------

    def read_data(self, width: int) -> int:
        """One access to the Data register."""
        drive = self.drives[self._selected]
        if drive is None or drive.phase is not Phase.DATA_IN:
            return 0 if self._shown() is not None else FLOATING & (1 << 8 * width) - 1
        at = drive.position
        block = drive.block
        drive.position = at + width
        value = int.from_bytes(block[at : at + width], "little")
        if at + width >= len(block):
            drive.block_done()
        return value

    def write_data(self, width: int, value: int) -> None:
        """One access to the Data register."""
        drive = self.drives[self._selected]
        if drive is None or drive.phase is not Phase.DATA_OUT:
            return
        at = drive.position
        block = drive.block
        room = min(width, len(block) - at)
        block[at : at + room] = (value & (1 << 8 * room) - 1).to_bytes(room, "little")
        drive.position = at + width
        if at + width >= len(block):
            drive.block_done()

    def read_string(self, width: int, buffer: memoryview) -> None:
        """REP INS: as many accesses, in slices."""
        done = 0
        while done < len(buffer):
            drive = self.drives[self._selected]
            if drive is None or drive.phase is not Phase.DATA_IN:
                item = self.read_data(width).to_bytes(width, "little")
                buffer[done:] = item * ((len(buffer) - done) // width)
                return
            at = drive.position
            piece = drive.block[at : at + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            pad = -len(piece) % width  # a block's odd end takes a whole access
            done += len(piece) + pad
            buffer[done - pad : done] = bytes(pad)
            drive.position = at + len(piece) + pad
            if drive.position >= len(drive.block):
                drive.block_done()

    def write_string(self, width: int, data: memoryview) -> None:
        """REP OUTS: as many accesses, in slices."""
        done = 0
        while done < len(data):
            drive = self.drives[self._selected]
            if drive is None or drive.phase is not Phase.DATA_OUT:
                return
            at = drive.position
            room = len(drive.block) - at
            piece = data[done : done + room]
            drive.block[at : at + len(piece)] = piece
            taken = len(piece) + -len(piece) % width
            done += taken
            drive.position = at + taken
            if drive.position >= len(drive.block):
                drive.block_done()

    # -- the drives' wire ------------------------------------------------------------------------

    def data_block(self, device: Device, interrupt: bool) -> None:
        """A drive shows a DRQ block."""
        if interrupt:
            self._pend(device)

    def dma_request(self, device: Device) -> None:
        """A drive wants to move data."""
        self.int13.dma_request(device)

    def ended(self, device: Device, interrupt: bool) -> None:
        """A drive has ended its command, or come up."""
        if interrupt:
            self._pend(device)
        self.bus_master.ended(device)
        self.int13.ended(device, completed=interrupt)
        if device not in self._attached:  # pulled; its last word may come late
            device.wire = None

    def _pend(self, device: Device) -> None:
        if not self.int13.silences(device):
            self._pending[self.drives.index(device)] = True
            self._update_line()

    def _update_line(self) -> None:
        level = self._pending[self._selected] and not self._control & NIEN
        if level and not self._line.level:
            self.bus_master.interrupt()
        self._line.set(level)

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The channel, its bus master and its drives."""
        return {
            "selected": self._selected,
            "control": self._control,
            "pending": list(self._pending),
            "bus_master": self.bus_master.save(self.drives),
            "int13": self.int13.save(),
            "drives": [None if drive is None else drive.save() for drive in self.drives],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; the same kinds of drives are attached. Raises `ValueError` if not.

        What the disks were doing is begun again.
        """
        for drive, saved in zip(self.drives, state["drives"], strict=True):
            if (drive is None) != (saved is None):
                raise ValueError(f"IDE channel {self.number}: saved with other drives")
            if drive is not None:
                drive.restore(saved)
        self._selected, self._control = state["selected"], state["control"]
        self._pending = list(state["pending"])
        self.bus_master.restore(state["bus_master"], self.drives)
        self.int13.restore(state["int13"])
        self._line.set(self._pending[self._selected] and not self._control & NIEN)
        for drive in self._attached:
            drive.resume()


class CommandPorts(PortRegion):
    """The Command Block's eight ports. Registers but Data are a byte: wider accesses are as many
    accesses, as on an 8-bit bus.
    """

    size = 8

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._reads: list[ByteRead] = []
        self._writes: list[ByteWrite] = []
        bound = CommandBlock.bind(channel)
        for number in range(self.size):  # those without a handler are plain, and two deep
            access = bound[number]
            self._reads.append(access.read or partial(channel.read_register, number))
            self._writes.append(access.write or partial(channel.write_register, number))

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        if not offset:
            return self._channel.read_data(width)
        if width != 1:
            return sum(self.port_read(offset + at, 1) << 8 * at for at in range(width))
        return self._reads[offset]()

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        if not offset:
            self._channel.write_data(width, value)
        elif width != 1:
            for at in range(width):
                self.port_write(offset + at, 1, value >> 8 * at & 0xFF)
        else:
            self._writes[offset](value & 0xFF)

    def byte_read(self, offset: int) -> ByteRead:
        """The register itself."""
        return self._reads[offset] if offset else super().byte_read(offset)

    def byte_write(self, offset: int) -> ByteWrite:
        """The register itself."""
        return self._writes[offset] if offset else super().byte_write(offset)

    def port_read_string(self, offset: int, width: int, buffer: memoryview) -> None:
        """REP INS."""
        if offset:
            super().port_read_string(offset, width, buffer)
        else:
            self._channel.read_string(width, buffer)

    def port_write_string(self, offset: int, width: int, data: memoryview) -> None:
        """REP OUTS."""
        if offset:
            super().port_write_string(offset, width, data)
        else:
            self._channel.write_string(width, data)


class ControlPorts(PortRegion):
    """The Control Block: its one port is `at` the given offset, the others are nobody's."""

    def __init__(self, channel: Channel, size: int = 1, at: int = 0) -> None:
        self.size, self._at, self.first = size, at, -at
        self._channel = channel
        self.registers = ControlBlock.bind(self)

    def read_AlternateStatus(self) -> int:
        """Status, and nothing else happens."""
        return self._channel.status()

    def write_DeviceControl(self, value: int) -> None:
        """HOB, SRST and nIEN."""
        self._channel.control(value)

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        value = (1 << 8 * width) - 1
        if offset <= self._at < offset + width:
            shift = 8 * (self._at - offset)
            value = value & ~(0xFF << shift) | self.read_AlternateStatus() << shift
        return value

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        if offset <= self._at < offset + width:
            self.write_DeviceControl(value >> 8 * (self._at - offset) & 0xFF)
