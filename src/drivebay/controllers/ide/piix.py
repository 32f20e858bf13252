"""The IDE function of the 82371SB and 82371AB (PIIX3, PIIX4): two channels behind PCI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from drivebay.ata.device import Device
from drivebay.controllers.ide.channel import Channel, ControlPorts
from drivebay.controllers.ide.registers import IdeTiming, PiixConfig
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.pci import Bar, BarKind, Header, PciFunction, PciIdentity
from drivebay.platform.ports import PortRegion, PortSpace
from drivebay.wire import Access

__all__ = ["LEGACY_PORTS", "PIIX3", "PIIX4", "PIIX4_NATIVE", "LegacyPorts", "PiixIde"]

SWITCHABLE: Final = 0x0A  # each channel's mode can be chosen,
NATIVE: Final = (0x01, 0x04)  # by these bits
PIIX3: Final = PciIdentity(0x8086, 0x7010, 0x010180)
PIIX4: Final = PciIdentity(0x8086, 0x7111, 0x010180, revision=1)
PIIX4_NATIVE: Final = PciIdentity(0x8086, 0x7111, 0x010185, revision=1)
"""A PIIX4 whose channels come up in native mode, as no function over vfio-user has ports 0x1F0 and
0x170: Linux gives an IDE function its BARs only if it says so when it is found. The chip could not,
but its drivers never ask the chip: `ata_piix` looks at the programming interface and works native
channels as any other, with DMA, where `ata_generic` would leave an Intel function alone, and any
unknown one in PIO. SeaBIOS knows no chips and takes what the programming interface says.
"""

DECODE: Final = int(IdeTiming.DecodeEnable)
MANUFACTURER_ID: Final = 0x0F30
BUS_MASTER_BAR: Final = 4


class LegacyPorts:
    """Where a channel's blocks are in a PC (compatibility mode)."""

    def __init__(self, command: int, control: int, int13: int) -> None:
        self.command, self.control, self.int13 = command, control, int13

    def map(self, channel: Channel, ports: PortSpace) -> Callable[[], None]:
        """Put `channel` there; returns what takes it away."""
        unmaps = (
            ports.map(self.int13, channel.int13),
            ports.map(self.command, channel.command_ports),
            ports.map(self.control, channel.control_ports),
        )

        def unmap() -> None:
            for each in unmaps:
                each()

        return unmap


LEGACY_PORTS: Final = (LegacyPorts(0x1F0, 0x3F6, 0x1E0), LegacyPorts(0x170, 0x376, 0x160))


class PiixIde(PciFunction):
    """An IDE controller with two channels; `lines` are their interrupts in compatibility mode.

    `identity` is `PIIX4` or `PIIX3`. With `switchable` each channel can be brought to native mode,
    as the chips themselves cannot: ports by BAR0 to BAR3, interrupts by INTA#.
    """

    registers = PiixConfig

    def __init__(
        self,
        memory: GuestMemory,
        lines: tuple[Line, Line],
        identity: PciIdentity = PIIX4,
        switchable: bool = False,
    ) -> None:
        self.channels = tuple(
            Channel(number, memory, Line(self._router(number))) for number in (0, 1)
        )
        self._lines = lines
        self._levels = [False, False]
        self._legacy: list[Callable[[], None] | None] = [None, None]
        self._ports: PortSpace | None = None
        bars = {BUS_MASTER_BAR: Bar(BarKind.IO, 16, BusMasterPorts(self.channels))}
        if switchable:
            identity = replace(identity, class_code=identity.class_code | SWITCHABLE)
            for number, channel in enumerate(self.channels):
                bars[2 * number] = Bar(BarKind.IO, 8, channel.command_ports)
                bars[2 * number + 1] = Bar(BarKind.IO, 4, ControlPorts(channel, size=4, at=2))
        super().__init__(replace(identity, interrupt_pin=1 if switchable else 0), bars)
        for register in (PiixConfig.IDETIM0, PiixConfig.IDETIM1):
            self.declare(register.offset, 2, DECODE, writable=0xFFFF)
        for register in (PiixConfig.SIDETIM, PiixConfig.UDMACTL, PiixConfig.UDMATIM):
            size = register.type.size
            self.declare(register.offset, size, writable=(1 << 8 * size) - 1)
        self.declare(PiixConfig.ManufacturerID.offset, 4, MANUFACTURER_ID)
        if switchable:
            interface = Header.ProgIF.offset
            self.declare(interface, 1, self.config[interface], writable=sum(NATIVE))
        self.command_changed()

    def attach(self, channel: int, unit: int, drive: Device) -> None:
        """Put `drive` on `channel` as device `unit`. Raises `ValueError` if one is there."""
        self.channels[channel].attach(unit, drive)

    def detach(self, channel: int, unit: int) -> Device | None:
        """Pull a drive; returns it."""
        return self.channels[channel].detach(unit)

    # -- the function ----------------------------------------------------------------------------

    def native(self, number: int) -> bool:
        """Whether channel `number` is in native mode."""
        interface = self.config[Header.ProgIF.offset]
        return bool(interface & SWITCHABLE) and bool(interface & NATIVE[number])

    def write_ProgIF(self, _value: int) -> None:
        """The mode of a channel has changed: other ports, another interrupt."""
        self.update_decoding()
        for number in (0, 1):
            self._route(number)

    def write_IDETIM0(self, _value: int) -> None:
        """Decode enable; there are no clocks to set."""
        self.update_decoding()

    def write_IDETIM1(self, _value: int) -> None:
        """The same for the secondary channel."""
        self.update_decoding()

    def command_changed(self) -> None:
        """Bus mastering goes on or off."""
        for channel in self.channels:
            channel.bus_master.may_master = self.bus_master

    def decodes(self, index: int) -> bool:
        """BAR0 to BAR3 answer in native mode only."""
        return super().decodes(index) and (index == BUS_MASTER_BAR or self.native(index // 2))

    def update_decoding(self) -> None:
        """Let the channels answer where they now are."""
        super().update_decoding()
        ports = self._ports
        if ports is None:
            return
        for number, register in enumerate((PiixConfig.IDETIM0, PiixConfig.IDETIM1)):
            at = register.offset
            decoded = int.from_bytes(self.config[at : at + 2], "little") & DECODE
            wanted = bool(decoded) and not self.native(number)
            unmap = self._legacy[number]
            if wanted and unmap is None:
                self._legacy[number] = LEGACY_PORTS[number].map(self.channels[number], ports)
            elif not wanted and unmap is not None:
                unmap()
                self._legacy[number] = None

    def plugged(self, ports: PortSpace, mmio: MmioSpace, pin: Line) -> None:
        """On a bus: the legacy ports answer from now on, enabled or not, as they always did."""
        self._ports = ports
        super().plugged(ports, mmio, pin)

    def unplugged(self) -> None:
        """Off the bus."""
        self._ports = None
        for number, unmap in enumerate(self._legacy):
            if unmap is not None:
                unmap()
            self._legacy[number] = None
        super().unplugged()

    def _router(self, number: int) -> Callable[[bool], None]:
        def route(level: bool) -> None:
            self._levels[number] = level
            self._route(number)

        return route

    def _route(self, number: int) -> None:
        native = self.native(number)
        self._lines[number].set(self._levels[number] and not native)
        self.intx.set(any(self._levels[each] and self.native(each) for each in (0, 1)))

    def reset(self) -> None:
        """Power-on, the drives too."""
        super().reset()
        for number, channel in enumerate(self.channels):
            channel.reset()
            self._route(number)

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on."""
        return super().save() | {"channels": [channel.save() for channel in self.channels]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it is of another controller."""
        super().restore(state)
        for number, (channel, saved) in enumerate(
            zip(self.channels, state["channels"], strict=True)
        ):
            channel.restore(saved)
            self._route(number)


class BusMasterPorts(PortRegion):
    """BAR4: eight ports for each channel. A register takes accesses to any of its bytes (OS/2
    writes the upper half of the table's address by itself).
    """

    size = 16

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        self._registers: dict[int, tuple[int, Access]] = {}
        for number, channel in enumerate(channels):
            for start, access in channel.bus_master.registers.items():
                for offset in range(start, start + access.type.size):
                    self._registers[8 * number + offset] = (8 * number + start, access)

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        value = 0
        for at in range(width):
            start, access = self._registers.get(offset + at, (0, None))
            if access is not None and access.read is not None:
                value |= (access.read() >> 8 * (offset + at - start) & 0xFF) << 8 * at
        return value

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        at = 0
        while at < width:
            start, access = self._registers.get(offset + at, (0, None))
            if access is None or access.read is None or access.write is None:
                at += 1
                continue
            skipped = offset + at - start
            taken = min(access.type.size - skipped, width - at)
            mask = (1 << 8 * taken) - 1
            part = value >> 8 * at & mask
            if taken < access.type.size:  # the other bytes stay
                part = access.read() & ~(mask << 8 * skipped) | part << 8 * skipped
            access.write(part)
            at += taken
