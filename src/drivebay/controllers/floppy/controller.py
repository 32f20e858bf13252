"""The controller: its registers, and a command's way through them (82077AA sections 2 to 5).

::

    COMMAND: an opcode, its parameters -> EXECUTE -> RESULT -> COMMAND
                                          |     ^
                          DATA_IN, DATA_OUT, a sector at a time, where data go by the FIFO
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from drivebay.controllers.floppy.commands import COMMANDS, Command, invalid
from drivebay.controllers.floppy.company import Company, Refused
from drivebay.controllers.floppy.drive import FloppyDrive
from drivebay.controllers.floppy.registers import (
    Configuration,
    ConfigurationControl,
    DataRate,
    DataRateSelect,
    DigitalInput,
    DigitalOutput,
    InterruptCode,
    MainStatus,
    Opcode,
    Perpendicular,
    Status0,
    Status1,
    TapeDrive,
)
from drivebay.controllers.floppy.state import DRIVES, NO_FIFO, Phase, Settings
from drivebay.controllers.floppy.transfer import (
    MOST_SECTORS,
    Host,
    Modifiers,
    Part,
    Select,
    Transfer,
)
from drivebay.controllers.floppy.transfers import TRANSFERS
from drivebay.disk.contract import Buffers, Disk, Operation, byte_length
from drivebay.disk.errors import DiskError, IoError
from drivebay.platform.dma import DmaChannel
from drivebay.platform.engine import Engine, Task
from drivebay.platform.interrupts import Line
from drivebay.platform.logs import RationedLog
from drivebay.platform.observer import InFlight, Tap

__all__ = ["FloppyController", "Phase", "Settings"]

guest_log = RationedLog(logging.getLogger(__name__))

POWER_ON: Final = int(DigitalOutput.DmaGate | DigitalOutput.NotReset)
"""DOR as a PC's firmware finds it: out of reset, and nothing to interrupt for."""
NOT_RESET, GATE = int(DigitalOutput.NotReset), int(DigitalOutput.DmaGate)
RQM, DIO, NON_DMA, BUSY = (
    int(bit) for bit in (MainStatus.RQM, MainStatus.DIO, MainStatus.NonDma, MainStatus.Busy)
)
MODIFIERS: Final = int(Modifiers.MT | Modifiers.MFM | Modifiers.SK)
EN, OR, MA = int(Status1.EN), int(Status1.OR), int(Status1.MA)
CHANGED, UNDRIVEN = int(DigitalInput.DiskChange), 0x7F
POLLED: Final = int(Status0.of(IC=InterruptCode.POLLING))
ND: Final = 1  # of SPECIFY's second parameter
BUG: Final = IoError(5, "floppy")


class FloppyController:
    """An 82077AA with up to four drives. `dma` is its channel, `line` its interrupt.

    A `lenient` one is as QEMU's, for whose tests machines are made: a disk turns without its motor
    and is read at any rate; the head of an empty drive stays where it is; and where the DMA gate is
    shut, interrupts come all the same, data go by the FIFO, and their last byte is as good as TC.
    """

    def __init__(
        self, engine: Engine, dma: DmaChannel, line: Line, *, lenient: bool = False
    ) -> None:
        self._engine, self._dma, self._line = engine, dma, line
        self.lenient = lenient
        self.drives: list[FloppyDrive | None] = [None] * DRIVES
        self.tap: Tap | None = None
        """Shown the bytes of a command, and those of its result."""
        self.company = Company(engine)
        """May meddle with the same."""
        self._since = 0.0
        self.settings = Settings()
        self._dor = POWER_ON
        self._tape = 0
        self._rate = int(DataRate.KBPS_250)
        self._phase = Phase.COMMAND
        self._bytes = b""  # of the command
        self._result = b""
        self._transfer: Transfer | None = None
        self._part: Part | None = None
        self._buffer = bytearray()  # of a sector that goes by the FIFO
        self._position = 0  # in it, or in the result
        self._interrupting = False
        self.pending: dict[int, int] = {}  # ST0 by drive, for SENSE INTERRUPT STATUS
        self._fifo = False  # the data of this command go by the FIFO
        self._task: Task | None = None
        self._running = False
        self._comes_up = False  # out of reset, when the disk has let go

    # -- drives ----------------------------------------------------------------------------------

    def attach(self, unit: int, drive: FloppyDrive) -> None:
        """Put `drive` on the cable. Raises `ValueError` if one is there."""
        if self.drives[unit] is not None:
            raise ValueError(f"there is a floppy drive {unit}")
        self.drives[unit] = drive

    def detach(self, unit: int) -> FloppyDrive | None:
        """Pull a drive; what it was doing has failed."""
        drive = self.drives[unit]
        self._abandon(unit)
        self.drives[unit] = None
        return drive

    def insert(self, unit: int, disk: Disk) -> None:
        """Put a disk into a drive. Raises `InvalidInput` if it does not fit."""
        drive = self.drives[unit]
        assert drive is not None
        self._abandon(unit)
        drive.insert(disk)

    def eject(self, unit: int) -> Disk | None:
        """Take the disk out of a drive; what the drive was doing has failed."""
        drive = self.drives[unit]
        assert drive is not None
        self._abandon(unit)
        return drive.eject()

    def _abandon(self, unit: int) -> None:
        transfer = self._transfer
        if transfer is not None and transfer.unit == unit:
            self._forget()
            transfer.fail(MA)
            self._finish(transfer)

    def finds_marks(self, unit: int, mfm: bool) -> bool:
        """Whether address marks come by: the disk turns, and is read as it was written."""
        drive = self.drives[unit]
        if drive is None or drive.medium is None:
            return False
        turns = DigitalOutput(self._dor).motor_on(unit)
        return self.lenient or (turns and mfm and self._rate in drive.medium.rates)

    def step(self, unit: int, by: int) -> None:
        """Step a head."""
        drive = self.drives[unit]
        if drive is not None and not (self.lenient and drive.disk is None):
            drive.step(by)

    def seek(self, unit: int, cylinder: int) -> None:
        """Step a head from where it is believed to be."""
        self.step(unit, cylinder - self.settings.cylinders[unit])
        self.settings.cylinders[unit] = cylinder

    # -- registers -------------------------------------------------------------------------------

    def read_DigitalOutput(self) -> int:
        """As written."""
        return self._dor

    def write_DigitalOutput(self, value: int) -> None:
        """Motors, drive, the gate; and the reset, for as long as its bit is 0."""
        before, self._dor = self._dor, value
        if not value & NOT_RESET and before & NOT_RESET:
            self._software_reset()
        elif value & NOT_RESET and not before & NOT_RESET:
            self._come_up()
        self._update_line()

    def read_TapeDrive(self) -> int:
        """As written; the other bits are not driven."""
        return self._tape | ~TapeDrive.TapeSelect & 0xFF

    def write_TapeDrive(self, value: int) -> None:
        """Which drive is a tape."""
        self._tape = value & TapeDrive.TapeSelect

    def read_MainStatus(self) -> int:
        """Whose turn it is."""
        if not self._ready:
            return 0
        phase = self._phase
        if phase is Phase.COMMAND:
            return RQM | BUSY if self._bytes else RQM
        if phase is Phase.RESULT:
            return RQM | DIO | BUSY
        if phase is Phase.DATA_IN:
            return RQM | DIO | NON_DMA | BUSY
        if phase is Phase.DATA_OUT:
            return RQM | NON_DMA | BUSY
        return BUSY | NON_DMA if self._fifo else BUSY

    def write_DataRateSelect(self, value: int) -> None:
        """The rate, and a reset that ends by itself."""
        self._rate = value & DataRateSelect.Rate
        if value & DataRateSelect.SoftwareReset and self._dor & NOT_RESET:
            self._software_reset()
            self._come_up()

    def read_DigitalInput(self) -> int:
        """The change line of the drive that is selected, which it is by its motor, too."""
        unit = self._dor & DigitalOutput.DriveSelect
        drive = self.drives[unit]
        selected = self.lenient or DigitalOutput(self._dor).motor_on(unit)
        changed = drive is not None and drive.changed and selected
        return (CHANGED if changed else 0) | UNDRIVEN

    def write_ConfigurationControl(self, value: int) -> None:
        """The rate."""
        self._rate = value & ConfigurationControl.Rate

    # -- the FIFO --------------------------------------------------------------------------------

    def read_Fifo(self) -> int:
        """Data, or a byte of the result."""
        if self._phase is Phase.DATA_IN:
            value = self._buffer[self._position]
            self._moved(1)
            return value
        if self._phase is not Phase.RESULT or not self._ready:
            return 0
        value = self._result[self._position]
        self._position += 1
        if self._position == len(self._result):
            self._idle()
            self._interrupt(False)
        return value

    def write_Fifo(self, value: int) -> None:
        """Data, or a byte of a command. Bytes at other times are lost."""
        if self._phase is Phase.DATA_OUT:
            self._buffer[self._position] = value
            self._moved(1)
        elif self._phase is Phase.COMMAND and self._ready:
            self._bytes += bytes((value,))
            command = COMMANDS.get(self._bytes[0])
            if command is None or len(self._bytes) > command.parameters:
                self._execute(command)

    def read_fifo(self, buffer: memoryview) -> None:
        """As many reads as `buffer` has bytes."""
        while buffer:
            if self._phase is Phase.DATA_IN:
                piece = memoryview(self._buffer)[self._position : self._position + len(buffer)]
                size = len(piece)
                buffer[:size] = piece
                piece.release()
                self._moved(size)
            elif self._phase is Phase.RESULT and self._ready:
                size, buffer[0] = 1, self.read_Fifo()
            else:
                buffer[:] = bytes(len(buffer))
                return
            buffer = buffer[size:]

    def write_fifo(self, data: memoryview) -> None:
        """As many writes as `data` has bytes."""
        while data:
            if self._phase is Phase.DATA_OUT:
                size = min(len(self._buffer) - self._position, len(data))
                self._buffer[self._position : self._position + size] = data[:size]
                self._moved(size)
            elif self._phase is Phase.COMMAND and self._ready:
                size = 1
                self.write_Fifo(data[0])
            else:
                return
            data = data[size:]

    def _moved(self, size: int) -> None:
        """So many bytes of a sector went by."""
        self._position += size
        if self._position == len(self._buffer):
            self._interrupt(False)
            if self._phase is Phase.DATA_IN:
                self._passed(tc=False)
            self._phase = Phase.EXECUTE
            self._run()

    # -- commands --------------------------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        """Out of reset; a reset lasts until the disk has let go of what it was doing."""
        return bool(self._dor & NOT_RESET) and (self._task is None or self._transfer is not None)

    def _execute(self, command: Command | None) -> None:
        opcode, parameters = self._bytes[0], self._bytes[1:]
        if self.tap is not None:
            self.tap.began(0, 0, self._bytes)
        if command is None:
            guest_log.warning("floppy: no command %#04x", opcode)
        elif command.opcode is not Opcode.SENSE_INTERRUPT_STATUS:
            self._interrupt(False)
        handler = invalid if command is None else command.handler

        def act() -> None:
            result = handler(self, opcode, parameters)
            if result is not None:
                self.company.end(result, self._show)

        def refuse(why: Refused) -> None:
            select = Select(parameters[0])
            self.finish(select.DS, select.HDS, why.st1, why.st2, parameters[1:5].ljust(4, b"\0"))

        self._phase = Phase.EXECUTE
        self.company.begin(0, self._bytes, act, refuse)

    def _show(self, result: bytes) -> None:
        if self.tap is not None:
            self.tap.ended(0, 0, result)
        self._idle()
        if result:
            self._phase, self._result = Phase.RESULT, result

    def _idle(self) -> None:
        self._phase, self._bytes, self._result, self._position = Phase.COMMAND, b"", b"", 0

    def in_flight(self) -> Iterator[InFlight]:
        """The command under way, if there is one."""
        if self._transfer is not None:
            yield InFlight(0, 0, self._bytes, self._since)

    def seek_ended(self, unit: int, status: int) -> None:
        """SENSE INTERRUPT STATUS may ask for `status` now: not every driver has asked four times
        after the reset.
        """
        polled = [each for each, said in self.pending.items() if said & POLLED == POLLED]
        for each in polled:
            del self.pending[each]
        self.pending[unit] = status | unit
        self._interrupt(True)

    def sense(self) -> bytes:
        """ST0 and PCN of the first drive that has something to say; empty if none has."""
        if not self.pending:
            return b""
        unit = next(iter(self.pending))
        status = self.pending.pop(unit)
        # Of the four that a reset leaves only the first interrupts.
        self._interrupt(any(other & POLLED != POLLED for other in self.pending.values()))
        return bytes((status, self.settings.cylinders[unit]))

    def finish(self, unit: int, head: int, st1: int, st2: int, where: bytes) -> None:
        """A command has ended; the result is to be read."""
        code = InterruptCode.ABNORMAL if st1 else InterruptCode.NORMAL
        st0 = Status0.of(IC=code, H=head, DS=unit)
        self.company.end(bytes((st0, st1, st2)) + where, self._tell)

    def _tell(self, result: bytes) -> None:
        self._show(result)
        self._interrupt(True)

    # -- transfers -------------------------------------------------------------------------------

    def begin(self, transfer: Transfer) -> None:
        """Begin a command on the disk."""
        unit, drive = transfer.unit, self.drives[transfer.unit]
        self.settings.last_sector = transfer.last_sector
        self._transfer, self._phase, self._since = transfer, Phase.EXECUTE, self._engine.now
        self._buffer, self._position = bytearray(), 0
        shut = self.lenient and not self._dor & GATE
        by_fifo = shut or bool(self.settings.specify[1] & ND)
        self._fifo = by_fifo and transfer.host is not Host.WAITS
        if drive is None:
            transfer.fail(MA)
        else:
            if self.settings.configuration & Configuration.EIS and transfer.cylinder is not None:
                self.seek(unit, transfer.cylinder)
            transfer.begin(drive, self.finds_marks(unit, transfer.mfm))
        self._run()

    def _run(self) -> None:
        """Go on as long as nothing waits."""
        if self._running:  # the loop below goes on
            return
        self._running = True
        try:
            while self._phase is Phase.EXECUTE and self._task is None:
                if self._transfer is None:  # it has ended, and nobody is told
                    break
                self._step(self._transfer)
        finally:
            self._running = False

    def _step(self, transfer: Transfer) -> None:
        """The next part, or the end."""
        drive = self.drives[transfer.unit]
        most = 1 if self._fifo or transfer.alone else MOST_SECTORS
        part = None if transfer.over or drive is None else transfer.part(drive, most)
        if part is None or drive is None:
            if transfer.dirty and drive is not None and drive.disk is not None:
                self._start(transfer, drive.disk.flush(), partial(self._settled, transfer))
            else:
                self._finish(transfer)
            return
        if transfer.host is Host.WAITS:
            buffers: Buffers = []
        elif self._fifo:
            if transfer.host is Host.BRINGS and self._position < part.size:
                self._exchange(Phase.DATA_OUT, part)
                return
            if transfer.host is Host.TAKES:
                self._buffer = bytearray(part.size)
            buffers = [memoryview(self._buffer)]
        else:
            gate = self._dor & GATE
            buffers = self._dma.memory(part.size, transfer.host is Host.TAKES) if gate else []
            size = byte_length(buffers)
            fitted = transfer.fit(part, size) if size else None
            if fitted is None:
                transfer.fail(OR)
                return
            part = fitted
        self._part = part
        self._start(
            transfer,
            transfer.act(drive, part, buffers),
            partial(self._acted, transfer, drive, part),
        )

    def _exchange(self, phase: Phase, part: Part) -> None:
        """Let the host move a sector through the FIFO."""
        if phase is Phase.DATA_OUT:
            self._buffer = bytearray(part.size)
        self._phase, self._part, self._position = phase, part, 0
        self._interrupt(True)

    def _start(
        self,
        transfer: Transfer,
        operation: Operation,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        """Let the disk do something; the command goes on after `ended`."""

        def done(_result: Any, error: BaseException | None) -> None:
            self._task = None
            if transfer is self._transfer:
                ended(error)
                self._run()
            elif self._comes_up:
                self._come_up()

        task = self._engine.start(operation, done)
        if task is not None:
            self._task = task

    def _settled(self, transfer: Transfer, error: BaseException | None) -> None:
        """What was written is stable, or is lost."""
        transfer.dirty = False
        if error is not None:
            transfer.lost(self._failure(transfer, error))

    def _failure(self, transfer: Transfer, error: BaseException) -> DiskError:
        """Why the disk did not do it; a bug of ours is told as an error of the disk."""
        if not isinstance(error, DiskError):
            guest_log.error("floppy: unexpected error", exc_info=error)
            return BUG
        guest_log.warning("floppy %d: %s", transfer.unit, error)
        return error

    def _acted(
        self, transfer: Transfer, drive: FloppyDrive, part: Part, error: BaseException | None
    ) -> None:
        """The disk has done its part, or has not."""
        if error is not None:
            left = transfer.refused(drive, part, self._failure(transfer, error))
            if left is None:
                return
            part = self._part = left
        if transfer.host is Host.TAKES and self._fifo:
            self._exchange(Phase.DATA_IN, part)
        else:
            by_dma = transfer.host is not Host.WAITS and not self._fifo
            self._passed(tc=by_dma and self._dma.moved(part.size))

    def _passed(self, tc: bool) -> None:
        transfer, part = self._transfer, self._part
        assert transfer is not None
        assert part is not None
        drive = self.drives[transfer.unit]
        assert drive is not None
        self._buffer, self._position = bytearray(), 0
        transfer.passed(drive, part, tc)

    def _finish(self, transfer: Transfer) -> None:
        if self.lenient and self._fifo:
            transfer.st1 &= ~EN
        self._transfer = self._part = None
        self._buffer = bytearray()
        st1, st2, where = transfer.st1, transfer.st2, transfer.result
        self.finish(transfer.unit, transfer.st0_side, st1, st2, where)

    def _forget(self) -> None:
        """The command under way is over. What the disk cannot be called back from goes on."""
        self.company.leave()
        self._transfer = self._part = None
        self._buffer = bytearray()
        if self._task is not None:
            self._task.cancel()

    # -- resets ----------------------------------------------------------------------------------

    def _software_reset(self) -> None:
        """DOR or DSR (sections 2.1.3, 2.1.6 and 5.2.9)."""
        settings = self.settings
        self._stop()
        if not settings.lock:
            settings.configuration, settings.precompensation = NO_FIFO, 0
        settings.perpendicular &= int(Perpendicular.Drives)

    def _come_up(self) -> None:
        """The drives are polled: one interrupt, and four to ask for."""
        self._comes_up = self._task is not None
        if not self._comes_up and not self.settings.configuration & Configuration.POLL:
            self.pending = {unit: POLLED | unit for unit in range(DRIVES)}
            self._interrupt(True)

    def reset(self) -> None:
        """Power-on, or the machine's reset. The heads stay where they are."""
        self._stop()
        self.settings = Settings()
        self._dor, self._tape, self._rate = POWER_ON, 0, int(DataRate.KBPS_250)
        self._update_line()

    def _stop(self) -> None:
        """Whatever is going on."""
        self._idle()
        self._forget()
        self.pending.clear()
        self._comes_up = False
        self._interrupt(False)

    def _interrupt(self, level: bool) -> None:
        self._interrupting = level and not self.company.quiet
        self._update_line()

    def _update_line(self) -> None:
        gate = self.lenient or bool(self._dor & GATE)
        self._line.set(self._interrupting and gate)

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on. The DMA channel saves itself."""
        transfer = self._transfer
        return {
            "settings": asdict(self.settings),
            "dor": self._dor,
            "tape": self._tape,
            "rate": self._rate,
            "phase": self._phase.value,
            "fifo": self._fifo,
            "comes_up": self._comes_up,
            "bytes": self._bytes,
            "result": self._result,
            "buffer": bytes(self._buffer),
            "position": self._position,
            "part": None if self._part is None else list(self._part),
            "interrupting": self._interrupting,
            "pending": [list(each) for each in self.pending.items()],
            "transfer": None if transfer is None else transfer.save(),
            "drives": [None if drive is None else drive.save() for drive in self.drives],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; drives with the same media are attached. Raises `ValueError` if
        others are. What the disk was doing is begun again.
        """
        for drive, saved in zip(self.drives, state["drives"], strict=True):
            if (drive is None) != (saved is None):
                raise ValueError("floppy: saved with other drives")
            if drive is not None:
                drive.restore(saved)
        self.settings = Settings(**state["settings"])
        self._dor, self._tape, self._rate = state["dor"], state["tape"], state["rate"]
        self._phase, self._fifo = Phase(state["phase"]), state["fifo"]
        self._bytes, self._result = state["bytes"], state["result"]
        self._buffer, self._position = bytearray(state["buffer"]), state["position"]
        self._part = None if state["part"] is None else Part(*state["part"])
        self.pending = dict(state["pending"])
        self._transfer = None
        if state["transfer"] is not None:
            opcode = self._bytes[0]
            self._transfer = TRANSFERS[opcode & ~MODIFIERS](opcode, self._bytes[1:])
            self._transfer.restore(state["transfer"])
        self._interrupt(state["interrupting"])
        if state["comes_up"]:
            self._come_up()
        self._run()
