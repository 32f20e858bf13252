"""What is compared, and what each is told to do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["CONTENDERS", "JOBS", "WRITES", "Contender", "Job", "contender", "job"]


@dataclass(frozen=True)
class Contender:
    """A controller, worked in one of its ways."""

    name: str
    label: str
    in_guest: bool = True
    """Linux has a driver for it."""
    peer: bool = True
    """QEMU has it, too."""


@dataclass(frozen=True)
class Job:
    """I/O of `size` bytes each, one after the other or anywhere, up to `depth` at a time."""

    name: str
    label: str
    size: int
    depth: int = 1
    write: bool = False

    @property
    def sequential(self) -> bool:
        """Whether one follows the other, and the figure is MB/s. Otherwise it is IOPS."""
        return self.size > 4096

    @property
    def unit(self) -> str:
        """Of the figure."""
        return "MB/s" if self.sequential else "IOPS"

    def figure(self, count: int, seconds: float) -> float:
        """What `count` of them in `seconds` come to."""
        return count * (self.size / 1e6 if self.sequential else 1) / seconds

    def places(self, room: int, seed: int = 0) -> Iterator[int]:
        """Offsets on a disk of `room` bytes, without end; the same ones for the same seed."""
        slots = max(room // self.size, 1)
        if not self.sequential:
            chance = random.Random(seed)
            while True:
                yield chance.randrange(slots) * self.size
        at = 0
        while True:
            yield at * self.size
            at = (at + 1) % slots


CONTENDERS: Final = (
    Contender("ide-pio", "IDE PIO"),
    Contender("ide-dma", "IDE DMA"),
    Contender("int13", "enlightened INT13", in_guest=False, peer=False),
    Contender("ahci", "AHCI"),
    Contender("ahci-ncq", "AHCI with NCQ"),
    Contender("virtio-blk", "virtio-blk"),
    Contender("nvme", "NVMe"),
    Contender("nvme-dbbuf", "NVMe, shadow doorbells"),
)
"""From the oldest to the newest."""

JOBS: Final = (
    Job("read-1m", "1 MiB reads, one after the other", 1 << 20),
    Job("randread-4k-qd1", "4 KiB random reads, one at a time", 4096),
    Job("randread-4k-qd32", "4 KiB random reads, 32 at a time", 4096, depth=32),
)
WRITES: Final = (Job("randwrite-4k-qd1", "4 KiB random writes, one at a time", 4096, write=True),)
"""What a cache mode matters for."""


_BY_NAME: Final = {each.name: each for each in CONTENDERS}
_JOBS: Final = {each.name: each for each in (*JOBS, *WRITES)}


def contender(name: str) -> Contender:
    """The one of that name. Raises `KeyError`."""
    return _BY_NAME[name]


def job(name: str) -> Job:
    """The one of that name. Raises `KeyError`."""
    return _JOBS[name]
