"""Fuzz a virtio block device as a PCI function: registers, configuration space, the window onto the
BARs, MSI-X, and bus mastering that comes and goes.

The input is a guest. Whatever it does, no exception comes out, nothing is logged as an error, and
the engine is idle again in bounded time; the device then serves a driver as if nothing had been.

    python -m fuzz.fuzz_virtio_pci -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.controllers", "drivebay.platform"]):
    from drivebay.controllers.virtio.block import BlockDevice
    from drivebay.controllers.virtio.pci import VirtioPci
    from drivebay.controllers.virtio.registers import PciRegisters
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.drivers.arena import Arena
    from drivebay.drivers.pci import PciAddress, PciConfig
    from drivebay.drivers.virtio_blk import VirtioBlkPci
    from drivebay.platform.engine import Engine
    from drivebay.platform.mmio import MmioSpace
    from drivebay.platform.pci import ConfigMechanism1, PciBus
    from drivebay.platform.ports import PortSpace
    from fuzz.support import Input, fuzz, guest_memory, put, settle

AT = PciAddress(5, 0)
PORTS, REGISTERS = 0xC000, 0xFE000000
BARS = (REGISTERS, REGISTERS + 0x2000)  # the registers, and MSI-X
FIELDS = [(at.offset, at.type.size) for at in PciRegisters.registers.values()]
WIDTHS = (1, 2, 4, 8)
REQUEST = 0x600


class Machine:
    """The function on a bus: a reset is all that parts one input from the next."""

    def __init__(self) -> None:
        self.memory = guest_memory()
        self.device = BlockDevice(disk, engine, queues=2)
        self.function = VirtioPci(self.device, self.memory, notify_port=True)
        self.ports, self.mmio = PortSpace(), MmioSpace()
        bus = PciBus(self.ports, self.mmio)
        bus.plug(*AT, self.function)
        self.ports.map(0xCF8, ConfigMechanism1(bus))
        self.config = PciConfig(self.ports)
        self.config.place(AT, PORTS, REGISTERS)

    def driver(self, messages: bool) -> VirtioBlkPci:
        """One that has begun properly: what comes after it is the input's."""
        told = [(0xFEE00000, vector) for vector in range(3)] if messages else ()
        arena = Arena(self.memory, 0, 0x8000)
        return VirtioBlkPci(
            self.ports, self.mmio, AT, arena, poll=self.settle, queue_size=16, messages=told
        )

    def settle(self) -> None:
        runners = self.device._runners.values()
        settle(engine, lambda: not any(runner._tasks for runner in runners))


def step(machine: Machine, source: Input) -> None:
    """One thing a guest does."""
    action = source.number("B")
    width = WIDTHS[action & 3]
    value = source.number("I") & (1 << 8 * width) - 1
    if action < 60:
        offset = source.number("B")
        machine.config.write(AT, offset & -min(width, 4), min(width, 4), value & 0xFFFFFFFF)
        machine.config.read(AT, offset & 0xFC, 4)
    elif action < 130:
        offset, width = FIELDS[source.number("B") % len(FIELDS)]
        machine.mmio.write(REGISTERS + offset, width, value & (1 << 8 * width) - 1)
        machine.mmio.read(REGISTERS + offset, width)
    elif action < 180:
        address = BARS[action >> 2 & 1] + (source.number("H") & 0x1FFF)
        machine.mmio.write(address, width, value)
        machine.mmio.read(address, width)
    elif action < 200:
        machine.ports.write(PORTS + (action & 3), min(width, 4), value & 3)
    elif action < 240:
        put(machine.memory, source.number("H"), source.take(1 + action % 16))
    elif action < 250:
        machine.settle()
    else:
        machine.function.reset()
        machine.config.place(AT, PORTS, REGISTERS)


engine = Engine(workers=0)
disk = RamDisk(1 << 16)
machine = Machine()


def one_input(data: bytes) -> None:
    source = Input(data)
    choice = source.number("B")
    if choice & 1:
        driver = machine.driver(bool(choice & 2))
        for sector in range(choice >> 2 & 3):
            driver.submit(0, sector, REQUEST, kick=bool(choice & 16))
    while source.more:
        step(machine, source)
    machine.settle()
    machine.function.reset()
    machine.settle()
    if not machine.function.at_rest:
        raise AssertionError("the device does not reset")
    machine.config.place(AT, PORTS, REGISTERS)
    if choice & 32:
        machine.driver(messages=True).read(0, 512)


if __name__ == "__main__":
    # A slow input is a find.
    fuzz(one_input, "-timeout=10", "-max_len=1024", "-len_control=20")
