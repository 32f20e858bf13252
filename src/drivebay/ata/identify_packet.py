"""The IDENTIFY PACKET DEVICE data of a packet device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.ata.identify import (
    Capabilities,
    CommandSet1,
    CommandSet2,
    CommandSet3,
    IdentifyData,
    PacketConfiguration,
    ata_string,
)
from drivebay.ata.identify_disk import ATA_4_TO_8, CABLE_80_DEVICE_0, selected_mode
from drivebay.ata.sata_words import packet_device_on_sata

if TYPE_CHECKING:
    from drivebay.ata.packet import PacketDevice

__all__ = ["identify_packet"]

CD_ROM: Final = 5
PACKET: Final = 2
DRQ_WITHIN_50_US: Final = 2
TIMINGS_AND_ULTRA_DMA_VALID: Final = 0x0006


def identify_packet(drive: PacketDevice) -> IdentifyData:
    """ACS-3 section 7.13."""
    commands = CommandSet1.of(DEVICE_RESET=1, PACKET=1, POWER_MANAGEMENT=1)
    data = IdentifyData(
        general_configuration=PacketConfiguration.of(
            PACKET=PACKET, DEVICE_TYPE=CD_ROM, REMOVABLE=1, DRQ_TIMING=DRQ_WITHIN_50_US
        ),
        serial_number=ata_string(drive.serial, 20),
        firmware_revision=ata_string(drive.firmware, 8),
        model_number=ata_string(drive.model, 40),
        capabilities=Capabilities.of(IORDY=1, LBA=1, DMA=1),
        pio_timing=0x0200,
        dma_timing=0x0200,
        validity=TIMINGS_AND_ULTRA_DMA_VALID,
        multiword_dma=selected_mode(0x07, drive.modes["multiword_dma"]),
        pio_modes=0x03,
        min_dma_cycle=120,
        recommended_dma_cycle=120,
        min_pio_cycle=120,
        min_pio_cycle_iordy=120,
        major_version=ATA_4_TO_8,
        commands_1=commands,
        commands_2=CommandSet2.of(VALID=1),
        commands_3=CommandSet3.of(VALID=1),
        enabled_1=commands,
        enabled_3=CommandSet3.of(VALID=1),
        ultra_dma=selected_mode(0x3F, drive.modes["ultra_dma"]),
        hardware_reset=CABLE_80_DEVICE_0,
    )
    return data if drive.sata is None else packet_device_on_sata(data)
