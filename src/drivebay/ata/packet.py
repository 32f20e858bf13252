"""A packet device: the bridge from ATA's PACKET command to a SCSI logical unit (ATA/ATAPI-6 9.8).

PACKET first takes 12 bytes of CDB as a DRQ block, then goes on as the command in them. The count
register says what a DRQ block is (interrupt reason), LBA mid and high how long: at most what the
host allowed when it wrote PACKET.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from drivebay.ata.command import (
    ABRT,
    Aborted,
    Action,
    Command,
    DataIn,
    DataOut,
    Protocol,
    keep,
)
from drivebay.ata.device import Device, Reset
from drivebay.ata.disk import Diagnostic
from drivebay.ata.escorted import AtaEscort, Escorted
from drivebay.ata.identify import checksummed
from drivebay.ata.identify_packet import identify_packet
from drivebay.ata.registers import Feature, InterruptReason, Opcode, PacketFeatures
from drivebay.ata.settings import Power, transfer_mode
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.contract import Buffers
from drivebay.platform.engine import Engine
from drivebay.scsi.cdb import RequestSense
from drivebay.scsi.opcodes import Opcode as ScsiOpcode
from drivebay.scsi.sense import (
    INTERNAL_TARGET_FAILURE,
    NO_SENSE,
    CheckCondition,
    Sense,
    SenseKey,
)
from drivebay.scsi.server import request_sense
from drivebay.scsi.task import Direction, LogicalUnit, Task

__all__ = ["PACKET_SIGNATURE", "PacketDevice"]

PACKET_SIGNATURE: Final = 0xEB14
PACKET_SIZE: Final = 12
MAX_BYTE_COUNT: Final = 0xFFFE
DEFAULT_MODES: Final[dict[str, int | None]] = {"ultra_dma": 5, "multiword_dma": None}

IO, CD = int(InterruptReason.IO), int(InterruptReason.CD)
DMA, OVERLAP = int(PacketFeatures.DMA), int(PacketFeatures.OVL)


class PacketDevice(Device):
    """An ATAPI drive around `unit`, a DVD drive for instance.

    `serial` is up to 20, `model` 40 and `firmware` 8 ASCII characters.
    """

    signature = PACKET_SIGNATURE
    ready_after_reset = 0  # DRDY comes with the first command (section 9.12)

    def __init__(
        self,
        unit: LogicalUnit,
        engine: Engine,
        *,
        model: str = "drivebay DVD-ROM",
        serial: str = "",
        firmware: str = "1.0",
    ) -> None:
        self.unit = unit
        self.model, self.serial, self.firmware = model, serial, firmware
        self._sense = NO_SENSE  # of the last packet, for REQUEST SENSE
        self._cdb = b""
        self.modes = dict(DEFAULT_MODES)
        """The transfer modes that are selected: one of them is, by SET FEATURES."""
        self._asleep = False
        super().__init__(engine)

    # -- commands --------------------------------------------------------------------------------

    def execute(self) -> None:
        """Begin a command. DEVICE RESET is taken at any time (section 9.11) but during a reset."""
        if self._held_in_reset:
            return
        if self.taskfile.command == Opcode.DEVICE_RESET:
            self.reset(Reset.DEVICE)
            self.release()
        elif not self._asleep:
            self._cdb = b""
            super().execute()

    def parse(self, taskfile: TaskFile) -> Command:
        """The few ATA commands of a packet device (ACS-3 table 4)."""
        opcode = taskfile.command
        match opcode:
            case Opcode.PACKET:
                return self._packet(taskfile)
            case Opcode.IDENTIFY_PACKET_DEVICE:
                return DataIn(checksummed(identify_packet(self)))
            case Opcode.IDENTIFY_DEVICE | Opcode.READ_SECTORS:
                return Misdirected(self)
            case Opcode.EXECUTE_DEVICE_DIAGNOSTIC:
                return Diagnostic(self)
            case Opcode.SET_FEATURES if taskfile.features & 0xFF == Feature.SET_TRANSFER_MODE:
                return Action(partial(self.modes.update, transfer_mode(taskfile.count & 0xFF)))
            case Opcode.CHECK_POWER_MODE:
                return Action(partial(setattr, taskfile, "count", int(Power.ACTIVE)))
            case Opcode.SLEEP:
                return Action(partial(setattr, self, "_asleep", True))
            case Opcode.IDLE_IMMEDIATE | Opcode.STANDBY_IMMEDIATE | Opcode.FLUSH_CACHE:
                return Action()
        raise Aborted(why="not a packet device's command")

    def _packet(self, taskfile: TaskFile) -> Command:
        if taskfile.features & OVERLAP:
            raise Aborted(why="overlapped packets are not implemented")
        return _Packet(self, taskfile)

    def unpack(self, taskfile: TaskFile, cdb: bytes, resumed: bool = False) -> Command:
        """The command in a packet. Raises `Aborted` with the sense key if the unit refuses it."""
        self._cdb = self.issued.packet = cdb
        if cdb[0] == ScsiOpcode.REQUEST_SENSE and self._sense != NO_SENSE:
            task = request_sense(RequestSense.unpack(cdb), self._sense, self._forget_sense)
        else:
            try:
                task = self.unit.execute(cdb, resumed=resumed)
            except CheckCondition as condition:
                raise self.checked(condition.sense) from condition
            self._forget_sense()
        execution = _Execution(self, taskfile, task)
        escort = None if resumed else super().escort(self.issued)
        return execution if escort is None else Escorted(escort, execution)

    def escort(self, taskfile: TaskFile) -> AtaEscort | None:
        """Nobody goes with a packet before it is known what is in it."""
        return None if taskfile.command == Opcode.PACKET else super().escort(taskfile)

    def _forget_sense(self) -> None:
        self._sense = NO_SENSE

    def checked(self, sense: Sense) -> Aborted:
        """Keep `sense` for REQUEST SENSE. The Error register shows its key (section 8.23.6)."""
        self._sense = sense
        aborts = sense.key in (SenseKey.ILLEGAL_REQUEST, SenseKey.ABORTED_COMMAND)
        return Aborted(sense.key << 4 | (ABRT if aborts else 0), str(CheckCondition(sense)))

    def describe(self, issued: TaskFile) -> str:
        """A packet is told by its CDB."""
        if issued.command != Opcode.PACKET:
            return super().describe(issued)
        known = self._cdb and self._cdb[0] in ScsiOpcode._value2member_map_
        name = ScsiOpcode(self._cdb[0]).name.replace("_", " ") if known else "unknown"
        way = "DMA" if issued.features & DMA else f"limit={issued.lba_mid_high:#x}"
        return f"PACKET {name} [{self._cdb.hex(' ')}] {way}"

    # -- reset and saving ------------------------------------------------------------------------

    def reset_settings(self, reset: Reset) -> None:
        """DEVICE RESET and SRST leave the transfer mode alone (section 9.11)."""
        if reset >= Reset.HARDWARE:
            self.modes = dict(DEFAULT_MODES)
        self._asleep = False
        self._sense = NO_SENSE
        if reset > Reset.DEVICE:
            self.unit.reset()

    def save_command(self) -> dict[str, Any]:
        """The CDB, once it is known."""
        return {"cdb": self._cdb}

    def restore_command(self, state: dict[str, Any]) -> Command:
        """The packet, or the command that was in it."""
        if state["cdb"]:
            return self.unpack(self.taskfile, state["cdb"], resumed=True)
        return super().restore_command(state)

    def save_settings(self) -> dict[str, Any]:
        """Modes, the sense that waits, and the unit."""
        return {
            "modes": dict(self.modes),
            "asleep": self._asleep,
            "sense": list(self._sense),
            "unit": self.unit.save(),
        }

    def restore_settings(self, state: dict[str, Any]) -> None:
        """Take what `save_settings` gave."""
        self.modes, self._asleep = dict(state["modes"]), state["asleep"]
        key, *rest = state["sense"]
        self._sense = Sense(SenseKey(key), *rest)
        self.unit.restore(state["unit"])


class _Packet(DataOut):
    """PACKET until its 12 bytes are here."""

    block = PACKET_SIZE

    def __init__(self, device: PacketDevice, taskfile: TaskFile) -> None:
        super().__init__(PACKET_SIZE)
        self._device, self._taskfile = device, taskfile

    def show_block(self, size: int) -> None:
        """A command packet is wanted."""
        self._taskfile.count = CD

    async def finish(self) -> None:
        """Go on as the command in the packet."""
        self.following = self._device.unpack(self._taskfile, bytes(self.received))

    def ended(self, offset: int, failure: Exception | None) -> int:
        """Refused: status."""
        self._taskfile.count = IO | CD
        if failure is not None and not isinstance(failure, Aborted):
            failure = self._device.checked(INTERNAL_TARGET_FAILURE)
        return super().ended(offset, failure)


class _Execution(Command):
    """A SCSI task on an ATA wire. What goes out are parameters, kept until all are here."""

    interrupts_at_start = True

    def __init__(self, device: PacketDevice, taskfile: TaskFile, task: Task) -> None:
        self._device, self._taskfile, self._task = device, taskfile, task
        self.length, self.unit = task.length, task.unit
        self.received = bytearray()
        dma, limit = device.issued.features & DMA, device.issued.lba_mid_high
        if task.direction is Direction.NONE or not task.length:
            return
        inward = task.direction is Direction.IN
        if dma:
            self.protocol = Protocol.DMA_IN if inward else Protocol.DMA_OUT
            return
        self.protocol = Protocol.PIO_IN if inward else Protocol.PIO_OUT
        if not limit:
            raise Aborted(why="a byte count limit of 0")
        self.block = _block(min(limit, MAX_BYTE_COUNT), task)

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Let the unit fill the part."""
        if self._task.direction is Direction.OUT:
            keep(self.received, offset, buffers)
            return
        try:
            await self._task.transfer(offset, buffers)
        except CheckCondition as condition:
            raise self._device.checked(condition.sense) from condition

    async def finish(self) -> None:
        """Let the unit act."""
        try:
            if self.received:
                await self._task.transfer(0, [memoryview(self.received)])
            await self._task.finish()
        except CheckCondition as condition:
            raise self._device.checked(condition.sense) from condition

    def show_block(self, size: int) -> None:
        """Which way the block goes, and how long it is."""
        self._taskfile.count = IO if self._task.direction is Direction.IN else 0
        self._taskfile.lba_mid_high = size

    def ended(self, offset: int, failure: Exception | None) -> int:
        """Status, and the sense key of what failed."""
        self._taskfile.count = IO | CD
        if failure is not None and not isinstance(failure, Aborted):
            failure = self._device.checked(INTERNAL_TARGET_FAILURE)
        return super().ended(offset, failure)


def _block(limit: int, task: Task) -> int:
    """The length of the DRQ blocks but the last: even, and whole blocks of the medium if they fit
    (section 9.8.1).
    """
    if limit >= task.length:
        return task.length
    return limit - limit % task.unit if limit >= task.unit > 1 else max(limit & ~1, 2)


class Misdirected(Command):
    """A disk's command: the signature tells the host whom it talks to (section 9.12)."""

    def __init__(self, device: PacketDevice) -> None:
        self._device = device

    async def finish(self) -> None:
        """Refuse."""
        raise Aborted(why="a packet device")

    def ended(self, offset: int, failure: Exception | None) -> int:
        """ABRT, and the signature."""
        device = self._device.taskfile.device
        self._device.diagnose()
        self._device.taskfile.device = device
        return super().ended(offset, failure)
