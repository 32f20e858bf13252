"""Save and restore in the middle of any command: the run is the same as without."""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec
import pytest

from drivebay.ata.device import Device
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError, Medium, MediumError
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import PuppetDisk

from .hostile_support import (
    BLOCK,
    BSY,
    DATA,
    DEV,
    DEVICE_RESET,
    DISC_BLOCKS,
    DISK_SECTORS,
    DRQ,
    FLUSH,
    HOB,
    IDENTIFY,
    IDENTIFY_PACKET,
    LBA,
    NIEN,
    PACKET,
    READ,
    READ_DMA,
    READ_MULTIPLE,
    SECTOR,
    SET_FEATURES,
    SET_MULTIPLE,
    SRST,
    TRIM,
    VERIFY,
    WRITE,
    WRITE_DMA,
    WRITE_MULTIPLE,
    Guest,
    Stubborn,
    ata,
    atapi,
    contents,
    filled,
    int13,
)
from .support import Bench

RAM_SIZE = 0x40000
READ_10 = bytes.fromhex("28 00 00000002 00 0004 00")
MODE_SENSE = bytes.fromhex("5a 00 01 00 00 00 00 00ff 00")
MODE_SELECT = bytes.fromhex("55 10 00 00 00 00 00 0014 00")
PAGE = bytes.fromhex("00 12 00 00 00 00 00 00 01 0a 00 05") + bytes(8)
REQUEST_SENSE = bytes.fromhex("03 00 00 00 12 00")

Step = Callable[[Guest], object]


class World:
    """What outlives a machine: memory and the disks' sectors."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.memory = GuestMemory.of_size(RAM_SIZE)
        self.below: list[RamDisk] = [filled(DISK_SECTORS * SECTOR), filled(DISC_BLOCKS * BLOCK)]
        self.puppets: list[PuppetDisk] = []

    def build(self) -> Guest:
        """A machine with a disk and a DVD drive on a channel."""
        self.puppets = [PuppetDisk(disk) for disk in self.below]
        drives: dict[tuple[int, int], Device] = {
            (0, 0): ata(self.engine, self.puppets[0]),
            (0, 1): atapi(self.engine, self.puppets[1]),
        }
        return Guest(Bench(self.engine, drives, self.memory))

    def moved(self, guest: Guest) -> Guest:
        """Another machine that goes on where this one is; its state crosses a wire."""
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(guest.bench.ide.save()))
        other = self.build()
        other.bench.ide.restore(state)
        return other

    def complete(self, guest: Guest) -> list[str]:
        """What is held now ends; returns what it was."""
        held = [operation for puppet in self.puppets for operation in puppet.held]
        for operation in held:
            operation.complete()
        guest.settle()
        return [f"{operation.name} {operation.sector}+{operation.count}" for operation in held]

    def fail(self, guest: Guest, error: Exception) -> int:
        held = [operation for puppet in self.puppets for operation in puppet.held]
        for operation in held:
            operation.fail(error)  # type: ignore[arg-type]
        guest.settle()
        return len(held)


def look(guest: Guest) -> object:
    """All that a guest can see without changing anything."""
    channel = guest.channel
    return (
        guest.alternate,
        guest.registers,
        guest.bm_status,
        guest.bench.inb(guest.bm),
        guest.bench.inl(guest.bm + 4),
        guest.irq,
        channel.int13.hold is None,
        [guest.bench.config_read(at, 4) for at in range(0, 256, 4)],
    )


COMPLETE = "complete"
FAIL = "fail"
MEDIUM = "medium error"
SCRIPTS: dict[str, list[Step | str]] = {
    "PIO in": [
        lambda g: g.command(READ, 5, 140),
        COMPLETE,
        lambda g: g.read(100),
        lambda g: g.read(412),
        lambda g: g.read(0x10000 - 512),
        COMPLETE,
        lambda g: g.read(0x4000),
    ],
    "PIO in, multiple, bad sector": [
        lambda g: g.command(SET_MULTIPLE, count=4),
        lambda g: g.command(READ_MULTIPLE, 5, 20),
        MEDIUM,
        COMPLETE,
        lambda g: g.read(2048),
        MEDIUM,
        lambda g: g.error,
    ],
    "PIO out": [
        lambda g: g.command(WRITE, 5, 3),
        lambda g: g.write(b"\x11" * 100),
        lambda g: g.write(b"\x12" * 412),
        COMPLETE,
        lambda g: g.write(b"\x22" * 512),
        FAIL,
        lambda g: g.error,
    ],
    "PIO out, multiple": [
        lambda g: g.command(SET_MULTIPLE, count=4),
        lambda g: g.command(WRITE_MULTIPLE, 5, 7),
        lambda g: g.write(b"\x11" * 2048),
        COMPLETE,
        lambda g: g.write(b"\x22" * 1536),
        COMPLETE,
    ],
    "DMA in, in parts": [
        lambda g: g.table([(DATA + 2 * n, 2) for n in range(1024)]),
        lambda g: g.command(READ_DMA, 7, 4),
        lambda g: g.start(to_memory=True),
        COMPLETE,
        COMPLETE,
        COMPLETE,
        COMPLETE,
        lambda g: g.peek(DATA, 2048),
    ],
    "DMA out, long table": [
        lambda g: g.poke(DATA, b"\x42" * 4096),
        lambda g: g.table([(DATA, 700), (DATA + 700, 0)]),
        lambda g: g.start(to_memory=False),
        lambda g: g.command(WRITE_DMA, 7, 8),
        COMPLETE,
        lambda g: g.stop(),
    ],
    "DMA in, short table": [
        lambda g: g.table([(DATA, 1024), (DATA + 0x1000, 100)]),
        lambda g: g.command(READ_DMA, 7, 8),
        lambda g: g.start(to_memory=True),
        COMPLETE,
        lambda g: g.stop(),
    ],
    "DMA in that fails": [
        lambda g: g.table([(DATA, 0)]),
        lambda g: g.command(READ_DMA, 7, 8),
        lambda g: g.start(to_memory=True),
        FAIL,
        lambda g: g.error,
    ],
    "TRIM": [
        lambda g: g.poke(DATA, (4 << 48 | 100).to_bytes(8, "little") + bytes(504)),
        lambda g: g.table([(DATA, 512)]),
        lambda g: g.command(TRIM, features=1, ext=True),
        lambda g: g.start(to_memory=False),
        COMPLETE,
        lambda g: g.stop(),
    ],
    "flush and power": [
        lambda g: g.command(FLUSH),
        COMPLETE,
        lambda g: g.command(SET_FEATURES, features=0x82),
        COMPLETE,
        lambda g: g.command(0xE0),
        COMPLETE,
        lambda g: g.command(0xE5),
        lambda g: g.command(0xE6),
        COMPLETE,
        lambda g: g.command(READ),
        lambda g: g.reset(),
    ],
    "verify": [lambda g: g.command(VERIFY, 0, 0), COMPLETE, COMPLETE],
    "settings": [
        lambda g: g.command(0x91, 0, 9, device=3),
        lambda g: g.command(SET_MULTIPLE, count=8),
        lambda g: g.command(SET_FEATURES, count=0x42, features=3),
        lambda g: g.command(0xF8),
        lambda g: g.command(0xF9, 999, 0),
        lambda g: g.command(0xE8),
        lambda g: g.write(b"\x33" * 512),
        lambda g: g.command(0xE4),
        lambda g: g.read(512),
        lambda g: g.command(0xB0, 0xC24F81, 1, features=0xD6),
        lambda g: g.write(b"\x44" * 512),
        lambda g: g.command(0xB0, 0xC24F81, 1, features=0xD5),
        lambda g: g.read(512),
        lambda g: g.command(IDENTIFY),
        lambda g: g.read(200),
        lambda g: g.read(312),
    ],
    "registers": [
        lambda g: g.control(NIEN),
        lambda g: g.command(FLUSH),
        COMPLETE,
        lambda g: g.bench.outl(g.base + 2, 0x55443322),
        lambda g: g.control(NIEN | HOB),
        lambda g: g.registers,
        lambda g: g.control(0),
        lambda g: g.status,
        lambda g: g.set(6, DEV),
        lambda g: g.control(SRST),
        lambda g: g.set(6, DEV),
        lambda g: g.control(0),
    ],
    "packet, PIO": [
        lambda g: g.set(6, DEV),
        lambda g: g.bench.outw(g.base + 4, 4096),
        lambda g: g.set(7, PACKET),
        lambda g: g.write(READ_10[:6]),
        lambda g: g.write(READ_10[6:].ljust(6, b"\0")),
        COMPLETE,
        lambda g: g.read(1000),
        lambda g: g.read(3096),
        lambda g: g.read(4096),
        lambda g: g.status,
    ],
    "packet, DMA": [
        lambda g: g.table([(DATA, 3000), (DATA + 3000, 6192)]),
        lambda g: g.packet(READ_10, dma=True, unit=1),
        lambda g: g.start(to_memory=True),
        COMPLETE,
        lambda g: g.status,
        lambda g: g.stop(),
    ],
    "packet of parameters": [
        lambda g: g.packet(MODE_SELECT, limit=8, unit=1),
        lambda g: g.write(PAGE[:6]),
        lambda g: g.write(PAGE[6:8]),
        lambda g: g.write(PAGE[8:16]),
        lambda g: g.write(PAGE[16:20]),
        lambda g: g.status,
        lambda g: g.packet(MODE_SENSE, unit=1),
        lambda g: g.read(20),
    ],
    "sense": [
        lambda g: g.packet(b"\xff", unit=1),
        lambda g: g.status,
        lambda g: g.packet(REQUEST_SENSE, limit=6, unit=1),
        lambda g: g.read(6),
        lambda g: g.read(12),
        lambda g: g.packet(b"\xff", unit=1),
        lambda g: g.table([(DATA, 18)]),
        lambda g: g.packet(REQUEST_SENSE, dma=True, unit=1),
        lambda g: g.start(to_memory=True),
        lambda g: g.peek(DATA, 18),
        lambda g: g.packet(REQUEST_SENSE, unit=1),
        lambda g: g.read(18),
    ],
    "a packet that fails": [
        lambda g: g.packet(READ_10, unit=1),
        FAIL,
        lambda g: g.error,
        lambda g: g.packet(bytes.fromhex("1e 00 00 00 01 00"), unit=1),
        lambda g: g.set(7, IDENTIFY_PACKET),
        lambda g: g.read(512),
        lambda g: g.set(7, DEVICE_RESET),
    ],
    "both drives": [
        lambda g: g.command(READ, 5, 2),
        lambda g: g.packet(READ_10, limit=4096, unit=1),
        lambda g: g.set(6, LBA),
        COMPLETE,
        lambda g: g.read(512),
        lambda g: g.set(6, DEV),
        lambda g: g.read(4096),
        lambda g: g.status,
    ],
    "enlightened": [
        lambda g: g.table([(DATA + 4 * n, 4) for n in range(512)]),
        lambda g: int13(g, READ_DMA, lba=3, count=4) is None,
        COMPLETE,
        COMPLETE,
        COMPLETE,
        lambda g: g.peek(DATA, 2048),
        lambda g: (
            int13(g, 0, device=DEV, lba=3, count=4, head=9, byte_count=5000, buffer=DATA) is None
        ),
        COMPLETE,
        lambda g: g.peek(DATA, 5000),
        lambda g: g.peek(0x800, 24),
    ],
}


def play(engine: Engine, script: list[Step | str], save_at: int | None) -> list[object]:
    """What the guest sees after each step, and in the end what memory and disks hold."""
    world = World(engine)
    guest = world.build()
    guest.bench.enable()
    seen: list[object] = []
    for at, step in enumerate(script):
        if step == COMPLETE:
            seen.append(world.complete(guest))
        elif step == FAIL:
            seen.append(world.fail(guest, IoError(errno.EIO, "x")))
        elif step == MEDIUM:
            seen.append(world.fail(guest, MediumError(Medium.UNRECOVERED_READ)))
        else:
            seen.append(step(guest))  # type: ignore[operator]
        if at == save_at:
            guest = world.moved(guest)
        seen.append(look(guest))
    for _ in range(10):
        seen.append(world.complete(guest))
        seen.append(guest.read(0x2000))
    seen += [contents(disk) for disk in world.below]
    seen.append(guest.ram())
    return seen


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_hostile_4_6_saved_after_any_step_the_run_is_the_same(engine: Engine, name: str) -> None:
    script = SCRIPTS[name]
    expected = play(engine, script, None)
    for at in range(len(script)):
        got = play(engine, script, at)
        for step, (one, other) in enumerate(zip(expected, got, strict=True)):
            assert other == one, f"{name}, saved after {at}: differs at {step / 2}"


def test_hostile_4_6_a_save_while_the_kernel_works(engine: Engine) -> None:
    """What cannot be called back is done again by who restores; stops and resets are kept."""
    for interruption in (None, SRST, "stop"):
        memory, below = GuestMemory.of_size(RAM_SIZE), filled(DISK_SECTORS * SECTOR)

        def build(disk: Disk, memory: GuestMemory = memory) -> Guest:
            return Guest(Bench(engine, {(0, 0): ata(engine, disk)}, memory))

        guest = build(Stubborn(below))
        guest.bench.enable()
        guest.table([(DATA, 4096)])
        guest.command(READ_DMA, 3, 8)
        guest.start(to_memory=True)
        if interruption == SRST:
            guest.control(SRST)
        elif interruption == "stop":
            guest.stop()
        state = guest.bench.ide.save()
        other = build(below)
        other.bench.ide.restore(state)
        other.settle()
        if interruption == SRST:
            assert other.alternate == BSY
            other.control(0)
        assert not other.alternate & (BSY | DRQ)
        moved = contents(below)[3 * 512 : 11 * 512] if interruption is None else bytes(4096)
        assert other.peek(DATA, 4096) == moved
        assert other.irq == (interruption is None)
        other.check_usable()


def test_hostile_4_1_a_command_that_the_new_disk_cannot_do(engine: Engine) -> None:
    """A read in the middle of a disk that is smaller now, or of a disc that is gone: ValueError."""
    for unit in (0, 1):
        world = World(engine)
        guest = world.build()
        if unit:
            guest.packet(bytes.fromhex("28 00 0000003F 00 0001 00"), unit=1)
        else:
            guest.command(READ, DISK_SECTORS - 1, 1)
        guest.settle()
        state = guest.bench.ide.save()
        world.below = [filled(DISK_SECTORS * SECTOR // 2), filled(DISC_BLOCKS * BLOCK // 2)]
        other = world.build()
        with pytest.raises(ValueError, match="cannot go on here"):
            other.bench.ide.restore(state)
        for puppet in world.puppets:
            puppet.holds = lambda name, sector, count: False
        other.bench.ide.reset()
        other.bench.enable()
        other.check_usable(unit)


def test_hostile_4_1_states_that_do_not_fit_are_refused(engine: Engine) -> None:
    """Other drives, another function: ValueError, and the controller can be reset and used."""
    world = World(engine)
    state = world.build().bench.ide.save()
    others = [
        Bench(engine, {(0, 0): ata(engine)}),
        Bench(engine, {}),
        Bench(engine, {(0, 0): ata(engine), (0, 1): atapi(engine, empty=True)}),
    ]
    for bench in others:
        with pytest.raises(ValueError):
            bench.ide.restore(state)
        bench.ide.reset()
        bench.enable()
        Guest(bench).check_usable()
