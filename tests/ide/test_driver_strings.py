"""String I/O is as many single accesses, of any width, at any port, in any state."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode
from drivebay.disk.backends.ram import RamDisk
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd

from .support import Bench, content, filled, noise

PORTS = st.one_of(st.just(0x1F0), st.sampled_from([*range(0x1F0, 0x1F8), 0x3F6, 0x170, 0x500]))
STRINGS = st.lists(
    st.tuples(st.booleans(), PORTS, st.sampled_from([1, 2, 4]), st.integers(0, 700)), max_size=12
)
COMMANDS = st.sampled_from(
    [
        None,
        (0, Opcode.READ_SECTORS, 3),
        (0, Opcode.WRITE_SECTORS, 3),
        (0, Opcode.READ_MULTIPLE, 5),
        (0, Opcode.WRITE_MULTIPLE_EXT, 5),
        (0, Opcode.READ_DMA, 1),
        (0, Opcode.IDENTIFY_DEVICE, 0),
        (0, Opcode.WRITE_BUFFER, 0),
        (1, Opcode.PACKET, 0),
        (1, Opcode.IDENTIFY_PACKET_DEVICE, 0),
    ]
)


class Rig:
    """A disk and a CD drive, one of which is doing something."""

    def __init__(self, engine: Engine, command: tuple[int, int, int] | None, cdb: bytes) -> None:
        self.disks = [filled(1 << 16), filled(1 << 16, 1)]
        drives = {
            (0, 0): AtaDisk(self.disks[0], engine, serial="1"),
            (0, 1): PacketDevice(Dvd(self.disks[1], unit_attention=False), engine),
        }
        self.bench = Bench(engine, drives)
        bench = self.bench
        bench.outb(0x1F2, 4)
        bench.outb(0x1F7, Opcode.SET_MULTIPLE_MODE)
        if command is None:
            return
        unit, opcode, count = command
        bench.outb(0x1F6, 0xE0 | unit << 4)
        for port, value in ((0x1F2, count), (0x1F3, 2), (0x1F4, 18), (0x1F5, 3)):
            bench.outb(port, 0)  # the upper half of 48 bits
            bench.outb(port, value)
        bench.outb(0x1F7, opcode)
        if opcode == Opcode.PACKET and cdb:
            bench.outs(0x1F0, cdb)

    def done(self) -> object:
        """All that anybody can tell of it."""
        state = self.bench.ide.save()
        contents = [content(disk) for disk in self.disks]
        for disk in self.disks:
            disk.close()
        return state, contents, self.bench.interrupts


def together(bench: Bench, inward: bool, port: int, width: int, data: bytes) -> bytes:
    if inward:
        return bench.ins(port, len(data), width)
    bench.outs(port, data, width)
    return b""


def one_by_one(bench: Bench, inward: bool, port: int, width: int, data: bytes) -> bytes:
    got = b""
    for at in range(0, len(data), width):
        if inward:
            got += bench.ports.read(port, width).to_bytes(width, "little")
        else:
            item = int.from_bytes(data[at : at + width], "little")
            bench.ports.write(port, width, item)
    return got


Way = Callable[[Bench, bool, int, int, bytes], bytes]


@settings(max_examples=100, deadline=None)
@given(
    command=COMMANDS,
    cdb=st.sampled_from(
        [b"", bytes([0x28, *bytes(6), 0, 3, 0, 0, 0]), bytes([0x12, 0, 0, 0, 37, *bytes(7)])]
    ),
    strings=STRINGS,
)
def test_strings_are_single_accesses(
    command: tuple[int, int, int] | None,
    cdb: bytes,
    strings: list[tuple[bool, int, int, int]],
) -> None:
    engine = Engine(workers=0)

    def outcome(way: Way) -> object:
        rig = Rig(engine, command, cdb)
        got = []
        for seed, (inward, port, width, count) in enumerate(strings):
            if port == 0x1F7 and not inward:
                continue  # commands are not the point here
            got.append(way(rig.bench, inward, port, width, noise(count * width, seed)))
        return got, rig.done()

    assert outcome(together) == outcome(one_by_one)
    engine.close()


def test_a_string_may_go_on_over_blocks_and_past_their_end() -> None:
    """What comes after the last block is nothing, however long the string is."""
    engine = Engine(workers=0)
    disk = RamDisk(1 << 16)
    bench = Bench(engine, {(0, 0): AtaDisk(disk, engine)})
    for width in (1, 2, 4):
        for port, value in ((0x1F2, 3), (0x1F3, 0), (0x1F4, 0), (0x1F5, 0), (0x1F6, 0xE0)):
            bench.outb(port, value)
        bench.outb(0x1F7, Opcode.WRITE_SECTORS)
        bench.outs(0x1F0, noise(8192, width), width)
        assert content(disk) == noise(8192, width)[:1536].ljust(1 << 16, b"\0")
        bench.outb(0x1F2, 3)
        bench.outb(0x1F3, 0)
        bench.outb(0x1F7, Opcode.READ_SECTORS)
        assert bench.ins(0x1F0, 8192, width)[:1536] == noise(8192, width)[:1536]
        assert bench.inb(0x1F7) == 0x50
    engine.close()
    disk.close()
