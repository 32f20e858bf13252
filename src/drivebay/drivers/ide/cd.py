"""The driver of a packet device with a CD or DVD in it."""

from __future__ import annotations

from typing import Final

from drivebay.ata.registers import DeviceRegister, Opcode
from drivebay.controllers.ide.registers import Int13Packet
from drivebay.drivers.ide.drive import IdeDrive
from drivebay.drivers.ide.errors import IdeError, PacketError
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.opcodes import Opcode as ScsiOpcode
from drivebay.scsi.sense import FixedSense, Sense, SenseKey
from drivebay.wire import Struct

__all__ = ["BLOCK", "IdeCd"]

BLOCK: Final = 2048
MAX_LIMIT: Final = 0xFFFE


class IdeCd(IdeDrive):
    """A CD or DVD drive. A packet that fails raises `PacketError`, which has its sense.

    `blocks` are the lengths of the DRQ blocks of the last packet by PIO.
    """

    identify_opcode = Opcode.IDENTIFY_PACKET_DEVICE
    blocks: list[int] = []

    def packet(
        self,
        cdb: bytes | Struct,
        length: int = 0,
        *,
        data: bytes = b"",
        dma: bool = False,
        limit: int = MAX_LIMIT,
    ) -> bytes:
        """A packet command; what it gives. With `dma` it moves `length` bytes, or `data`, and all
        of what the buffer holds comes back; by PIO in blocks of up to `limit` bytes, and as many as
        the drive gives.
        """
        packet = cdb if isinstance(cdb, bytes) else cdb.pack()
        try:
            return self._packet(packet, length, data, dma, limit)
        except IdeError as error:
            if not error.status.ERR or packet[0] == ScsiOpcode.REQUEST_SENSE:
                raise
            what = f"packet {packet[0]:#04x}"
            raise PacketError(what, error.status, error.error, self.request_sense()) from error

    def _packet(self, cdb: bytes, length: int, data: bytes, dma: bool, limit: int) -> bytes:
        channel = self.channel
        if not dma or not (length or data):
            got, self.blocks = channel.packet_pio(self.unit, cdb, data=data, limit=limit)
            return got
        size = length or len(data)
        at = channel.buffer(size)
        channel.memory.view(at, size)[:] = data or bytes(size)
        channel.packet_dma(self.unit, cdb, [(at, size)], to_memory=not data)
        return bytes(channel.memory.view(at, length))

    def request_sense(self) -> Sense:
        """REQUEST SENSE, in fixed format."""
        cdb = cdbs.RequestSense(allocation_length=FixedSense.size)
        sense = FixedSense.unpack(self.packet(cdb, FixedSense.size))
        return Sense(
            SenseKey(sense.sense_key & 0xF),
            sense.additional_sense_code,
            sense.additional_sense_code_qualifier,
        )

    # -- commands --------------------------------------------------------------------------------

    def test_unit_ready(self) -> None:
        """Whether there is a medium, and nothing to be told."""
        self.packet(cdbs.Cdb6(ScsiOpcode.TEST_UNIT_READY))

    def settle(self, tries: int = 4) -> None:
        """TEST UNIT READY until the unit attentions have been told."""
        for _ in range(tries):
            try:
                self.test_unit_ready()
            except PacketError as error:
                if error.sense.key is not SenseKey.UNIT_ATTENTION:
                    raise
            else:
                return

    def inquiry(self, length: int = 96) -> bytes:
        """INQUIRY data."""
        return self.packet(cdbs.Inquiry(allocation_length=length), length)

    def capacity(self) -> int:
        """Blocks of the medium: READ CAPACITY (10)."""
        data = self.packet(cdbs.Cdb10(ScsiOpcode.READ_CAPACITY_10), 8)
        return int.from_bytes(data[:4], "big") + 1

    def read(self, lba: int, count: int, *, dma: bool = True, limit: int = MAX_LIMIT) -> bytes:
        """READ (10) of `count` blocks."""
        cdb = cdbs.Read10(logical_block_address=lba, transfer_length=count)
        return self.packet(cdb, count * BLOCK, dma=dma, limit=limit)

    def read_int13(self, lba: int, length: int, skip: int = 0) -> bytes:
        """`length` bytes from byte `skip` of block `lba` on, by one port write.

        Raises `IdeError` with the status that came back.
        """
        at = self.channel.buffer(length)
        self.channel.memory.view(at, length)[:] = bytes(length)
        blocks = -(-(skip + length) // BLOCK)
        self.channel.int13(
            Int13Packet(
                command=Opcode.PACKET,
                device=DeviceRegister.of(DEV=self.unit),
                flags=0,
                result_status=0,
                lba_low=lba,
                lba_high=0,
                block_count=blocks,
                byte_count=length,
                data_buffer=at,
                skip_bytes_head=skip,
                skip_bytes_tail=-(skip + length) % BLOCK,
            )
        )
        return bytes(self.channel.memory.view(at, length))

    def lock(self, prevent: bool) -> None:
        """PREVENT ALLOW MEDIUM REMOVAL."""
        self.packet(cdbs.PreventAllowMediumRemoval(prevent=int(prevent)))

    def eject(self) -> None:
        """START STOP UNIT: open the tray."""
        self.packet(cdbs.StartStopUnit(flags=cdbs.StartStopUnitFlags.of(LOEJ=1)))

    def load(self) -> None:
        """START STOP UNIT: close the tray and start."""
        self.packet(cdbs.StartStopUnit(flags=cdbs.StartStopUnitFlags.of(LOEJ=1, START=1)))
