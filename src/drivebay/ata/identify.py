"""IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data: 256 words (ACS-3 sections 7.12 and 7.13)."""

from __future__ import annotations

from typing import Annotated

from drivebay.wire import U16, U32, U64, Bit, Bits, Register16, Struct

__all__ = [
    "Capabilities",
    "CommandSet1",
    "CommandSet2",
    "CommandSet3",
    "GeneralConfiguration",
    "IdentifyData",
    "PacketConfiguration",
    "PhysicalSector",
    "ata_string",
    "checksummed",
]

SIGNATURE = 0xA5  # in the integrity word: a checksum follows


class GeneralConfiguration(Register16):
    """Word 0 of a disk."""

    PACKET = Bit(15)
    REMOVABLE = Bit(7)
    FIXED = Bit(6)  # obsolete, expected by the old


class PacketConfiguration(Register16):
    """Word 0 of a packet device."""

    PACKET = Bits(15, 14)  # 2
    DEVICE_TYPE = Bits(12, 8)  # SCSI's peripheral device type
    REMOVABLE = Bit(7)
    DRQ_TIMING = Bits(6, 5)  # DRQ after PACKET: 0 within 3 ms, 2 within 50 us
    PACKET_SIZE = Bits(1, 0)  # 0 for 12 bytes


class Capabilities(Register16):
    """Word 49."""

    IORDY = Bit(11)
    IORDY_DISABLE = Bit(10)
    LBA = Bit(9)
    DMA = Bit(8)


class CommandSet1(Register16):
    """Words 82 and 85: what is supported, and what is enabled."""

    NOP = Bit(14)
    READ_BUFFER = Bit(13)
    WRITE_BUFFER = Bit(12)
    HPA = Bit(10)
    DEVICE_RESET = Bit(9)
    LOOK_AHEAD = Bit(6)
    WRITE_CACHE = Bit(5)
    PACKET = Bit(4)
    POWER_MANAGEMENT = Bit(3)
    REMOVABLE = Bit(2)
    SECURITY = Bit(1)
    SMART = Bit(0)


class CommandSet2(Register16):
    """Words 83 and 86."""

    WORDS_119_120 = Bit(15)  # in word 86: these are valid
    VALID = Bit(14)  # with bit 15 clear
    FLUSH_CACHE_EXT = Bit(13)
    FLUSH_CACHE = Bit(12)
    LBA48 = Bit(10)
    APM = Bit(3)


class CommandSet3(Register16):
    """Words 84 and 87."""

    VALID = Bit(14)
    WWN = Bit(8)
    FUA = Bit(6)
    LOGGING = Bit(5)  # general purpose logs
    SMART_SELF_TEST = Bit(1)
    SMART_ERROR_LOG = Bit(0)


class PhysicalSector(Register16):
    """Word 106."""

    VALID = Bit(14)
    MULTIPLE = Bit(13)  # several logical sectors in a physical one
    LONG = Bit(12)  # logical sectors of more than 256 words
    EXPONENT = Bits(3, 0)


class IdentifyData(Struct, size=512):
    """The words of both commands, by the names ACS-3 gives them; strings are `ata_string`s."""

    general_configuration: U16 = 0
    cylinders: U16 = 0
    specific_configuration: U16 = 0  # 2
    heads: U16 = 0
    retired_4: U16 = 0  # unformatted bytes a track
    retired_5: U16 = 0  # and a sector
    sectors_per_track: U16 = 0
    reserved_7: Annotated[bytes, "6s"] = b""
    serial_number: Annotated[bytes, "20s"] = b""  # 10
    retired_20: U16 = 0
    retired_21: U16 = 0
    retired_22: U16 = 0  # bytes that READ LONG adds
    firmware_revision: Annotated[bytes, "8s"] = b""  # 23
    model_number: Annotated[bytes, "40s"] = b""  # 27
    max_multiple: U16 = 0  # 47: 0x80 above the sectors
    trusted_computing: U16 = 0
    capabilities: U16 = 0  # 49
    capabilities_2: U16 = 0
    pio_timing: U16 = 0  # 51
    dma_timing: U16 = 0
    validity: U16 = 0  # 53: bit 2 word 88, bit 1 words 64 to 70, bit 0 words 54 to 58
    current_cylinders: U16 = 0
    current_heads: U16 = 0
    current_sectors: U16 = 0
    current_capacity: U32 = 0  # 57
    current_multiple: U16 = 0  # 59: bit 8 valid
    lba28_sectors: U32 = 0  # 60
    single_word_dma: U16 = 0
    multiword_dma: U16 = 0  # 63: selected above supported
    pio_modes: U16 = 0
    min_dma_cycle: U16 = 0  # 65, in ns, as the next three
    recommended_dma_cycle: U16 = 0
    min_pio_cycle: U16 = 0
    min_pio_cycle_iordy: U16 = 0
    additional_support: U16 = 0  # 69: bit 14 deterministic TRIM, bit 5 and it reads zero
    reserved_70: Annotated[bytes, "8s"] = b""
    packet_bus_release: U16 = 0  # 74 for packet devices
    queue_depth_z: U16 = 0  # 75
    sata_capabilities: U16 = 0
    sata_additional: U16 = 0
    sata_supported: U16 = 0
    sata_enabled: U16 = 0
    major_version: U16 = 0  # 80: a bit for each ATA/ATAPI-n
    minor_version: U16 = 0
    commands_1: U16 = 0  # 82
    commands_2: U16 = 0
    commands_3: U16 = 0
    enabled_1: U16 = 0  # 85
    enabled_2: U16 = 0
    enabled_3: U16 = 0
    ultra_dma: U16 = 0  # 88: selected above supported
    erase_time: U16 = 0
    enhanced_erase_time: U16 = 0
    apm_level: U16 = 0  # 91
    master_password: U16 = 0
    hardware_reset: U16 = 0  # 93
    acoustic: U16 = 0
    stream: Annotated[bytes, "10s"] = b""  # 95
    lba48_sectors: U64 = 0  # 100
    stream_pio_time: U16 = 0
    max_trim_blocks: U16 = 0  # 105: of 512 bytes
    physical_sector: U16 = 0
    inter_seek_delay: U16 = 0
    world_wide_name: Annotated[bytes, "8s"] = b""  # 108
    reserved_112: Annotated[bytes, "10s"] = b""
    logical_sector_words: U32 = 0  # 117
    commands_4: U16 = 0  # 119
    enabled_4: U16 = 0
    reserved_121: Annotated[bytes, "12s"] = b""
    removable_notification: U16 = 0
    security_status: U16 = 0  # 128
    vendor: Annotated[bytes, "62s"] = b""
    cfa: Annotated[bytes, "16s"] = b""  # 160
    form_factor: U16 = 0  # 168
    data_set_management: U16 = 0  # 169: bit 0 TRIM
    additional_product: Annotated[bytes, "8s"] = b""
    reserved_174: Annotated[bytes, "4s"] = b""
    media_serial: Annotated[bytes, "60s"] = b""
    sct: U16 = 0  # 206
    reserved_207: Annotated[bytes, "4s"] = b""
    alignment: U16 = 0  # 209: bit 14 valid
    write_read_verify: Annotated[bytes, "8s"] = b""
    nv_cache: Annotated[bytes, "6s"] = b""
    rotation_rate: U16 = 0  # 217: 1 for none
    reserved_218: Annotated[bytes, "8s"] = b""
    transport_major: U16 = 0  # 222
    transport_minor: U16 = 0
    reserved_224: Annotated[bytes, "62s"] = b""
    integrity: U16 = 0  # 255


def ata_string(text: str, size: int) -> bytes:
    """ASCII padded with spaces, each word's first character in its upper byte (section 3.4.9).

    What is not printable ASCII becomes a question mark; what is too long is cut.
    """
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    padded = plain.encode("ascii").ljust(size)[:size]
    swapped = bytearray(size)
    swapped[0::2], swapped[1::2] = padded[1::2], padded[0::2]
    return bytes(swapped)


def checksummed(data: IdentifyData) -> bytes:
    """The 512 bytes, with the integrity word that makes them sum to zero (section 7.12.7.90)."""
    words = bytearray(data.pack())
    words[510] = SIGNATURE
    words[511] = -sum(words[:511]) & 0xFF
    return bytes(words)
