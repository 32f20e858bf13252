"""A new, empty image."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError, InvalidInput
from drivebay.disk.formats.qcow2.header import (
    BACKING_FORMAT,
    LARGEST_CLUSTER,
    LONGEST_NAME,
    MAGIC,
    MOST_L1_BYTES,
    MOST_REFCOUNT_TABLE,
    SMALLEST_CLUSTER,
    VERSION_2_LENGTH,
    Header,
    extension,
)
from drivebay.disk.formats.qcow2.slices import Codec
from drivebay.disk.formats.store import Store
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["create"]

REFCOUNT_BITS: Final = (1, 2, 4, 8, 16, 32, 64)


def create(
    disk: Disk,
    size: int,
    *,
    cluster_size: int = 1 << 16,
    version: int = 3,
    refcount_bits: int = 16,
    backing: str = "",
    backing_format: str = "",
) -> None:
    """Put an image of `size` bytes over whatever `disk` holds, and make it stable.

    `disk` is grown if it is too small for the tables; it stays open. `backing` is the path of the
    file that shows where the image holds nothing, relative to the image's own folder or absolute,
    and `backing_format` is what that is: ``raw``, ``qcow2``... They are stored and not looked at.

    Raises `DiskOpenError` where there can be no such image, and `DiskError`.
    """
    _check(size, cluster_size, version, refcount_bits, backing, backing_format)
    run(_write(Store(disk), size, cluster_size, version, refcount_bits, backing, backing_format))


def _check(
    size: int, cluster_size: int, version: int, refcount_bits: int, backing: str, format: str
) -> None:
    if cluster_size & (cluster_size - 1) or not SMALLEST_CLUSTER <= cluster_size <= LARGEST_CLUSTER:
        raise DiskOpenError(
            f"qcow2 has no clusters of {cluster_size} bytes", "a power of two from 512 to 2M"
        )
    if version not in (2, 3):
        raise DiskOpenError(f"no qcow2 has version {version}", "there are 2 and 3")
    if refcount_bits not in REFCOUNT_BITS or (version == 2 and refcount_bits != 16):
        raise DiskOpenError(
            f"no qcow2 of version {version} has refcounts of {refcount_bits} bits",
            "a power of two from 1 to 64, and 16 in version 2",
        )
    if size % 512 or not 0 < size < 1 << 63:
        raise DiskOpenError(f"no qcow2 has {size} bytes", "a whole number of sectors of 512")
    if _l1_entries(size, cluster_size) * 8 > MOST_L1_BYTES:
        raise DiskOpenError(f"{size} bytes are too many for clusters of {cluster_size} bytes")
    if bool(backing) != bool(format):
        raise DiskOpenError("a backing file and its format belong together")
    room = cluster_size - Header.size - 8 - len(extension(BACKING_FORMAT, format.encode()))
    if len(os.fsencode(backing)) > min(LONGEST_NAME, room):
        raise DiskOpenError("the name of the backing file is too long for the header")


def _l1_entries(size: int, cluster_size: int) -> int:
    return -(-size // (cluster_size * (cluster_size // 8)))


async def _write(
    store: Store,
    size: int,
    cluster_size: int,
    version: int,
    refcount_bits: int,
    backing: str,
    backing_format: str,
) -> None:
    entries = _l1_entries(size, cluster_size)
    l1_clusters = -(-entries * 8 // cluster_size)
    per_block = cluster_size * 8 // refcount_bits
    blocks = table = 1
    while True:  # header, refcount table, refcount blocks, L1 table
        used = 1 + table + blocks + l1_clusters
        if used <= blocks * per_block and blocks * 8 <= table * cluster_size:
            break
        blocks = -(-used // per_block)
        table = -(-blocks * 8 // cluster_size)
    if table * cluster_size > MOST_REFCOUNT_TABLE:
        raise DiskOpenError("the refcount table would be too large", "larger clusters help")
    try:
        await store.grow(used * cluster_size)
    except InvalidInput as error:
        raise DiskOpenError(
            f"the disk is too small for the tables of the image: {error}"
        ) from error
    header = Header(
        magic=MAGIC,
        version=version,
        backing_file_offset=0,
        backing_file_size=0,
        cluster_bits=cluster_size.bit_length() - 1,
        disk_size=size,
        crypt_method=0,
        l1_size=entries,
        l1_table_offset=(1 + table + blocks) * cluster_size,
        refcount_table_offset=cluster_size,
        refcount_table_clusters=table,
        nb_snapshots=0,
        snapshots_offset=0,
        incompatible_features=0,
        compatible_features=0,
        autoclear_features=0,
        refcount_order=refcount_bits.bit_length() - 1,
        header_length=Header.size,
    )
    # The header comes last: before it is there this is no image.
    await store.write_zeroes(0, used * cluster_size)
    links = [(1 + table + block) * cluster_size for block in range(blocks)]
    await store.write(cluster_size, [memoryview(struct.pack(f">{blocks}Q", *links))])
    codec = Codec(refcount_bits)
    ones = codec.decode(bytes(blocks * cluster_size))
    for cluster in range(used):
        ones[cluster] = 1
    await store.write((1 + table) * cluster_size, [memoryview(codec.encode(ones))])
    await store.flush()
    await store.write(0, [memoryview(_first_cluster(header, backing, backing_format))])
    await store.flush()


def _first_cluster(header: Header, backing: str, backing_format: str) -> bytes:
    after = extension(BACKING_FORMAT, backing_format.encode()) if backing else b""
    after += extension(0, b"")
    length = Header.size if header.version > 2 else VERSION_2_LENGTH
    if backing:
        name = os.fsencode(backing)
        header.backing_file_offset, header.backing_file_size = length + len(after), len(name)
        after += name
    return header.pack()[:length] + after
