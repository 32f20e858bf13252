"""The words of IDENTIFY data that say what a drive is more on SATA than on a parallel cable."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from drivebay.ata.identify import CommandSet2, CommandSet3, IdentifyData
from drivebay.wire import Bit, Bits, Register16

__all__ = ["disk_on_sata", "packet_device_on_sata"]

QUEUE_DEPTH: Final = 32
GEN3: Final = 3
SERIAL: Final = 1
SATA_UP_TO_3_0: Final = 0x3F


class SataCapabilities(Register16):
    """Word 76."""

    READ_LOG_DMA = Bit(15)  # does what READ LOG EXT does
    HIPM = Bit(9)  # the host may put the link to sleep
    NCQ = Bit(8)
    GEN3 = Bit(3)
    GEN2 = Bit(2)
    GEN1 = Bit(1)


class SataAdditional(Register16):
    """Word 77."""

    SEND_RECEIVE = Bit(6)  # SEND and RECEIVE FPDMA QUEUED
    NCQ_NON_DATA = Bit(5)
    SPEED = Bits(3, 1)  # of the link, now


class CommandSet4(Register16):
    """Words 119 and 120."""

    VALID = Bit(14)
    LOG_DMA = Bit(3)
    WRITE_UNCORRECTABLE = Bit(2)


class TransportMajor(Register16):
    """Word 222."""

    TYPE = Bits(15, 12)
    VERSIONS = Bits(5, 0)  # SATA 3.0 down to ATA8-AST


def packet_device_on_sata(data: IdentifyData) -> IdentifyData:
    """IDENTIFY PACKET DEVICE data as it is on SATA: no cable, but a link."""
    return replace(
        data,
        sata_capabilities=SataCapabilities.of(HIPM=1, GEN3=1, GEN2=1, GEN1=1),
        sata_additional=SataAdditional.of(SPEED=GEN3),
        hardware_reset=0,
        transport_major=TransportMajor.of(TYPE=SERIAL, VERSIONS=SATA_UP_TO_3_0),
    )


def disk_on_sata(data: IdentifyData) -> IdentifyData:
    """IDENTIFY DEVICE data as it is on SATA: NCQ and logs besides."""
    fourth = CommandSet4.of(VALID=1, LOG_DMA=1, WRITE_UNCORRECTABLE=1)
    shared = packet_device_on_sata(data)
    return replace(
        shared,
        queue_depth_z=QUEUE_DEPTH - 1,
        sata_capabilities=shared.sata_capabilities | SataCapabilities.of(READ_LOG_DMA=1, NCQ=1),
        sata_additional=SataAdditional.of(SEND_RECEIVE=1, NCQ_NON_DATA=1, SPEED=GEN3),
        commands_3=data.commands_3 | CommandSet3.LOGGING,
        enabled_2=data.enabled_2 | CommandSet2.WORDS_119_120,
        enabled_3=data.enabled_3 | CommandSet3.LOGGING,
        commands_4=fourth,
        enabled_4=fourth,
    )
