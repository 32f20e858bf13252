"""A port's commands: fetched from the list, given to the drive, and what the drive answers.

This is the drive's wire. What the drive signals is noted and worked off in `work`, never from
inside the drive: so a command of 65536 PIO blocks is a loop, not a recursion.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from drivebay.ata.device import Device, Phase, Reset
from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import DeviceControl, Status
from drivebay.controllers.ahci.fis import (
    dma_setup_fis,
    pio_setup_fis,
    register_fis,
    set_device_bits_fis,
)
from drivebay.controllers.ahci.prdt import PrdTable
from drivebay.controllers.ahci.registers import PxIS, PxSERR
from drivebay.controllers.ahci.structures import (
    ACMD_AT,
    CFIS_SIZE,
    DMA_SETUP_AT,
    HEADER_SIZE,
    PIO_SETUP_AT,
    REGISTER_AT,
    SET_DEVICE_BITS_AT,
    CommandHeader,
    FisFlags,
    FisType,
    HeaderFlags,
    RegisterH2dFis,
)
from drivebay.disk.buffers import gather, scatter
from drivebay.disk.contract import byte_length
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemoryFault

if TYPE_CHECKING:
    from drivebay.controllers.ahci.port import Port

__all__ = ["CommandList"]

guest_log = RationedLog(logging.getLogger(__name__))

BSY, DRQ, ERR, DRDY = int(Status.BSY), int(Status.DRQ), int(Status.ERR), int(Status.DRDY)
SRST: Final = int(DeviceControl.SRST)
IFS, OFS, HBFS, TFES, IPMS = (
    int(bit) for bit in (PxIS.IFS, PxIS.OFS, PxIS.HBFS, PxIS.TFES, PxIS.IPMS)
)
DHRS, PSS, SDBS, DPS = (int(bit) for bit in (PxIS.DHRS, PxIS.PSS, PxIS.SDBS, PxIS.DPS))
COMMAND, PORT = int(FisFlags.C), int(FisFlags.PORT)
PMP, BIST, PACKET, CFL = (
    int(bit) for bit in (HeaderFlags.PMP, HeaderFlags.B, HeaderFlags.A, HeaderFlags.CFL)
)
PRDBC_AT: Final = 4
"""Where in a header PRDBC is."""
STEPS: Final = 256
"""Signals and commands that are worked off at once: then others run."""


class CommandList:
    """The commands of `port`."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.slot: int | None = None
        """The slot whose command the drive is at; queued ones leave it as they are accepted."""
        self.last = 0
        """The slot whose command was fetched last."""
        self.halted = False
        """An error has stopped the list until the guest stops and starts it."""
        self._header = 0  # where the header of `slot` is,
        self._packet: bytes | None = None  # and the packet that goes with it
        self._ended_with_block = False
        self._tables: dict[int, PrdTable] = {}
        self._signals: deque[tuple[Any, ...]] = deque()
        self._done = 0  # queued commands to be told of,
        self._failed = False  # or that one has failed,
        self._interrupts = False  # and with an interrupt
        self._signature_due = self._in_software_reset = False
        self._working = self._will_publish = self._will_go_on = False
        self._handlers: dict[str, Callable[..., None]] = {
            "block": self._data_block,
            "dma": self._dma_request,
            "ended": self._ended,
            "setup": self._dma_setup,
        }

    # -- the drive's wire ------------------------------------------------------------------------

    def data_block(self, device: Device, interrupt: bool) -> None:
        """A DRQ block."""
        self._signal("block", interrupt)

    def dma_request(self, device: Device) -> None:
        """Data wants to be moved."""
        self._signal("dma")

    def ended(self, device: Device, interrupt: bool) -> None:
        """A command or a reset has ended: a register FIS says how."""
        self._signal("ended", register_fis(device, interrupt), device.moved, interrupt)

    def dma_setup(self, device: Device, tag: int) -> None:
        """A queued command wants to move data."""
        self._signal("setup", tag)

    def set_device_bits(self, device: Device, tags: int, interrupt: bool) -> None:
        """Queued commands are done: those of one turn make one FIS."""
        self._done |= tags
        self._interrupts |= interrupt
        self._failed |= bool(device.status & ERR)
        if not self._working and not self._will_publish:
            self._will_publish = True
            self._port.engine.at_end_of_turn(self._publish_later)

    def _signal(self, *signal: Any) -> None:
        self._signals.append(signal)
        self.work()

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        """Work off what the drive has signalled and what the guest has issued."""
        if self._working:
            return
        self._working = True
        try:
            steps = 0
            while steps < STEPS:
                if self._signals:
                    name, *arguments = self._signals.popleft()
                    self._handlers[name](*arguments)
                elif not self._fetch():
                    break
                steps += 1
            if steps == STEPS and not self._will_go_on:
                self._will_go_on = True
                self._port.engine.later(self._go_on)
        finally:
            self._working = False
        self._publish()
        self._port.update()

    def _go_on(self) -> None:
        self._will_go_on = False
        self.work()

    def _publish_later(self) -> None:
        self._will_publish = False
        self._publish()
        self._port.update()

    # -- fetching (section 5.3.2) ----------------------------------------------------------------

    def _fetch(self) -> bool:
        """Give the drive the next command, in turn. False if there is none, or none may come."""
        port = self._port
        drive = port.drive
        if not port.ci or self.slot is not None or self.halted or port.tfd & (BSY | DRQ):
            return False
        if drive is None or not port.started or not port.established or self._failed:
            return False
        later = port.ci >> self.last + 1 << self.last + 1
        self.last = slot = lowest(later or port.ci)
        port.wake()
        try:
            self._header = port.command_list + HEADER_SIZE * slot
            header = port.memory.view(self._header, HEADER_SIZE)
            flags, entries, _, low, high, _ = CommandHeader.unpack_from(header)
            address = high << 32 | low & ~0x7F
            fis = bytes(port.memory.view(address, CFIS_SIZE))
            if flags & PACKET:
                self._packet = bytes(port.memory.view(address + ACMD_AT, 16))
        except GuestMemoryFault as fault:
            guest_log.warning("ahci %d: slot %d: %s", port.number, slot, fault)
            self._halt(HBFS)
            return False
        if not flags & PACKET:
            self._packet = None
        self.slot = slot
        self._tables[slot] = PrdTable(port.memory, address, entries)
        self._send(drive, flags, fis)
        return True

    def _send(self, drive: Device, flags: int, fis: bytes) -> None:
        """The command FIS crosses the link."""
        port = self._port
        (kind, fis_flags, command, features, lba_low, device, lba_high, features_exp, count, _,
         control, auxiliary) = RegisterH2dFis.unpack_from(fis)  # fmt: skip
        dwords = flags & CFL
        good = kind == FisType.REGISTER_H2D and 5 <= dwords <= 16 and not flags & BIST
        is_command = bool(fis_flags & COMMAND)
        if not good or (is_command and drive.busy):  # no drive takes that: R_ERR
            guest_log.warning("ahci %d: FIS %#04x of %d dwords", port.number, kind, dwords)
            port.serr |= PxSERR.H
            self.slot = None  # what the drive may be at is not this
            self._halt(IFS)
            return
        port.tfd = port.tfd & ~0xFF | BSY
        if flags & PMP or fis_flags & PORT:  # there is no port multiplier: nobody answers
            self.slot = None
            port.raise_(IPMS)
            return
        if not is_command:
            self._control(drive, control)
            return
        taskfile = drive.taskfile
        taskfile.command, taskfile.device, taskfile.auxiliary = command, device, auxiliary
        taskfile.features = features_exp << 8 | features
        taskfile.count = count
        taskfile.lba48 = int.from_bytes(lba_low + lba_high, "little")
        drive.execute()

    def _control(self, drive: Device, control: int) -> None:
        """The Device Control register: a software reset is two of these (section 10.4.1)."""
        if control & SRST:
            self._in_software_reset = True
            self._signature_due = False
            self._forget()
            drive.reset(Reset.SOFTWARE)
        elif self._in_software_reset:
            self._in_software_reset = False
            self._signature_due = True  # which frees the slot
            drive.release()
            return
        port = self._port
        port.tfd &= ~BSY
        port.ci &= ~(1 << self.last)
        self.slot = None

    # -- what the drive says ---------------------------------------------------------------------

    def _ended(self, fis: bytes, moved: int, interrupt: bool) -> None:
        port, slot = self._port, self.slot
        if port.drive is None or not port.established:
            return
        status, error = fis[2], fis[3]
        due, self._signature_due = self._signature_due, False
        if due:
            port.signed(fis)
        elif slot is None or self.halted:  # a command that was given up
            port.tfd = error << 8 | status
            return
        if self._ended_with_block and not status & ERR:
            port.tfd = port.tfd & ~0xFF | status
        else:
            port.tfd = error << 8 | status
            if not self._post(REGISTER_AT, fis, DHRS if interrupt else 0):
                return
        self._ended_with_block = False
        if slot is None:
            return
        self._account(slot, moved)
        if status & ERR:
            self._halt(TFES)
        else:
            port.ci &= ~(1 << slot)
            self.slot = None
            if not port.sact >> slot & 1:  # a queued one has only been accepted
                self._tables.pop(slot, None)
                port.completed(1)

    def _account(self, slot: int, moved: int) -> None:
        """PRDBC, and the interrupts that regions ask for."""
        table = self._tables.get(slot)
        if table is None:
            return
        if table.by_dma:
            table.moved = moved
        if table.moved:
            self._store_moved(table)
        if table.wants_interrupt:
            table.wants_interrupt = False
            self._port.raise_(DPS)

    def _store_moved(self, table: PrdTable) -> None:
        try:
            count = self._port.memory.view(self._header + PRDBC_AT, 4)
        except GuestMemoryFault:  # it was there when the command was fetched
            self._halt(HBFS)
        else:
            count[:] = table.moved.to_bytes(4, "little")

    def _data_block(self, interrupt: bool) -> None:
        """PIO Setup, and the block."""
        port, slot = self._port, self.slot
        drive = port.drive
        if drive is None or drive.phase not in (Phase.DATA_IN, Phase.DATA_OUT):
            return
        if slot is None or self.halted:
            return
        inward = drive.phase is Phase.DATA_IN
        last = self._ended_with_block = drive.ends_with_block
        e_status = drive.ready if last else drive.ready | BSY
        fis = pio_setup_fis(drive, inward, interrupt, e_status)
        if not self._post(PIO_SETUP_AT, fis, PSS if interrupt else 0):
            return
        port.tfd = port.tfd & ~0xFF | e_status
        block = drive.block
        if self._packet is not None and not inward:
            block[:] = self._packet[: len(block)].ljust(len(block), b"\0")
            self._packet = None
        elif not self._copy(slot, block, inward) and not inward:
            return  # the drive waits for the rest; what it has sent is lost
        drive.block_done()

    def _copy(self, slot: int, block: memoryview, inward: bool) -> bool:
        """Move a block to or from memory; False if that went wrong."""
        table = self._tables[slot]
        done = 0
        try:
            while done < len(block) and (pieces := table.gather(len(block) - done, 1)):
                part = block[done : done + byte_length(pieces)]
                if inward:
                    scatter(pieces, part)
                else:
                    gather(pieces, part)
                done += len(part)
        except GuestMemoryFault as fault:
            self._fault(slot, fault)
        else:
            if done < len(block):
                self._no_room(slot, inward)
        table.moved += done
        self._account(slot, table.moved)
        return done == len(block)

    def _dma_request(self) -> None:
        port, slot = self._port, self.slot
        drive = port.drive
        if drive is None or slot is None or drive.phase is not Phase.DMA:
            return
        table = self._tables[slot]
        table.by_dma = True
        self._account(slot, drive.moved)
        try:
            pieces = table.gather(drive.dma_left, drive.dma_unit)
        except GuestMemoryFault as fault:
            self._fault(slot, fault)
            return
        if pieces:
            drive.move(pieces)
        else:
            self._no_room(slot, drive.dma_in)

    def _dma_setup(self, tag: int) -> None:
        """A queued command's: its data is where the slot of its tag says."""
        port = self._port
        drive = port.drive
        if not isinstance(drive, AtaDisk) or (wanted := drive.queue.wanted(tag)) is None:
            return
        left, unit, inward = wanted
        if not self._post(DMA_SETUP_AT, dma_setup_fis(tag, left, inward), 0):
            return
        table = self._tables.get(tag)
        try:
            pieces = table.gather(left, unit) if table is not None else []
        except GuestMemoryFault as fault:
            self._fault(tag, fault)
            return
        if table is not None and table.wants_interrupt:
            table.wants_interrupt = False
            port.raise_(DPS)
        if pieces:
            drive.queue.move(tag, pieces)
        else:
            self._no_room(tag, inward)

    def _publish(self) -> None:
        """Tell of queued commands in one Set Device Bits FIS."""
        port = self._port
        drive = port.drive
        if not (self._done or self._failed) or drive is None:
            return
        tags, self._done = self._done, 0
        failed, self._failed = self._failed, False
        status, error = drive.ready | (ERR if failed else 0), drive.error if failed else 0
        self._tables = {slot: each for slot, each in self._tables.items() if not tags >> slot & 1}
        port.sact &= ~tags
        port.tfd = error << 8 | port.tfd & (BSY | DRQ) | status
        interrupt, self._interrupts = self._interrupts, False
        fis = set_device_bits_fis(status, error, tags, interrupt)
        if self._post(SET_DEVICE_BITS_AT, fis, SDBS if interrupt else 0):
            port.completed(tags.bit_count())
        if failed:
            self._halt(TFES)

    def _post(self, at: int, fis: bytes, interrupt: int) -> bool:
        """A FIS for the guest; False if there is no memory for it."""
        try:
            self._port.receive(at, fis, interrupt)
        except GuestMemoryFault as fault:
            guest_log.warning("ahci %d: received FIS: %s", self._port.number, fault)
            self._halt(HBFS)
            return False
        return True

    # -- errors (section 6) ----------------------------------------------------------------------

    def _fault(self, slot: int, fault: GuestMemoryFault) -> None:
        guest_log.warning("ahci %d: slot %d: data: %s", self._port.number, slot, fault)
        self._halt(HBFS)

    def _no_room(self, slot: int, inward: bool) -> None:
        """The table is shorter than the data: more came than fits, or less was sent than the drive
        waits for (section 6.1.6).
        """
        guest_log.warning("ahci %d: slot %d: table too short", self._port.number, slot)
        self._halt(OFS if inward else IFS)

    def _halt(self, bits: int) -> None:
        self.halted = True
        self._port.raise_(bits)

    # -- stopping --------------------------------------------------------------------------------

    def _forget(self) -> None:
        if not self._signature_due:  # the end of a reset is not forgotten
            self._signals.clear()
        self._tables.clear()
        self._packet = None
        self._done = 0
        self._failed = self._interrupts = self._ended_with_block = False

    def stop(self) -> None:
        """The guest has cleared ST: nothing of the list matters any more."""
        self._forget()
        self.slot = None
        self.last = 0
        self.halted = False
        drive = self._port.drive
        if drive is not None:
            drive.abandon()

    def link_lost(self, *, comes_back: bool) -> None:
        """COMRESET, or the drive was pulled: what the list has begun stays as it is until ST is
        cleared. A drive that comes back tells its signature.
        """
        self._signature_due = False
        self._forget()
        self.slot = None
        self.halted = self._port.started
        self._signature_due = comes_back
        self._in_software_reset = False

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything."""
        drive = self._port.drive
        moving = drive is not None and drive.phase is Phase.MOVE
        tables = [
            [slot, table.save(moving=moving) if slot == self.slot else table.save_anew()]
            for slot, table in self._tables.items()
        ]
        return {
            "slot": self.slot,
            "last": self.last,
            "halted": self.halted,
            "header": self._header,
            "packet": self._packet,
            "ended_with_block": self._ended_with_block,
            "tables": tables,
            "signals": [list(signal) for signal in self._signals],
            "done": self._done,
            "failed": self._failed,
            "interrupts": self._interrupts,
            "signature_due": self._signature_due,
            "in_software_reset": self._in_software_reset,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; `work` goes on."""
        memory = self._port.memory
        self.slot, self.last, self.halted = state["slot"], state["last"], state["halted"]
        self._header, self._packet = state["header"], state["packet"]
        self._ended_with_block = state["ended_with_block"]
        self._tables = {slot: PrdTable.restore(memory, each) for slot, each in state["tables"]}
        self._signals = deque(tuple(signal) for signal in state["signals"])
        self._done, self._failed = state["done"], state["failed"]
        self._interrupts = state["interrupts"]
        self._signature_due = state["signature_due"]
        self._in_software_reset = state["in_software_reset"]


def lowest(mask: int) -> int:
    """The number of the lowest bit that is set."""
    return (mask & -mask).bit_length() - 1
