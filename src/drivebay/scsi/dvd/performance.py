"""How fast the drive is, which is as fast as its disk, whatever it says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.pages import MAX_SPEED
from drivebay.scsi.replies import Action, Parameters, Reply
from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["get_performance", "read_buffer_capacity", "set_cd_speed", "set_streaming"]

PERFORMANCE, WRITE_SPEED = 0, 3  # types
TOLERANCE: Final = 0b10  # 10 % nominal, 20 % exceptions: the only one there is
EXCEPT: Final = 1


class PerformanceHeader(Struct, size=8, byte_order=">"):
    """Before all else, MMC-6. The length does not count itself."""

    performance_data_length: U32 = 0
    flags: U8 = 0
    reserved: U8 = 0
    reserved_2: U16 = 0


class NominalPerformance(Struct, size=16, byte_order=">"):
    """A range of blocks, MMC-6; in units of 1000 bytes a second."""

    start_lba: U32 = 0
    start_performance: U32 = 0
    end_lba: U32 = 0
    end_performance: U32 = 0


class PerformanceDescriptor(Struct, size=28, byte_order=">"):
    """What SET STREAMING sends, MMC-6; times in milliseconds."""

    flags: U8 = 0
    reserved: U8 = 0
    reserved_2: U16 = 0
    start_lba: U32 = 0
    end_lba: U32 = 0
    read_size: U32 = 0
    read_time: U32 = 0
    write_size: U32 = 0
    write_time: U32 = 0


class BufferCapacity(Struct, size=12, byte_order=">"):
    """READ BUFFER CAPACITY: a drive that writes nothing has no buffer for it."""

    data_length: U16 = 10
    reserved: U8 = 0
    block: U8 = 0
    length_of_the_buffer: U32 = 0
    available_length: U32 = 0


def get_performance(drive: Dvd, cdb: mmc.GetPerformance) -> Task:
    """GET PERFORMANCE, MMC-6: the same speed everywhere, and no exceptions."""
    if cdb.type == WRITE_SPEED:
        return _performances([], 0, cdb)
    flags = mmc.GetPerformanceFlags(cdb.data_type)
    if cdb.type != PERFORMANCE or flags.TOLERANCE != TOLERANCE or flags.WRITE or flags.EXCEPT > 2:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    medium = drive.loaded()
    if flags.EXCEPT:
        return _performances([], EXCEPT, cdb)
    speed = drive.read_speed
    return _performances([NominalPerformance(0, speed, medium.blocks - 1, speed)], 0, cdb)


def _performances(found: list[NominalPerformance], flags: int, cdb: mmc.GetPerformance) -> Task:
    data = b"".join(descriptor.pack() for descriptor in found)
    header = PerformanceHeader(PerformanceHeader.size - 4 + len(data), flags)
    most = cdb.maximum_number_of_descriptors * NominalPerformance.size
    return Reply(header.pack() + data, PerformanceHeader.size + most)


def set_streaming(drive: Dvd, cdb: mmc.SetStreaming) -> Task:
    """SET STREAMING, MMC-6: a wish for speed, which is as good as granted."""
    if cdb.type:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if cdb.parameter_list_length != PerformanceDescriptor.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    medium = drive.loaded()

    def check(data: bytes) -> None:
        wish = PerformanceDescriptor.unpack(data)
        if not wish.start_lba <= wish.end_lba < medium.blocks:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)

    return Parameters(cdb.parameter_list_length, check)


def set_cd_speed(drive: Dvd, cdb: mmc.SetCdSpeed) -> Task:
    """SET CD SPEED, MMC-6: what mode page 2A then shows."""
    return Action(partial(drive.set_speed, min(cdb.read_speed, MAX_SPEED)))


def read_buffer_capacity(drive: Dvd, cdb: mmc.ReadBufferCapacity) -> Task:
    """READ BUFFER CAPACITY, MMC-6."""
    return Reply(BufferCapacity(block=cdb.block & 1).pack(), cdb.allocation_length)
