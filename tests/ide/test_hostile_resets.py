"""Resets and stops at every step of a command, with I/O held: hostile.md 2.2 and 4.6."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.suspend import run
from drivebay.testing import PuppetDisk

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    ACTIVE,
    BLOCK,
    BSY,
    CANARY,
    DATA,
    DEVICE_RESET,
    DIAGNOSTIC,
    DISC_BLOCKS,
    DISK_SECTORS,
    DRQ,
    ERR,
    FLUSH,
    INTERRUPT,
    LBA,
    READ,
    READ_DMA,
    READ_DMA_EXT,
    READ_MULTIPLE,
    REST,
    SECTOR,
    SET_MULTIPLE,
    SRST,
    START,
    TRIM,
    VERIFY,
    WRITE,
    WRITE_DMA,
    WRITE_MULTIPLE,
    Guest,
    Stubborn,
    ata,
    atapi,
    bottom,
    contents,
    filled,
    int13,
)
from .support import BUS_MASTER_PORT

RAM_SIZE = 0x20000
READ_10 = bytes.fromhex("28 00 00000002 00 0004 00")


def fail_all(puppet: PuppetDisk) -> None:
    for operation in puppet.held:
        operation.fail(IoError(errno.EIO, "cable"))


ENDINGS: dict[str, Callable[[PuppetDisk], None]] = {
    "complete": PuppetDisk.complete_all,
    "fail": fail_all,
    "never": lambda puppet: None,
}


def touch(data: bytes) -> None:
    """The data is read for what that does."""


def complete(guest: Guest) -> None:
    """Whatever is held now ends."""
    puppets[-1].complete_all()
    guest.settle()


puppets: list[PuppetDisk] = []


class Command:
    """A command as its steps: after each the guest may lose its patience."""

    def __init__(self, name: str, *steps: Callable[[Guest], None], packet: bool = False) -> None:
        self.name, self.steps, self.packet = name, steps, packet


def _setup(guest: Guest) -> None:
    regions = [(DATA, 700), (DATA + 0x1000, 1348), (DATA + 0x2000, 6144)]
    guest.table(regions)


COMMANDS = (
    Command(
        "PIO in",
        lambda g: g.command(READ, 5, 4),
        complete,
        lambda g: touch(g.read(100)),
        lambda g: touch(g.read(1024)),
    ),
    Command(
        "PIO in, multiple",
        lambda g: g.command(SET_MULTIPLE, count=4),
        lambda g: g.command(READ_MULTIPLE, 5, 200),
        complete,
        lambda g: touch(g.read(0x10000)),
    ),
    Command(
        "PIO out",
        lambda g: g.command(WRITE, 5, 3),
        lambda g: g.write(b"\x11" * 100),
        lambda g: g.write(b"\x11" * 412),
        complete,
        lambda g: g.write(b"\x22" * 512),
    ),
    Command(
        "PIO out, multiple",
        lambda g: g.command(SET_MULTIPLE, count=4),
        lambda g: g.command(WRITE_MULTIPLE, 5, 7),
        lambda g: g.write(b"\x11" * 2048),
        complete,
    ),
    Command(
        "DMA in",
        _setup,
        lambda g: g.command(READ_DMA, 7, 16),
        lambda g: g.start(to_memory=True),
        complete,
    ),
    Command(
        "DMA in, started before",
        _setup,
        lambda g: g.start(to_memory=True),
        lambda g: g.command(READ_DMA, 7, 12),
        complete,
    ),
    Command(
        "DMA out",
        _setup,
        lambda g: g.command(WRITE_DMA, 7, 16),
        lambda g: g.start(to_memory=False),
        complete,
    ),
    Command(
        "TRIM",
        lambda g: g.poke(DATA, (4 << 48 | 100).to_bytes(8, "little") + bytes(504)),
        lambda g: g.table([(DATA, 512)]),
        lambda g: g.command(TRIM, features=1),
        lambda g: g.start(to_memory=False),
        complete,
    ),
    Command("flush", lambda g: g.command(FLUSH), complete),
    Command("verify", lambda g: g.command(VERIFY, 0, 0), complete),
    Command(
        "packet, PIO",
        lambda g: g.packet(READ_10, limit=4096),
        complete,
        lambda g: touch(g.read(4096)),
        packet=True,
    ),
    Command(
        "packet, DMA",
        _setup,
        lambda g: g.packet(READ_10, dma=True),
        lambda g: g.start(to_memory=True),
        complete,
        packet=True,
    ),
    Command(
        "packet without a packet",
        lambda g: g.set(7, 0xA0),
        lambda g: g.write(bytes(6)),
        packet=True,
    ),
    Command(
        "packet of parameters",
        lambda g: g.packet(bytes.fromhex("55 10 00 00 00 00 00 0014 00"), limit=8),
        lambda g: g.write(bytes(6)),
        packet=True,
    ),
)


def srst(guest: Guest) -> None:
    guest.reset()


def held_srst(guest: Guest) -> None:
    """SRST goes up, and the guest does what it likes before it goes down."""
    guest.control(SRST)
    assert guest.alternate == BSY
    before = bytes(guest.ram())
    for opcode in (READ, WRITE, READ_DMA, DEVICE_RESET, DIAGNOSTIC, 0xA0):
        guest.set(7, opcode)
        touch(guest.read(64))
        guest.write(bytes(64))
        guest.bench.outb(guest.bm, START)
        guest.bench.outb(guest.bm, 0)
        guest.bench.outb(guest.bm, START | 8)
        guest.settle()
        assert guest.alternate == BSY
        assert not guest.irq
    assert guest.ram() == before
    guest.control(0)


def bus_master_stops(guest: Guest) -> None:
    guest.stop()


def device_reset(guest: Guest) -> None:
    guest.set(7, DEVICE_RESET)


def pulled(guest: Guest) -> None:
    drive = guest.channel.drives[0]
    assert guest.bench.ide.detach(0, 0) is drive
    assert guest.status == 0x7F
    assert drive is not None
    guest.bench.ide.attach(0, 0, drive)


def machine_reset(guest: Guest) -> None:
    guest.bench.ide.reset()
    guest.bench.enable()


def function_off(guest: Guest) -> None:
    """The bus master is off in the middle, and the channel's ports go away and come back."""
    guest.bench.config_write(4, 2, 0)
    guest.bench.config_write(0x40, 2, 0)
    assert guest.status == 0xFF
    guest.bench.config_write(0x40, 2, 0x8000)
    guest.bench.config_write(4, 2, 5)
    guest.reset()


INTERRUPTIONS: dict[str, Callable[[Guest], None]] = {
    each.__name__: each
    for each in (
        srst,
        held_srst,
        bus_master_stops,
        device_reset,
        pulled,
        machine_reset,
        function_off,
    )
}


def make(make_bench: MakeBench, engine: Engine, packet: bool) -> tuple[Guest, PuppetDisk, Disk]:
    size = DISC_BLOCKS * BLOCK if packet else DISK_SECTORS * SECTOR
    disk = filled(size)
    puppet = PuppetDisk(disk)
    puppets[:] = [puppet]
    drive = atapi(engine, puppet) if packet else ata(engine, puppet)
    memory = GuestMemory.of_size(RAM_SIZE)
    return Guest(make_bench({(0, 0): drive}, memory=memory)), puppet, disk


@pytest.mark.parametrize("how", list(INTERRUPTIONS))
@pytest.mark.parametrize("ending", list(ENDINGS))
def test_hostile_2_2_and_4_6_a_stop_at_every_step(
    make_bench: MakeBench, engine: Engine, how: str, ending: str
) -> None:
    """No late DMA, no late interrupt, no second end, and the drive is usable afterwards."""
    stopped = 0
    for command in COMMANDS:
        for steps in range(1, len(command.steps) + 1):
            guest, puppet, disk = make(make_bench, engine, command.packet)
            guest.lay_canaries()
            for step in command.steps[:steps]:
                step(guest)
            held = puppet.held
            INTERRUPTIONS[how](guest)
            told = f"{command.name}, {steps} steps, {how}, {ending}"
            ignored = how == "device_reset" and not command.packet
            dma = guest.channel.bus_master.engaged
            if how == "bus_master_stops" or ignored:
                if any(not operation.cancelled for operation in held) or dma:
                    complete(guest)  # commands that do not use the bus go on
            else:
                assert all(operation.cancelled for operation in held), told
                stopped += len(held)
                assert not guest.alternate & (BSY | DRQ | ERR), told
                assert not guest.irq, told
                ram, image = guest.ram(), contents(disk)
                changes = len(guest.bench.interrupts)
                ENDINGS[ending](puppet)
                for operation in held:
                    operation.complete()
                guest.settle()
                touch(guest.read(0x1000))
                guest.write(bytes(0x1000))
                assert guest.ram() == ram, told
                assert contents(disk) == image, told
                assert len(guest.bench.interrupts) == changes, told
            puppet.holds = lambda name, sector, count: False
            puppet.complete_all()
            guest.settle()
            guest.check_usable()
    assert stopped or how in ("bus_master_stops",), "nothing was held: the test tests nothing"


def test_hostile_2_2_a_stopped_bus_master_ends_the_command_without_a_word(
    make_bench: MakeBench, engine: Engine
) -> None:
    """QEMU work items 905 and 4052: cancel with and without a request under way."""
    guest, puppet, _ = make(make_bench, engine, packet=False)
    guest.lay_canaries()
    guest.stop()
    guest.table([(DATA, 0)])
    for opcode in (READ_DMA, WRITE_DMA):
        guest.command(opcode, 0, 8)
        guest.start(opcode == READ_DMA)
        [held] = puppet.wait(1)
        assert guest.bm_status == ACTIVE
        assert guest.alternate & BSY
        guest.stop()
        assert held.cancelled
        assert guest.bm_status == 0
        assert guest.status == REST
        held.complete()
        guest.settle()
        assert guest.peek(DATA, 4096) == bytes([CANARY]) * 4096
        assert guest.bench.interrupts == []
        guest.stop()
        guest.start(opcode == READ_DMA)  # with nobody there to move anything
        assert guest.bm_status == ACTIVE
        guest.stop()
        assert guest.bm_status == 0


@pytest.mark.parametrize("how", ["srst", "device_reset", "pulled", "machine_reset", "stop"])
def test_hostile_4_6_what_the_kernel_has_begun_ends_before_the_reset_does(
    make_bench: MakeBench, engine: Engine, how: str
) -> None:
    """A system call writes into guest memory until it ends: BSY, or Active, shows until then."""
    for dma in (False, True):
        packet = how == "device_reset"
        size = DISC_BLOCKS * BLOCK if packet else DISK_SECTORS * SECTOR
        stubborn = Stubborn(filled(size))
        drive = atapi(engine, stubborn) if packet else ata(engine, stubborn)
        guest = Guest(make_bench({(0, 0): drive}))
        guest.table([(DATA, 0)])
        if packet:
            guest.packet(READ_10, dma=dma)
        else:
            guest.command(READ_DMA if dma else READ, 0, 8)
        if dma:
            guest.start(to_memory=True)
        elif how == "stop":
            continue
        assert len(stubborn.started) == 1
        if how == "stop":
            guest.stop()
            assert guest.alternate & BSY
            assert guest.bm_status == ACTIVE
        elif how == "pulled":
            guest.bench.ide.detach(0, 0)
            assert guest.alternate == 0x7F
        else:
            INTERRUPTIONS[how](guest)
            assert guest.alternate == BSY
        for opcode in (READ, WRITE, FLUSH, DIAGNOSTIC):
            guest.set(7, opcode)
        assert len(stubborn.started) == 1
        stubborn.end_all()
        guest.settle()
        if dma and how in ("srst", "device_reset", "pulled"):  # nobody has stopped it
            assert guest.bm_status == ACTIVE
            guest.stop()
        assert guest.bm_status == 0
        assert guest.bench.interrupts == []
        if how == "pulled":
            assert drive.wire is None
            guest.bench.ide.attach(0, 0, drive)
        else:
            assert not guest.alternate & (BSY | DRQ | ERR)
        guest.check_usable()


def test_hostile_4_6_a_pulled_drive_lets_the_bus_master_and_the_cpu_go(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A drive that is pulled in the middle of a system call has its last word later."""
    stubborn = Stubborn(filled(DISK_SECTORS * SECTOR))
    guest = Guest(make_bench({(0, 0): ata(engine, stubborn)}))
    guest.table([(DATA, 4096)])
    hold = int13(guest, READ_DMA, count=8)
    assert hold is not None
    guest.bench.ide.detach(0, 0)
    guest.bench.ide.save()
    assert guest.bm_status == ACTIVE  # memory is still written to
    stubborn.end_all()
    guest.settle()
    assert hold.done
    assert guest.peek(0x803, 1)[0] & ERR
    assert guest.bm_status == 0
    guest.bench.ide.attach(0, 0, ata(engine))
    guest.check_usable()


def test_hostile_4_6_a_second_reset_during_the_first(make_bench: MakeBench, engine: Engine) -> None:
    stubborn = Stubborn(filled(DISK_SECTORS * SECTOR))
    guest = Guest(make_bench({(0, 0): ata(engine, stubborn)}))
    guest.command(READ)
    guest.reset()
    guest.control(SRST)
    stubborn.end_all()
    guest.settle()
    assert guest.alternate == BSY
    guest.control(0)
    assert guest.alternate == REST
    assert guest.registers == [1, 1, 1, 0, 0, 0]
    guest.check_usable()


def test_hostile_4_6_device_reset_does_not_end_srst(make_bench: MakeBench, engine: Engine) -> None:
    guest = Guest(make_bench({(0, 0): atapi(engine)}))
    guest.control(SRST)
    guest.set(7, DEVICE_RESET)
    guest.settle()
    assert guest.alternate == BSY
    guest.control(0)
    assert guest.alternate == 0
    assert guest.registers == [1, 1, 1, 0x14, 0xEB, 0]
    guest.check_usable()


def test_hostile_4_6_registers_cannot_be_written_while_a_drive_works(
    make_bench: MakeBench, engine: Engine
) -> None:
    """What the end of the command puts there is what is there."""
    guest, puppet, _ = make(make_bench, engine, packet=False)
    guest.command(READ_DMA, 0x123, 4)
    guest.table([(DATA, 2048)])
    for busy in (False, True):
        if busy:
            guest.start(to_memory=True)
            puppet.wait(1)
        before = guest.registers[1:]
        for register in range(1, 6):
            guest.set(register, 0xEE)
        assert guest.registers[1:] == before
        guest.set(6, 0xFF)  # selects device 1, and changes nothing else
        guest.set(6, LBA)
    complete(guest)
    assert guest.registers == [0, 0, 0x26, 0x01, 0, LBA]


def test_hostile_4_6_eject_while_a_read_is_held(make_bench: MakeBench, engine: Engine) -> None:
    """The read ends; it reads what was there, or fails; the next says that nothing is there."""
    guest, puppet, _ = make(make_bench, engine, packet=True)
    guest.packet(READ_10, limit=4096)
    puppet.wait(1)
    drive = guest.channel.drives[0]
    drive.unit.remove(force=True)  # type: ignore[union-attr]
    complete(guest)
    assert guest.alternate & (DRQ | ERR)
    touch(guest.read(4 * BLOCK))
    puppet.holds = lambda name, sector, count: False
    guest.settle()
    guest.packet(READ_10, limit=4096)
    assert guest.status & ERR
    assert guest.error == 2 << 4
    guest.check_usable()


def test_hostile_4_6_a_disk_that_shrinks_under_a_command(
    make_bench: MakeBench, engine: Engine
) -> None:
    guest, puppet, disk = make(make_bench, engine, packet=False)
    guest.command(READ, DISK_SECTORS - 8, 8)
    puppet.wait(1)
    puppet.holds = lambda name, sector, count: False
    run(disk.resize(DISK_SECTORS - 4))
    complete(guest)
    for _ in range(4):  # those that are still there
        assert guest.status & DRQ
        touch(guest.read(512))
        guest.settle()
    assert guest.alternate & ERR
    assert guest.error in (0x10, ABRT | 0x10)
    assert guest.registers[2] == (DISK_SECTORS - 4) & 0xFF
    guest.check_usable()


def test_hostile_4_1_bar_moves_while_a_command_runs(make_bench: MakeBench, engine: Engine) -> None:
    """The bus master's ports go elsewhere in the middle; the transfer goes on."""
    guest, puppet, disk = make(make_bench, engine, packet=False)
    guest.table([(DATA, 4096)])
    guest.command(READ_DMA, 0, 8)
    guest.start(to_memory=True)
    puppet.wait(1)
    for base in (0xD000, 0, 0xFFF0, 0x1F0, 0xCF0, 0xE000):
        guest.bench.config_write(0x20, 4, base)
        assert guest.bench.config_read(0x20, 4) == base | 1
    guest.bm = 0xE000
    assert guest.bm_status == ACTIVE
    assert guest.bench.inb(BUS_MASTER_PORT + 2) == 0xFF
    complete(guest)
    assert guest.bm_status == INTERRUPT
    assert guest.peek(DATA, 4096) == contents(bottom(disk))[:4096]
    puppet.holds = lambda name, sector, count: False
    guest.check_usable()


def test_hostile_4_1_bus_mastering_goes_off_while_a_command_runs(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Parts that are not under way yet do not reach memory any more."""
    guest, puppet, _ = make(make_bench, engine, packet=False)
    guest.lay_canaries()
    regions = [(DATA + 4 * n, 2) for n in range(512)]
    guest.table(regions)
    for opcode in (READ_DMA_EXT, 0x35):
        puppet.holds = lambda name, sector, count: True
        guest.command(opcode, 0, 2, ext=True)
        guest.start(opcode == READ_DMA_EXT)
        [first] = puppet.wait(1)
        assert first.count == 1
        guest.bench.config_write(4, 2, 1)
        complete(guest)
        complete(guest)
        late = [guest.peek(DATA + 4 * n, 2) for n in range(256, 512)]
        assert late == [bytes([CANARY]) * 2] * 256
        guest.bench.config_write(4, 2, 5)
        puppet.holds = lambda name, sector, count: False
        guest.stop()
        guest.check_usable()
        guest.lay_canaries()
        guest.table(regions)


def test_hostile_2_2_device_1_is_reset_with_device_0(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(filled(DISK_SECTORS * SECTOR))
    guest = Guest(make_bench({(0, 0): ata(engine), (0, 1): ata(engine, puppet)}))
    guest.command(READ, 9, 4, unit=1)
    [held] = puppet.wait(1)
    guest.set(6, 0)
    guest.reset()
    assert held.cancelled
    for unit in (0, 1):
        guest.set(6, unit << 4)
        assert guest.alternate == REST
        assert guest.error == 1
    puppet.holds = lambda name, sector, count: False
    guest.check_usable(unit=1)
