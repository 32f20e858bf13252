"""An ATA device: its registers, and the protocol of the command under way.

The device knows no port and no FIS. A `Wire` carries its signals: an IDE channel shows the
registers and moves words or bus-master data, a SATA link makes FISes of the same events. Commands
go their way in phases, each entered from the one before::

    parse -> [FILL -> DATA_IN]*    PIO in: read ahead, then a DRQ block after the other
             [DATA_OUT -> STORE]*  PIO out
             [DMA -> MOVE]*        DMA, in parts as the wire's table allows
          -> FINISH -> idle

In FILL, STORE, MOVE and FINISH the disk works; in the others the host has to do something.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, Protocol

from drivebay.ata.command import Aborted, Command
from drivebay.ata.command import Protocol as DataProtocol
from drivebay.ata.escorted import AtaEscort, AtaObserver, Escorted
from drivebay.ata.registers import Error, Status, name_of
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.contract import Buffers, byte_length
from drivebay.disk.errors import DiskError
from drivebay.platform.engine import Engine, Task
from drivebay.platform.logs import RationedLog
from drivebay.platform.observer import Dropped, InFlight, Tap

__all__ = ["BUFFER_SIZE", "UNQUEUED", "Device", "Phase", "Reset", "SataWire", "Wire"]

log = logging.getLogger("drivebay.ata")
guest_log = RationedLog(log)

BUFFER_SIZE: Final = 1 << 16
"""Bytes that a device reads ahead in PIO, and the largest DRQ block."""

BSY, DRDY, DSC, DRQ, ERR = (
    int(bit) for bit in (Status.BSY, Status.DRDY, Status.DSC, Status.DRQ, Status.ERR)
)
UNQUEUED: Final = 32
PASSED: Final = 0x01
"""The Error register after a reset or a diagnostic: device passed (section 8.9)."""


class Phase(enum.Enum):
    """Where the command under way is."""

    IDLE = "idle"
    FILL = "fill"
    DATA_IN = "data in"
    DATA_OUT = "data out"
    STORE = "store"
    DMA = "dma"
    MOVE = "move"
    FINISH = "finish"


class Reset(enum.IntEnum):
    """What resets a device, from mild to harsh."""

    DEVICE = 0  # DEVICE RESET: packet devices only
    SOFTWARE = 1  # SRST
    HARDWARE = 2  # RESET-, COMRESET
    POWER_ON = 3


class Wire(Protocol):
    """What carries a device's signals. The calls come from inside the device: a wire that wants to
    move the data at once does so when the device's own call has returned.
    """

    def data_block(self, device: Device, interrupt: bool) -> None:
        """DRQ: `device.block` holds data for the host, or waits for it."""

    def dma_request(self, device: Device) -> None:
        """DMARQ: `device.move` takes as much of the command's data as the wire has room for."""

    def ended(self, device: Device, interrupt: bool) -> None:
        """The command has ended, or a reset has: status, error and task file are final."""


class SataWire(Wire, Protocol):
    """A link on which commands can be queued."""

    def dma_setup(self, device: Device, tag: int) -> None:
        """The queued command `tag` wants to move data: the drive's `queue.move` does it."""

    def set_device_bits(self, device: Device, tags: int, interrupt: bool) -> None:
        """The queued commands in the mask `tags` are done. If status has ERR, one has failed and
        the others are given up.
        """


class Device:
    """The protocol common to disks and packet devices. Subclasses say what commands mean."""

    signature = 0x0000
    """LBA mid and high after a reset: what kind of device this is (section 9.12)."""
    ready = DRDY | DSC
    """Status at rest."""
    ready_after_reset = DRDY | DSC

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.wire: Wire | None = None
        self.sata: SataWire | None = None
        """The same wire, if it is a SATA link."""
        self.tap: Tap | None = None
        """Shown a task file, and Status and Error at the end; `UNQUEUED` is the tag of a command
        that has none of its own."""
        self.taskfile = TaskFile()
        self.status = self.ready_after_reset
        self.error = PASSED
        self.observer: AtaObserver | None = None
        """May meddle with what is shown to `tap`."""
        self.block = memoryview(b"")
        """The DRQ block: the host takes it from `position` on, or fills it."""
        self.position = 0
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self.phase = Phase.IDLE
        self.previous = 0
        """The command that ended last."""
        self._command: Command | None = None
        self.issued = TaskFile()
        """The registers as they were when the last command was issued, `since` then."""
        self.since = 0.0
        self._offset = 0  # bytes of data that have been moved for good
        self._filled = 0  # bytes in the buffer,
        self._shown = 0  # of which the host has been shown these
        self._ahead = True
        self._task: Task | None = None
        self._abandoned = False
        self._reset: Reset | None = None
        self._held_in_reset = False
        self.held = self._kept = False  # no command begins; one that has come waits
        self._sign()

    # -- what subclasses say ---------------------------------------------------------------------

    def parse(self, taskfile: TaskFile) -> Command:
        """The command in `taskfile`. Raises `Aborted`."""
        raise NotImplementedError

    def reset_settings(self, reset: Reset) -> None:
        """Bring settings to what they are after `reset`."""

    def save_settings(self) -> dict[str, Any]:
        """What SET FEATURES and the like have changed."""
        return {}

    def restore_settings(self, state: dict[str, Any]) -> None:
        """Take what `save_settings` gave."""

    # -- commands --------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a command or a reset is under way."""
        return self.phase is not Phase.IDLE or self._reset is not None or self._kept

    def execute(self) -> None:
        """The Command register was written: begin what the task file says.

        A command that comes before the last one has ended is ignored.
        """
        if self.busy:
            guest_log.warning("ata: %s while busy: ignored", name_of(self.taskfile.command))
            return
        if self.held:
            self._kept = True
            self.status = self.ready | BSY
            return
        self.issued, self.since = self.taskfile.copy(), self.engine.now
        if self.tap is not None:
            self.tap.began(0, UNQUEUED, self.issued)
        escort = self.escort(self.taskfile)
        if escort is None:
            self._begin(partial(self.parse, self.taskfile))
        else:
            self._begin(partial(Escorted.parse, escort, self.parse))

    def hold(self, held: bool) -> None:
        """While it is held no command begins: one that comes is busy until it is let go."""
        self.held = held
        if self._kept and not held:
            self._kept = False
            self.status = self.ready
            self.execute()

    def escort(self, taskfile: TaskFile) -> AtaEscort | None:
        """Who goes with a command, if anybody does."""
        observer = self.observer
        return None if observer is None else observer.command(0, UNQUEUED, taskfile)

    def _begin(self, parse: Callable[[], Command]) -> None:
        """Parse a command and enter its first phase."""
        self.error = 0
        self._offset = self._filled = self._shown = 0
        self._ahead = True
        self._command = None
        try:
            self._command = parse()
        except Aborted as refusal:
            self._end(refusal)
            return
        except Exception as bug:
            guest_log.error("ata: %s", name_of(self.taskfile.command), exc_info=bug)
            self._end(bug)
            return
        self._go_on()

    def _go_on(self) -> None:
        """Enter the next phase: there is data left, or the command acts."""
        command = self._command
        assert command is not None
        protocol = command.protocol
        if self._offset == command.length:
            if command.acts:
                self._act(Phase.FINISH, command.finish(), self._have_finished)
            else:
                self._end(None)
        elif protocol is DataProtocol.PIO_IN:
            self._fill()
        elif protocol is DataProtocol.PIO_OUT:
            self._show(0, min(command.block, command.length - self._offset), Phase.DATA_OUT)
        else:
            self.phase = Phase.DMA
            self.status = self.ready | DRQ
            if self.wire is not None:
                self.wire.dma_request(self)

    def _act(
        self,
        phase: Phase,
        work: Coroutine[Any, Any, None],
        then: Callable[[Exception | None], None],
    ) -> None:
        """Let the disk work; go on with what came of it, unless there was a reset."""
        self.phase = phase
        self.status = self.ready | BSY
        task = self.engine.start(work, partial(self._acted, then))
        if task is not None:
            self._task = task

    def _acted(
        self, then: Callable[[Exception | None], None], _value: Any, failure: BaseException | None
    ) -> None:
        self._task = None
        if self._reset is not None:
            self._come_up()
        elif self._abandoned:
            self._give_up()
        elif isinstance(failure, Dropped):
            log.debug("%s -> nobody is told", self.describe(self.issued))
        elif failure is None or isinstance(failure, Exception):
            if failure is not None and not isinstance(failure, (DiskError, Aborted)):
                guest_log.error("ata: %s", name_of(self.issued.command), exc_info=failure)
            then(failure)

    def _have_finished(self, failure: Exception | None) -> None:
        command = self._command
        if failure is not None or command is None or command.following is None:
            self._end(failure)
            return
        self._command = command.following
        self._offset = self._filled = self._shown = 0
        self._go_on()

    def _end(self, failure: Exception | None) -> None:
        command, self._command = self._command, None
        interrupt = True
        if command is not None:
            self.error = command.ended(self._offset, failure)
            interrupt = command.interrupts_at_end or failure is not None
            interrupt = interrupt and not command.quiet
        elif failure is not None:
            self.error = failure.bits if isinstance(failure, Aborted) else int(Error.ABRT)
        self.phase = Phase.IDLE
        self.previous = self.issued.command
        self.status = self.ready | (ERR if failure is not None else 0)
        if self.tap is not None:
            self.tap.ended(0, UNQUEUED, (self.status, self.error))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", self._line(failure))
        if self.wire is not None:
            self.wire.ended(self, interrupt)

    def in_flight(self) -> Iterable[InFlight]:
        """The command under way, if there is one."""
        if self._command is not None:
            yield InFlight(0, UNQUEUED, self.issued, self.since)

    def _line(self, failure: Exception | None) -> str:
        """One line on the command that has ended."""
        line = f"{self.describe(self.issued)} -> {self.status:02x}"
        return f"{line}/{self.error:02x} ({failure})" if failure is not None else line

    def describe(self, issued: TaskFile) -> str:
        """The command in `issued` as a person reads it."""
        _, features, count, *_ = (register & 0xFF for register in issued.registers)
        return (
            f"{name_of(issued.command)} features={features:02x} count={count:02x} "
            f"lba={issued.lba28:07x}"
        )

    # -- PIO -------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Read as much ahead as the buffer holds, or block by block once that has failed."""
        command = self._command
        assert command is not None
        size = command.length - self._offset
        room = BUFFER_SIZE if self._ahead else max(command.block, command.unit)
        if size > room:
            size = room - room % command.unit
        self._filled = size
        part = command.transfer(self._offset, [self._buffer[:size]])
        self._act(Phase.FILL, part, self._have_filled)

    def _have_filled(self, failure: Exception | None) -> None:
        command = self._command
        assert command is not None
        if failure is None:
            self._show(0, min(command.block, self._filled), Phase.DATA_IN)
        elif self._ahead and self._filled > max(command.block, command.unit):
            self._ahead = False  # the blocks before the bad one are good
            self._fill()
        else:
            self._end(failure)

    def _show(self, start: int, size: int, phase: Phase) -> None:
        """DRQ: a block of the buffer is the host's."""
        command = self._command
        assert command is not None
        self._shown = start + size
        self.block, self.position = self._buffer[start : start + size], 0
        self.phase = phase
        self.status = self.ready | DRQ
        command.show_block(size)
        if self.wire is not None:
            first_out = phase is Phase.DATA_OUT and self._offset == 0
            interrupt = command.interrupts_at_start or not first_out
            self.wire.data_block(self, interrupt and not command.quiet)

    def block_done(self) -> None:
        """The host has taken or filled the whole block."""
        command = self._command
        if command is None:
            return
        if self.phase is Phase.DATA_OUT:
            part = command.transfer(self._offset, [self.block])
            self._act(Phase.STORE, part, self._have_stored)
        elif self.phase is Phase.DATA_IN:
            self._offset += len(self.block)
            left = self._filled - self._shown
            if left:
                self._show(self._shown, min(command.block, left), Phase.DATA_IN)
            else:
                self._go_on()

    def _have_stored(self, failure: Exception | None) -> None:
        if failure is not None:
            self._end(failure)
            return
        self._offset += len(self.block)
        self._go_on()

    @property
    def ends_with_block(self) -> bool:
        """Whether nothing comes after the block that is shown: the end of PIO data-in."""
        command = self._command
        if command is None or self.phase is not Phase.DATA_IN or command.interrupts_at_end:
            return False
        return self._offset + len(self.block) == command.length

    # -- DMA -------------------------------------------------------------------------------------

    @property
    def moved(self) -> int:
        """Bytes of the command's data that were moved for good."""
        return self._offset

    @property
    def dma_left(self) -> int:
        """Bytes that the command in its DMA phase has left to move, else 0."""
        command = self._command
        if command is None or self.phase is not Phase.DMA:
            return 0
        return command.length - self._offset

    @property
    def dma_unit(self) -> int:
        """What a part must be a multiple of."""
        return self._command.unit if self._command is not None else 1

    @property
    def dma_in(self) -> bool:
        """Whether the data goes to the host."""
        command = self._command
        return command is not None and command.protocol is DataProtocol.DMA_IN

    def move(self, buffers: Buffers) -> None:
        """Move the next part of the data; the wire hears `dma_request` or `ended` afterwards."""
        command = self._command
        assert command is not None and self.phase is Phase.DMA
        part = command.transfer(self._offset, buffers)
        self._act(Phase.MOVE, part, partial(self._have_moved, byte_length(buffers)))

    def _have_moved(self, size: int, failure: Exception | None) -> None:
        if failure is not None:
            self._end(failure)
            return
        self._offset += size
        self._go_on()

    def abandon(self) -> None:
        """The wire moves no more of a DMA command's data: the command ends without a word, as soon
        as the disk can be called back.
        """
        if self.phase is Phase.DMA or self._kept:
            self._give_up()
        elif self.phase is Phase.MOVE:
            self._abandoned = True
            if self._task is not None:
                self._task.cancel()
            else:  # it was never told
                self._give_up()

    def _give_up(self) -> None:
        self._abandoned = self._kept = False
        self._command = None
        self.phase = Phase.IDLE
        self.status = self.ready
        log.debug("%s -> given up", self.describe(self.issued))
        if self.wire is not None:
            self.wire.ended(self, False)

    # -- reset -----------------------------------------------------------------------------------

    def reset(self, reset: Reset) -> None:
        """The reset signal is up: BSY, and nothing of the command under way happens from now on,
        but for a system call that cannot be called back.
        """
        self._reset = max(reset, self._reset or reset)
        self._held_in_reset = True
        self.status = BSY
        if self._task is not None:
            self._task.cancel()
        if self._task is None:
            self._forget()

    def release(self) -> None:
        """The reset signal is down; the wire hears `ended` when the device has come up."""
        self._held_in_reset = False
        self._come_up()

    @property
    def at_rest(self) -> bool:
        """Whether nothing that was begun reaches the host's memory any more."""
        return self._task is None

    @property
    def reaches_memory(self) -> bool:
        """Whether the disk has views of the host's memory now."""
        return self.phase is Phase.MOVE and self._task is not None

    def came_to_rest(self) -> None:
        """Something has ended that a reset may have waited for."""
        self._come_up()

    def _come_up(self) -> None:
        if self._reset is None or self._held_in_reset or not self.at_rest:
            return
        reset, self._reset = self._reset, None
        self._forget()
        self.reset_settings(reset)
        self.diagnose()
        self.status = self.ready_after_reset
        if self.wire is not None:
            self.wire.ended(self, False)

    def _forget(self) -> None:
        """There is no command under way, and no data for the host."""
        self._abandoned = self._kept = False
        self._command = None
        self.phase = Phase.IDLE
        self.block, self.position = memoryview(b""), 0

    def diagnose(self) -> None:
        """Put the signature and a passed diagnostic into the registers (section 9.12)."""
        self._sign()
        self.error = PASSED

    def _sign(self) -> None:
        self.taskfile.count = self.taskfile.lba_low = 1
        self.taskfile.lba_mid_high = self.signature
        self.taskfile.device = 0

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything that a device in the same place must know to go on from here.

        What the disk is doing at this moment is done again by who restores it, so this device must
        not be let go on.
        """
        under_way = self._command is not None
        return {
            "settings": self.save_settings(),
            "taskfile": self.taskfile.save(),
            "issued": self.issued.save(),
            "status": self.status,
            "error": self.error,
            "previous": self.previous,
            "phase": self.phase.value,
            "command": self.save_command() if under_way else None,
            "received": bytes(self._command.received) if self._command is not None else b"",
            "offset": self._offset,
            "buffer": bytes(self._buffer[: max(self._filled, self._shown)]) if under_way else b"",
            "filled": self._filled,
            "shown": self._shown,
            "ahead": self._ahead,
            "block": len(self.block),
            "position": self.position,
            "abandoned": self._abandoned,
            "kept": self._kept,
            "reset": None if self._reset is None else int(self._reset),
            "held": self._held_in_reset,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `save` gave; `resume` then lets the disk work again.

        Raises `ValueError` if the command under way makes no sense here.
        """
        self.restore_settings(state["settings"])
        self.issued = TaskFile.restore(state["issued"])
        self.taskfile = TaskFile.restore(state["issued"])  # of which the command is parsed again
        self._command = None
        if state["command"] is not None:
            try:
                self._command = self.restore_command(state["command"])
            except Aborted as refusal:
                raise ValueError(f"the saved command cannot go on here: {refusal}") from refusal
            self._command.received = bytearray(state["received"])
        self.taskfile.load(state["taskfile"])  # where the command will tell its end
        self.status, self.error = state["status"], state["error"]
        self.previous = state["previous"]
        self.phase = Phase(state["phase"])
        self._offset, self._filled = state["offset"], state["filled"]
        self._shown, self.position = state["shown"], state["position"]
        self._ahead = state["ahead"]
        self._buffer[: len(state["buffer"])] = state["buffer"]
        self.block = self._buffer[self._shown - state["block"] : self._shown]
        self._reset = None if state["reset"] is None else Reset(state["reset"])
        self._held_in_reset, self._abandoned = state["held"], state["abandoned"]
        self._kept = state["kept"]

    def save_command(self) -> dict[str, Any]:
        """What besides the issued task file makes the command under way."""
        return {}

    def restore_command(self, _state: dict[str, Any]) -> Command:
        """The command under way, parsed again; it must have no effect yet."""
        return self.parse(self.taskfile)

    def resume(self) -> None:
        """Go on after `restore`: what the disk was doing is done again."""
        command = self._command
        if self._reset is not None:
            self._come_up()
        elif self._abandoned:
            self._give_up()
        elif command is None:
            self.hold(self.held)
        elif self.phase is Phase.FILL:
            self._fill()
        elif self.phase is Phase.STORE:
            self.phase = Phase.DATA_OUT
            self.block_done()
        elif self.phase in (Phase.MOVE, Phase.DMA, Phase.FINISH):
            self._go_on()
