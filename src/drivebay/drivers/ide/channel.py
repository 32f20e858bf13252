"""One channel's ports, as a driver works them: the protocols of ATA/ATAPI-6 section 9.

The order of the accesses is that of Linux's libata with ata_piix, so that what a test counts here
is what a guest does: a READ DMA of any size takes 26 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from drivebay.ata.registers import (
    DeviceControl,
    DeviceRegister,
    InterruptReason,
    Opcode,
    PacketFeatures,
    Status,
    name_of,
)
from drivebay.controllers.ide.registers import (
    BusMasterBlock,
    BusMasterCommand,
    BusMasterStatus,
    CommandBlock,
    Int13Packet,
    PhysicalRegion,
    RegionFlags,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide.errors import IdeError, IdeTimeout
from drivebay.drivers.pci import Ports

__all__ = ["AtaCommand", "ChannelPorts", "IdeChannel", "Region"]

BSY, DRQ, ERR, DF = int(Status.BSY), int(Status.DRQ), int(Status.ERR), int(Status.DF)
START: Final = int(BusMasterCommand.Start)
FAILED: Final = int(BusMasterStatus.Error)
OBSOLETE: Final = 0xA0  # bits of the Device register that old drives want set
LBA: Final = int(DeviceRegister.LBA)
NOBODY: Final = (0x7F, 0xFF)  # what a cable without drives reads
TABLE_SIZE: Final = 0x1000
LIMIT: Final = 0x10000  # of a region, and what none crosses (SFF-8038i section 1.2)
PATIENCE: Final = 10_000  # polls

Region = tuple[int, int]
"""Address and length in bytes of a piece of guest memory."""


class ChannelPorts(NamedTuple):
    """Where a channel's blocks are."""

    command: int
    control: int
    bus_master: int
    int13: int


@dataclass(frozen=True)
class AtaCommand:
    """What the registers are to hold; with `ext` each but Device is written twice.

    `device` has the LBA bit and the upper four bits of a 28-bit address, or a head.
    """

    opcode: int
    features: int = 0
    count: int = 0
    lba: int = 0
    device: int = 0
    ext: bool = False


class IdeChannel:
    """A channel, by its ports. One command runs at a time.

    `poll` is called while a drive is awaited. `raised` says whether INTRQ is up; without it the
    driver sets nIEN and polls the Alternate Status register. `width` is that of a data access in
    bytes, 2 or 4, and `patience` how many polls the driver waits for anything.
    """

    def __init__(
        self,
        ports: Ports,
        places: ChannelPorts,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        raised: Callable[[], bool] | None = None,
        width: int = 2,
    ) -> None:
        self.memory, self.width, self.patience = arena.memory, width, PATIENCE
        self._ports, self._places, self._arena = ports, places, arena
        self.poll, self._raised = poll, raised
        self._stale = True  # the bus master's Interrupt may be of something else than DMA
        self._control = 0 if raised is not None else int(DeviceControl.nIEN)
        self._table = arena.take(TABLE_SIZE, TABLE_SIZE)
        self._packet = arena.take(Int13Packet.size)
        self._buffer: Region = (0, 0)

    # -- registers -------------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Read a register of the Command Block by name."""
        return self._ports.read(self._places.command + CommandBlock.registers[register].offset, 1)

    def set(self, register: str, value: int) -> None:
        """Write a register of the Command Block by name; its low byte counts."""
        at = self._places.command + CommandBlock.registers[register].offset
        self._ports.write(at, 1, value & 0xFF)

    def alternate_status(self) -> int:
        """Status, without an effect on the interrupt."""
        return self._ports.read(self._places.control, 1)

    def control(self, value: int) -> None:
        """Write the Device Control register; nIEN stays as it is."""
        self._ports.write(self._places.control, 1, value | self._control)

    def get_master(self, register: str) -> int:
        """Read a register of the bus master by name."""
        offset, kind, _ = BusMasterBlock.registers[register]
        return self._ports.read(self._places.bus_master + offset, kind.size)

    def set_master(self, register: str, value: int) -> None:
        """Write a register of the bus master by name."""
        offset, kind, _ = BusMasterBlock.registers[register]
        self._ports.write(self._places.bus_master + offset, kind.size, value)

    def sector(self, ext: bool = False) -> int:
        """The sector that the last command left in the registers; with `ext` by 48 bits.

        Of a CHS address the same bits: head, cylinder and sector number.
        """
        names = ("LBAHigh", "LBAMid", "LBALow")
        if not ext:
            top = self.get("Device") & DeviceRegister.HEAD
            return top << 24 | int.from_bytes(bytes(self.get(name) for name in names))
        self.control(DeviceControl.HOB)
        previous = bytes(self.get(name) for name in names)
        self.control(0)
        return int.from_bytes(previous + bytes(self.get(name) for name in names))

    # -- waiting ---------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(self.patience):
            if condition():
                return
            self.poll()
        raise IdeTimeout(what, self.alternate_status())

    def wait_ready(self) -> int:
        """Wait, without looking at the interrupt, until BSY is clear; Status."""
        self._until(lambda: not self.alternate_status() & BSY, "the drive stays busy")
        return self.get("Status")

    def wait_interrupt(self) -> int:
        """Wait for an interrupt if there are any, and until BSY is clear; Status, whose reading
        takes the interrupt back.
        """
        self._stale = True
        if self._raised is not None:
            self._until(self._raised, "no interrupt")
        return self.wait_ready()

    def _wait_idle(self) -> None:
        self._until(self._idle, "the drive is at work")

    def _idle(self) -> bool:
        status = self.get("Status")
        return not status & (BSY | DRQ) or status in NOBODY

    def _check(self, opcode: int, status: int, wanted: int = 0) -> None:
        """Raise `IdeError` unless `status` has no error, and DRQ as `wanted`."""
        if status & (ERR | DF):
            raise IdeError(name_of(opcode), status, self.get("Error"))
        if status & DRQ != wanted:
            raise IdeError(f"{name_of(opcode)}: data is {'not ' * (not status & DRQ)}asked", status)

    # -- issuing ---------------------------------------------------------------------------------

    def select(self, unit: int) -> None:
        """Let drive `unit` answer."""
        self._wait_idle()
        self.set("Device", OBSOLETE | DeviceRegister.of(DEV=unit))
        self.alternate_status()  # 400 ns
        self._wait_idle()

    def _load(self, unit: int, command: AtaCommand) -> None:
        """Select the drive and fill its registers."""
        self.select(unit)
        lba = command.lba
        if command.ext:
            self.set("Features", command.features >> 8)
            self.set("Count", command.count >> 8)
            self.set("LBALow", lba >> 24)
            self.set("LBAMid", lba >> 32)
            self.set("LBAHigh", lba >> 40)
        self.set("Features", command.features)
        self.set("Count", command.count)
        self.set("LBALow", lba)
        self.set("LBAMid", lba >> 8)
        self.set("LBAHigh", lba >> 16)
        self.set("Device", OBSOLETE | command.device | DeviceRegister.of(DEV=unit))
        self._wait_idle()

    def _execute(self, opcode: int) -> None:
        self.set("Command", opcode)
        self.alternate_status()  # 400 ns

    def issue(self, unit: int, command: AtaCommand) -> None:
        """Begin a command, whatever its protocol: `wait_interrupt` or its like comes next."""
        self._load(unit, command)
        self._execute(command.opcode)

    # -- protocols -------------------------------------------------------------------------------

    def non_data(self, unit: int, command: AtaCommand) -> None:
        """A command that moves no data. Raises `IdeError`, as all protocols do."""
        self.issue(unit, command)
        self._check(command.opcode, self.wait_interrupt())

    def pio_in(self, unit: int, command: AtaCommand, length: int, block: int = 512) -> bytes:
        """A command that gives `length` bytes, in DRQ blocks of `block`."""
        data = memoryview(bytearray(length))
        self.issue(unit, command)
        for at in range(0, length, block):
            self._check(command.opcode, self.wait_interrupt(), DRQ)
            self.read_data(data[at : at + block])
        self._check(command.opcode, self.wait_ready())
        return bytes(data)

    def pio_out(self, unit: int, command: AtaCommand, data: bytes, block: int = 512) -> None:
        """A command that takes `data`, in DRQ blocks of `block`."""
        self.issue(unit, command)
        status = self.wait_ready()
        for at in range(0, len(data), block):
            self._check(command.opcode, status, DRQ)
            self.write_data(memoryview(data)[at : at + block])
            status = self.wait_interrupt()
        self._check(command.opcode, status)

    def dma(
        self, unit: int, command: AtaCommand, regions: Iterable[Region], *, to_memory: bool
    ) -> None:
        """A command that moves what is in `regions`, or should be."""
        self.write_table(regions)
        self._load(unit, command)
        self._set_up_master(to_memory)
        self._execute(command.opcode)
        self._start_master()
        self._end_dma(command.opcode)

    def read_data(self, buffer: memoryview) -> None:
        """REP INS from the Data register; an odd end takes a whole access."""
        padded = memoryview(bytearray(-(-len(buffer) // self.width) * self.width))
        self._ports.read_string(self._places.command, self.width, padded)
        buffer[:] = padded[: len(buffer)]

    def write_data(self, data: memoryview | bytes) -> None:
        """REP OUTS to the Data register; an odd end takes a whole access."""
        padded = bytes(data).ljust(-(-len(data) // self.width) * self.width, b"\0")
        self._ports.write_string(self._places.command, self.width, memoryview(padded))

    # -- bus master ------------------------------------------------------------------------------

    def buffer(self, length: int) -> int:
        """The address of at least `length` bytes that are the channel's own until the next call."""
        if self._buffer[1] < length:
            self._buffer = (self._arena.take(length, 0x1000), length)
        return self._buffer[0]

    def write_table(self, regions: Iterable[Region]) -> int:
        """Write a table of `regions`, cut where none may go on; its address.

        Raises `ValueError` if they are too many.
        """
        pieces = [piece for region in regions for piece in _cut(*region)]
        if not 0 < len(pieces) <= TABLE_SIZE // PhysicalRegion.size:
            raise ValueError(f"{len(pieces)} regions: the table holds {TABLE_SIZE // 8}, from 1 on")
        last = len(pieces) - 1
        rows = b"".join(
            PhysicalRegion(at, size & 0xFFFF, 0, RegionFlags.of(EndOfTable=n == last)).pack()
            for n, (at, size) in enumerate(pieces)
        )
        self.memory.view(self._table, len(rows))[:] = rows
        return self._table

    def _set_up_master(self, to_memory: bool) -> None:
        self.set_master("RegionTable", self._table)
        command = BusMasterCommand(self.get_master("Command"))
        self.set_master("Command", command.replace(ToMemory=to_memory, Start=0))
        if self._stale:
            self._clear_master()

    def _start_master(self) -> None:
        self.set_master("Command", self.get_master("Command") | START)

    def _stop_master(self) -> None:
        self.set_master("Command", self.get_master("Command") & ~START)

    def _clear_master(self) -> None:
        self.set_master("Status", self.get_master("Status"))
        self._stale = False

    def _end_dma(self, opcode: int) -> None:
        try:
            self._until(self._raised or self._dma_over, name_of(opcode))
        except IdeTimeout:
            self._stop_master()
            self._clear_master()
            raise
        master = self.get_master("Status")
        self._stop_master()
        self.alternate_status()  # 400 ns
        status = self.wait_ready()
        self._clear_master()
        if master & FAILED:
            raise IdeError(f"{name_of(opcode)}: the bus master failed", status)
        self._check(opcode, status)

    def _dma_over(self) -> bool:
        return not self.alternate_status() & (BSY | DRQ) or bool(self.get_master("Status") & FAILED)

    # -- packets ---------------------------------------------------------------------------------

    def packet_pio(
        self, unit: int, cdb: bytes, *, data: bytes = b"", limit: int = 0xFFFE
    ) -> tuple[bytes, list[int]]:
        """A packet command by PIO (section 9.8): what it gave, and the lengths of its DRQ blocks.

        `limit` is the byte count limit: the most a block may have.
        """
        self._send_packet(unit, cdb, AtaCommand(Opcode.PACKET, lba=limit << 8))
        got, blocks = bytearray(), list[int]()
        while True:
            status = self.wait_interrupt()
            if not status & DRQ:
                self._check(Opcode.PACKET, status)
                return bytes(got), blocks
            reason = InterruptReason(self.get("Count"))
            size = self.get("LBAMid") | self.get("LBAHigh") << 8
            if reason.CD:
                raise IdeError("PACKET: the drive asks for a command amid data", status)
            if reason.IO:
                block = memoryview(bytearray(size))
                self.read_data(block)
                got += block
            else:
                start = sum(blocks)
                self.write_data(data[start : start + size].ljust(size, b"\0"))
            blocks.append(size)

    def packet_dma(
        self, unit: int, cdb: bytes, regions: Iterable[Region], *, to_memory: bool
    ) -> None:
        """A packet command whose data the bus master moves."""
        self.write_table(regions)
        features = PacketFeatures.of(DMA=1)
        self._send_packet(unit, cdb, AtaCommand(Opcode.PACKET, features), to_memory)
        self._start_master()
        self._end_dma(Opcode.PACKET)

    def _send_packet(
        self, unit: int, cdb: bytes, command: AtaCommand, to_memory: bool | None = None
    ) -> None:
        self._load(unit, command)
        if to_memory is not None:
            self._set_up_master(to_memory)
        self._execute(command.opcode)
        status = self.wait_ready()
        self._check(command.opcode, status, DRQ)
        if self.get("Count") & 7 != InterruptReason.CD:
            raise IdeError("PACKET: the drive asks for no command", status)
        self.write_data(cdb.ljust(12, b"\0"))

    # -- enlightened INT 13h ---------------------------------------------------------------------

    @property
    def packet_bytes(self) -> memoryview:
        """Where the channel's packets are put."""
        return self.memory.view(self._packet, Int13Packet.size)

    def int13(self, packet: Int13Packet) -> None:
        """A whole request by one port write, which ends when the request has.

        Raises `IdeError` with the status that the packet was given.
        """
        view = self.packet_bytes
        view[:] = packet.pack()
        hold = self._ports.write(self._places.int13, 4, self._packet)
        if hold is not None:
            self._until(lambda: hold.done, "the port write does not complete")
        result = Int13Packet.unpack(view).result_status
        if result:
            raise IdeError(f"int13 {name_of(packet.command)}", result)

    # -- reset -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """SRST: both drives are reset, and device 0 is selected (section 9.2)."""
        self.control(DeviceControl.SRST)
        self.control(0)
        self._until(lambda: not self.alternate_status() & BSY, "the drives do not come up")

    def signature(self, unit: int) -> tuple[int, Sequence[int]]:
        """After a reset: the status of drive `unit`, and its count, LBA low, mid and high."""
        self.select(unit)
        registers = [self.get(name) for name in ("Count", "LBALow", "LBAMid", "LBAHigh")]
        return self.get("Status"), registers


def _cut(address: int, length: int) -> Iterable[Region]:
    """Pieces that do not cross a boundary of 64 KiB."""
    while length:
        size = min(length, LIMIT - address % LIMIT)
        yield address, size
        address, length = address + size, length - size
