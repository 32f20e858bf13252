"""A command on its way to the real drive, and what came back."""

from __future__ import annotations

import logging
from dataclasses import astuple, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from drivebay.ata.command import Aborted, Command, Protocol, keep
from drivebay.ata.device import BUFFER_SIZE
from drivebay.ata.passthrough.cdb import encode
from drivebay.ata.passthrough.sense import Returned, error_of, failed, key_of, registers_of
from drivebay.ata.passthrough.table import BLOCK, Length, Row
from drivebay.ata.passthrough.transport import Answer, Direction
from drivebay.ata.registers import DeviceRegister, Opcode, Status
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi.sense import SenseKey
from drivebay.suspend import blocking

if TYPE_CHECKING:
    from drivebay.ata.passthrough.drive import PassthroughDrive

__all__ = ["Sent"]

log = logging.getLogger("drivebay.ata.passthrough")

SECONDS, LONG_SECONDS = 60.0, 24 * 3600.0
TRIES: Final = 3  # of a command in whose place a unit attention was reported

ERR, BSY, DRQ = int(Status.ERR), int(Status.BSY), int(Status.DRQ)
ANSWERED: Final = int(DeviceRegister.LBA | DeviceRegister.HEAD)
INWARD: Final = (Protocol.PIO_IN, Protocol.DMA_IN)
LOW, HIGH = 3, 5  # the LBA registers of a task file


class Sent(Command):
    """A command for the real drive; `cdb` is what is sent, once.

    Data that crosses the guest's wire in parts is gathered before it is sent, or handed out of what
    came. Raises `Aborted` for a length that cannot be.
    """

    def __init__(self, drive: PassthroughDrive, taskfile: TaskFile, row: Row) -> None:
        self._drive, self._taskfile = drive, taskfile
        self.length = length_of(row, taskfile, drive.sector_size)
        if self.length > drive.max_transfer:
            raise Aborted(why=f"{self.length} bytes: {drive.max_transfer} at most")
        if not self.length:  # a firmware download may have nothing to download
            row = replace(row, protocol=Protocol.NON_DATA, length=Length.NONE)
        self._row, self.protocol = row, row.protocol
        self.interrupts_at_end = row.protocol is not Protocol.PIO_IN
        multiple = drive.multiple if row.multiple else 1
        if row.protocol in (Protocol.PIO_IN, Protocol.PIO_OUT):
            sector = drive.sector_size if row.length is Length.SECTORS else BLOCK
            self.block = self.unit = sector * multiple
            if not self.block or BUFFER_SIZE % self.block:
                raise Aborted(why=f"DRQ blocks of {multiple} sectors")
        self.cdb = encode(
            row, taskfile, sector=drive.sector_size, multiple=multiple, short=drive.short
        )
        self.received = bytearray()
        self._data = bytearray()  # what came, if it is handed out in parts
        # As they were sent: a guest may write registers at any time.
        self._opcode, self._count, self._start = taskfile.command, taskfile.count, taskfile.lba48
        self._sent = False  # and answered
        self._returned: Returned | None = None
        self._failure: Aborted | None = None

    # -- data ------------------------------------------------------------------------------------

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Move a part; all at once goes straight between the guest's memory and the drive."""
        inward = self.protocol in INWARD
        if byte_length(buffers) == self.length:
            await self._send(buffers)
            if inward:
                self._show(buffers)
        elif inward:
            if not self._sent:
                self._data = bytearray(self.length)
                await self._send([memoryview(self._data)])
                self._show([memoryview(self._data)])
            scatter(buffers, memoryview(self._data)[offset : offset + byte_length(buffers)])
        else:
            keep(self.received, offset, buffers)

    async def finish(self) -> None:
        """Send it, if its data has not."""
        if not self._sent:
            await self._send([memoryview(self.received)] if self.length else [])

    def _show(self, buffers: Buffers) -> None:
        """IDENTIFY DEVICE data is not all for the guest."""
        if self._opcode == Opcode.IDENTIFY_DEVICE:
            scatter(buffers, memoryview(self._drive.show(b"".join(buffers))))

    # -- sending ---------------------------------------------------------------------------------

    async def _send(self, buffers: Buffers) -> None:
        """Send it and take in the answer. Raises `Aborted` if it has failed, now or before: PIO
        asks for less after a failure, but nothing is sent twice.
        """
        if self._failure is None:
            answer = await blocking(partial(self._execute, buffers))
            self._failure = self._judge(answer)
        if self._failure is not None:
            raise self._failure
        self._sent = True
        if self._opcode == Opcode.SET_MULTIPLE_MODE:
            self._drive.multiple = self._count & 0xFF

    def _execute(self, buffers: Buffers) -> Answer | None:
        """Send it, on a thread that may block; None if there is no answer."""
        direction: Direction = "none"
        if self.length:
            direction = "in" if self.protocol in INWARD else "out"
        seconds = LONG_SECONDS if self._row.hours else SECONDS
        try:
            for _ in range(TRIES):
                answer = self._drive.transport.execute(self.cdb, direction, buffers, seconds)
                if key_of(answer[1])[0] != SenseKey.UNIT_ATTENTION:
                    break
        except OSError as error:
            self._drive.guest_log.warning("%s [%s]: %s", self._row.name, self.cdb.hex(" "), error)
            return None
        log.debug("%s [%s] -> %s", self._row.name, self.cdb.hex(" "), Shown(answer))
        return answer

    def _judge(self, answer: Answer | None) -> Aborted | None:
        """How it has failed, or None."""
        if answer is None:
            return Aborted(why="the drive cannot be reached")
        status, sense, residual = answer
        returned = self._returned = registers_of(sense)
        if failed(status, sense, self.protocol is Protocol.PIO_IN):
            return Aborted(error_of(sense), str(Shown(answer)))
        if self._row.tells and (returned is None or not returned.whole):
            return Aborted(why="the answer came without its registers")
        if residual:
            return Aborted(why=f"{residual} of {self.length} bytes were not moved")
        return None

    # -- the end ---------------------------------------------------------------------------------

    def ended(self, offset: int, failure: Exception | None) -> int:
        """The registers that the drive left become the guest's, Status and Error too."""
        returned, taskfile = self._returned, self._taskfile
        if returned is None:
            return super().ended(offset, failure)
        self._drive.ready = returned.status & ~(ERR | BSY | DRQ)
        taskfile.device = taskfile.device & ~ANSWERED | returned.device & ANSWERED
        taskfile.count = returned.count
        if returned.lba is not None:
            taskfile.registers[LOW : HIGH + 1] = returned.lba
            if self._row.ext and not returned.whole:
                taskfile.lba48 = _nearest(self._start, taskfile.lba48)
        return returned.error if failure is None else super().ended(offset, failure)

    def save(self) -> dict[str, Any]:
        """What came of it, if it was answered; else it is sent again."""
        returned = None if self._returned is None else list(astuple(self._returned))
        return {"sent": self._sent, "data": bytes(self._data), "returned": returned}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        if state["sent"]:
            self._sent, self._data = True, bytearray(state["data"])
            returned = state["returned"]
            self._returned = None if returned is None else Returned(*returned)


class Shown:
    """An answer as a person reads it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __str__(self) -> str:
        status, sense, residual = self._answer
        words = [f"status {status:02x}"]
        if sense:
            words.append("sense " + "/".join(f"{part:02x}" for part in key_of(sense)))
        returned = registers_of(sense)
        if returned is not None:
            words.append(f"registers {returned.status:02x}/{returned.error:02x}")
        if residual:
            words.append(f"{residual} bytes short")
        return ", ".join(words)


def length_of(row: Row, taskfile: TaskFile, sector: int) -> int:
    """Bytes that the command moves on a drive with sectors of `sector` bytes. Raises `Aborted` for
    none where there must be some.
    """
    upper, count = (0x10000, taskfile.count) if row.ext else (0x100, taskfile.count & 0xFF)
    match row.length:
        case Length.NONE:
            return 0
        case Length.ONE:
            return BLOCK
        case Length.SECTORS:
            return (count or upper) * sector
        case Length.LBA_LOW:
            return ((taskfile.lba_low & 0xFF) << 8 | count) * BLOCK
        case Length.BLOCKS:
            if not count:
                raise Aborted(why="no blocks")
            return count * BLOCK


def _nearest(start: int, lba: int) -> int:
    """The first address from `start` on that ends like `lba`: fixed sense has its lower half."""
    end = lba & 0xFFFFFF
    found = start & ~0xFFFFFF | end
    return found if found >= start else found + (1 << 24)
