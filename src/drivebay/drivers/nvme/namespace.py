"""The driver of a namespace: blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from drivebay.controllers.nvme.identity import LBAF
from drivebay.controllers.nvme.opcodes import NvmOpcode
from drivebay.controllers.nvme.structures import Command, Completion, CopyRange, DsmRange, IoFlags

if TYPE_CHECKING:
    from drivebay.drivers.nvme.controller import NvmeDriver
    from drivebay.drivers.nvme.queue import QueuePair

__all__ = ["NvmeNamespace"]

SLOTS = 16


class NvmeNamespace:
    """Namespace `nsid`; counts are in blocks of `block` bytes. A command that fails raises
    `NvmeError`.
    """

    def __init__(self, driver: NvmeDriver, nsid: int, queue: QueuePair | None = None) -> None:
        self.driver, self.nsid = driver, nsid
        self.queue = queue or driver.io[0]
        self.refresh()

    def refresh(self) -> None:
        """Ask again how large it is."""
        identity = self.driver.identify_namespace(self.nsid)
        formats = struct.unpack("<64I", identity.lbaf)
        self.blocks = identity.nsze
        self.block = 1 << LBAF(formats[identity.flbas & 0xF]).LBADS
        self.identity = identity

    # -- one by one ------------------------------------------------------------------------------

    def _ranged(
        self,
        opcode: int,
        slba: int,
        count: int,
        *,
        data: tuple[int, int] = (0, 0),
        bits: int = 0,
        slot: int = 0,
        flags: int = 0,
    ) -> Command:
        dwords = (slba & 0xFFFFFFFF, slba >> 32, bits | count - 1)
        return self.driver.command(
            opcode,
            nsid=self.nsid,
            dwords=dwords,
            data=data,
            cid=self.queue.next_id(),
            slot=slot,
            flags=flags,
        )

    def _place(self, data: bytes, slot: int = 0) -> tuple[int, int]:
        """Put data into the buffer's part that belongs to `slot`."""
        at, length = self.place(slot), len(data)
        self.driver.memory.view(at, length)[:] = data
        return at, length

    def place(self, slot: int) -> int:
        """Where the data of a slot of 16 are."""
        return self.driver.buffer + slot * (self.driver.buffer_size // SLOTS)

    def read(self, slba: int, count: int) -> bytes:
        """READ."""
        length = count * self.block
        at = self.driver.buffer
        command = self._ranged(NvmOpcode.READ, slba, count, data=(at, length))
        self.queue.execute(command, "READ")
        return bytes(self.driver.memory.view(at, length))

    def write(self, slba: int, data: bytes, *, fua: bool = False) -> None:
        """WRITE."""
        bits = IoFlags.FUA if fua else 0
        count = len(data) // self.block
        command = self._ranged(NvmOpcode.WRITE, slba, count, data=self._place(data), bits=bits)
        self.queue.execute(command, "WRITE")

    def flush(self) -> None:
        """FLUSH."""
        command = self.driver.command(NvmOpcode.FLUSH, nsid=self.nsid, cid=self.queue.next_id())
        self.queue.execute(command, "FLUSH")

    def compare(self, slba: int, data: bytes) -> None:
        """COMPARE."""
        count = len(data) // self.block
        command = self._ranged(NvmOpcode.COMPARE, slba, count, data=self._place(data))
        self.queue.execute(command, "COMPARE")

    def compare_and_write(self, slba: int, old: bytes, new: bytes) -> tuple[Completion, Completion]:
        """A fused COMPARE and WRITE; how both ended."""
        count = len(old) // self.block
        first = self._ranged(
            NvmOpcode.COMPARE, slba, count, data=self._place(old, 0), slot=0, flags=1
        )
        second = self._ranged(
            NvmOpcode.WRITE, slba, count, data=self._place(new, 1), slot=1, flags=2
        )
        self.queue.put(first)
        self.queue.put(second)
        self.queue.ring()
        return self.queue.wait(first.cid), self.queue.wait(second.cid)

    def write_zeroes(self, slba: int, count: int, *, deallocate: bool = False) -> None:
        """WRITE ZEROES."""
        bits = IoFlags.DEAC if deallocate else 0
        self.queue.execute(self._ranged(NvmOpcode.WRITE_ZEROES, slba, count, bits=bits))

    def verify(self, slba: int, count: int) -> None:
        """VERIFY."""
        self.queue.execute(self._ranged(NvmOpcode.VERIFY, slba, count), "VERIFY")

    def write_uncorrectable(self, slba: int, count: int) -> None:
        """WRITE UNCORRECTABLE."""
        self.queue.execute(self._ranged(NvmOpcode.WRITE_UNCORRECTABLE, slba, count))

    def deallocate(self, ranges: Sequence[tuple[int, int]]) -> None:
        """DATASET MANAGEMENT: first block and count of each range."""
        table = b"".join(DsmRange(0, count, slba).pack() for slba, count in ranges)
        command = self.driver.command(
            NvmOpcode.DATASET_MANAGEMENT,
            nsid=self.nsid,
            dwords=(len(ranges) - 1, 4),
            data=self._place(table),
            cid=self.queue.next_id(),
        )
        self.queue.execute(command, "DATASET_MANAGEMENT")

    def copy(self, ranges: Sequence[tuple[int, int]], to: int) -> None:
        """COPY: ranges, one behind the other, to block `to` and following."""
        table = b"".join(CopyRange(0, slba, count - 1).pack() for slba, count in ranges)
        command = self.driver.command(
            NvmOpcode.COPY,
            nsid=self.nsid,
            dwords=(to & 0xFFFFFFFF, to >> 32, len(ranges) - 1),
            data=self._place(table),
            cid=self.queue.next_id(),
        )
        self.queue.execute(command, "COPY")

    # -- many at once ----------------------------------------------------------------------------

    def prepare_read(self, slot: int, slba: int, count: int) -> int:
        """Put a READ into the queue, with the buffer of `slot`; its id."""
        data = (self.place(slot), count * self.block)
        return self.queue.put(self._ranged(NvmOpcode.READ, slba, count, data=data, slot=slot))

    def prepare_write(self, slot: int, slba: int, data: bytes) -> int:
        """Put a WRITE into the queue, with the buffer of `slot`; its id."""
        placed = self._place(data, slot)
        count = len(data) // self.block
        command = self._ranged(NvmOpcode.WRITE, slba, count, data=placed, slot=slot)
        return self.queue.put(command)

    def taken(self, slot: int, length: int) -> bytes:
        """What a READ has left in the buffer of `slot`."""
        return bytes(self.driver.memory.view(self.place(slot), length))

    def finish(self, ids: Iterable[int]) -> None:
        """Wait for commands that were put."""
        for cid in ids:
            self.queue.finish(cid, f"command {cid:#x}")
