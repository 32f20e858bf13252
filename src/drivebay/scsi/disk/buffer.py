"""READ BUFFER and WRITE BUFFER: memory of the device, to test the way there (SPC-4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Parameters, Reply
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.task import Task
from drivebay.wire import U8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["DataBuffer", "read_buffer", "write_buffer"]

SIZE: Final = 1 << 16
MODE: Final = 0x1F
DATA, DESCRIPTOR, ECHO, ECHO_DESCRIPTOR = 0x02, 0x03, 0x0A, 0x0B
ECHO_SIZE: Final = 252
ANY_OFFSET: Final = 0


class BufferDescriptor(Struct, size=4, byte_order=">"):
    """READ BUFFER in descriptor mode; the capacity has 24 bits."""

    offset_boundary: U8 = ANY_OFFSET
    buffer_capacity_high: U8 = SIZE >> 16
    buffer_capacity_middle: U8 = SIZE >> 8 & 0xFF
    buffer_capacity_low: U8 = SIZE & 0xFF


class EchoDescriptor(Struct, size=4, byte_order=">"):
    """READ BUFFER in echo buffer descriptor mode."""

    flags: U8 = 0
    reserved: U8 = 0
    buffer_capacity_high: U8 = 0
    buffer_capacity_low: U8 = ECHO_SIZE


class DataBuffer:
    """Buffer 0, and the echo buffer."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.echo = b""

    def write(self, offset: int, data: bytes) -> None:
        """Keep `data`, which fits."""
        self.data[offset : offset + len(data)] = data


def _asked(cdb: sbc.ReadBuffer) -> tuple[int, int, int]:
    """Mode, offset and length. Raises `CheckCondition` for another buffer than ours."""
    if cdb.buffer_id:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    offset, length = int.from_bytes(cdb.buffer_offset), int.from_bytes(cdb.allocation_length)
    return cdb.mode & MODE, offset, length


def read_buffer(unit: ScsiDisk, cdb: sbc.ReadBuffer) -> Task:
    """READ BUFFER."""
    mode, offset, length = _asked(cdb)
    if mode == DATA and offset <= SIZE:
        return Reply(bytes(unit.buffer.data[offset : offset + length]), length)
    if mode == DESCRIPTOR:
        return Reply(BufferDescriptor().pack(), length)
    if mode == ECHO:
        return Reply(unit.buffer.echo, length)
    if mode == ECHO_DESCRIPTOR:
        return Reply(EchoDescriptor().pack(), length)
    raise CheckCondition(INVALID_FIELD_IN_CDB)


def write_buffer(unit: ScsiDisk, cdb: sbc.ReadBuffer) -> Task:
    """WRITE BUFFER."""
    mode, offset, length = _asked(cdb)
    if mode == DATA and offset + length <= SIZE:
        return Parameters(length, lambda data: unit.buffer.write(offset, data))
    if mode == ECHO and length <= ECHO_SIZE:

        def echo(data: bytes) -> None:
            unit.buffer.echo = data

        return Parameters(length, echo)
    raise CheckCondition(INVALID_FIELD_IN_CDB)
