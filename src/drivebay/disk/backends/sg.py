"""SCSI devices of a Linux host, asked by SG_IO (the header of the sg driver's version 3)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from drivebay.disk.buffers import aligned, gather, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.disk.errors import DiskOpenError
from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = ["SgDevice", "SgIoHeader"]

SG_IO: Final = 0x2285
SG_GET_VERSION_NUM: Final = 0x2282
SYSFS: Final = Path("/sys")
DIRECTIONS: Final = {"none": -1, "out": -2, "in": -3}
SENSE_SIZE: Final = 64
CHECK_CONDITION: Final = 0x02

DID_NO_CONNECT, DID_TIME_OUT, DID_BAD_TARGET = 0x01, 0x03, 0x04
HOST_ERRORS: Final = {
    DID_NO_CONNECT: errno.ENODEV,
    DID_TIME_OUT: errno.ETIMEDOUT,
    DID_BAD_TARGET: errno.ENODEV,
}
DRIVER_MASK, DRIVER_TIMEOUT, DRIVER_SENSE = 0x0F, 0x06, 0x08

I32 = Annotated[int, "i"]
Pad = Annotated[bytes, "4s"]


class SgIoHeader(Struct, size=88):
    """struct sg_io_hdr on a 64-bit machine."""

    interface_id: I32 = ord("S")
    direction: I32 = DIRECTIONS["none"]
    cmd_len: U8 = 0
    mx_sb_len: U8 = SENSE_SIZE
    iovec_count: U16 = 0
    data_length: U32 = 0
    data: U64 = 0
    command: U64 = 0
    sense: U64 = 0
    timeout: U32 = 0  # ms
    flags: U32 = 0
    pack_id: I32 = 0
    pad: Pad = b""
    user: U64 = 0
    status: U8 = 0
    masked_status: U8 = 0
    message_status: U8 = 0
    sense_written: U8 = 0
    host_status: U16 = 0
    driver_status: U16 = 0
    residual: I32 = 0
    duration: U32 = 0  # ms
    info: U32 = 0
    pad_2: Pad = b""


class SgDevice:
    """``/dev/sgN``, or a block device that takes SG_IO as ``/dev/sdN`` does; CDBs go to it as they
    are, so who holds this can do anything to the device.

    Raises `DiskOpenError` if it cannot be opened or is no such device.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # Nothing goes by read and write, but SG_IO lets most commands pass only then.
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM)
            hint = "passing commands to a drive needs root" if denied else "lsscsi -g lists them"
            raise DiskOpenError(f"{path}: {error.strerror}", hint) from error
        if not self._takes_sg_io():
            os.close(self._fd)
            raise DiskOpenError(f"{path}: no SCSI device", "lsscsi -g lists them")

    @property
    def max_transfer(self) -> int | None:
        """Bytes that the host moves in one command at most, as sysfs tells; None if it does not."""
        found = os.fstat(self._fd)
        kind = "block" if stat.S_ISBLK(found.st_mode) else "char"
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        for place in ("queue", "../queue", "device/block/*/queue"):  # whole, partition, /dev/sg
            for path in (SYSFS / "dev" / kind / number).glob(f"{place}/max_hw_sectors_kb"):
                return int(path.read_text()) << 10
        return None

    def _takes_sg_io(self) -> bool:
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            return False
        try:
            version = fcntl.ioctl(self._fd, SG_GET_VERSION_NUM, bytes(4))
        except OSError:
            return False
        return int.from_bytes(version, "little") >= 30000

    def close(self) -> None:
        """Let go of the device."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(
        self,
        cdb: bytes,
        direction: Literal["none", "in", "out"],
        buffers: Buffers,
        seconds: float,
    ) -> tuple[int, bytes, int]:
        """Carry out one command and return SCSI status, sense data and the bytes not moved; blocks.

        Data moves straight into or out of a single writable buffer, else through one of our own.
        Raises `OSError` if the device cannot be reached (ENODEV), does not answer for `seconds`
        (ETIMEDOUT), or the host fails otherwise (EIO, or what the ioctl says).
        """
        size = byte_length(buffers)
        direct = len(buffers) == 1 and not buffers[0].readonly
        data = buffers[0] if direct else aligned(max(size, 1))
        if not direct and direction == "out":
            gather(buffers, data)
        sense, command = bytearray(SENSE_SIZE), bytearray(cdb)
        holds = [(ctypes.c_char * len(held)).from_buffer(held) for held in (data, command, sense)]
        at, command_at, sense_at = (ctypes.addressof(hold) for hold in holds)
        header = bytearray(
            SgIoHeader(
                direction=DIRECTIONS[direction if size else "none"],
                cmd_len=len(cdb),
                data_length=size,
                data=at if size else 0,
                command=command_at,
                sense=sense_at,
                timeout=min(int(seconds * 1000), 0x7FFFFFFF),
            ).pack()
        )
        _uninterrupted(self._fd, header)
        answer = SgIoHeader.unpack(header)
        _must_have_answered(answer, self.path)
        if not direct and direction == "in":
            scatter(buffers, data[:size])
        written = bytes(sense[: answer.sense_written])
        return answer.status, written, max(answer.residual, 0)


def _uninterrupted(fd: int, header: bytearray) -> None:
    """Signals wait: an interrupted call is made again, and the device would see two commands."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        fcntl.ioctl(fd, SG_IO, header)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _must_have_answered(answer: SgIoHeader, path: str) -> None:
    """A host adapter has troubles of its own, that no SCSI status tells."""
    driver = answer.driver_status & DRIVER_MASK
    if answer.host_status and not (answer.status == CHECK_CONDITION and answer.sense_written):
        number = HOST_ERRORS.get(answer.host_status, errno.EIO)
        raise OSError(number, f"{path}: host status {answer.host_status:#04x}")
    late = answer.status == CHECK_CONDITION and answer.duration >= answer.timeout
    if driver == DRIVER_TIMEOUT or late:  # libata gives a sense of sorts for what timed out
        raise OSError(errno.ETIMEDOUT, f"{path}: no answer for {answer.timeout} ms")
    if driver not in (0, DRIVER_SENSE):
        raise OSError(errno.EIO, f"{path}: driver status {driver:#04x}")
