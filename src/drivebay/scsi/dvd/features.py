"""GET CONFIGURATION: what the drive can do, and what it can do now (MMC-6)."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.medium import BLOCK, Profile
from drivebay.scsi.replies import Reply
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["Feature", "FeatureHeader", "PhysicalInterface", "get_configuration"]

ALL, CURRENT, ONE = 0, 1, 2  # RT


class PhysicalInterface(enum.IntEnum):
    """Physical interface standards, MMC-6."""

    SCSI = 1
    ATAPI = 2
    SERIAL_ATAPI = 7


class Feature(enum.IntEnum):
    """Feature codes, MMC-6."""

    PROFILE_LIST = 0x0000
    CORE = 0x0001
    MORPHING = 0x0002
    REMOVABLE_MEDIUM = 0x0003
    RANDOM_READABLE = 0x0010
    CD_READ = 0x001E
    DVD_READ = 0x001F
    POWER_MANAGEMENT = 0x0100
    TIMEOUT = 0x0105
    REAL_TIME_STREAMING = 0x0107
    DRIVE_SERIAL_NUMBER = 0x0108


class FeatureHeader(Struct, size=8, byte_order=">"):
    """Before the features, MMC-6. The length is that of all, but for itself."""

    data_length: U32 = 0
    reserved: U16 = 0
    current_profile: U16 = 0


class FeatureFlags(Register8):
    """Byte 2 of a feature."""

    VERSION = Bits(5, 2)
    PERSISTENT = Bit(1)
    CURRENT = Bit(0)


class FeatureDescriptor(Struct, size=4, byte_order=">"):
    """Before the data of each feature, MMC-6."""

    feature_code: U16 = 0
    flags: U8 = 0
    additional_length: U8 = 0


class ProfileDescriptor(Struct, size=4, byte_order=">"):
    """A profile in the profile list, MMC-6."""

    profile_number: U16 = 0
    current: U8 = 0
    reserved: U8 = 0


class Core(Struct, size=8, byte_order=">"):
    """Core feature, MMC-6."""

    physical_interface_standard: U32 = 0
    flags: U8 = 0b11  # INQ2: EVPD and long allocation lengths; DBE: device busy events
    reserved: U8 = 0
    reserved_2: U16 = 0


class FlagsOnly(Struct, size=4, byte_order=">"):
    """A feature whose data is one byte of flags."""

    flags: U8 = 0
    reserved: U8 = 0
    reserved_2: U16 = 0


class RandomReadable(Struct, size=8, byte_order=">"):
    """Random readable feature, MMC-6."""

    logical_block_size: U32 = BLOCK
    blocking: U16 = 1
    page_present: U8 = 1  # mode page 01
    reserved: U8 = 0


class Morphing(Register8):
    """Morphing feature, MMC-6."""

    OCEVENT = Bit(1)
    ASYNC = Bit(0)


class Removable(Register8):
    """Removable medium feature, MMC-6."""

    LOADING_MECHANISM_TYPE = Bits(7, 5)
    LOAD = Bit(4)
    EJECT = Bit(3)
    PVNT_JMPR = Bit(2)
    DBML = Bit(1)
    LOCK = Bit(0)


class Streaming(Register8):
    """Real time streaming feature, MMC-6."""

    RBCB = Bit(4)  # READ BUFFER CAPACITY may ask in blocks
    SCS = Bit(3)  # SET CD SPEED
    MP2A = Bit(2)
    WSPD = Bit(1)
    SW = Bit(0)


TRAY: Final = 1
DVD_BLOCKING: Final = 16  # blocks in an ECC block


def get_configuration(drive: Dvd, cdb: mmc.GetConfiguration) -> Task:
    """GET CONFIGURATION, MMC-6."""
    wanted = mmc.GetConfigurationFlags(cdb.flags).RT
    if wanted > ONE:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    start = cdb.starting_feature_number
    found = b"".join(
        FeatureDescriptor(code, flags, len(data)).pack() + data
        for code, flags, data in _features(drive)
        if (code == start if wanted == ONE else code >= start)
        and (wanted != CURRENT or flags & FeatureFlags.CURRENT)
    )
    header = FeatureHeader(
        data_length=FeatureHeader.size - 4 + len(found), current_profile=drive.profile
    )
    return Reply(header.pack() + found, cdb.allocation_length)


def _features(drive: Dvd) -> Iterator[tuple[Feature, int, bytes]]:
    """Each feature with its flags and data, in the order of their codes."""
    profile, always = drive.profile, FeatureFlags.of(PERSISTENT=1, CURRENT=1)
    has_medium = profile != Profile.NONE
    profiles = b"".join(
        ProfileDescriptor(known, known == profile).pack()
        for known in (Profile.DVD_ROM, Profile.CD_ROM)
    )
    yield Feature.PROFILE_LIST, always, profiles
    core = Core(physical_interface_standard=drive.interface)
    yield Feature.CORE, always.replace(VERSION=2), core.pack()
    morphing = FlagsOnly(Morphing.OCEVENT)
    yield Feature.MORPHING, always.replace(VERSION=1), morphing.pack()
    removable = Removable.of(LOADING_MECHANISM_TYPE=TRAY, LOAD=1, EJECT=1, LOCK=1)
    yield Feature.REMOVABLE_MEDIUM, always.replace(VERSION=1), FlagsOnly(removable).pack()
    readable = RandomReadable(blocking=DVD_BLOCKING if profile == Profile.DVD_ROM else 1)
    yield Feature.RANDOM_READABLE, FeatureFlags.of(CURRENT=has_medium), readable.pack()
    cd = FeatureFlags.of(VERSION=2, CURRENT=profile == Profile.CD_ROM)
    yield Feature.CD_READ, cd, FlagsOnly().pack()
    dvd = FeatureFlags.of(VERSION=1, CURRENT=profile == Profile.DVD_ROM)
    yield Feature.DVD_READ, dvd, FlagsOnly().pack()
    yield Feature.POWER_MANAGEMENT, always, b""
    yield Feature.TIMEOUT, always.replace(VERSION=1), FlagsOnly().pack()
    streaming = FeatureFlags.of(VERSION=4, CURRENT=has_medium)
    yield Feature.REAL_TIME_STREAMING, streaming, FlagsOnly(Streaming.of(RBCB=1, SCS=1)).pack()
    if serial := drive.identity.serial.encode():
        yield Feature.DRIVE_SERIAL_NUMBER, always, serial + b" " * (-len(serial) % 4)
