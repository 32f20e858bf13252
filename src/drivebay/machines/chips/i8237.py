"""The DMA controllers of a PC: two 8237A, and the page registers beside them.

Channels 0 to 3 move bytes, 5 to 7 words; 4 is for the first controller behind the second. Sections
are of Intel's data sheet 231466-005. Devices move the data (`drivebay.platform.dma`): a device that
asks is served at once, and nothing is moved between two places in memory.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.ports import PortRegion
from drivebay.wire import At, Bit, Bits, Register8, RegisterMap

__all__ = ["I8237", "Channel", "DmaPair", "PageRegisters"]

PAGES: Final = (0x7, 0x3, 0x1, 0x2, 0xF, 0xB, 0x9, 0xA)
"""The page register of each channel, from port 0x80."""
NOWHERE: Final = 0xFF
"""What memory reads where there is none."""


class Direction(enum.IntEnum):
    """What a channel does with memory."""

    VERIFY = 0
    WRITE = 1
    READ = 2


class Service(enum.IntEnum):
    """How a channel has the bus."""

    DEMAND = 0
    SINGLE = 1
    BLOCK = 2
    CASCADE = 3


class Mode(Register8):
    """The mode register of a channel."""

    Service = Bits(7, 6, Service)
    Decrement = Bit(5)
    AutoInitialize = Bit(4)
    Direction = Bits(3, 2, Direction)
    Channel = Bits(1, 0)


class Command(Register8):
    """The command register."""

    Disable = Bit(2)


class SingleMask(Register8):
    """A write to one mask bit."""

    Mask = Bit(2)
    Channel = Bits(1, 0)


class Block(RegisterMap):
    """Sixteen registers; the first eight are an address and a count for each channel."""

    Status = At(0x8, Register8, "r")
    Command = At(0x8, Command, "w")
    Request = At(0x9, Register8, "w")
    SingleMask = At(0xA, SingleMask, "w")
    Mode = At(0xB, Mode, "w")
    ClearFlipFlop = At(0xC, Register8, "w")
    Temporary = At(0xD, Register8, "r")
    MasterClear = At(0xD, Register8, "w")
    ClearMask = At(0xE, Register8, "w")
    Mask = At(0xF, Register8)


class Channel:
    """One channel; `shift` is 1 where it moves words."""

    kept = ("base_address", "base_count", "address", "count", "mode", "masked", "page", "reached")

    def __init__(self, memory: GuestMemory, controller: I8237, shift: int) -> None:
        self._memory, self._controller, self._shift = memory, controller, shift
        self.base_address = self.base_count = self.address = self.count = 0
        self.mode = 0
        self.page = 0
        self.masked = True
        self.reached = False
        """TC, until the status is read."""
        self._turned: list[memoryview] = []  # what is to be stored backwards

    def memory(self, most: int, to_memory: bool) -> list[memoryview]:
        """The next bytes, as `DmaChannel` says. Where there is no memory, ones are read and writes
        are lost.
        """
        mode = Mode(self.mode)
        wanted = Direction.WRITE if to_memory else Direction.READ
        answers = not self.masked and not self._controller.disabled
        if not answers or mode.Service == Service.CASCADE:
            return []
        size = min(most, (self.count + 1) << self._shift)
        if mode.Direction == Direction.VERIFY:  # the device is served, and memory is not
            return [memoryview(bytearray(size))]
        if mode.Direction != wanted:
            return []
        if not mode.Decrement:
            return self._views(self.address, size)
        data = memoryview(bytearray(size))
        if to_memory:
            self._turned = [data]
        else:
            first = self.address - (size >> self._shift) + 1 & 0xFFFF
            data[:] = b"".join(self._views(first, size))[::-1]
        return [data]

    def moved(self, count: int) -> bool:
        """So many bytes were moved; whether TC came."""
        items = count >> self._shift
        if Mode(self.mode).Decrement:
            self._store_backwards(count)
            self.address = self.address - items & 0xFFFF
        else:
            self.address = self.address + items & 0xFFFF
        done = items > self.count
        self.count = self.count - items & 0xFFFF
        if done:
            self.reached = True
            if Mode(self.mode).AutoInitialize:
                self.address, self.count = self.base_address, self.base_count
            else:
                self.masked = True
        return done

    def _store_backwards(self, count: int) -> None:
        for data in self._turned:
            first = self.address - (count >> self._shift) + 1 & 0xFFFF
            at = 0
            backwards = bytes(data[:count])[::-1]
            for view in self._views(first, count):
                view[:] = backwards[at : at + len(view)]
                at += len(view)
        self._turned = []

    def _views(self, address: int, size: int) -> list[memoryview]:
        """Bytes from `address` of the page on; the page is not left."""
        whole = 0x10000 << self._shift
        start = address << self._shift
        base = (self.page & ~((1 << self._shift) - 1)) << 16
        views = []
        while size:
            piece = min(size, whole - start)
            try:
                views += self._memory.views(base + start, piece)
            except GuestMemoryFault:
                views.append(memoryview(bytearray((NOWHERE,)) * piece))
            size -= piece
            start = 0
        return views


class I8237(PortRegion):
    """Four channels, whose registers are `1 << shift` ports apart."""

    def __init__(self, memory: GuestMemory, shift: int) -> None:
        self.size = 16 << shift
        self._shift = shift
        self.channels = [Channel(memory, self, shift) for _ in range(4)]
        self.registers = Block.bind(self)
        self.disabled = False
        self._high = False  # the flip-flop: the next byte is the high one

    def reset(self) -> None:
        """Master clear (section "Software Commands"): addresses and counts stay."""
        self.disabled = self._high = False
        for channel in self.channels:
            channel.masked, channel.reached = True, False

    # -- registers -------------------------------------------------------------------------------

    def read_Status(self) -> int:
        """Who has reached TC since this was read last."""
        value = sum(channel.reached << at for at, channel in enumerate(self.channels))
        for channel in self.channels:
            channel.reached = False
        return value

    def write_Command(self, value: int) -> None:
        """On or off."""
        self.disabled = bool(value & Command.Disable)

    def write_SingleMask(self, value: int) -> None:
        """Mask a channel, or let it answer."""
        word = SingleMask(value)
        self.channels[word.Channel].masked = word.Mask

    def write_Mode(self, value: int) -> None:
        """A channel's mode."""
        self.channels[Mode(value).Channel].mode = value

    def write_ClearFlipFlop(self, _value: int) -> None:
        """The next byte is a low one."""
        self._high = False

    def write_MasterClear(self, _value: int) -> None:
        """As the RESET pin."""
        self.reset()

    def write_ClearMask(self, _value: int) -> None:
        """All answer."""
        self.write_Mask(0)

    def read_Mask(self) -> int:
        """Who is masked."""
        return sum(channel.masked << at for at, channel in enumerate(self.channels))

    def write_Mask(self, value: int) -> None:
        """All at once."""
        for at, channel in enumerate(self.channels):
            channel.masked = bool(value >> at & 1)

    # -- ports -----------------------------------------------------------------------------------

    def port_read(self, offset: int, width: int) -> int:
        """IN. Registers are a byte: wider accesses are as many."""
        if width != 1:
            return sum(self.port_read(offset + at, 1) << 8 * at for at in range(width))
        number = offset >> self._shift
        if number >= 8:
            access = self.registers.get(number)
            return access.read() if access is not None and access.read is not None else 0
        channel = self.channels[number >> 1]
        value = channel.count if number & 1 else channel.address
        high, self._high = self._high, not self._high
        return value >> 8 if high else value & 0xFF

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        if width != 1:
            for at in range(width):
                self.port_write(offset + at, 1, value >> 8 * at & 0xFF)
            return
        number = offset >> self._shift
        if number >= 8:
            access = self.registers.get(number)
            if access is not None and access.write is not None:
                access.write(value & 0xFF)
            return
        channel = self.channels[number >> 1]
        before = channel.base_count if number & 1 else channel.base_address
        high, self._high = self._high, not self._high
        word = before & 0xFF | value << 8 if high else before & 0xFF00 | value
        if number & 1:
            channel.base_count = channel.count = word
        else:
            channel.base_address = channel.address = word

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """All registers."""
        return {
            "disabled": self.disabled,
            "high": self._high,
            "channels": [[getattr(each, name) for name in each.kept] for each in self.channels],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self.disabled, self._high = state["disabled"], state["high"]
        for channel, saved in zip(self.channels, state["channels"], strict=True):
            for name, value in zip(channel.kept, saved, strict=True):
                setattr(channel, name, value)


class PageRegisters(PortRegion):
    """Ports 0x81 to 0x8F: address bits 16 to 23 of the channels; the others remember a byte."""

    size = 15

    def __init__(self, channels: list[Channel]) -> None:
        self._channels = {PAGES[number] - 1: each for number, each in enumerate(channels)}
        self._bytes = bytearray(self.size)

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        return int.from_bytes(self._bytes[offset : offset + width], "little")

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        for at in range(offset, offset + width):
            self._bytes[at] = byte = value >> 8 * (at - offset) & 0xFF
            if (channel := self._channels.get(at)) is not None:
                channel.page = byte


class DmaPair:
    """Both controllers; `channels` are numbered 0 to 7."""

    def __init__(self, memory: GuestMemory) -> None:
        self.first, self.second = I8237(memory, 0), I8237(memory, 1)
        self.channels = self.first.channels + self.second.channels
        self.pages = PageRegisters(self.channels)

    def reset(self) -> None:
        """Both."""
        self.first.reset()
        self.second.reset()

    def save(self) -> dict[str, Any]:
        """Both; the pages are the channels'."""
        return {"controllers": [self.first.save(), self.second.save()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        for controller, saved in zip((self.first, self.second), state["controllers"], strict=True):
            controller.restore(saved)
