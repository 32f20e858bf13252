"""A namespace: a disk in blocks of the size it was formatted with."""

from __future__ import annotations

import uuid
from typing import Any, Final

from drivebay.controllers.nvme.identity import (
    DLFEAT,
    LBAF,
    NSFEAT,
    DescriptorType,
    IdentifyNamespace,
    NamespaceIndependent,
)
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.disk.bad import BadSectors
from drivebay.disk.contract import Disk, Unmap
from drivebay.disk.errors import Medium, MediumError
from drivebay.disk.reservations import ReservationType

__all__ = ["COPY_BLOCKS", "COPY_RANGES", "RTYPES", "Namespace"]

BLOCK_SIZES: Final = (512, 4096)
COPY_RANGES: Final = 128
COPY_BLOCKS: Final = 65535
"""Of one range, and of a whole Copy command."""

RTYPES: Final = {
    1: ReservationType.WRITE_EXCLUSIVE,
    2: ReservationType.EXCLUSIVE_ACCESS,
    3: ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    4: ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    5: ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    6: ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
}
"""RTYPE of reservation commands (Base 2.0 figure 412)."""


class Namespace:
    """Namespace `nsid` with the blocks of `disk`.

    `lba_size` is the size of a block in bytes, the disk's sector size unless said. Raises
    `ValueError` for an id or a size that cannot be.
    """

    def __init__(self, nsid: int, disk: Disk, *, lba_size: int | None = None) -> None:
        if not 0 < nsid < 0xFFFFFFFF:
            raise ValueError(f"namespace {nsid}: 1 to 4294967294")
        self.nsid, self.disk = nsid, disk
        self.read, self.write = disk.read, disk.write
        self.bad = BadSectors()
        """Blocks that WRITE UNCORRECTABLE has made so."""
        self.busy: Status | None = None
        """Why nothing can be done just now: it is being formatted, or sanitized."""
        self.locked: list[tuple[int, int]] = []
        """Ranges of blocks that a compare-and-write has for itself."""
        sizes = {disk.sector_size} | {size for size in BLOCK_SIZES if size >= disk.sector_size}
        self.formats = sorted(sizes)
        """LBA formats, by number: bytes of a block."""
        if (lba_size or disk.sector_size) not in sizes:
            raise ValueError(f"namespace {nsid}: blocks of {lba_size} bytes")
        self.format(self.formats.index(lba_size or disk.sector_size))

    def format(self, number: int) -> None:
        """Use LBA format `number`."""
        self.flbas = number
        self.lba_size = self.formats[number]
        self.lba_shift = self.lba_size.bit_length() - 1
        self.sector_shift = (self.lba_size // self.disk.sector_size).bit_length() - 1

    @property
    def nsze(self) -> int:
        """Blocks."""
        return self.disk.sector_count >> self.sector_shift

    @property
    def plain(self) -> bool:
        """Whether READ and WRITE may go straight to the disk."""
        unreserved = self.disk.reservations is None
        return unreserved and self.busy is None and not self.bad and not self.locked

    def must_be_free(self) -> None:
        """Raises `Refused` while it is being formatted, sanitized or deleted."""
        if self.busy is not None:
            passes = self.busy != Status.SANITIZE_FAILED
            raise Refused(self.busy, f"namespace {self.nsid}", retry=passes)

    # -- ranges ----------------------------------------------------------------------------------

    def check(self, slba: int, nlb: int) -> None:
        """Raises `Refused` unless the blocks are there."""
        if slba + nlb > self.nsze:
            raise Refused(Status.LBA_OUT_OF_RANGE, f"blocks {slba}+{nlb} of {self.nsze}")

    def must_be_good(self, slba: int, nlb: int) -> None:
        """Raises `MediumError` if one of the blocks is bad."""
        bad = self.bad.first(slba, nlb) if self.bad else None
        if bad is not None:
            raise MediumError(Medium.UNRECOVERED_READ, bad << self.sector_shift)

    # -- identify --------------------------------------------------------------------------------

    @property
    def rescap(self) -> int:
        """Reservation capabilities (Base 2.0 figure 280)."""
        reservations = self.disk.reservations
        if reservations is None:
            return 0
        types = sum(1 << code for code, kind in RTYPES.items() if kind in reservations.types)
        return types | reservations.can_persist_through_power_loss

    @property
    def nuse(self) -> int:
        """Blocks in use: all, unless the disk knows."""
        held = self.disk.allocated_bytes
        return self.nsze if held is None else min(-(-held >> self.lba_shift), self.nsze)

    def identify(self) -> bytes:
        """IDENTIFY, CNS 00h: the truth about the disk."""
        disk = self.disk
        unmaps = disk.unmap_behaviour is not Unmap.IGNORED and not disk.read_only
        granularity = max(disk.optimal_unmap_sectors >> self.sector_shift, 1)
        preferred = max(disk.physical_sector_size >> self.lba_shift, 1)
        formats = b"".join(
            LBAF.of(LBADS=size.bit_length() - 1).to_bytes(4, "little") for size in self.formats
        )
        return IdentifyNamespace(
            nsze=self.nsze,
            ncap=self.nsze,
            nuse=self.nuse,
            nsfeat=NSFEAT.of(OPTPERF=1),
            nlbaf_z=len(self.formats) - 1,
            flbas=self.flbas,
            nmic=1,
            rescap=self.rescap,
            dlfeat=DLFEAT.of(
                WriteZeroesDeallocates=unmaps,
                Reads=disk.unmap_behaviour is Unmap.ZEROES and unmaps,
            ),
            nvmcap=disk.byte_count.to_bytes(16, "little"),
            npwg_z=min(preferred, 0x10000) - 1,
            npwa_z=min(preferred, 0x10000) - 1,
            npdg_z=min(granularity, 0x10000) - 1 if unmaps else 0,
            npda_z=min(granularity, 0x10000) - 1 if unmaps else 0,
            mssrl=COPY_BLOCKS,
            mcl=COPY_BLOCKS,
            msrc_z=COPY_RANGES - 1,
            nsattr=disk.read_only,
            nguid=disk.disk_id or b"",
            lbaf=formats,
        ).pack()

    def identify_independent(self) -> bytes:
        """IDENTIFY, CNS 08h."""
        return NamespaceIndependent(
            nmic=1, rescap=self.rescap, nsattr=self.disk.read_only, nstat=self.busy is None
        ).pack()

    def descriptors(self, nqn: str) -> bytes:
        """IDENTIFY, CNS 03h: ids that no other namespace has, and the command set."""
        disk_id = self.disk.disk_id
        if disk_id is not None:
            found = [(DescriptorType.NGUID, disk_id)]
        else:
            own = uuid.uuid5(uuid.NAMESPACE_URL, f"{nqn}/{self.nsid}")
            found = [(DescriptorType.UUID, own.bytes)]
        found.append((DescriptorType.CSI, b"\0"))
        listed = b"".join(bytes([kind, len(value), 0, 0]) + value for kind, value in found)
        return listed.ljust(4096, b"\0")

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """What is not the disk's."""
        return {"nsid": self.nsid, "flbas": self.flbas, "bad": self.bad.save()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it has another format."""
        if not 0 <= state["flbas"] < len(self.formats):
            raise ValueError(f"namespace {self.nsid} has no LBA format {state['flbas']}")
        self.format(state["flbas"])
        self.bad.restore(state["bad"])
