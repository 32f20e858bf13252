"""The IDENTIFY DEVICE data of a disk, from its settings at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.ata.identify import (
    Capabilities,
    CommandSet1,
    CommandSet2,
    CommandSet3,
    GeneralConfiguration,
    IdentifyData,
    PhysicalSector,
    ata_string,
)
from drivebay.ata.sata_words import disk_on_sata
from drivebay.disk.contract import Unmap

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk

__all__ = ["ATA_4_TO_8", "CABLE_80_DEVICE_0", "MAX_TRIM_BLOCKS", "identify_disk", "selected_mode"]

MAX_TRIM_BLOCKS: Final = 8
LBA28_SECTORS: Final = (1 << 28) - 1
ATA_4_TO_8: Final = 0x01F0
NO_STANDBY_TIMER: Final = 0x4000
CABLE_80_DEVICE_0: Final = 0x6001  # an 80-conductor cable: UDMA above mode 2 (section 8.15.61)
ALL_VALID: Final = 0x0007
DETERMINISTIC, ZEROED = 1 << 14, 1 << 5


def identify_disk(drive: AtaDisk) -> IdentifyData:
    """Section 7.12."""
    disk, settings = drive.disk, drive.settings
    native, current = drive.native_geometry, drive.geometry
    trims = drive.trims
    ratio = disk.physical_sector_size // disk.sector_size
    supported = {
        "NOP": 1,
        "READ_BUFFER": 1,
        "WRITE_BUFFER": 1,
        "HPA": 1,
        "LOOK_AHEAD": 1,
        "WRITE_CACHE": disk.volatile_cache,
        "POWER_MANAGEMENT": 1,
        "SMART": 1,
    }
    enabled = supported | {
        "LOOK_AHEAD": settings.look_ahead,
        "WRITE_CACHE": settings.write_cache,
        "SMART": drive.smart.enabled,
    }
    second = CommandSet2.of(FLUSH_CACHE_EXT=1, FLUSH_CACHE=1, LBA48=1, APM=1)
    third = CommandSet3.of(VALID=1, FUA=1, SMART_SELF_TEST=1, SMART_ERROR_LOG=1)
    data = IdentifyData(
        general_configuration=GeneralConfiguration.of(FIXED=1),
        cylinders=native.cylinders,
        heads=native.heads,
        sectors_per_track=native.sectors,
        serial_number=ata_string(drive.serial, 20),
        firmware_revision=ata_string(drive.firmware, 8),
        model_number=ata_string(drive.model, 40),
        max_multiple=0x8000 | drive.max_multiple,
        capabilities=Capabilities.of(IORDY=1, IORDY_DISABLE=1, LBA=1, DMA=1),
        capabilities_2=NO_STANDBY_TIMER,
        pio_timing=0x0200,
        dma_timing=0x0200,
        validity=ALL_VALID,
        current_cylinders=current.cylinders,
        current_heads=current.heads,
        current_sectors=current.sectors,
        current_capacity=current.capacity,
        current_multiple=0x100 | settings.multiple if settings.multiple else 0,
        lba28_sectors=min(drive.sectors, LBA28_SECTORS),
        multiword_dma=selected_mode(0x07, settings.multiword_dma),
        pio_modes=0x03,
        min_dma_cycle=120,
        recommended_dma_cycle=120,
        min_pio_cycle=120,
        min_pio_cycle_iordy=120,
        additional_support=_after_trim(disk.unmap_behaviour) if trims else 0,
        major_version=ATA_4_TO_8,
        commands_1=CommandSet1.of(**supported),
        commands_2=second | CommandSet2.VALID,
        commands_3=third,
        enabled_1=CommandSet1.of(**enabled),
        enabled_2=second.replace(APM=settings.apm != 0),
        enabled_3=third,
        ultra_dma=selected_mode(0x3F, settings.ultra_dma),
        apm_level=settings.apm,
        hardware_reset=CABLE_80_DEVICE_0,
        lba48_sectors=drive.sectors,
        max_trim_blocks=MAX_TRIM_BLOCKS if trims else 0,
        physical_sector=PhysicalSector.of(
            VALID=1,
            MULTIPLE=ratio > 1,
            LONG=disk.sector_size > 512,
            EXPONENT=min(ratio.bit_length() - 1, 15),
        ),
        logical_sector_words=disk.sector_size // 2 if disk.sector_size > 512 else 0,
        data_set_management=int(trims),
        alignment=0x4000,
        rotation_rate=1,
    )
    return data if drive.sata is None else disk_on_sata(data)


def selected_mode(supported: int, selected: int | None) -> int:
    """A word of transfer modes: the selected one above those that are supported."""
    return supported | (1 << selected << 8 if selected is not None else 0)


def _after_trim(behaviour: Unmap) -> int:
    return DETERMINISTIC | ZEROED if behaviour is Unmap.ZEROES else 0
