"""Where a command's data is: PRPs and SGLs to views of guest memory (NVMe Base 2.0 section 4.1).

Pieces that adjoin are one view, so that a large transfer is few buffers to a disk. Everything the
guest wrote is read once, and the work is bounded by the length of the transfer.
"""

from __future__ import annotations

import struct
from typing import Final

from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import SglDescriptor, SglType
from drivebay.platform.memory import GuestMemory, GuestMemoryFault

__all__ = ["prp_views", "sgl_views"]

MAX_DESCRIPTORS: Final = 8192
"""Of one SGL, in all its segments: more are refused."""
ENTRY: Final = 8
LONGEST: Final = 0xFFFFFFFF
"""Bytes of a data block."""

Views = list[memoryview]


def prp_views(memory: GuestMemory, page_size: int, prp1: int, prp2: int, length: int) -> Views:
    """The `length` bytes that two PRP entries name (section 4.1.1). Raises `Refused`."""
    first = min(length, page_size - (prp1 & page_size - 1))
    if prp1 & 3:
        raise Refused(Status.PRP_OFFSET_INVALID, f"PRP1 {prp1:#x}")
    if first == length:
        return _views(memory, [(prp1, length)])
    rest = length - first
    if rest <= page_size:
        if prp2 & page_size - 1:
            raise Refused(Status.PRP_OFFSET_INVALID, f"PRP2 {prp2:#x}")
        if prp2 == prp1 + first:
            return _views(memory, [(prp1, length)])
        return _views(memory, [(prp1, first), (prp2, rest)])
    return _views(memory, _list_runs(memory, page_size, prp1, first, prp2, rest))


def _list_runs(
    memory: GuestMemory, page_size: int, start: int, size: int, at: int, rest: int
) -> list[tuple[int, int]]:
    """Runs of pages, the first of which is `size` bytes from `start`; the list of what else there
    is begins at `at`.
    """
    runs = []
    inside = page_size - 1
    while rest > 0:
        if at & ENTRY - 1:
            raise Refused(Status.PRP_OFFSET_INVALID, f"PRP list at {at:#x}")
        pages = -(-rest // page_size)
        room = (page_size - (at & page_size - 1)) // ENTRY
        count = min(pages, room)
        try:
            entries = struct.unpack(f"<{count}Q", memory.view(at, count * ENTRY))
        except GuestMemoryFault as fault:
            raise Refused(Status.DATA_TRANSFER_ERROR, f"PRP list: {fault}") from None
        if pages > room:  # the last entry says where the list goes on
            *entries, at = entries  # type: ignore[assignment]
            if not entries and at & inside == page_size - ENTRY:  # again no room but for a pointer
                raise Refused(Status.PRP_OFFSET_INVALID, f"PRP list at {at:#x} goes nowhere")
        for entry in entries:
            if entry != start + size:
                if entry & inside:
                    raise Refused(Status.PRP_OFFSET_INVALID, f"PRP entry {entry:#x}")
                runs.append((start, size))
                start, size = entry, 0
            size += page_size
        rest -= len(entries) * page_size
    runs.append((start, size + min(rest, 0)))  # the last page may be a part of one
    return runs


def sgl_views(memory: GuestMemory, low: int, high: int, length: int) -> Views:
    """The `length` bytes that an SGL names (section 4.1.2), whose first descriptor is in the
    command: `low` and `high`. Raises `Refused`.
    """
    described = struct.pack("<QQ", low, high)
    runs: list[tuple[int, int]] = []
    found, last, budget = 0, False, MAX_DESCRIPTORS
    while described:
        count = len(described) // SglDescriptor.size
        budget -= count
        if budget < 0:
            raise Refused(Status.INVALID_NUMBER_OF_SGL_DESCRIPTORS, "too many SGL descriptors")
        # All data blocks, as drivers have it: of 1 MiB in single pages there are 256.
        words = struct.unpack(f"<{2 * count}Q", described)
        sizes = words[1::2]  # the type is in the top byte
        if min(sizes) > 0 and max(sizes) <= LONGEST:
            runs += zip(words[::2], sizes, strict=True)
            found += sum(sizes)
            break
        following = b""
        for n, row in enumerate(SglDescriptor.layout.iter_unpack(described), 1):
            address, size, _, identifier = row
            kind, subtype = identifier >> 4, identifier & 15
            if subtype:
                raise Refused(Status.SGL_TYPE_INVALID, f"SGL descriptor {identifier:#04x}")
            if kind == SglType.DATA_BLOCK:
                if size:
                    runs.append((address, size))
                    found += size
            elif kind in (SglType.SEGMENT, SglType.LAST_SEGMENT):
                if last or n != count:
                    raise Refused(Status.INVALID_SGL_SEGMENT, "an SGL segment out of place")
                last = kind == SglType.LAST_SEGMENT
                following = _segment(memory, address, size)
            else:
                raise Refused(Status.SGL_TYPE_INVALID, f"SGL descriptor {identifier:#04x}")
        described = following
    if found != length:
        raise Refused(Status.DATA_SGL_LENGTH_INVALID, f"an SGL of {found} bytes for {length}")
    return _views(memory, runs)


def _segment(memory: GuestMemory, address: int, size: int) -> bytes:
    """The descriptors of a segment."""
    if not size or size % SglDescriptor.size:
        raise Refused(Status.INVALID_SGL_SEGMENT, f"an SGL segment of {size} bytes")
    if size > MAX_DESCRIPTORS * SglDescriptor.size:
        raise Refused(Status.INVALID_NUMBER_OF_SGL_DESCRIPTORS, f"an SGL segment of {size} bytes")
    try:
        return b"".join(memory.views(address, size))
    except GuestMemoryFault as fault:
        raise Refused(Status.DATA_TRANSFER_ERROR, f"SGL segment: {fault}") from None


def _views(memory: GuestMemory, runs: list[tuple[int, int]]) -> Views:
    start, end, ram = memory.window
    end += start
    if runs and min(runs)[0] >= start and max(map(sum, runs)) <= end:
        return [ram[at - start : at - start + size] for at, size in runs]
    views: Views = []
    try:
        for address, size in runs:
            if start <= address and address + size <= end:
                views.append(ram[address - start : address - start + size])
            else:
                views += memory.views(address, size)
    except GuestMemoryFault as fault:
        raise Refused(Status.DATA_TRANSFER_ERROR, str(fault)) from None
    return views
