"""What lies in the tray: a disk seen as a disc of 2048-byte blocks."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.errors import DiskError, InvalidInput
from drivebay.scsi.errors import sense_of
from drivebay.scsi.sense import LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, CheckCondition

__all__ = ["BLOCK", "Medium", "Profile", "lba_of", "msf"]

BLOCK: Final = 2048
FRAMES: Final = 75  # a second
PREGAP: Final = 150  # frames: LBA 0 is 00:02:00
LARGEST_CD: Final = 100 * 60 * FRAMES - PREGAP
"""Blocks that addresses of two digits of minutes reach, 921 MB: what has more is a DVD."""
MAX_BLOCKS: Final = (1 << 32) - 1
LAST_MSF: Final = (0xFF, 59, 74)


class Profile(enum.IntEnum):
    """Profiles, MMC-6."""

    NONE = 0x0000
    CD_ROM = 0x0008
    DVD_ROM = 0x0010


class Medium:
    """A disc that is `disk`.

    Raises `InvalidInput` if the disk has no blocks of 2048 bytes, or more than addresses reach.
    """

    def __init__(self, disk: Disk) -> None:
        if disk.sector_size > BLOCK:
            raise InvalidInput(f"sectors of {disk.sector_size} bytes: a DVD's blocks have {BLOCK}")
        if disk.byte_count % BLOCK or not disk.byte_count:
            raise InvalidInput(f"{disk.byte_count} bytes: a DVD is a whole number of {BLOCK} bytes")
        if disk.byte_count // BLOCK > MAX_BLOCKS:
            raise InvalidInput(f"{disk.byte_count} bytes: a DVD has {MAX_BLOCKS} blocks at most")
        self.disk = disk
        self._ratio = BLOCK // disk.sector_size
        self._reads = 0  # under way
        self._waiting: list[Callable[[], None]] = []

    @property
    def blocks(self) -> int:
        """Blocks on the disc, as it is now."""
        return min(self.disk.sector_count // self._ratio, MAX_BLOCKS)

    @property
    def profile(self) -> Profile:
        """A CD while it has no more than a CD can have, else a DVD."""
        return Profile.DVD_ROM if self.blocks > LARGEST_CD else Profile.CD_ROM

    def check_range(self, lba: int, count: int) -> None:
        """Raise LOGICAL BLOCK ADDRESS OUT OF RANGE unless the blocks are on the disc, or, of no
        blocks, the first would be.
        """
        if lba + (count or 1) > self.blocks:
            raise CheckCondition(LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)

    async def read(self, lba: int, buffers: Buffers) -> None:
        """Fill `buffers`, whole blocks, from `lba` on. Raises `CheckCondition`."""
        self._reads += 1
        try:
            await self.disk.read(lba * self._ratio, buffers)
        except DiskError as error:
            raise CheckCondition(sense_of(error, lba, self._ratio)) from error
        finally:
            self._reads -= 1
            self._settle()

    def when_idle(self, act: Callable[[], None]) -> None:
        """Call `act` once no read is under way: now, if there is none."""
        self._waiting.append(act)
        self._settle()

    def _settle(self) -> None:
        while self._waiting and not self._reads:
            self._waiting.pop(0)()

    def watch(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when the disk has been resized, until what comes back is called."""
        return self.disk.on_resize(lambda _: listener())


def msf(lba: int) -> tuple[int, int, int]:
    """Minute, second and frame of `lba`; the last that there is for what lies beyond 255 minutes
    (MMC-6).
    """
    seconds, frame = divmod(lba + PREGAP, FRAMES)
    minute, second = divmod(seconds, 60)
    return (minute, second, frame) if minute <= 0xFF else LAST_MSF


def lba_of(address: bytes) -> int:
    """The LBA of a minute, second and frame; negative in the pregap.

    Raises `ValueError` if there is no such second or frame.
    """
    minute, second, frame = address
    if second >= 60 or frame >= FRAMES:
        raise ValueError(f"{minute:02}:{second:02}:{frame:02}: no such time")
    return (minute * 60 + second) * FRAMES + frame - PREGAP
