"""The PCI transport (virtio 1.2 section 4.1): what a driver finds, interrupts, bus mastering, and
guests that break the rules (hostile.md 2.4 and 4.1).
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.controllers.virtio.registers import (
    NO_VECTOR,
    PCI_CONFIG,
    PciAccessRegisters,
    PciCapabilityRegisters,
    PciRegisters,
    PciStructure,
)
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import DeviceError, VirtioBlkPci
from drivebay.drivers.virtio_scsi import VirtioScsiPci
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Command, Header, Status
from drivebay.platform.pci_messages import MsixControl, MsixRegisters
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from drivebay.suspend import run
from drivebay.testing import PuppetDisk

from .bench import (
    ALL,
    AT,
    MESSAGES,
    OK,
    RAM_SIZE,
    RAM_START,
    REGISTERS,
    SPLIT,
    Guest,
    MakeBench,
    PciSlot,
)
from .test_hostile_reset import StubbornDisk

NAMES = list(PciRegisters.registers)
VALUES = {"zeroes": 0, "ones": (1 << 64) - 1, "a bit": 1 << 31, "noise": 0x9E3779B97F4A7C15}


@pytest.fixture(params=["pci", "pci, messages"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Machine(PciSlot):
    """A block device in a slot, and its driver."""

    def __init__(self, engine: Engine, *, queues: int = 1, notify_port: bool = False) -> None:
        self.memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        self.device = BlockDevice(RamDisk(1 << 20), engine, queues=queues)
        self.arena = Arena(self.memory, RAM_START, RAM_SIZE)
        self.poll = lambda: engine.turn(0.01)
        super().__init__(VirtioPci(self.device, self.memory, notify_port=notify_port))
        self.block = self.function.transport

    def driver(self, *, messages: bool = False, features: int = SPLIT) -> VirtioBlkPci:
        return VirtioBlkPci(
            self.ports,
            self.space,
            AT,
            self.arena,
            poll=self.poll,
            features=features,
            messages=MESSAGES if messages else (),
        )

    def guest(self) -> tuple[VirtioBlkPci, int]:
        """A driver, and where a read of its has been put into the ring, without a notification."""
        driver = self.driver()
        return driver, driver.submit(0, 0, 512, kick=False).status_at

    def status(self, address: int) -> int:
        return self.memory.view(address, 1)[0]

    def read(self, offset: int, width: int = 2) -> int:
        return self.config.read(AT, offset, width)

    def write(self, offset: int, value: int, width: int = 2) -> None:
        self.config.write(AT, offset, width, value)

    def command(self, value: int) -> None:
        self.write(Header.Command.offset, value)


@pytest.fixture
def machine(engine: Engine) -> Machine:
    return Machine(engine)


def test_who_it_is(machine: Machine) -> None:
    """Sections 4.1.2 and 4.1.2.1: a device of its own time, which no legacy driver takes."""
    assert machine.read(Header.VendorID.offset) == 0x1AF4
    assert machine.read(Header.DeviceID.offset) == 0x1042
    assert machine.read(Header.RevisionID.offset, 1) >= 1
    assert machine.read(Header.SubsystemID.offset) >= 0x40


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
@pytest.mark.parametrize("notify_port", [False, True])
def test_notifications_by_memory_and_by_port(
    engine: Engine, notify_port: bool, features: int
) -> None:
    machine = Machine(engine, queues=3, notify_port=notify_port)
    driver = machine.driver(features=features)
    assert driver._places[PciStructure.NOTIFY_CFG].port == notify_port
    for queue in range(3):
        driver.request(0, queue, 512, queue=queue)
    driver.write(7, b"seven".ljust(512))
    assert driver.read(7, 512) == b"seven".ljust(512)


def test_a_scsi_host(engine: Engine) -> None:
    target, memory = Target(engine), GuestMemory.of_size(RAM_SIZE, RAM_START)
    target.add(0, ScsiDisk(RamDisk(1 << 20)))
    slot = PciSlot(VirtioPci(ScsiDevice(target, engine), memory))
    assert slot.config.read(AT, Header.DeviceID.offset, 2) == 0x1048
    arena = Arena(memory, RAM_START, RAM_SIZE)
    host = VirtioScsiPci(slot.ports, slot.space, AT, arena, poll=lambda: engine.turn(0.01))
    assert host.command(0, bytes(6)).status == 2  # the attention of power on
    assert host.ask(0, bytes([0x12, 0, 0, 0, 36, 0]), room=36)[8:16] == b"drivebay"


# -- interrupts ------------------------------------------------------------------------------------


def test_reading_the_cause_lowers_the_line(machine: Machine) -> None:
    """Section 4.1.4.5.1; the status register of PCI shows the line."""
    driver, _ = machine.guest()
    driver.ring().want_interrupt()
    driver.kick()
    assert machine.levels == [True]
    assert machine.read(Header.Status.offset) & Status.InterruptStatus
    assert driver.get("ISR_status") == 1
    assert machine.levels == [True, False]
    assert not machine.read(Header.Status.offset) & Status.InterruptStatus
    assert driver.get("ISR_status") == 0


def test_a_line_that_is_disabled_waits(machine: Machine) -> None:
    driver, _ = machine.guest()
    machine.command(machine.read(Header.Command.offset) | Command.InterruptDisable)
    driver.kick()
    assert not machine.levels
    machine.command(machine.read(Header.Command.offset) & ~Command.InterruptDisable)
    assert machine.levels == [True]


def test_messages_go_where_each_queue_says(engine: Engine) -> None:
    machine = Machine(engine, queues=4)
    driver = machine.driver(messages=True)
    for queue in range(4):
        driver.ring(queue).want_interrupt()
        driver.request(0, 0, 512, queue=queue)
    assert machine.messages == [MESSAGES[1], MESSAGES[2]] * 2
    run(machine.device.disk.resize(64))
    assert machine.messages[4:] == MESSAGES[:1]
    assert machine.function.intx.level is False


def test_a_queue_without_a_vector_is_silent(machine: Machine) -> None:
    driver = machine.driver(messages=True)
    driver.set("queue_msix_vector", NO_VECTOR)
    driver.request(0, 0, 512)
    assert not machine.messages


def test_the_line_takes_over_when_messages_are_disabled(machine: Machine) -> None:
    """A cause that was not seen holds it up, as a change of the configuration sets its bit always
    (section 4.1.4.5.1).
    """
    driver = machine.driver(messages=True)
    run(machine.device.disk.resize(64))
    assert machine.messages == MESSAGES[:1]
    assert not machine.function.intx.level
    control = driver._msix + MsixRegisters.Control.offset
    machine.write(control, 0)
    assert machine.function.intx.level
    machine.write(control, int(MsixControl.Enable))
    assert not machine.function.intx.level


@pytest.mark.parametrize("register", ["config_msix_vector", "queue_msix_vector"])
def test_a_vector_that_there_is_not_reads_back_as_none(machine: Machine, register: str) -> None:
    """Section 4.1.5.1.2.1: the driver finds out so."""
    driver = machine.driver()
    for vector in (0, 1, 2, 3, 0x7FF, 0xFFFE, NO_VECTOR):
        driver.set(register, vector)
        assert driver.get(register) == (vector if vector < 2 else NO_VECTOR)
    driver.reset()
    assert driver.get(register) == NO_VECTOR


def test_a_reset_out_of_the_interrupt_itself(machine: Machine) -> None:
    driver, _ = machine.guest()
    driver.ring().want_interrupt()
    machine.function.intx._sink = lambda level: driver.set("Status", 0) if level else None
    driver.kick()
    assert driver.get("Status") == 0
    assert not machine.function.intx.level
    assert machine.function.at_rest


# -- bus mastering ---------------------------------------------------------------------------------


def test_without_bus_mastering_nothing_is_taken(machine: Machine) -> None:
    """PCI 3.0 section 6.2.2: it comes when the guest allows it, though nobody notifies again."""
    driver, status_at = machine.guest()
    machine.command(int(Command.MemorySpace))
    driver.notify(0)
    assert machine.status(status_at) == 0xFF
    machine.command(int(Command.MemorySpace | Command.BusMaster))
    assert machine.status(status_at) == OK


def test_a_queue_that_is_set_up_before_bus_mastering_starts_with_it(machine: Machine) -> None:
    driver, status_at = machine.guest()
    addresses = driver.ring().addresses
    driver.reset()
    machine.command(int(Command.MemorySpace))
    driver.set("Status", 3)
    driver.set("DriverFeaturesSel", 1)
    driver.set("DriverFeatures", 1)
    driver.set("Status", 11)
    for area, address in zip(("Desc", "Driver", "Device"), addresses, strict=True):
        driver.set(f"Queue{area}Low", address)
    driver.set("QueueReady", 1)
    driver.set("Status", 15)
    assert machine.status(status_at) == 0xFF
    machine.command(int(Command.MemorySpace | Command.BusMaster))
    assert machine.status(status_at) == OK


def test_a_reset_of_the_function(machine: Machine) -> None:
    """As after power on: BARs, command, vectors, features, queues."""
    machine.driver(messages=True)
    machine.function.reset()
    assert machine.function.at_rest
    assert machine.read(Header.Command.offset) == 0
    assert machine.read(Header.BAR0.offset, 4) == 0
    assert not machine.function.msix.enabled
    machine.config.place(AT, 0xC000, REGISTERS)
    assert machine.block.status() == 0
    machine.driver().read(0, 512)


def test_a_reset_of_the_function_gives_up_what_is_held(engine: Engine) -> None:
    machine = Machine(engine)
    puppet = machine.device.disk = PuppetDisk(RamDisk(1 << 20))
    machine.device._read = puppet.read
    driver, status_at = machine.guest()
    driver.kick()
    [held] = puppet.wait(1)
    machine.function.reset()
    assert held.cancelled
    assert machine.function.at_rest
    assert machine.status(status_at) == 0xFF


def test_bus_mastering_does_not_wake_what_a_reset_ends(engine: Engine) -> None:
    """While a system call is under way, the status still says that the driver is there."""
    machine = Machine(engine)
    disk = StubbornDisk(machine.device.disk)
    machine.device._read = disk.read
    driver, _ = machine.guest()
    driver.kick()
    driver.set("Status", 0)
    assert driver.get("Status") != 0
    command = machine.read(Header.Command.offset)
    for value in (command & ~Command.BusMaster, command):
        machine.command(value)
    assert not machine.device._runners
    disk.end_all()
    assert engine.run_until(lambda: driver.get("Status") == 0)
    assert machine.function.at_rest
    machine.driver().read(0, 512)


# -- the configuration access capability (section 4.1.4.9) -----------------------------------------


class Window:
    """The capability, as firmware works it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        offset = machine.read(Header.CapabilitiesPointer.offset, 1)
        while machine.read(offset + PciCapabilityRegisters.cfg_type.offset, 1) != 5:
            offset = machine.read(offset + 1, 1)
        self.at = offset

    def aim(self, bar: int, offset: int, length: int) -> int:
        """Where its data is."""
        registers = PciAccessRegisters
        for register, value in (
            (registers.bar, bar),
            (registers.offset, offset),
            (registers.length, length),
        ):
            self.machine.write(self.at + register.offset, value, register.type.size)
        return self.at + registers.pci_cfg_data.offset

    def read(self, bar: int, offset: int, length: int) -> int:
        return self.machine.read(self.aim(bar, offset, length), length)

    def write(self, bar: int, offset: int, length: int, value: int) -> None:
        self.machine.write(self.aim(bar, offset, length), value, length)


def test_the_registers_through_the_configuration_space(machine: Machine) -> None:
    window = Window(machine)
    machine.command(int(Command.BusMaster))  # and no memory: the BARs are not to be had
    assert machine.space.read(REGISTERS, 4) == 0xFFFFFFFF
    assert window.read(0, PciRegisters.num_queues.offset, 2) == 1
    window.write(0, PciRegisters.device_status.offset, 1, 3)
    assert window.read(0, PciRegisters.device_status.offset, 1) == 3
    assert window.read(0, PCI_CONFIG, 4) == 2048
    window.write(1, 0, 4, 0xFEE00000)  # the table of MSI-X
    assert window.read(1, 0, 4) == 0xFEE00000


def test_a_port_through_the_configuration_space(engine: Engine) -> None:
    machine = Machine(engine, notify_port=True)
    _, status_at = machine.guest()
    Window(machine).write(2, 0, 2, 0)
    assert machine.status(status_at) == OK
    assert Window(machine).read(2, 0, 2) == 0


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8, 0xFFFFFFFF])
@pytest.mark.parametrize("bar", [0, 1, 2, 5, 6, 0xFF])
def test_a_window_out_of_range_changes_nothing(machine: Machine, bar: int, length: int) -> None:
    """Capability windows that a guest aims anywhere: bars there are not, past ends, odd widths."""
    window = Window(machine)
    for offset in (0xFFF, 0x1000, 0x3FFE, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF, 0x16, 0x15):
        data = window.aim(bar, offset, length)
        for width in (1, 2, 4):
            machine.write(data, 0xFFFFFFFF & (1 << 8 * width) - 1, width)
            assert 0 <= machine.read(data, width) < 1 << 8 * width
    machine.driver().read(0, 512)


# -- guests that break the rules -------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True], ids=["before", "running"])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_offset_takes_every_width(bench: MakeBench, width: int, live: bool) -> None:
    """Aligned or not, any value, with and without a driver at work; also past the block's end."""
    b = bench()
    with b.survives():
        if live:
            b.driver(features=SPLIT)
        for value in VALUES.values():
            for offset in (*range(-8, PCI_CONFIG + 72), *range(0xFF8, 0x1008)):
                b.space.write(REGISTERS + offset, width, value & ((1 << 8 * width) - 1))
                assert 0 <= b.space.read(REGISTERS + offset, width) < 1 << 8 * width


def test_random_accesses_do_no_harm(bench: MakeBench) -> None:
    """By the registers' own offsets half of the time, so that they mean something."""
    b = bench()
    dice = random.Random(5)
    places = [(at.offset, at.type.size) for at in PciRegisters.registers.values()]
    with b.survives(seconds=10):
        for _ in range(30_000):
            own = dice.random() < 0.5
            offset, width = dice.choice(places) if own else (dice.randrange(0x1000), 1)
            width = width if dice.random() < 0.7 else dice.choice((1, 2, 4, 8))
            if dice.random() < 0.5:
                b.space.read(REGISTERS + offset, width)
            else:
                value = dice.getrandbits(4) if dice.random() < 0.5 else dice.getrandbits(8 * width)
                b.space.write(REGISTERS + offset, width, value & ((1 << 8 * width) - 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_register_of_another_width_is_none(machine: Machine, name: str) -> None:
    """Section 4.1.3.1: fields are accessed by their own widths."""
    driver = machine.driver()
    at = PciRegisters.registers[name]
    before = machine.block.status()
    for width in {1, 2, 4, 8} - {at.type.size}:
        if width == 8 and "queue_d" in name:
            continue
        machine.space.write(REGISTERS + at.offset, width, 0)
        assert machine.space.read(REGISTERS + at.offset, width) == 0
    assert machine.block.status() == before
    driver.read(0, 512)


def test_an_address_is_written_whole_or_in_halves(machine: Machine) -> None:
    """Section 4.1.3.1."""
    machine.driver().reset()
    write, read = machine.space.write, machine.space.read
    for name in ("queue_desc_low", "queue_driver_low", "queue_device_low"):
        at = REGISTERS + PciRegisters.registers[name].offset
        write(at, 8, 0x1122334455667788)
        assert (read(at, 4), read(at + 4, 4)) == (0x55667788, 0x11223344)
        write(at + 4, 4, 0xA0)
        assert (read(at, 4), read(at + 4, 4)) == (0x55667788, 0xA0)


def test_every_queue_that_there_is_not(engine: Engine) -> None:
    """Section 4.1.4.3.1: size 0, and nothing that is said of it matters."""
    machine = Machine(engine, queues=3)
    driver = machine.driver()
    for queue in (*range(300), *(1 << bit for bit in range(9, 16)), 0xFFFE, 0xFFFF):
        driver.set("queue_select", queue)
        assert driver.get("queue_select") == queue
        assert (driver.get("queue_size") != 0) == (queue < 3)
        if queue >= 3:
            for name in ("queue_size", "queue_msix_vector", "queue_desc_high", "queue_enable"):
                driver.set(name, 1)
            assert driver.get("queue_enable") == driver.get("queue_desc_high") == 0
            assert driver.get("queue_msix_vector") == NO_VECTOR
            driver.notify(0)
    driver.read(0, 512)


@pytest.mark.parametrize("value", [0, 2, 3, 0x8000, 0xFFFF])
def test_a_queue_is_enabled_by_a_one_and_not_taken_back(machine: Machine, value: int) -> None:
    """Section 4.1.4.3.2."""
    driver = machine.driver()
    driver.set("queue_enable", value)
    assert driver.get("queue_enable") == 1
    driver.read(0, 512)
    driver.reset()
    driver.set("queue_enable", value)
    assert driver.get("queue_enable") == 0


@pytest.mark.parametrize("queue", [1, 2, 0xFFFF])
def test_a_notification_for_nobody(machine: Machine, queue: int) -> None:
    driver, status_at = machine.guest()
    driver._write(PciStructure.NOTIFY_CFG, 0, 2, queue)
    assert machine.status(status_at) == 0xFF
    driver.notify(0)
    assert machine.status(status_at) == OK


def test_the_generation_changes_with_the_configuration(machine: Machine) -> None:
    """In the eight bits that it has here (section 4.1.4.3)."""
    driver = machine.driver()
    seen = []
    for sectors in range(1, 300):
        run(machine.device.disk.resize(sectors))
        seen.append(driver.get("config_generation"))
        assert driver.config.capacity == sectors
    assert all(before != after for before, after in pairwise(seen))
    assert set(seen) == set(range(256))


def test_what_is_in_the_hole_is_nobody(machine: Machine) -> None:
    for offset in (0x38, 0xFC, 0x101, 0x1FC, 0x202, 0x3FC):
        machine.space.write(REGISTERS + offset, 4, 0xFFFFFFFF)
        assert machine.space.read(REGISTERS + offset, 4) == 0


def test_a_function_that_is_no_virtio_device(machine: Machine) -> None:
    machine.function.declare(Header.CapabilitiesPointer.offset, 1, 0)
    with pytest.raises(DeviceError, match="no COMMON_CFG, NOTIFY_CFG"):
        machine.driver()


def test_a_broken_ring_asks_for_a_reset(bench: MakeBench) -> None:
    b = bench()
    with b.survives():
        guest = Guest(b, b.driver(features=SPLIT))
        b.levels[:] = []
        guest.split.offer(0xFFFF)
        guest.kick()
        assert b.needs_reset
        assert b.levels[:1] == [True]
        assert guest.driver.get("ISR_status") & 2


def test_a_ring_in_memory_that_goes_sleeps_until_it_is_back(machine: Machine) -> None:
    """A virtual machine monitor lays memory out anew while drivers are at work."""
    driver, status_at = machine.guest()
    regions = machine.memory.regions
    machine.memory.replace([])
    driver.notify(0)
    machine.memory.replace(regions)
    assert machine.status(status_at) == OK
    driver.read(0, 512)
