"""Enlightened INT 13h: one port write for a whole request, described by a packet in guest memory.

Hyper-V's firmware uses it at port 0x1E0 (primary) and 0x160 (secondary). The request goes through
the same registers, drive and bus master as any other; the guest's OUT does not complete before the
drive has, and nothing interrupts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from drivebay.ata.device import Device, Phase
from drivebay.ata.packet import PACKET_SIZE, PacketDevice
from drivebay.ata.registers import Opcode, PacketFeatures, Status
from drivebay.controllers.ide.registers import BusMasterCommand, Int13Packet
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.ports import Hold, PortRegion
from drivebay.scsi.cdb import Read10

if TYPE_CHECKING:
    from drivebay.controllers.ide.channel import Channel

__all__ = ["EnlightenedInt13"]

guest_log = RationedLog(logging.getLogger(__name__))

START = int(BusMasterCommand.Start)
START_TO_MEMORY = START | BusMasterCommand.ToMemory
ERR, DRDY = int(Status.ERR), int(Status.DRDY)
RESULT_STATUS: Final = 3  # where in the packet
BLOCK: Final = 2048
MAX_LBA: Final = (1 << 32) - 1

READS: Final = (Opcode.READ_DMA, Opcode.READ_DMA_ONCE, Opcode.READ_DMA_EXT)
WRITES: Final = (
    Opcode.WRITE_DMA,
    Opcode.WRITE_DMA_ONCE,
    Opcode.WRITE_DMA_EXT,
    Opcode.WRITE_DMA_FUA_EXT,
)
EXT: Final = (Opcode.READ_DMA_EXT, Opcode.WRITE_DMA_EXT, Opcode.WRITE_DMA_FUA_EXT)


class EnlightenedInt13(PortRegion):
    """The four ports of one channel; only a 32-bit write means something."""

    size = 4

    def __init__(self, channel: Channel, memory: GuestMemory) -> None:
        self._channel, self._memory = channel, memory
        self.hold: Hold | None = None
        """The request under way: the CPU that made it waits, after a restore too."""
        self._device: Device | None = None  # the one that works for it
        self._packet: Int13Packet | None = None
        self._address = 0
        self._views: list[memoryview] | None = None  # where a CD's data goes

    def port_read(self, offset: int, width: int) -> int:
        """Nothing is read here."""
        return (1 << 8 * width) - 1

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """The address of a packet."""
        if offset or width != 4:
            guest_log.warning("ide: int13: %d-byte write at %d: ignored", width, offset)
        elif self.hold is not None:
            guest_log.warning("ide: int13: a request while another is under way: ignored")
        else:
            try:
                data = b"".join(self._memory.views(value, Int13Packet.size))
            except GuestMemoryFault as fault:
                guest_log.warning("ide: int13: packet: %s", fault)
            else:
                return self._begin(value, Int13Packet.unpack(data))
        return None

    # -- a request -------------------------------------------------------------------------------

    def _begin(self, address: int, packet: Int13Packet) -> Hold | None:
        hold = self.hold = Hold()
        self._address, self._packet = address, packet
        channel = self._channel
        channel.write_Device(packet.device)  # first: whether it is busy is asked of the right one
        device = channel.selected
        if device is None or device.busy or channel.bus_master.engaged:
            self._finish(ERR | (device.status if device is not None else 0))
        elif isinstance(device, PacketDevice):
            self._read_cd(device, packet)
        elif packet.command in READS or packet.command in WRITES:
            self._move_disk(device, packet)
        else:
            guest_log.warning("ide: int13: command %#04x: nothing done", packet.command)
            self._finish(0)
        return None if hold.done else hold

    def _move_disk(self, device: Device, packet: Int13Packet) -> None:
        """As a driver would: registers, table, command, start."""
        taskfile, master = device.taskfile, self._channel.bus_master
        taskfile.features = 0
        if packet.command in EXT:
            taskfile.lba48 = packet.lba_high << 32 | packet.lba_low
            taskfile.count = packet.block_count
        else:
            taskfile.lba28 = packet.lba_low & 0xFFFFFF | (packet.device & 0xF) << 24
            taskfile.count = packet.block_count & 0xFF
        master.write_Command(0)
        master.write_RegionTable(packet.data_buffer)
        master.write_Command(START_TO_MEMORY if packet.command in READS else START)
        self._execute(device, packet.command)

    def _read_cd(self, device: PacketDevice, packet: Int13Packet) -> None:
        """READ (10) of the blocks that hold the bytes wanted; the others are skipped."""
        if packet.skip_bytes_head + packet.byte_count > packet.block_count * BLOCK:
            self._finish(ERR | DRDY)
            return
        if not packet.byte_count:
            self._finish(0)
            return
        first, skipped = divmod(packet.skip_bytes_head, BLOCK)
        lba = packet.lba_low + first
        if lba > MAX_LBA:
            self._finish(ERR | DRDY)
            return
        try:
            self._views = self._cd_views(packet)
        except GuestMemoryFault as fault:
            guest_log.warning("ide: int13: data: %s", fault)
            self._finish(ERR | DRDY)
            return
        cdb = Read10(
            logical_block_address=lba,
            transfer_length=-(-(skipped + packet.byte_count) // BLOCK),
        )
        device.taskfile.features = int(PacketFeatures.of(DMA=1))  # plain, as it may be saved
        self._execute(device, Opcode.PACKET)
        if device.phase is Phase.DATA_OUT:
            device.block[:] = cdb.pack().ljust(PACKET_SIZE, b"\0")
            device.block_done()

    def _cd_views(self, packet: Int13Packet) -> list[memoryview]:
        """Whole blocks: what is skipped goes nowhere. Raises `GuestMemoryFault`."""
        head = packet.skip_bytes_head % BLOCK
        nowhere = memoryview(bytearray(BLOCK))
        views = self._memory.views(packet.data_buffer, packet.byte_count)
        return [nowhere[:head], *views, nowhere[: -(head + packet.byte_count) % BLOCK]]

    def _execute(self, device: Device, opcode: int) -> None:
        self._device = device
        device.taskfile.command = int(opcode)
        device.execute()
        if device is self._device and not device.busy:  # it sleeps, and has not heard
            self._finish(ERR | device.status)

    # -- the drive's wire, before the channel -----------------------------------------------------

    def silences(self, device: Device) -> bool:
        """Whether `device` works for us, so that nothing interrupts."""
        return device is self._device

    def dma_request(self, device: Device) -> None:
        """Move what `device` has to move."""
        views = self._views
        if device is not self._device or views is None:
            self._channel.bus_master.request(device)
        else:
            self._views = None
            device.move(views)

    def ended(self, device: Device, completed: bool) -> None:
        """`device` is at rest. A table that is too short ends a request well; one that faults does
        not, nor do a reset and a bus master that was stopped.
        """
        if device is self._device:
            status = device.status
            if not completed and not self._channel.bus_master.exhausted:
                status |= ERR
            self._finish(status if status & ERR else 0)

    def _finish(self, failure: int) -> None:
        """Let the CPU go on. `failure` is a status that the guest is to see, or 0."""
        hold, self.hold = self.hold, None
        worked, self._device, self._views = self._device, None, None
        if failure:
            try:
                self._memory.view(self._address + RESULT_STATUS, 1)[0] = failure & 0xFF
            except GuestMemoryFault as fault:
                guest_log.warning("ide: int13: result: %s", fault)
        if worked is not None:
            self._channel.bus_master.write_Command(0)
        if hold is not None:
            hold.complete()

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The request under way."""
        device, drives = self._device, self._channel.drives
        return {
            "address": self._address,
            "packet": self._packet.pack() if self.hold is not None and self._packet else None,
            "unit": drives.index(device) if device and device in drives else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave. Raises `GuestMemoryFault` if the memory is not what it was."""
        self._address = state["address"]
        self.hold = self._device = self._views = None
        if state["packet"] is None or state["unit"] is None:
            return
        self.hold = Hold()
        self._packet = Int13Packet.unpack(state["packet"])
        self._device = self._channel.drives[state["unit"]]
        if isinstance(self._device, PacketDevice):
            self._views = self._cd_views(self._packet)
