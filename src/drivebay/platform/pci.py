"""PCI functions: a configuration space that a guest reads and writes, and BARs that follow it.

A function is a bytearray of configuration space with two masks: which bits a guest may write, and
which it clears by writing ones. What a write means beyond that is told to handlers::

    class Bridge(PciFunction):
        registers = BridgeRegisters          # a RegisterMap, at 0x40 and above

        def write_PIRQRC(self, value: int) -> None: ...   # told the new value

Sections are of the PCI Local Bus Specification, revision 3.0.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

from drivebay.platform.interrupts import Line
from drivebay.platform.mmio import MmioRegion, MmioSpace
from drivebay.platform.ports import PortRegion, PortSpace
from drivebay.wire import Access, At, Bit, Bits, Register8, Register16, Register32, RegisterMap

__all__ = [
    "Bar",
    "BarKind",
    "Command",
    "ConfigMechanism1",
    "Header",
    "PciBus",
    "PciFunction",
    "PciIdentity",
    "Status",
]

CONFIG_SIZE: Final = 0x100
BAR0: Final = 0x10
MULTIFUNCTION: Final = 0x80
NUMBER_OF_LINES: Final = 4

Unmap = Callable[[], None]


class Command(Register16):
    """What a function may do on the bus (section 6.2.2)."""

    InterruptDisable = Bit(10)
    FastBackToBackEnable = Bit(9)
    SERREnable = Bit(8)
    ParityErrorResponse = Bit(6)
    VGAPaletteSnoop = Bit(5)
    MemoryWriteAndInvalidate = Bit(4)
    SpecialCycles = Bit(3)
    BusMaster = Bit(2)
    MemorySpace = Bit(1)
    IOSpace = Bit(0)


class Status(Register16):
    """What happened to it there (section 6.2.3)."""

    DetectedParityError = Bit(15)
    SignaledSystemError = Bit(14)
    ReceivedMasterAbort = Bit(13)
    ReceivedTargetAbort = Bit(12)
    SignaledTargetAbort = Bit(11)
    DEVSELTiming = Bits(10, 9)
    MasterDataParityError = Bit(8)
    FastBackToBackCapable = Bit(7)
    Capable66MHz = Bit(5)
    CapabilitiesList = Bit(4)
    InterruptStatus = Bit(3)


class Header(RegisterMap):
    """The first 64 bytes of a type 0 function (section 6.1)."""

    VendorID = At(0x00, Register16)
    DeviceID = At(0x02, Register16)
    Command = At(0x04, Command)
    Status = At(0x06, Status)
    RevisionID = At(0x08, Register8)
    ProgIF = At(0x09, Register8)
    SubClass = At(0x0A, Register8)
    BaseClass = At(0x0B, Register8)
    CacheLineSize = At(0x0C, Register8)
    LatencyTimer = At(0x0D, Register8)
    HeaderType = At(0x0E, Register8)
    BIST = At(0x0F, Register8)
    BAR0 = At(0x10, Register32)
    BAR1 = At(0x14, Register32)
    BAR2 = At(0x18, Register32)
    BAR3 = At(0x1C, Register32)
    BAR4 = At(0x20, Register32)
    BAR5 = At(0x24, Register32)
    CardbusCISPointer = At(0x28, Register32)
    SubsystemVendorID = At(0x2C, Register16)
    SubsystemID = At(0x2E, Register16)
    ExpansionROM = At(0x30, Register32)
    CapabilitiesPointer = At(0x34, Register8)
    InterruptLine = At(0x3C, Register8)
    InterruptPin = At(0x3D, Register8)
    MinGnt = At(0x3E, Register8)
    MaxLat = At(0x3F, Register8)


COMMAND_WRITABLE: Final = (
    Command.InterruptDisable
    | Command.SERREnable
    | Command.ParityErrorResponse
    | Command.BusMaster
    | Command.MemorySpace
    | Command.IOSpace
)
STATUS_CLEARABLE: Final = (
    Status.DetectedParityError
    | Status.SignaledSystemError
    | Status.ReceivedMasterAbort
    | Status.ReceivedTargetAbort
    | Status.SignaledTargetAbort
    | Status.MasterDataParityError
)


@dataclass(frozen=True)
class PciIdentity:
    """Who a function says it is. `class_code` is base class, subclass and interface: 0x010180.

    `interrupt_pin` is 1 for INTA# to 4 for INTD#, 0 for none.
    """

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0
    interrupt_pin: int = 0


class BarKind(enum.IntEnum):
    """The low bits of a BAR (section 6.2.5.1)."""

    MEMORY32 = 0
    IO = 1
    MEMORY64 = 4


@dataclass(frozen=True)
class Bar:
    """A BAR of `size` bytes or ports, a power of two, behind which `region` sits.

    A `PortRegion` for ports, an `MmioRegion` for memory; one that is None is sized and placed by
    the guest, and nobody answers there. Raises `ValueError` on a size that no BAR can have.
    """

    kind: BarKind
    size: int
    region: PortRegion | MmioRegion | None = None
    prefetchable: bool = False

    def __post_init__(self) -> None:
        least = 4 if self.kind is BarKind.IO else 16
        if self.size < least or self.size & (self.size - 1):
            raise ValueError(f"a BAR of {self.size} bytes: a power of two from {least}")

    @property
    def width(self) -> int:
        """How much of the header it takes: 4 bytes or 8."""
        return 8 if self.kind is BarKind.MEMORY64 else 4

    @property
    def flags(self) -> int:
        """The low bits, which no guest can change."""
        return self.kind | (8 if self.prefetchable else 0)


class PciFunction:
    """A function with a type 0 header; `bars` are by number, and a 64-bit one takes two numbers.

    `config` is what the guest reads. Subclasses add bytes with `declare`, name registers at 0x40
    and above in `registers`, and may have handlers for these and for the header's: ``read_NAME()``
    gives the value, ``write_NAME(value)`` is told the register's new one after a guest's write.
    """

    registers: ClassVar[type[RegisterMap]] = RegisterMap
    migratable: ClassVar[bool] = True
    """Whether `save` and `restore` know all of its state."""

    def __init__(
        self,
        identity: PciIdentity,
        bars: Mapping[int, Bar] | None = None,
        config_size: int = CONFIG_SIZE,
    ) -> None:
        self.identity = identity
        self.bars = dict(bars or {})
        """By number, for hosts that address regions so (vfio-user)."""
        self.config = bytearray(config_size)
        self.intx = Line(self._intx_changed)
        """What the device holds up; the guest may keep it from the bus by InterruptDisable."""
        self._reset_config = bytearray(config_size)
        self._writable = bytearray(config_size)
        self._clearable = bytearray(config_size)
        self._spaces: tuple[PortSpace, MmioSpace] | None = None
        self._pin = Line(lambda _level: None)
        self._mapped: dict[int, tuple[int, Unmap]] = {}
        names = {**Header.registers, **self.registers.registers}
        every: type[RegisterMap] = type("ConfigRegisters", (RegisterMap,), names)
        bound = every.bind(self).items()
        self._handled = [(offset, access) for offset, access in bound if any(access[2:])]
        self.capabilities: tuple[object, ...] = ()
        """What `pci_capabilities.add_capabilities` has added."""
        self._declare_header()

    def _declare_header(self) -> None:
        identity = self.identity
        for at, value in (
            (Header.VendorID, identity.vendor),
            (Header.DeviceID, identity.device),
            (Header.RevisionID, identity.revision),
            (Header.ProgIF, identity.class_code & 0xFF),
            (Header.SubClass, identity.class_code >> 8 & 0xFF),
            (Header.BaseClass, identity.class_code >> 16),
            (Header.SubsystemVendorID, identity.subsystem_vendor),
            (Header.SubsystemID, identity.subsystem),
            (Header.InterruptPin, identity.interrupt_pin),
        ):
            self.declare(at.offset, at.type.size, value)
        self.declare(Header.Command.offset, 2, writable=COMMAND_WRITABLE)
        self.declare(Header.Status.offset, 2, clearable=STATUS_CLEARABLE)
        for at in (Header.CacheLineSize, Header.LatencyTimer, Header.InterruptLine):
            self.declare(at.offset, 1, writable=0xFF)
        for index, bar in self.bars.items():
            writable = (1 << 8 * bar.width) - bar.size
            self.declare(BAR0 + 4 * index, bar.width, bar.flags, writable)

    def declare(
        self, offset: int, width: int, value: int = 0, writable: int = 0, clearable: int = 0
    ) -> None:
        """Say of `width` bytes what they hold after a reset and which bits a guest can change.

        `clearable` bits become zero when a one is written. Raises `OverflowError` if a number does
        not fit.
        """
        end = offset + width
        self.config[offset:end] = self._reset_config[offset:end] = value.to_bytes(width, "little")
        self._writable[offset:end] = writable.to_bytes(width, "little")
        self._clearable[offset:end] = clearable.to_bytes(width, "little")

    def handle(self, start: int, registers: type[RegisterMap], owner: object) -> None:
        """Call the handlers that `owner` has for `registers`, which begin at offset `start`."""
        bound = registers.bind(owner).items()
        self._handled += [(start + at, access) for at, access in bound if any(access[2:])]

    # -- what the guest does ---------------------------------------------------------------------

    def config_read(self, offset: int, width: int) -> int:
        """Read `width` bytes (1, 2 or 4) at `offset`; what lies past the end reads all ones."""
        if offset + width > len(self.config):
            return (1 << 8 * width) - 1
        for start, access in self._touched(offset, width):
            if access.read is not None:
                size = access.type.size
                self.config[start : start + size] = access.read().to_bytes(size, "little")
        return int.from_bytes(self.config[offset : offset + width], "little")

    def config_write(self, offset: int, width: int, value: int) -> None:
        """Write `width` bytes at `offset`: what may be written is."""
        end = offset + width
        if end > len(self.config):
            return
        old = int.from_bytes(self.config[offset:end], "little")
        mask = int.from_bytes(self._writable[offset:end], "little")
        cleared = value & int.from_bytes(self._clearable[offset:end], "little")
        new = (old & ~mask | value & mask) & ~cleared
        self.config[offset:end] = new.to_bytes(width, "little")
        if offset < Header.CardbusCISPointer.offset and end > Header.Command.offset:
            self.update_decoding()
        if offset < Header.Status.offset and end > Header.Command.offset:
            self._drive_pin()
            self.command_changed()
        for start, access in self._touched(offset, width):
            if access.write is not None:
                size = access.type.size
                access.write(int.from_bytes(self.config[start : start + size], "little"))

    def _touched(self, offset: int, width: int) -> Iterable[tuple[int, Access]]:
        for start, access in self._handled:
            if start < offset + width and offset < start + access.type.size:
                yield start, access

    # -- what it means ---------------------------------------------------------------------------

    @property
    def command(self) -> Command:
        """The command register."""
        return Command(int.from_bytes(self.config[4:6], "little"))

    @property
    def bus_master(self) -> bool:
        """Whether the guest lets the function read and write its memory."""
        return bool(self.command & Command.BusMaster)

    def command_changed(self) -> None:
        """Called when the guest has written the command register. For subclasses."""

    def decodes(self, index: int) -> bool:
        """Whether BAR `index` answers at the address it holds; subclasses may know more reasons.

        Whoever changes one of these calls `update_decoding`.
        """
        io = self.bars[index].kind is BarKind.IO
        return bool(self.command & (Command.IOSpace if io else Command.MemorySpace))

    def bar_address(self, index: int) -> int:
        """Where the guest has put BAR `index`; 0 is nowhere."""
        bar, at = self.bars[index], BAR0 + 4 * index
        value = int.from_bytes(self.config[at : at + bar.width], "little")
        return value & ~(3 if bar.kind is BarKind.IO else 15)

    def update_decoding(self) -> None:
        """Let each BAR answer where it now says, if it decodes."""
        if self._spaces is None:
            return
        for index, bar in self.bars.items():
            if bar.region is None:
                continue
            address = self.bar_address(index) if self.decodes(index) else 0
            now, unmap = self._mapped.get(index, (0, None))
            if now == address:
                continue
            if unmap is not None:
                unmap()
                del self._mapped[index]
            if address:
                self._mapped[index] = (address, self._map(address, bar.region))

    def _map(self, address: int, region: PortRegion | MmioRegion) -> Unmap:
        assert self._spaces is not None
        ports, mmio = self._spaces
        if isinstance(region, PortRegion):
            return ports.map(address, region)
        return mmio.map(address, region)

    def _intx_changed(self, level: bool) -> None:
        at, bit = Header.Status.offset, int(Status.InterruptStatus)
        self.config[at] = self.config[at] & ~bit | (bit if level else 0)
        self._drive_pin()

    def _drive_pin(self) -> None:
        self._pin.set(self.intx.level and not self.command & Command.InterruptDisable)

    # -- its place -------------------------------------------------------------------------------

    def plugged(self, ports: PortSpace, mmio: MmioSpace, pin: Line) -> None:
        """It sits on a bus now: BARs show in `ports` and `mmio`, INTx at `pin`."""
        self._spaces, self._pin = (ports, mmio), pin
        self.update_decoding()
        self._drive_pin()

    def unplugged(self) -> None:
        """It has been pulled: its BARs and its interrupt are gone."""
        self._pin.set(False)
        self._pin = Line(lambda _level: None)
        for _, unmap in self._mapped.values():
            unmap()
        self._mapped.clear()
        self._spaces = None

    def reset(self) -> None:
        """The configuration space as it was declared. Subclasses reset the rest."""
        self.config[:] = self._reset_config
        self._config_replaced()

    def save(self) -> dict[str, Any]:
        """The state of the configuration space."""
        return {"config": bytes(self.config)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state. Raises `ValueError` if it is of another function."""
        config = state["config"]
        if len(config) != len(self.config) or config[:4] != self.config[:4]:
            raise ValueError("the saved state is of another PCI function")
        self.config[:] = config
        self._config_replaced()

    def _config_replaced(self) -> None:
        self._intx_changed(self.intx.level)
        self.update_decoding()
        self.command_changed()


class PciBus:
    """Bus 0: functions by slot and number, whose BARs show in `ports` and `mmio`.

    `interrupt` is told of the four lines that all slots share, each with the next pin on the next
    line, as bridges do it (section 2.2.6): line 0 is INTA# of slot 0 and INTD# of slot 1.
    """

    def __init__(
        self,
        ports: PortSpace,
        mmio: MmioSpace,
        interrupt: Callable[[int, bool], None] = lambda _line, _level: None,
    ) -> None:
        self._ports, self._mmio = ports, mmio
        self._lines = [Line(partial(interrupt, number)) for number in range(NUMBER_OF_LINES)]
        self._holders: list[set[tuple[int, int]]] = [set() for _ in range(NUMBER_OF_LINES)]
        self._functions: dict[tuple[int, int], PciFunction] = {}

    @property
    def functions(self) -> Mapping[tuple[int, int], PciFunction]:
        """What is plugged in, by slot and number."""
        return self._functions

    def plug(self, slot: int, number: int, function: PciFunction) -> None:
        """Put `function` at `slot` (0..31), `number` (0..7).

        Raises `ValueError` if there is no such place or something is there already.
        """
        place = (slot, number)
        if not (0 <= slot < 32 and 0 <= number < 8) or place in self._functions:
            raise ValueError(f"PCI {slot:02x}.{number:x} is taken or no place")
        self._functions[place] = function
        pin = Line(lambda level: self._pin_changed(place, function, level))
        function.plugged(self._ports, self._mmio, pin)
        self._show_multifunction(slot)

    def unplug(self, slot: int, number: int) -> None:
        """Pull what sits there. Raises `KeyError` if nothing does."""
        self._functions.pop((slot, number)).unplugged()
        self._show_multifunction(slot)

    def find(self, slot: int, number: int) -> PciFunction | None:
        """What sits there."""
        return self._functions.get((slot, number))

    def _show_multifunction(self, slot: int) -> None:
        """Guests look for functions 1 to 7 only where function 0 says so (section 6.2.1)."""
        first = self.find(slot, 0)
        if first is not None:
            others = any(place[0] == slot and place[1] for place in self._functions)
            first.declare(Header.HeaderType.offset, 1, MULTIFUNCTION if others else 0)

    def _pin_changed(self, place: tuple[int, int], function: PciFunction, level: bool) -> None:
        pin = function.identity.interrupt_pin
        if not pin:
            return
        line = (place[0] + pin - 1) % NUMBER_OF_LINES
        holders = self._holders[line]
        (holders.add if level else holders.discard)(place)
        self._lines[line].set(bool(holders))

    def reset(self) -> None:
        """Reset every function."""
        for function in self._functions.values():
            function.reset()

    def save(self) -> dict[str, Any]:
        """The state of every function."""
        return {
            f"{slot:02x}.{number:x}": function.save()
            for (slot, number), function in self._functions.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state. Raises `ValueError` if other functions are plugged in."""
        if set(state) != set(self.save()):
            raise ValueError("the saved state is of a bus with other functions")
        for (slot, number), function in self._functions.items():
            function.restore(state[f"{slot:02x}.{number:x}"])


class ConfigAddress(Register32):
    """CONFIG_ADDRESS (section 3.2.2.3.2)."""

    Enable = Bit(31)
    Bus = Bits(23, 16)
    Device = Bits(15, 11)
    Function = Bits(10, 8)
    RegisterNumber = Bits(7, 2)


class ConfigMechanism1(PortRegion):
    """Ports 0xCF8-0xCFF: an address register and a window onto the dword it names.

    The reset control register of PCs (0xCF9) lies inside: map it first.
    """

    size = 8

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus
        self._address = 0

    def port_read(self, offset: int, width: int) -> int:
        """The address, or bytes of what it names."""
        if (offset, width) == (0, 4):
            return self._address
        function = self._named() if offset >= 4 else None
        if function is None:
            return (1 << 8 * width) - 1
        return function.config_read((self._address & 0xFC) + offset - 4, width)

    def port_write(self, offset: int, width: int, value: int) -> None:
        """Set the address (as a whole only: bytes are other devices' ports), or write there."""
        if (offset, width) == (0, 4):
            self._address = value
        elif offset >= 4 and (function := self._named()) is not None:
            function.config_write((self._address & 0xFC) + offset - 4, width, value)

    def _named(self) -> PciFunction | None:
        address = ConfigAddress(self._address)
        if not address.Enable or address.Bus:
            return None
        return self._bus.find(address.Device, address.Function)

    def reset(self) -> None:
        """The address is zero, and nothing is named."""
        self._address = 0

    def save(self) -> dict[str, Any]:
        """The address register."""
        return {"address": self._address}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self._address = int(state["address"])
