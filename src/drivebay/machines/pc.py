"""A PC of 1997: i440FX and PIIX4, with what firmware and small operating systems look for.

    port         what                          port         what
    20, A0       interrupt controllers         402, E9      debug output
    40, 61       timer                         4D0          edge or level
    60, 64       keyboard controller           510          firmware configuration
    70           clock and CMOS RAM            CF8          PCI configuration
    80           POST code                     CF9, 92      reset
    3F8          serial port, IRQ 4            F4           exit
    3F0, 3F7     floppy controller, IRQ 6      0, 81, C0    DMA, channel 2 is the floppy's

PCI 00:00.0 is the host bridge, 00:01.0 the ISA bridge, 00:01.1 is for the IDE function (`bus.plug`)
and 00:01.3 power management; slots from 00:03.0 on are for others (`plug`). Time is virtual unless
asked otherwise.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Final

from drivebay.controllers.floppy import DriveType, FloppyController, FloppyDrive, map_floppy
from drivebay.machines.chips.clock import Clock, WallClock
from drivebay.machines.chips.fw_cfg import FwCfg
from drivebay.machines.chips.i440fx import I440fx
from drivebay.machines.chips.i8042 import I8042
from drivebay.machines.chips.i8237 import DmaPair
from drivebay.machines.chips.i8254 import I8254, SystemControlB
from drivebay.machines.chips.i8259 import PicPair
from drivebay.machines.chips.mc146818 import Mc146818
from drivebay.machines.chips.piix4 import Piix4Isa, Piix4Power
from drivebay.machines.chips.ports import DebugPort, ExitPort, Post, ResetControl, SystemControlA
from drivebay.machines.chips.uart16550 import Uart16550
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.pci import ConfigMechanism1, PciBus, PciFunction
from drivebay.platform.pci_messages import Messages

__all__ = ["BootDevice", "Pc"]

MIB: Final = 1 << 20
FOUR_GIB: Final = 1 << 32
LEGACY_ROM: Final = 128 << 10
"""The last 128 KiB of the firmware are seen below 1 MiB, too."""
SLEEP_SECONDS: Final = 0.001
FLOPPY_CHANNEL: Final = 2
FREE_SLOTS: Final = range(3, 32)

Output = Callable[[bytes], None]
Message = Callable[[int, int], None]
"""Told the address and the data of a message-signalled interrupt."""


class BootDevice:
    """What SeaBIOS' CMOS boot order names."""

    FLOPPY, DISK, CD = 1, 2, 3


class Pc(Board):
    """`ram_size` bytes of RAM (a multiple of 64 KiB, from 1 MiB to 2 GiB) and the chips.

    `serial` takes what the guest sends to the serial port, `debug` what it writes to port 0x402 or
    0xE9. With `lenient_floppy` the floppy controller is as QEMU's. With `wall_clock` time is real:
    for hosts that have interrupt controllers and a timer of their own. Firmware is told of `cpus`
    CPUs. Raises `ValueError` on a size of RAM that cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        ram_size: int = 64 * MIB,
        *,
        firmware: bytes = b"",
        serial: Output = lambda _data: None,
        debug: Output = lambda _data: None,
        lenient_floppy: bool = False,
        wall_clock: bool = False,
        cpus: int = 1,
    ) -> None:
        if not MIB <= ram_size <= 2 << 30 or ram_size & 0xFFFF:
            raise ValueError(f"{ram_size} bytes of RAM: from 1 MiB to 2 GiB, in units of 64 KiB")
        memory = GuestMemory.of_size(ram_size)
        super().__init__(engine, memory)
        self.ram_size = ram_size
        self.firmware = firmware
        if firmware:
            rom = memoryview(mmap.mmap(-1, len(firmware) + (-len(firmware) & 0xFFF)))
            rom[-len(firmware) :] = firmware
            memory.replace([*memory.regions, Region(FOUR_GIB - len(rom), rom)])
        self.exit_status: int | None = None
        """What the guest wrote to the exit port, 0 if it switched the machine off; None before."""
        self.interrupt_requested = False
        """Whether the interrupt controllers interrupt the CPU."""
        self.on_interrupt_request: Callable[[], None] = lambda: None
        """Called when they begin to."""
        self.message: Message = lambda _address, _data: None
        """Where message-signalled interrupts go: these interrupt controllers take none."""
        self.clock = WallClock() if wall_clock else Clock()
        self.pic = PicPair(self._request)
        self.interrupt = self.pic.set_input
        self._put_chips(serial, debug, cpus)
        self._put_floppy(lenient_floppy)
        self._put_pci()
        self._shadow()

    def _put_chips(self, serial: Output, debug: Output, cpus: int) -> None:
        self.pit = I8254(self.clock, self.line(0))
        self.serial = Uart16550(self.line(4), serial)
        self.cmos = Mc146818(self.clock, self.ram_size)
        self.cmos.set_boot_order(BootDevice.DISK, BootDevice.CD, BootDevice.FLOPPY)
        self.fw_cfg = FwCfg(self.ram_size, cpus)
        self.post = Post()
        keyboard = I8042(self.reset)
        for base, region in (
            (0x20, self.pic.first),
            (0xA0, self.pic.second),
            (0x4D0, self.pic.elcr[0]),
            (0x4D1, self.pic.elcr[1]),
            (0x40, self.pit),
            (0x61, SystemControlB(self.clock, self.pit)),
            (0x60, keyboard),
            (0x64, keyboard.command_port),
            (0x70, self.cmos),
            (0x80, self.post),
            (0x92, SystemControlA(self.reset)),
            (0xE9, DebugPort(debug)),
            (0xF4, ExitPort(self._ended)),
            (0x3F8, self.serial),
            (0x402, DebugPort(debug)),
            (0x510, self.fw_cfg),
            (0xCF9, ResetControl(self.reset)),
        ):
            self.ports.map(base, region)
        for chip in (self.pic, self.pit, self.serial, self.fw_cfg, keyboard):
            self.on_reset(chip.reset)

    def _put_floppy(self, lenient: bool) -> None:
        self.dma = DmaPair(self.memory)
        channel = self.dma.channels[FLOPPY_CHANNEL]
        self.floppy = FloppyController(self.engine, channel, self.line(6), lenient=lenient)
        for base, region in (
            (0x00, self.dma.first),
            (0x81, self.dma.pages),
            (0xC0, self.dma.second),
        ):
            self.ports.map(base, region)
        map_floppy(self.floppy, self.ports)
        self.on_reset(self.dma.reset)
        self.on_reset(self.floppy.reset)

    def attach_floppy(self, unit: int, drive: FloppyDrive) -> None:
        """Put a drive where firmware finds it. Raises `ValueError` if one is there."""
        self.floppy.attach(unit, drive)
        self._tell_floppies()

    def detach_floppy(self, unit: int) -> None:
        """Take it away."""
        self.floppy.detach(unit)
        self._tell_floppies()

    def _tell_floppies(self) -> None:
        first, second, *_ = self.floppy.drives
        self.cmos.set_floppies(*(_kind(drive) for drive in (first, second)))

    def _put_pci(self) -> None:
        isa = Piix4Isa(lambda number, level: self.line(number).set(level))
        # Boards with this bridge rotate the lines by one: INTA# of slot 1 is PIRQA.
        self.bus = PciBus(
            self.ports, self.mmio, lambda line, level: isa.set_line(line - 1 & 3, level)
        )
        self.bus.plug(0, 0, I440fx())
        self.bus.plug(1, 0, isa)
        self.bus.plug(1, 3, Piix4Power(self.clock, self.ports, lambda: self._ended(0)))
        mechanism = ConfigMechanism1(self.bus)
        self.ports.map(0xCF8, mechanism)
        self.on_reset(mechanism.reset)
        self.on_reset(self.bus.reset)
        self.on_reset(self._shadow)

    def plug(self, function: PciFunction) -> int:
        """Put a function into the first free slot; its number. Raises `ValueError` if there is
        none.
        """
        slot = next((slot for slot in FREE_SLOTS if self.bus.find(slot, 0) is None), None)
        if slot is None:
            raise ValueError(f"all {len(FREE_SLOTS)} PCI slots are taken")
        for capability in function.capabilities:
            if isinstance(capability, Messages):
                capability.send = self._send
        self.bus.plug(slot, 0, function)
        return slot

    def _send(self, address: int, data: int) -> None:
        self.message(address, data)

    def _shadow(self) -> None:
        """The end of the firmware below 1 MiB, as after power on."""
        tail = self.firmware[-LEGACY_ROM:]
        if tail:
            self.memory.view(MIB - len(tail), len(tail))[:] = tail

    # -- what the CPU needs ----------------------------------------------------------------------

    def _request(self, level: bool) -> None:
        before, self.interrupt_requested = self.interrupt_requested, level
        if level and not before:
            self.on_interrupt_request()

    def acknowledge(self) -> int:
        """The CPU takes the interrupt: its vector."""
        return self.pic.acknowledge()

    def elapse(self, nanoseconds: int) -> None:
        """The CPU has worked so long without looking at the clock."""
        self.clock.advance(nanoseconds)

    def sleep(self) -> bool:
        """The CPU has nothing to do until an interrupt comes; False if none ever will.

        What devices have under way comes first, then time is turned to the next alarm. It is not
        turned faster than a step a millisecond, as disks that answer late do so in real time.
        """
        self.engine.turn(0)
        if not self.interrupt_requested:
            self.engine.turn(SLEEP_SECONDS)
        return self.interrupt_requested or self.clock.skip()

    def _ended(self, status: int) -> None:
        self.exit_status = status


def _kind(drive: FloppyDrive | None) -> DriveType | int:
    """What the CMOS RAM says of a drive, 0 if there is none."""
    return 0 if drive is None else drive.kind
