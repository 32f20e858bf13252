"""The bus master: it moves a drive's data where a table in guest memory says (SFF-8038i)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from drivebay.ata.device import Device, Phase
from drivebay.controllers.ide.registers import (
    BusMasterBlock,
    BusMasterCommand,
    BusMasterStatus,
    PhysicalRegion,
    RegionFlags,
)
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory, GuestMemoryFault

__all__ = ["BusMaster"]

guest_log = RationedLog(logging.getLogger(__name__))

START, TO_MEMORY = int(BusMasterCommand.Start), int(BusMasterCommand.ToMemory)
ACTIVE, ERROR, INTERRUPT = (
    int(bit) for bit in (BusMasterStatus.Active, BusMasterStatus.Error, BusMasterStatus.Interrupt)
)
CAPABLE = BusMasterStatus.Drive0Capable | BusMasterStatus.Drive1Capable
END_OF_TABLE = int(RegionFlags.EndOfTable)

MAX_REGIONS: Final = 8192
"""A table does not cross 64 KiB (section 1.2): what goes on longer is a mistake."""
PART_REGIONS: Final = 256
"""Regions that are moved at once: between parts, others run."""
NOWHERE: Final = memoryview(bytearray(1 << 16))


class BusMaster:
    """One channel's. `may_master` says whether the PCI function may reach memory."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.may_master = True
        self.exhausted = False
        """The table was shorter than the data of the last command."""
        self.registers = BusMasterBlock.bind(self)
        self._command = 0
        self._status = 0  # but for Active
        self._table = 0
        self._next = 0  # the region to be fetched next,
        self._address = self._left = 0  # what is left of the one before,
        self._last = False  # which ends the table
        self._part = (0, 0, 0, False)  # where these stood when the part under way began
        self._done = True
        self._device: Device | None = None  # the one that asks for the bus
        self._running = False

    # -- registers -------------------------------------------------------------------------------

    def read_Command(self) -> int:
        """As written."""
        return self._command

    def write_Command(self, value: int) -> None:
        """Start from the table's first region, or stop."""
        if self._command & START:
            value = value & START | self._command & TO_MEMORY
            self._command = value
            if not value & START:
                self._stop()
        else:
            self._command = value & (START | TO_MEMORY)
            if value & START:
                self._begin()

    def read_Status(self) -> int:
        """Active as long as the table has not been used up."""
        return self._status | (0 if self._done else ACTIVE)

    def write_Status(self, value: int) -> None:
        """Ones clear Interrupt and Error; the capable bits are stored."""
        self._status = self._status & ~CAPABLE & ~(value & (INTERRUPT | ERROR)) | value & CAPABLE

    def read_RegionTable(self) -> int:
        """Its address."""
        return self._table

    def write_RegionTable(self, value: int) -> None:
        """It stands on a multiple of 4."""
        self._table = value & ~3

    # -- the wire --------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """INTRQ has risen."""
        self._status |= INTERRUPT

    @property
    def engaged(self) -> bool:
        """Whether a drive has the bus, or waits for it."""
        return self._device is not None

    def request(self, device: Device) -> None:
        """`device` has data to move: DMARQ."""
        self._device = device
        self._run()

    def ended(self, device: Device) -> None:
        """Its command has ended. A table that was used up to its end is done, a longer one not."""
        if device is self._device:
            self._device = None
            used_up = self._last and not self._left
            self._done = self._done or used_up or not self._command & START
        else:
            self.exhausted = False

    def reset(self) -> None:
        """As after power-on."""
        self._command = self._status = self._table = 0
        self._done = True
        self._device = None

    # -- the table -------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._next = self._address = self._left = 0
        self._last = self._done = self.exhausted = False
        self._run()

    def _stop(self) -> None:
        """The command of the drive that is being served is over, but for what the disk cannot be
        called back from: as long as that reaches memory, Active shows. One that still waits, for
        the next start, does not notice.
        """
        if self._done:
            return
        if self._device is not None:
            self._device.abandon()
        if self._device is None or self._device.phase is not Phase.MOVE:
            self._done = True

    def _run(self) -> None:
        """Move parts while there are both data and regions."""
        if self._running:  # `move` has come back to us: the loop below goes on
            return
        self._running = True
        try:
            while not self._done and (device := self._device) is not None and device.dma_left:
                if device.dma_in != bool(self._command & TO_MEMORY):
                    return
                self._part = (self._next, self._address, self._left, self._last)
                self._move(device)
        finally:
            self._running = False

    def _move(self, device: Device) -> None:
        """Move one part. If there is no place for any, the drive's command is over."""
        if not self.may_master:
            self._move_nowhere(device)
            return
        try:
            pieces = self._gather(device.dma_left, device.dma_unit)
        except GuestMemoryFault as fault:
            self._fail(device, fault)
            return
        if pieces:
            device.move(pieces)
        else:
            self._done = self.exhausted = True
            device.abandon()

    def _move_nowhere(self, device: Device) -> None:
        """A function that may not master the bus: what it reads for memory is lost, as QEMU's own
        tests expect; what it would write to the disk is not made up.
        """
        if device.dma_in:
            size = min(device.dma_left, len(NOWHERE) - len(NOWHERE) % device.dma_unit)
            device.move([NOWHERE[:size]])
        else:
            self._fail(device, "the function may not master the bus")

    def _fail(self, device: Device, why: object) -> None:
        guest_log.warning("ide: bus master: %s", why)
        self._status |= ERROR
        self._done = True
        device.abandon()

    def _gather(self, size: int, unit: int) -> list[memoryview]:
        """Pieces of memory for up to `size` bytes, a multiple of `unit` or all of them."""
        pieces: list[memoryview] = []
        gathered = 0
        while gathered < size:
            if not self._left:
                if self._last:
                    break
                self._fetch()
            take = min(self._left, size - gathered)
            pieces += self._memory.views(self._address, take)
            self._address += take
            self._left -= take
            gathered += take
            if len(pieces) >= PART_REGIONS and gathered % unit == 0:
                return pieces
        extra = gathered % unit if gathered < size else 0
        return _shortened(pieces, extra) if extra else pieces

    def _fetch(self) -> None:
        """Read the next region descriptor, once. Raises `GuestMemoryFault`."""
        if self._next >= MAX_REGIONS:
            raise GuestMemoryFault(self._table + 8 * self._next, 8)
        entry = b"".join(self._memory.views(self._table + 8 * self._next, 8))
        base, byte_count, _, flags = PhysicalRegion.unpack_from(entry)
        self._next += 1
        self._address = base & ~1
        self._left = byte_count & ~1 or 0x10000
        self._last = bool(flags & END_OF_TABLE)

    # -- saving ----------------------------------------------------------------------------------

    def save(self, drives: Sequence[Device | None]) -> dict[str, Any]:
        """Its state; a part that is being moved is one that was not begun."""
        device = self._device
        moving = device is not None and device.phase is Phase.MOVE
        here = (self._next, self._address, self._left, self._last)
        return {
            "command": self._command,
            "status": self._status,
            "table": self._table,
            "place": list(self._part if moving else here),
            "done": self._done,
            "unit": drives.index(device) if device and device in drives else None,
        }

    def restore(self, state: dict[str, Any], drives: Sequence[Device | None]) -> None:
        """Take what `save` gave; the drive asks for the bus again when it goes on."""
        self._command, self._status = state["command"], state["status"]
        self._table, self._done = state["table"], state["done"]
        self._next, self._address, self._left, self._last = state["place"]
        self._device = None if state["unit"] is None else drives[state["unit"]]


def _shortened(pieces: list[memoryview], extra: int) -> list[memoryview]:
    """`pieces` without their last `extra` bytes."""
    while extra:
        piece = pieces.pop()
        if len(piece) > extra:
            pieces.append(piece[: len(piece) - extra])
        extra -= min(extra, len(piece))
    return pieces
