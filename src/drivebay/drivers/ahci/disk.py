"""The drivers of a disk and of a packet device at an AHCI port."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from drivebay.ata.logs import NCQ_ERROR, NcqError
from drivebay.ata.media import TRIM_BLOCK
from drivebay.ata.registers import DeviceRegister, Opcode, PacketFeatures
from drivebay.drivers.ahci.errors import AhciError
from drivebay.drivers.ahci.port import AhciPort, Region, split
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.drivers.ide.identity import Identity
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.opcodes import Opcode as ScsiOpcode
from drivebay.scsi.sense import FixedSense
from drivebay.wire import Struct

__all__ = ["AhciCd", "AhciDisk"]

LBA: Final = int(DeviceRegister.LBA)
FUA: Final = 0x80
TRIM: Final = 1
PAGE: Final = 512
BLOCK: Final = 2048


class _Drive:
    """What both have."""

    identify_opcode: int = Opcode.IDENTIFY_DEVICE

    def __init__(self, port: AhciPort) -> None:
        self.port = port

    def read_data(self, command: AtaCommand, length: int, *, packet: bytes = b"") -> bytes:
        """What a command gives, up to `length` bytes."""
        at = self.port.buffer(0, length)
        self.port.memory.view(at, length)[:] = bytes(length)
        moved = self.port.execute(command, split(at, length), packet=packet)
        return bytes(self.port.memory.view(at, moved))

    def write_data(self, command: AtaCommand, data: bytes, *, packet: bytes = b"") -> None:
        """A command that takes `data`."""
        at = self.port.buffer(0, len(data))
        self.port.memory.view(at, len(data))[:] = data
        self.port.execute(command, split(at, len(data)), write=True, packet=packet)

    def identify(self) -> Identity:
        """IDENTIFY (PACKET) DEVICE."""
        return Identity(self.read_data(AtaCommand(self.identify_opcode), 512))

    def set_features(self, feature: int, count: int = 0) -> None:
        """SET FEATURES."""
        self.port.execute(AtaCommand(Opcode.SET_FEATURES, feature, count))


class AhciDisk(_Drive):
    """A disk. Counts are in sectors of `sector_size` bytes, 1 to 65536 in a command.

    A command that fails raises `AhciError`, and `recover` makes the port usable again.
    """

    def __init__(self, port: AhciPort) -> None:
        super().__init__(port)
        identity = self.identify()
        self.sectors, self.sector_size = identity.sectors, identity.sector_size
        self.queue_depth = identity.words.queue_depth_z + 1

    def _on(self, opcode: int, lba: int, count: int, features: int = 0) -> AtaCommand:
        return AtaCommand(opcode, features, count & 0xFFFF, lba, LBA, ext=True)

    # -- one by one ------------------------------------------------------------------------------

    def read(self, lba: int, count: int, opcode: int = Opcode.READ_DMA_EXT) -> bytes:
        """Read by a 48-bit command, of DMA or PIO."""
        return self.read_data(self._on(opcode, lba, count), count * self.sector_size)

    def write(self, lba: int, data: bytes, opcode: int = Opcode.WRITE_DMA_EXT) -> None:
        """Write by a 48-bit command."""
        self.write_data(self._on(opcode, lba, len(data) // self.sector_size), data)

    def flush(self) -> None:
        """FLUSH CACHE EXT."""
        self.port.execute(AtaCommand(Opcode.FLUSH_CACHE_EXT, device=LBA, ext=True))

    def verify(self, lba: int, count: int) -> None:
        """READ VERIFY SECTORS EXT."""
        self.port.execute(self._on(Opcode.READ_VERIFY_SECTORS_EXT, lba, count))

    def trim(self, ranges: Iterable[tuple[int, int]]) -> None:
        """DATA SET MANAGEMENT: ranges of first sector and count."""
        data = ranges_data(ranges)
        command = self._on(Opcode.DATA_SET_MANAGEMENT, 0, len(data) // TRIM_BLOCK, TRIM)
        self.write_data(command, data)

    def write_uncorrectable(self, lba: int, count: int) -> None:
        """Make sectors bad."""
        self.port.execute(self._on(Opcode.WRITE_UNCORRECTABLE_EXT, lba, count, 0x55))

    def read_log(self, address: int, pages: int = 1, page: int = 0, *, dma: bool = True) -> bytes:
        """READ LOG (DMA) EXT."""
        opcode = Opcode.READ_LOG_DMA_EXT if dma else Opcode.READ_LOG_EXT
        lba = address | (page & 0xFF) << 8 | page >> 8 << 32
        return self.read_data(self._on(opcode, lba, pages), pages * PAGE)

    def write_log(self, address: int, data: bytes, *, dma: bool = True) -> None:
        """WRITE LOG (DMA) EXT."""
        opcode = Opcode.WRITE_LOG_DMA_EXT if dma else Opcode.WRITE_LOG_EXT
        self.write_data(self._on(opcode, address, len(data) // PAGE), data)

    # -- queued ----------------------------------------------------------------------------------

    def prepare_read(
        self, tag: int, lba: int, count: int, regions: Sequence[Region] | None = None
    ) -> None:
        """READ FPDMA QUEUED in slot `tag`, to its buffer or to `regions`."""
        length = count * self.sector_size
        command = AtaCommand(Opcode.READ_FPDMA_QUEUED, count & 0xFFFF, tag << 3, lba, LBA, ext=True)
        if regions is None:
            regions = split(self.port.buffer(tag, length), length)
        self.port.prepare(tag, command, regions)

    def prepare_write(self, tag: int, lba: int, data: bytes, *, fua: bool = False) -> None:
        """WRITE FPDMA QUEUED in slot `tag`."""
        at = self.port.buffer(tag, len(data))
        self.port.memory.view(at, len(data))[:] = data
        count, device = len(data) // self.sector_size & 0xFFFF, LBA | (FUA if fua else 0)
        command = AtaCommand(Opcode.WRITE_FPDMA_QUEUED, count, tag << 3, lba, device, ext=True)
        self.port.prepare(tag, command, split(at, len(data)), write=True)

    def prepare_trim(self, tag: int, ranges: Iterable[tuple[int, int]]) -> None:
        """SEND FPDMA QUEUED: DATA SET MANAGEMENT, in slot `tag`."""
        data = ranges_data(ranges)
        at = self.port.buffer(tag, len(data))
        self.port.memory.view(at, len(data))[:] = data
        blocks = len(data) // TRIM_BLOCK
        command = AtaCommand(Opcode.SEND_FPDMA_QUEUED, blocks, tag << 3, 0, LBA, ext=True)
        self.port.prepare(tag, command, split(at, len(data)), write=True, auxiliary=TRIM)

    def prepare_abort(self, tag: int, kind: int, target: int = 0) -> None:
        """NCQ NON-DATA: ABORT NCQ QUEUE."""
        command = AtaCommand(Opcode.NCQ_NON_DATA, kind << 4, tag << 3, target << 3, LBA, ext=True)
        self.port.prepare(tag, command)

    def taken(self, tag: int, length: int) -> bytes:
        """What a queued read has left in its buffer."""
        return bytes(self.port.memory.view(self.port.buffer(tag, length), length))

    def read_queued(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read up to 32 spans of first sector and count, all at once."""
        for tag, (lba, count) in enumerate(spans):
            self.prepare_read(tag, lba, count)
        tags = (1 << len(spans)) - 1
        self.port.issue(tags, queued=True)
        self.port.finish(tags, "queued reads")
        sizes = (count * self.sector_size for _, count in spans)
        return [self.taken(tag, size) for tag, size in enumerate(sizes)]

    def write_queued(self, writes: Sequence[tuple[int, bytes]], *, fua: bool = False) -> None:
        """Write up to 32 pieces of data at their sectors, all at once."""
        for tag, (lba, data) in enumerate(writes):
            self.prepare_write(tag, lba, data, fua=fua)
        tags = (1 << len(writes)) - 1
        self.port.issue(tags, queued=True)
        self.port.finish(tags, "queued writes")

    def recover(self) -> NcqError:
        """After a queued command has failed: restart the port, and ask which it was."""
        self.port.restart()
        return NcqError.unpack(self.read_log(NCQ_ERROR))


class AhciCd(_Drive):
    """A packet device with a CD or DVD in it."""

    identify_opcode = Opcode.IDENTIFY_PACKET_DEVICE

    def packet(
        self, cdb: bytes | Struct, length: int = 0, *, data: bytes = b"", dma: bool = True
    ) -> bytes:
        """A packet command, which gives up to `length` bytes or takes `data`."""
        packed = cdb if isinstance(cdb, bytes) else cdb.pack()
        features = PacketFeatures.DMA if dma and (length or data) else 0
        limit = min(length or len(data), 0xFFFE) if not dma else 0
        command = AtaCommand(Opcode.PACKET, features, 0, limit << 8)
        if data:
            self.write_data(command, data, packet=packed)
            return b""
        if length:
            return self.read_data(command, length, packet=packed)
        self.port.execute(command, packet=packed)
        return b""

    def request_sense(self) -> FixedSense:
        """REQUEST SENSE, after the port was restarted."""
        self.port.restart()
        cdb = cdbs.RequestSense(allocation_length=FixedSense.size)
        return FixedSense.unpack(self.packet(cdb, FixedSense.size))

    def settle(self, tries: int = 4) -> None:
        """TEST UNIT READY until it is."""
        for _ in range(tries):
            try:
                self.packet(cdbs.Cdb6(ScsiOpcode.TEST_UNIT_READY))
            except AhciError:
                self.request_sense()
            else:
                return

    def capacity(self) -> int:
        """Blocks of the medium."""
        data = self.packet(cdbs.Cdb10(ScsiOpcode.READ_CAPACITY_10), 8)
        return int.from_bytes(data[:4], "big") + 1

    def read(self, lba: int, count: int, *, dma: bool = True) -> bytes:
        """READ (10) of `count` blocks."""
        cdb = cdbs.Read10(logical_block_address=lba, transfer_length=count)
        return self.packet(cdb, count * BLOCK, dma=dma)


def ranges_data(ranges: Iterable[tuple[int, int]]) -> bytes:
    """LBA range entries, in whole blocks."""
    data = b"".join(struct.pack("<Q", count << 48 | lba) for lba, count in ranges)
    return data.ljust(-(-len(data) // TRIM_BLOCK) * TRIM_BLOCK, b"\0")
