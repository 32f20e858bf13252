"""Internal snapshots (qcow2.txt, "Snapshots")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivebay.disk.formats.qcow2.header import MOST_L1_BYTES, Header
from drivebay.disk.formats.qcow2.refcounts import corrupt
from drivebay.wire import U16, U32, U64, Struct

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store

__all__ = ["Snapshot", "read_snapshots", "table_size"]

MOST_BYTES: Final = 16 << 20
MOST_EXTRA: Final = 1024
MOST_DISK: Final = 1 << 63


class Entry(Struct, size=40, byte_order=">"):
    """The fixed part of an entry; extra data, id and name follow."""

    l1_table_offset: U64
    l1_size: U32
    id_size: U16
    name_size: U16
    date_sec: U32
    date_nsec: U32
    vm_clock_nsec: U64
    vm_state_size: U32
    extra_data_size: U32


@dataclass(frozen=True)
class Snapshot:
    """A snapshot inside an image."""

    id: str
    name: str
    seconds: int
    """When it was taken, since 1970."""
    vm_state_size: int
    """Bytes of the machine's state that it has besides the disk."""
    disk_size: int
    """Bytes; 0 if it does not say, which is as many as the image has."""
    l1_table_offset: int
    l1_size: int
    stored: int
    """Bytes of its entry in the table."""


async def read_snapshots(store: Store, header: Header) -> list[Snapshot]:
    """All of them. Raises `DiskError` where the table makes no sense."""
    found: list[Snapshot] = []
    offset = header.snapshots_offset
    for _ in range(header.nb_snapshots):
        snapshot = await _read(store, offset)
        if snapshot.l1_table_offset & (1 << header.cluster_bits) - 1:
            raise corrupt("a snapshot's L1 table is not aligned")
        found.append(snapshot)
        offset += snapshot.stored
        if offset - header.snapshots_offset > MOST_BYTES:
            raise corrupt(f"a snapshot table of more than {MOST_BYTES} bytes")
    return found


async def _read(store: Store, offset: int) -> Snapshot:
    if offset + Entry.size > store.size:
        raise corrupt("the snapshot table ends too early")
    entry = Entry.unpack(await store.read(offset, Entry.size))
    rest = entry.extra_data_size + entry.id_size + entry.name_size
    if entry.extra_data_size > MOST_EXTRA or offset + Entry.size + rest > store.size:
        raise corrupt("a snapshot's entry is too long")
    if entry.l1_size * 8 > min(MOST_L1_BYTES, max(0, store.size - entry.l1_table_offset)):
        raise corrupt("a snapshot's L1 table is not in the image")
    data = await store.read(offset + Entry.size, rest)
    extra, texts = data[: entry.extra_data_size], data[entry.extra_data_size :]
    disk_size = int.from_bytes(extra[8:16], "big") if len(extra) >= 16 else 0
    if not 0 <= disk_size < MOST_DISK:
        raise corrupt(f"a snapshot of {disk_size} bytes")
    return Snapshot(
        id=texts[: entry.id_size].decode(errors="replace"),
        name=texts[entry.id_size :].decode(errors="replace"),
        seconds=entry.date_sec,
        vm_state_size=int.from_bytes(extra[:8], "big") if len(extra) >= 8 else entry.vm_state_size,
        disk_size=disk_size,
        l1_table_offset=entry.l1_table_offset,
        l1_size=entry.l1_size,
        stored=Entry.size + rest + -rest % 8,
    )


def table_size(snapshots: list[Snapshot]) -> int:
    """Bytes that the table of all these takes."""
    return sum(snapshot.stored for snapshot in snapshots)
