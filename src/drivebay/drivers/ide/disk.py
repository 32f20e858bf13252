"""The driver of an ATA disk: every command the drive has, by every route."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from drivebay.ata.geometry import Geometry
from drivebay.ata.media import TRIM_BLOCK
from drivebay.ata.registers import DeviceRegister, Feature, Opcode, SmartFeature
from drivebay.controllers.ide.registers import Int13Packet
from drivebay.drivers.ide.channel import OBSOLETE, AtaCommand, IdeChannel, Region
from drivebay.drivers.ide.drive import IdeDrive

__all__ = ["By", "IdeDisk", "Via"]

LBA: Final = int(DeviceRegister.LBA)
LBA28_END: Final = 1 << 28
LBA28_COUNT: Final = 256
SMART_KEY: Final = 0xC24F
SMART_FAILING: Final = 0x2CF4


class Via(enum.Enum):
    """The route that data takes."""

    PIO = "pio"
    MULTIPLE = "multiple"
    DMA = "dma"
    INT13 = "int13"


class By(enum.Enum):
    """How sectors are named."""

    CHS = "chs"
    LBA28 = "lba28"
    LBA48 = "lba48"


READS: Final = {
    (Via.PIO, False): Opcode.READ_SECTORS,
    (Via.PIO, True): Opcode.READ_SECTORS_EXT,
    (Via.MULTIPLE, False): Opcode.READ_MULTIPLE,
    (Via.MULTIPLE, True): Opcode.READ_MULTIPLE_EXT,
    (Via.DMA, False): Opcode.READ_DMA,
    (Via.DMA, True): Opcode.READ_DMA_EXT,
}
WRITES: Final = {
    (Via.PIO, False): Opcode.WRITE_SECTORS,
    (Via.PIO, True): Opcode.WRITE_SECTORS_EXT,
    (Via.MULTIPLE, False): Opcode.WRITE_MULTIPLE,
    (Via.MULTIPLE, True): Opcode.WRITE_MULTIPLE_EXT,
    (Via.DMA, False): Opcode.WRITE_DMA,
    (Via.DMA, True): Opcode.WRITE_DMA_EXT,
}
FUA_WRITES: Final = {
    Via.MULTIPLE: Opcode.WRITE_MULTIPLE_FUA_EXT,
    Via.DMA: Opcode.WRITE_DMA_FUA_EXT,
}


class IdeDisk(IdeDrive):
    """A disk. Counts are in sectors of `sector_size` bytes.

    `geometry` is what CHS addresses are made with, `multiple` the sectors in a block of the
    MULTIPLE commands: as IDENTIFY said when the driver found the drive, and as chosen since.
    """

    def __init__(self, channel: IdeChannel, unit: int) -> None:
        super().__init__(channel, unit)
        self.refresh()

    def refresh(self) -> None:
        """Look again at what may have changed, as after a reset."""
        identity = self.identify()
        self.sectors, self.sector_size = identity.sectors, identity.sector_size
        self.geometry: Geometry = identity.geometry
        self.multiple = identity.multiple

    # -- addresses -------------------------------------------------------------------------------

    def command(self, opcode: int, lba: int, count: int, by: By, features: int = 0) -> AtaCommand:
        """A command on sectors. Raises `ValueError` for those the form cannot name."""
        if by is By.LBA48:
            return AtaCommand(opcode, features, count & 0xFFFF, lba, LBA, ext=True)
        if by is By.LBA28:
            if not lba < LBA28_END:
                raise ValueError(f"sector {lba} needs 48 bits")
            return AtaCommand(opcode, features, count & 0xFF, lba & 0xFFFFFF, LBA | lba >> 24)
        cylinder, head, sector = self.geometry.chs(lba)
        if cylinder > 0xFFFF:
            raise ValueError(f"sector {lba} has no cylinder in {self.geometry}")
        return AtaCommand(opcode, features, count & 0xFF, cylinder << 8 | sector, head)

    def best(self, lba: int, count: int) -> By:
        """28 bits where they do, as Linux chooses."""
        return By.LBA28 if lba + count <= LBA28_END - 1 and count <= LBA28_COUNT else By.LBA48

    # -- reading and writing ---------------------------------------------------------------------

    def read(self, lba: int, count: int, via: Via = Via.DMA, by: By | None = None) -> bytes:
        """Read `count` sectors, 1 to 256, or 65536 with 48 bits."""
        length = count * self.sector_size
        if via in (Via.PIO, Via.MULTIPLE):
            by = by or self.best(lba, count)
            command = self.command(READS[via, by is By.LBA48], lba, count, by)
            return self.pio_in(command, length, self._block(via))
        at = self.channel.buffer(length)
        self.read_into([(at, length)], lba, count, via, by)
        return bytes(self.channel.memory.view(at, length))

    def read_into(
        self,
        regions: Iterable[Region],
        lba: int,
        count: int,
        via: Via = Via.DMA,
        by: By | None = None,
    ) -> None:
        """Read to guest memory, by the bus master."""
        by = by or self.best(lba, count)
        command = self.command(READS[Via.DMA, by is By.LBA48], lba, count, by)
        self._move(via, command, regions, to_memory=True)

    def write(
        self,
        lba: int,
        data: bytes,
        via: Via = Via.DMA,
        by: By | None = None,
        *,
        fua: bool = False,
    ) -> None:
        """Write whole sectors; with `fua` they are stable when it ends, and named by 48 bits."""
        if via in (Via.PIO, Via.MULTIPLE):
            command = self._write_command(via, lba, len(data), by, fua)
            self.pio_out(command, data, self._block(via))
            return
        at = self.channel.buffer(len(data))
        self.channel.memory.view(at, len(data))[:] = data
        self.write_from([(at, len(data))], lba, via, by, fua=fua)

    def write_from(
        self,
        regions: Sequence[Region],
        lba: int,
        via: Via = Via.DMA,
        by: By | None = None,
        *,
        fua: bool = False,
    ) -> None:
        """Write what is in guest memory, by the bus master."""
        length = sum(size for _, size in regions)
        command = self._write_command(Via.DMA, lba, length, by, fua)
        self._move(via, command, regions, to_memory=False)

    def _write_command(
        self, via: Via, lba: int, length: int, by: By | None, fua: bool
    ) -> AtaCommand:
        count = length // self.sector_size
        if fua:
            return self.command(FUA_WRITES[via], lba, count, By.LBA48)
        by = by or self.best(lba, count)
        return self.command(WRITES[via, by is By.LBA48], lba, count, by)

    def _block(self, via: Via) -> int:
        return self.sector_size * (self.multiple or 1 if via is Via.MULTIPLE else 1)

    def _move(
        self, via: Via, command: AtaCommand, regions: Iterable[Region], *, to_memory: bool
    ) -> None:
        if via is not Via.INT13:
            self.channel.dma(self.unit, command, regions, to_memory=to_memory)
            return
        self.channel.int13(
            Int13Packet(
                command=command.opcode,
                device=OBSOLETE | command.device | DeviceRegister.of(DEV=self.unit),
                flags=0,
                result_status=0,
                lba_low=command.lba & 0xFFFFFFFF,
                lba_high=command.lba >> 32,
                block_count=command.count,
                byte_count=0,
                data_buffer=self.channel.write_table(regions),
                skip_bytes_head=0,
                skip_bytes_tail=0,
            )
        )

    def verify(self, lba: int, count: int, by: By | None = None) -> None:
        """READ VERIFY SECTORS (EXT)."""
        by = by or self.best(lba, count)
        ext = by is By.LBA48
        opcode = Opcode.READ_VERIFY_SECTORS_EXT if ext else Opcode.READ_VERIFY_SECTORS
        self.non_data(self.command(opcode, lba, count, by))

    def flush(self, ext: bool = False) -> None:
        """FLUSH CACHE (EXT)."""
        opcode = Opcode.FLUSH_CACHE_EXT if ext else Opcode.FLUSH_CACHE
        self.non_data(AtaCommand(opcode, ext=ext))

    def trim(self, ranges: Iterable[tuple[int, int]]) -> None:
        """DATA SET MANAGEMENT with TRIM: ranges of first sector and count, up to 65535 each."""
        data = b"".join(struct.pack("<Q", count << 48 | lba) for lba, count in ranges)
        data = data.ljust(-(-len(data) // TRIM_BLOCK) * TRIM_BLOCK, b"\0")
        at = self.channel.buffer(len(data))
        self.channel.memory.view(at, len(data))[:] = data
        blocks = len(data) // TRIM_BLOCK
        command = AtaCommand(Opcode.DATA_SET_MANAGEMENT, 1, blocks, device=LBA, ext=True)
        self.channel.dma(self.unit, command, [(at, len(data))], to_memory=False)

    # -- modes -----------------------------------------------------------------------------------

    def set_multiple(self, sectors: int) -> None:
        """SET MULTIPLE MODE; 0 forbids the MULTIPLE commands."""
        self.non_data(AtaCommand(Opcode.SET_MULTIPLE_MODE, count=sectors))
        self.multiple = sectors

    def initialize_parameters(self, heads: int, sectors: int) -> None:
        """INITIALIZE DEVICE PARAMETERS: 1 to 16 heads, 1 to 255 sectors in a track."""
        command = AtaCommand(Opcode.INITIALIZE_DEVICE_PARAMETERS, count=sectors, device=heads - 1)
        self.non_data(command)
        self.geometry = self.identify().geometry

    def write_cache(self, on: bool) -> None:
        """Switch the write cache."""
        self.set_features(Feature.ENABLE_WRITE_CACHE if on else Feature.DISABLE_WRITE_CACHE)

    def read_native_max(self, ext: bool = True) -> int:
        """The last sector there really is."""
        opcode = Opcode.READ_NATIVE_MAX_ADDRESS_EXT if ext else Opcode.READ_NATIVE_MAX_ADDRESS
        self.non_data(AtaCommand(opcode, device=LBA, ext=ext))
        return self.channel.sector(ext)

    def set_max(self, last: int, *, ext: bool = True, volatile: bool = True) -> None:
        """READ NATIVE MAX ADDRESS, then SET MAX ADDRESS: `last` is the last sector to be shown.

        If `volatile` it is forgotten at power-off.
        """
        self.read_native_max(ext)
        opcode = Opcode.SET_MAX_ADDRESS_EXT if ext else Opcode.SET_MAX_ADDRESS
        by = By.LBA48 if ext else By.LBA28
        self.non_data(self.command(opcode, last, int(not volatile), by))
        self.sectors = self.identify().sectors

    # -- SMART -----------------------------------------------------------------------------------

    def smart(self, feature: int, number: int = 0, count: int = 0) -> None:
        """A subcommand of SMART that moves no data, a `SmartFeature`."""
        self.non_data(self._smart(feature, number, count))

    def smart_read(self, feature: int, number: int = 0, count: int = 1) -> bytes:
        """A subcommand that gives `count` times 512 bytes: data, thresholds, log `number`."""
        return self.pio_in(self._smart(feature, number, count), 512 * count)

    def smart_write_log(self, number: int, data: bytes) -> None:
        """Write log `number`."""
        command = self._smart(SmartFeature.WRITE_LOG, number, len(data) // 512)
        self.pio_out(command, data)

    def smart_failing(self) -> bool:
        """SMART RETURN STATUS: whether an attribute has reached its threshold."""
        self.smart(SmartFeature.RETURN_STATUS)
        key = self.channel.get("LBAMid") | self.channel.get("LBAHigh") << 8
        if key not in (SMART_KEY, SMART_FAILING):
            raise ValueError(f"SMART RETURN STATUS gives {key:#x}")
        return key == SMART_FAILING

    def _smart(self, feature: int, number: int, count: int) -> AtaCommand:
        return AtaCommand(Opcode.SMART, feature, count, SMART_KEY << 8 | number)

    # -- the sector buffer -----------------------------------------------------------------------

    def read_buffer(self) -> bytes:
        """READ BUFFER: 512 bytes."""
        return self.pio_in(AtaCommand(Opcode.READ_BUFFER), 512)

    def write_buffer(self, data: bytes) -> None:
        """WRITE BUFFER: 512 bytes."""
        self.pio_out(AtaCommand(Opcode.WRITE_BUFFER), data)
