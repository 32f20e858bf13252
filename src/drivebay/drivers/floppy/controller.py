"""The controller by its ports, as Linux's and SeaBIOS' drivers work it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from drivebay.controllers.floppy.registers import (
    DataRate,
    DigitalInput,
    DigitalOutput,
    FloppyBlock,
    InterruptCode,
    MainStatus,
    Opcode,
    Status0,
    Status1,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.floppy.errors import FloppyError, FloppyTimeout
from drivebay.drivers.pci import Ports
from drivebay.wire import U8, Struct

__all__ = ["FloppyDriver", "Result", "Via"]

BASE: Final = 0x3F0
RQM, DIO, NON_DMA, BUSY = (
    int(bit) for bit in (MainStatus.RQM, MainStatus.DIO, MainStatus.NonDma, MainStatus.Busy)
)
PATIENCE: Final = 10_000  # polls
BUFFER: Final = 0x10000  # what one page of a DMA channel reaches

CHANNEL: Final = 2
DMA_ADDRESS, DMA_COUNT, DMA_MASK, DMA_MODE, DMA_CLEAR, DMA_PAGE = 0x04, 0x05, 0x0A, 0x0B, 0x0C, 0x81
TO_MEMORY, FROM_MEMORY = 0x44, 0x48  # single transfers


class Via(enum.Enum):
    """How data go."""

    DMA = "dma"
    PIO = "pio"


class Result(Struct, size=7):
    """What a command on the disk ends with."""

    st0: U8
    st1: U8
    st2: U8
    c: U8
    h: U8
    r: U8
    n: U8


class FloppyDriver:
    """The controller, reset and ready.

    `poll` is called while it is awaited. `raised` says whether IRQ 6 is up; without it the driver
    polls the Main Status register. Raises `FloppyError` if there is no controller.
    """

    def __init__(
        self,
        ports: Ports,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        raised: Callable[[], bool] | None = None,
    ) -> None:
        self._ports, self._poll, self._raised = ports, poll, raised
        self.memory = arena.memory
        self.buffer = arena.take(BUFFER, BUFFER)
        self._via = Via.DMA
        self._dor = 0
        self.reset()
        self.version = self.command(Opcode.VERSION, results=1)[0]
        """0x90 is an 82077."""

    # -- registers -------------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Read a register by name."""
        return self._ports.read(BASE + FloppyBlock.registers[register].offset, 1)

    def set(self, register: str, value: int) -> None:
        """Write a register by name."""
        self._ports.write(BASE + FloppyBlock.registers[register].offset, 1, value)

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        for _ in range(PATIENCE):
            if condition():
                return
            self._poll()
        raise FloppyTimeout(f"{what}: MSR is {self.get('MainStatus'):#04x}")

    def _wait(self, mask: int, value: int) -> None:
        self._await("wait", lambda: self.get("MainStatus") & mask == value)

    def interrupted(self) -> None:
        """Wait for IRQ 6, if there is one to wait for."""
        if self._raised is not None:
            self._await("no interrupt", self._raised)

    # -- commands --------------------------------------------------------------------------------

    def reset(self) -> None:
        """By the DOR; then four drives have something to say (section 5.2.3 of the data sheet)."""
        self.set("DigitalOutput", 0)
        self._dor = int(DigitalOutput.NotReset | DigitalOutput.DmaGate)
        self.set("DigitalOutput", self._dor)
        self.interrupted()
        for unit in range(4):
            status, _ = self.sense()
            if status != Status0.of(IC=InterruptCode.POLLING, DS=unit):
                raise FloppyError(f"a reset leaves {status:#04x}")
        self.use(Via.DMA)

    def use(self, via: Via) -> None:
        """SPECIFY: a step every 8 ms, and how data go."""
        self._via = via
        self.command(Opcode.SPECIFY, 0x8F, 0x02 | (via is Via.PIO))

    def motor(self, unit: int, rate: DataRate) -> None:
        """Select a drive, turn its disk, and read it at `rate`."""
        self._dor = self._dor & ~int(DigitalOutput.DriveSelect) | unit | 0x10 << unit
        self.set("DigitalOutput", self._dor)
        self.set("ConfigurationControl", rate)

    def disk_changed(self) -> bool:
        """DSKCHG of the drive that is selected."""
        return bool(self.get("DigitalInput") & DigitalInput.DiskChange)

    def send(self, opcode: int, *parameters: int) -> None:
        """Begin a command."""
        for byte in (opcode, *parameters):
            self._wait(RQM | DIO, RQM)
            self.set("Fifo", byte)

    def receive(self, count: int) -> bytes:
        """Its result."""
        result = []
        for _ in range(count):
            self._wait(RQM | DIO, RQM | DIO)
            result.append(self.get("Fifo"))
        self._wait(RQM | DIO | BUSY, RQM)
        return bytes(result)

    def command(self, opcode: int, *parameters: int, results: int = 0) -> bytes:
        """A command that ends at once."""
        self.send(opcode, *parameters)
        return self.receive(results)

    def sense(self) -> tuple[int, int]:
        """SENSE INTERRUPT STATUS: ST0 and the cylinder. Raises `FloppyError` if there is none."""
        self.send(Opcode.SENSE_INTERRUPT_STATUS)
        self._wait(RQM | DIO, RQM | DIO)
        status = self.get("Fifo")
        if status == Status0.of(IC=InterruptCode.INVALID):
            raise FloppyError("nothing to say", status)
        return status, self.receive(1)[0]

    def seek(self, opcode: int, *parameters: int) -> tuple[int, int]:
        """SEEK, RELATIVE SEEK or RECALIBRATE, and what came of it."""
        self.send(opcode, *parameters)
        self.interrupted()
        return self.sense()

    def transfer(
        self, opcode: int, *parameters: int, data: bytes = b"", size: int = 0
    ) -> tuple[Result, bytes]:
        """A command on the disk, to which `data` go or from which at most `size` bytes come.

        Raises `FloppyError` if it fails; the end of the cylinder is none where data go by the FIFO,
        since nobody there says TC.
        """
        if self._via is Via.DMA and (data or size):
            self._aim(len(data) or size, TO_MEMORY if size else FROM_MEMORY, data)
        self.send(opcode, *parameters)
        read = self._exchange(data, size) if self._via is Via.PIO else b""
        self.interrupted()
        result = Result.unpack(self.receive(Result.size))
        if self._via is Via.DMA and size:
            read = bytes(self.memory.view(self.buffer, size))
        ended = self._via is Via.PIO and result.st1 == Status1.EN
        if Status0(result.st0).IC != InterruptCode.NORMAL and not ended:
            name = Opcode(opcode & 0x1F).name
            raise FloppyError(name, result.st0, result.st1, result.st2)
        return result, read

    def _exchange(self, data: bytes, size: int) -> bytes:
        """The data phase: sectors through the FIFO, each by one string instruction."""
        taken, sent = bytearray(), 0
        fifo = BASE + FloppyBlock.Fifo.offset
        while True:
            self._wait(RQM, RQM)
            status = self.get("MainStatus")
            if not status & NON_DMA:
                return bytes(taken)
            self.interrupted()
            if status & DIO:
                sector = memoryview(bytearray(min(512, max(size - len(taken), 1))))
                self._ports.read_string(fifo, 1, sector)
                taken += sector
            else:
                piece = memoryview(data)[sent : sent + 512] or memoryview(b"\0")
                self._ports.write_string(fifo, 1, piece)
                sent += len(piece)

    def _aim(self, size: int, mode: int, data: bytes) -> None:
        """Program the DMA channel for the buffer."""
        if size > BUFFER:
            raise ValueError(f"{size} bytes: a page has {BUFFER}")
        self.memory.view(self.buffer, len(data))[:] = data
        out = self._ports.write
        out(DMA_MASK, 1, 4 | CHANNEL)
        out(DMA_CLEAR, 1, 0)
        for port, value in ((DMA_ADDRESS, self.buffer), (DMA_COUNT, size - 1)):
            out(port, 1, value & 0xFF)
            out(port, 1, value >> 8 & 0xFF)
        out(DMA_MODE, 1, mode | CHANNEL)
        out(DMA_PAGE, 1, self.buffer >> 16 & 0xFF)
        out(DMA_MASK, 1, CHANNEL)
