"""General purpose logs: READ LOG (DMA) EXT, WRITE LOG (DMA) EXT (ACS-3 sections 7.24, 7.63)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from drivebay.ata.command import Aborted, DataIn, DataOut, Protocol
from drivebay.ata.registers import Opcode
from drivebay.ata.smart import HOST_LOG_SECTORS, HOST_LOGS
from drivebay.ata.taskfile import TaskFile
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Register32, Struct

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk
    from drivebay.ata.ncq import Failure

__all__ = [
    "DIRECTORY",
    "NCQ_ERROR",
    "NCQ_NON_DATA_LOG",
    "NCQ_SEND_RECEIVE",
    "NcqError",
    "ReadLog",
    "WriteLog",
    "read_log",
    "write_log",
]

PAGE: Final = 512
DIRECTORY, NCQ_ERROR, NCQ_NON_DATA_LOG, NCQ_SEND_RECEIVE = 0x00, 0x10, 0x12, 0x13


class NcqErrorTag(Register8):
    """Byte 0 of the NCQ Command Error log: which command failed."""

    NQ = Bit(7)  # not a queued one: the tag means nothing
    UNL = Bit(6)
    TAG = Bits(4, 0)


class NcqError(Struct, size=512):
    """The NCQ Command Error log, 10h: the registers as they were (ACS-3 section A.14)."""

    tag: U8
    reserved_1: U8
    status: U8
    error: U8
    lba_low: Annotated[bytes, "3s"]  # bits 23 to 0
    device: U8
    lba_high: Annotated[bytes, "3s"]  # bits 47 to 24
    reserved_11: U8
    count: U16
    sense: Annotated[bytes, "3s"] = b""  # key, code, qualifier; nothing to say where it is zero
    reserved_17: Annotated[bytes, "494s"] = b""
    checksum: U8 = 0

    @property
    def lba(self) -> int:
        """The sector that failed."""
        return int.from_bytes(self.lba_low + self.lba_high, "little")


class AbortSupport(Register32):
    """What NCQ NON-DATA can abort: the first dword of log 12h."""

    SELECTED = Bit(4)
    NON_STREAMING = Bit(3)
    STREAMING = Bit(2)
    ALL = Bit(1)
    ABORT = Bit(0)


class NcqNonData(Struct, size=512):
    """The NCQ Non-Data log, 12h: a dword for each subcommand."""

    abort: U32
    others: Annotated[bytes, "508s"] = b""


class NcqSendReceive(Struct, size=512):
    """The NCQ Send and Receive log, 13h (ACS-3 section A.16)."""

    subcommands: U32  # bit 0: data set management
    data_set_management: U32  # bit 0: TRIM
    others: Annotated[bytes, "504s"] = b""


def ncq_error(failure: Failure | None) -> bytes:
    """Log 10h. Without a failure it speaks of no command."""
    if failure is None:
        return _summed(NcqError(NcqErrorTag.of(NQ=1), 0, 0, 0, b"", 0, b"", 0, 0).pack())
    lba = failure.taskfile.lba48.to_bytes(6, "little")
    return _summed(
        NcqError(
            tag=NcqErrorTag.of(NQ=failure.tag is None, TAG=failure.tag or 0),
            reserved_1=0,
            status=failure.status,
            error=failure.error,
            lba_low=lba[:3],
            device=failure.taskfile.device,
            lba_high=lba[3:],
            reserved_11=0,
            count=failure.taskfile.count,
        ).pack()
    )


def _directory(_drive: AtaDisk) -> bytes:
    pages = [0] * 256
    pages[0] = 1  # in word 0: the version of the directory
    for address in LOGS:
        pages[address] = 1
    for address in HOST_LOGS:
        pages[address] = HOST_LOG_SECTORS
    return struct.pack("<256H", *pages)


def _send_receive(drive: AtaDisk) -> bytes:
    return NcqSendReceive(int(drive.trims), int(drive.trims)).pack()


def _non_data(_drive: AtaDisk) -> bytes:
    return NcqNonData(AbortSupport.of(SELECTED=1, NON_STREAMING=1, ALL=1, ABORT=1)).pack()


LOGS: Final[dict[int, Callable[[AtaDisk], bytes]]] = {
    DIRECTORY: _directory,
    NCQ_ERROR: lambda drive: ncq_error(drive.queue.failure),
    NCQ_NON_DATA_LOG: _non_data,
    NCQ_SEND_RECEIVE: _send_receive,
}


class ReadLog(DataIn):
    """A log, or some of its pages, by PIO or DMA; the NCQ error is forgotten once it was told."""

    def __init__(self, drive: AtaDisk, address: int, data: bytes, *, dma: bool) -> None:
        super().__init__(data)
        self._drive, self._address = drive, address
        self.protocol = Protocol.DMA_IN if dma else Protocol.PIO_IN
        self.interrupts_at_end = dma

    async def finish(self) -> None:
        """The host knows (SATA 3.1 section 13.6.2.4): queued commands are taken again."""
        if self._address == NCQ_ERROR:
            self._drive.queue.failure = None


class WriteLog(DataOut):
    """Pages of a host's log."""

    def __init__(self, drive: AtaDisk, address: int, pages: int, *, dma: bool) -> None:
        super().__init__(pages * PAGE, Protocol.DMA_OUT if dma else Protocol.PIO_OUT)
        self._drive, self._address = drive, address

    async def finish(self) -> None:
        """Keep them."""
        self._drive.smart.write_log(self._address, bytes(self.received))


def read_log(drive: AtaDisk, taskfile: TaskFile) -> ReadLog:
    """READ LOG (DMA) EXT. Raises `Aborted` for pages there are not."""
    address, page, count = taskfile.lba_low & 0xFF, taskfile.lba_mid, taskfile.count
    make = LOGS.get(address)
    if make is not None:
        log = make(drive)
    elif address in HOST_LOGS:
        log = drive.smart.read_log(address, HOST_LOG_SECTORS) or b""
    else:
        raise Aborted(why=f"no log {address:#04x}")
    data = log[page * PAGE : (page + count) * PAGE]
    if not count or len(data) != count * PAGE:
        raise Aborted(why=f"log {address:#04x} has no pages {page}+{count}")
    return ReadLog(drive, address, data, dma=taskfile.command == Opcode.READ_LOG_DMA_EXT)


def write_log(drive: AtaDisk, taskfile: TaskFile) -> WriteLog:
    """WRITE LOG (DMA) EXT, of the host's logs from their first page on. Raises `Aborted`."""
    address, page, count = taskfile.lba_low & 0xFF, taskfile.lba_mid, taskfile.count
    if page or not drive.smart.writable(address, count):
        raise Aborted(why=f"log {address:#04x} cannot be written at {page}+{count}")
    return WriteLog(drive, address, count, dma=taskfile.command == Opcode.WRITE_LOG_DMA_EXT)


def _summed(page: bytes) -> bytes:
    """`page` with the last byte that makes it sum to zero."""
    return page[:-1] + bytes([-sum(page[:-1]) & 0xFF])
