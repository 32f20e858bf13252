"""The disk: what its commands do to what it stands on, and what happens to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from struct import Struct
from typing import Any, Final

from drivebay.disk.buffers import cut
from drivebay.disk.contract import Buffers, Disk, Extent, Operation, Unmap, byte_length
from drivebay.disk.errors import AbortedByPreempt, DiskError, InvalidInput, ReservationConflict
from drivebay.disk.filters.guarded import Guarded
from drivebay.disk.reservations import Nexus, Notice
from drivebay.scsi.cdb import Read10, ReadFlags
from drivebay.scsi.disk.access import AT_ONCE, miscompare
from drivebay.scsi.disk.buffer import DataBuffer
from drivebay.scsi.disk.cdb import Read16
from drivebay.scsi.disk.commands import ACCESS, ACTIONS, COMMANDS
from drivebay.scsi.disk.identity import DiskIdentity
from drivebay.scsi.disk.pages import DiskPages
from drivebay.scsi.errors import sense_of
from drivebay.scsi.inquiry import DIRECT_ACCESS
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.sense import (
    CAPACITY_DATA_HAS_CHANGED,
    INITIALIZING_COMMAND_REQUIRED,
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    WRITE_PROTECTED,
    CheckCondition,
    Sense,
)
from drivebay.scsi.server import Command, DeviceServer, Needs
from drivebay.scsi.status import Aborted, Conflict
from drivebay.suspend import DONE, Gate, Turn

__all__ = ["ScsiDisk"]

WRITE_PROTECT: Final = 0x80
DPOFUA: Final = 0x10
FUA: Final = int(ReadFlags.FUA)
DIRECT: Final[Mapping[int, tuple[Struct, int, int, bool]]] = {
    Opcode.READ_10: (Read10.layout, 2, 4, False),
    Opcode.WRITE_10: (Read10.layout, 2, 4, True),
    Opcode.READ_16: (Read16.layout, 2, 3, False),
    Opcode.WRITE_16: (Read16.layout, 2, 3, True),
}
"""The layout of the CDB, where in it address and length are, and which way the data goes."""
RESERVES: Final = (Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT)

NOTICES: Final = {
    Notice.REGISTRATION_PREEMPTED: REGISTRATIONS_PREEMPTED,
    Notice.RESERVATION_RELEASED: RESERVATIONS_RELEASED,
    Notice.RESERVATION_PREEMPTED: RESERVATIONS_PREEMPTED,
}


class ScsiDisk(DeviceServer):
    """A direct access block device on `disk`, as one initiator sees it.

    Reservations need to know who that is: `initiator` is its TransportID (SPC-4 section 7.6.4),
    `port` the relative identifier of the target port that it uses. Of a disk without reservations
    neither matters.

    Raises `InvalidInput` for a disk that cannot be a SCSI disk, and `ValueError` for names that are
    not ASCII or too long.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        vendor: str = "drivebay",
        product: str = "disk",
        revision: str = "1.0",
        serial: str = "",
        rotation_rate: int = 1,
        initiator: bytes = b"",
        port: int = 1,
        unit_attention: bool = True,
    ) -> None:
        if not disk.sector_count:
            raise InvalidInput("a disk without sectors")
        self.nexus: Nexus | None = None
        self.reservations = disk.reservations if initiator else None
        if self.reservations is not None:
            self.nexus = self.reservations.of(initiator, port, self._told)
            disk = Guarded(disk, self.nexus)
        self.disk = disk
        self.block = disk.sector_size
        self.rotation_rate = rotation_rate
        self.stopped = False
        self.gate = Gate()
        """COMPARE AND WRITE is one step to all other commands (SBC-3 section 5.2)."""
        self.buffer = DataBuffer()
        self._write_cache = disk.volatile_cache
        name = disk.disk_id or hashlib.sha256(serial.encode() or b"drivebay").digest()[:16]
        serial = serial or name.hex()[:20]
        identity = DiskIdentity(
            DIRECT_ACCESS, vendor, product, revision, serial, unit=self, name=name
        )
        self._disk_pages = DiskPages(self)
        super().__init__(identity, self._disk_pages, unit_attention=unit_attention)
        without = {Opcode.UNMAP} if disk.unmap_behaviour is Unmap.IGNORED else set()
        self.commands = {code: COMMANDS[code] for code in COMMANDS.keys() - without}
        without = set(RESERVES) if self.nexus is None else set()
        self.actions = {name: ACTIONS[name] for name in ACTIONS if name[0] not in without}
        self._unwatch = disk.on_resize(lambda _: self.attention(CAPACITY_DATA_HAS_CHANGED))

    def close(self) -> None:
        """Let go of the disk, which stays open. What the initiator has registered stays."""
        self._unwatch()
        if self.nexus is not None:
            self.nexus.close()

    @property
    def device_specific_parameter(self) -> int:  # type: ignore[override]
        """Of the mode parameter header, SBC-3 section 6.4.1."""
        return DPOFUA | (WRITE_PROTECT if self.disk.read_only else 0)

    # -- before a command ------------------------------------------------------------------------

    def admit(self, command: Command) -> None:
        """Raise what keeps a command from being tried. See `Needs`."""
        needs = command.needs
        if self.nexus is not None:
            if needs & Needs.READ and not self.nexus.may_read:
                raise Conflict
            if needs & Needs.WRITE and not self.nexus.may_write:
                raise Conflict
        if needs & Needs.MEDIUM and self.stopped:
            raise CheckCondition(INITIALIZING_COMMAND_REQUIRED)
        if needs & Needs.CHANGE and self.disk.read_only:
            raise CheckCondition(WRITE_PROTECTED)

    def direct(
        self, cdb: bytes, data_in: Buffers, data_out: Buffers
    ) -> tuple[int, Operation] | None:
        """READ and WRITE (10) and (16), with memory for just their data. The disk checks ranges."""
        access = DIRECT.get(cdb[0]) if cdb else None
        if access is None or self._attentions or self.stopped or self.nexus is not None:
            return None
        layout, lba_at, count_at, writes = access
        if len(cdb) < layout.size:
            return None
        fields = layout.unpack_from(cdb)
        flags, lba, count = fields[1], fields[lba_at], fields[count_at]
        buffers = data_out if writes else data_in
        length = count * self.block
        if flags & ~ACCESS or not count:
            return None
        if (len(buffers[0]) if len(buffers) == 1 else byte_length(buffers)) != length:
            return None
        try:
            if not writes:
                operation = self.disk.read(lba, buffers)
                return length, operation if operation is DONE else self._told_of(
                    lambda: operation, lba
                )
            if self.disk.read_only or self.gate.closed:
                return None
            operation = self.disk.write(lba, buffers, bool(flags & FUA) or not self._write_cache)
            return length, operation if operation is DONE else self._inside(operation, lba)
        except DiskError as error:
            raise self._failed(error, lba, writing=writes) from error

    def check_range(self, lba: int, count: int) -> None:
        """Raise LOGICAL BLOCK ADDRESS OUT OF RANGE unless the blocks are on the disk, or, of no
        blocks, the first would be. The disk looks again when it acts.
        """
        if lba + (count or 1) > self.disk.sector_count:
            raise CheckCondition(LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)

    # -- what commands do ------------------------------------------------------------------------
    # Each raises `CheckCondition`, `Conflict` or `Aborted`.

    async def read(self, lba: int, buffers: Buffers) -> None:
        """Fill `buffers`."""
        await self._told_of(partial(self.disk.read, lba, buffers), lba)

    async def write(self, lba: int, buffers: Buffers, fua: bool) -> None:
        """Write, when nobody wants to be alone with the disk."""
        async with self.gate:
            await self.write_alone(lba, buffers, fua)

    async def write_alone(self, lba: int, buffers: Buffers, fua: bool) -> None:
        """Write, as one who is behind the gate already."""
        stable = fua or not self.write_cache
        await self._told_of(partial(self.disk.write, lba, buffers, stable), lba, writing=True)

    async def write_zeroes(self, lba: int, count: int, unmap: bool) -> None:
        """Write zeroes; with `unmap` their space may be given back."""
        async with self.gate:
            stable = not self.write_cache
            zeroes = partial(self.disk.write_zeroes, lba, count, stable, unmap)
            await self._told_of(zeroes, lba, writing=True)

    async def unmap(self, lba: int, count: int) -> None:
        """Give back space."""
        async with self.gate:
            await self._told_of(partial(self.disk.unmap, lba, count), lba, writing=True)

    async def flush(self) -> None:
        """Make stable what was written."""
        await self._told_of(self.disk.flush, None, writing=True)

    async def extents(self, lba: int, count: int) -> list[Extent]:
        """What the medium holds."""
        try:
            return await self.disk.extents(lba, count)
        except DiskError as error:
            raise self._failed(error, lba) from error

    async def compare(self, lba: int, count: int, data: Buffers | None = None) -> None:
        """Read blocks, and raise MISCOMPARE unless they are `data`."""
        scratch = memoryview(bytearray(min(count * self.block, AT_ONCE)))
        total = count * self.block
        for start in range(0, total, len(scratch)):
            if start:
                await Turn()  # however many blocks, others get their turn
            found = scratch[: total - start]
            await self.read(lba + start // self.block, [found])
            if data is None:
                continue
            expected = b"".join(cut(data, start, start + len(found)))
            if expected != bytes(found):  # as bytes they are compared at once
                raise miscompare(expected, bytes(found), start)

    async def _inside(self, operation: Operation, lba: int) -> None:
        """The rest of a write."""
        async with self.gate:
            await self._told_of(lambda: operation, lba, writing=True)

    async def _told_of(
        self, begin: Callable[[], Operation], lba: int | None, writing: bool = False
    ) -> None:
        """An operation of the disk, and what went wrong as SCSI says it."""
        try:
            await begin()
        except DiskError as error:
            raise self._failed(error, lba, writing) from error

    def _failed(self, error: DiskError, lba: int | None, writing: bool = False) -> Exception:
        if isinstance(error, ReservationConflict):
            return Conflict()
        if isinstance(error, AbortedByPreempt):
            return Aborted()
        return CheckCondition(sense_of(error, lba, writing=writing))

    # -- settings --------------------------------------------------------------------------------

    @property
    def write_cache(self) -> bool:
        """Whether writes may lie in a cache (WCE), which the initiator can turn off."""
        return self._write_cache

    @write_cache.setter
    def write_cache(self, enabled: bool) -> None:
        self._write_cache = enabled and self.disk.volatile_cache

    def reset(self) -> None:
        """Logical unit reset."""
        super().reset()
        self.stopped = False

    def _told(self, notice: Notice) -> None:
        if notice is Notice.ABORT:
            self.when_aborted()
        else:
            self.attention(NOTICES[notice])

    def told_sense(self, sense: Sense) -> bytes:
        """`sense` in the format that the control mode page asks for."""
        return sense.descriptor() if self._disk_pages.descriptor_sense else sense.fixed()

    def save(self) -> dict[str, Any]:
        """The state as ints, bools, strings, bytes, lists and dicts."""
        return super().save() | {"stopped": self.stopped, "buffer": bytes(self.buffer.data)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again."""
        super().restore(state)
        self.stopped = state["stopped"]
        self.buffer.data[:] = state["buffer"]
