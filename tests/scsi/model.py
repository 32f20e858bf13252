"""What a disk and a drive with a disc do, whichever wire brings the commands.

A machine asks all its wires the same; each has a unit of its own, with the same on it. All must end
as the model says: data, or sense.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.scsi.cdb import Read10, Read12
from drivebay.scsi.disk.cdb import CompareAndWrite, Read6, Read16, Unmap
from drivebay.scsi.opcodes import Opcode
from tests.disk.support import fill, noise

__all__ = ["Answer", "DiscMachine", "DiskMachine", "Wire"]

Sense = tuple[int, int, int]
BLOCK, BLOCKS = 512, 300
DISC_BLOCK, DISC_BLOCKS = 2048, 40

OUT_OF_RANGE = (5, 0x21, 0)
INVALID_FIELD = (5, 0x24, 0)
MISCOMPARE = (0xE, 0x1D, 0)
NEEDS_START = (2, 4, 2)
NO_MEDIUM = (2, 0x3A)
LOCKED = (5, 0x53, 2)
POWER_ON = (6, 0x29, 0)


class Answer(NamedTuple):
    """How a command ended: with data, or with this sense."""

    data: bytes = b""
    sense: Sense | None = None


class Wire(Protocol):
    """What brings commands to a unit on `disk`, which it was made with."""

    def ask(self, cdb: bytes, data: bytes = b"", room: int = 0) -> Answer:
        """Do a command that sends `data`, or has `room` for what comes."""

    def reset(self) -> None:
        """Reset the unit, as this wire does it."""

    def close(self) -> None:
        """Let go of what it has."""


class Machine(RuleBasedStateMachine):
    """Asks all wires. A test's machine makes them in `wires`."""

    disks: list[Disk]

    def wires(self) -> Mapping[str, Wire]:
        """The wires, each with a disk from `disk`."""
        raise NotImplementedError

    def disk(self) -> RamDisk:
        """Another disk with the same on it."""
        raise NotImplementedError

    def set_up(self) -> None:
        self.lines = self.wires()
        for line in self.lines.values():
            for _ in range(3):  # what it has to tell at first
                line.ask(bytes(6))

    def teardown(self) -> None:
        for line in getattr(self, "lines", {}).values():
            line.close()

    def all_answer(self, expected: Answer, cdb: bytes, data: bytes = b"", room: int = 0) -> None:
        """Each wire must answer this."""
        for name, line in self.lines.items():
            answer = line.ask(cdb, data, room)
            assert answer == expected, f"{name}: {cdb.hex()}: {answer} and not {expected}"

    def all_fail(self, cdb: bytes, sense: tuple[int, ...], room: int = 0) -> None:
        """Each must fail with a sense that begins like this."""
        for name, line in self.lines.items():
            answer = line.ask(cdb, room=room)
            assert answer.sense is not None, f"{name}: {cdb.hex()} succeeds"
            assert answer.sense[: len(sense)] == sense, f"{name}: {cdb.hex()}: {answer.sense}"

    def all_agree(self, cdb: bytes, room: int) -> bytes:
        """All must answer the same, which is returned."""
        answers = {name: line.ask(cdb, room=room) for name, line in self.lines.items()}
        first = next(iter(answers.values()))
        assert all(answer == first for answer in answers.values()), answers
        assert first.sense is None, first
        return first.data


def block_cdb(size: int, opcodes: Mapping[int, int], lba: int, count: int, flags: int = 0) -> bytes:
    """READ and its like, in `size` bytes."""
    if size == 6:
        return Read6(opcodes[6], lba >> 16, lba & 0xFFFF, count).pack()
    if size == 10:
        return Read10(opcodes[10], flags, lba, transfer_length=count).pack()
    if size == 12:
        return Read12(opcodes[12], flags, lba, count).pack()
    return Read16(opcodes[16], flags, lba, count).pack()


READS = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
WRITES = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}
VERIFIES = {10: 0x2F, 12: 0xAF, 16: 0x8F}
SAMES = {10: 0x41, 16: 0x93}
START_STOP: int = Opcode.START_STOP_UNIT

starts, counts = st.integers(0, BLOCKS + 2), st.integers(1, 12)
widths = st.sampled_from([6, 10, 12, 16])
longer = st.sampled_from([10, 12, 16])


class DiskMachine(Machine):
    """A disk: 300 blocks."""

    def disk(self) -> RamDisk:
        disk = RamDisk(BLOCKS * BLOCK)
        fill(disk)
        return disk

    @initialize()
    def power_on(self) -> None:
        self.set_up()
        scratch = RamDisk(BLOCKS * BLOCK)
        self.model = bytearray(fill(scratch))
        scratch.close()
        self.stopped = False
        self.writes = 0

    def expects(self, lba: int, count: int) -> Sense | None:
        """Why blocks cannot be accessed."""
        if self.stopped:
            return NEEDS_START
        return OUT_OF_RANGE if lba + count > BLOCKS else None

    def data(self, count: int) -> bytes:
        self.writes += 1
        return noise(count * BLOCK, self.writes)

    @rule(width=widths, lba=starts, count=counts)
    def read(self, width: int, lba: int, count: int) -> None:
        sense = self.expects(lba, count)
        data = b"" if sense else bytes(self.model[lba * BLOCK :][: count * BLOCK])
        cdb = block_cdb(width, READS, lba, count)
        self.all_answer(Answer(data, sense), cdb, room=count * BLOCK)

    @rule(width=widths, lba=starts, count=counts, fua=st.booleans())
    def write(self, width: int, lba: int, count: int, fua: bool) -> None:
        sense, data = self.expects(lba, count), self.data(count)
        self.all_answer(Answer(sense=sense), block_cdb(width, WRITES, lba, count, 8 * fua), data)
        if sense is None:
            self.model[lba * BLOCK : (lba + count) * BLOCK] = data

    @rule(width=longer, lba=starts, count=counts, wrong=st.booleans())
    def verify(self, width: int, lba: int, count: int, wrong: bool) -> None:
        sense = self.expects(lba, count)
        data = bytearray(self.model[lba * BLOCK :][: count * BLOCK].ljust(count * BLOCK, b"\0"))
        if wrong and sense is None:
            data[-1] ^= 1
            sense = MISCOMPARE
        cdb = block_cdb(width, VERIFIES, lba, count, 2)
        self.all_answer(Answer(sense=sense), cdb, bytes(data))

    @rule(lba=starts, count=counts, wrong=st.booleans())
    def compare_and_write(self, lba: int, count: int, wrong: bool) -> None:
        sense, data = self.expects(lba, count), self.data(count)
        old = bytearray(self.model[lba * BLOCK :][: count * BLOCK].ljust(count * BLOCK, b"\0"))
        if wrong and sense is None:
            old[0] ^= 0x80
            sense = MISCOMPARE
        cdb = CompareAndWrite(logical_block_address=lba, number_of_logical_blocks=count).pack()
        self.all_answer(Answer(sense=sense), cdb, bytes(old) + data)
        if sense is None:
            self.model[lba * BLOCK : (lba + count) * BLOCK] = data

    @rule(width=st.sampled_from([10, 16]), lba=starts, count=counts)
    def write_same(self, width: int, lba: int, count: int) -> None:
        sense, data = self.expects(lba, count), self.data(1)
        self.all_answer(Answer(sense=sense), block_cdb(width, SAMES, lba, count), data)
        if sense is None:
            self.model[lba * BLOCK : (lba + count) * BLOCK] = count * data

    @rule(lba=starts, count=counts)
    def unmap(self, lba: int, count: int) -> None:
        sense = self.expects(lba, count)
        listed = struct.pack(">HHI QII", 22, 16, 0, lba, count, 0)
        cdb = Unmap(parameter_list_length=len(listed)).pack()
        self.all_answer(Answer(sense=sense), cdb, listed)
        if sense is None:
            self.model[lba * BLOCK : (lba + count) * BLOCK] = bytes(count * BLOCK)

    @rule(start=st.booleans())
    def start_or_stop(self, start: bool) -> None:
        self.all_answer(Answer(), bytes([START_STOP, 0, 0, 0, start, 0]))
        self.stopped = not start

    @rule()
    def test_unit_ready(self) -> None:
        self.all_answer(Answer(sense=NEEDS_START if self.stopped else None), bytes(6))

    @rule(room=st.integers(0, 96))
    def inquiry(self, room: int) -> None:
        data = self.all_agree(bytes([Opcode.INQUIRY, 0, 0, 0, room, 0]), room)
        assert len(data) <= room
        assert data[:1] in (b"", b"\0")

    @rule()
    def read_capacity(self) -> None:
        cdb = bytes([Opcode.READ_CAPACITY_10]) + bytes(9)
        if self.stopped:
            self.all_fail(cdb, NEEDS_START, 8)
        else:
            assert self.all_agree(cdb, 8) == struct.pack(">II", BLOCKS - 1, BLOCK)

    @rule(page=st.sampled_from([0x08, 0x0A, 0x1C, 0x3F]))
    def mode_sense(self, page: int) -> None:
        data = self.all_agree(bytes([Opcode.MODE_SENSE_6, 8, page, 0, 255, 0]), 255)
        assert len(data) == data[0] + 1

    @rule(page=st.sampled_from([0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]))
    def vital_product_data(self, page: int) -> None:
        data = self.all_agree(bytes([Opcode.INQUIRY, 1, page, 0, 255, 0]), 255)
        assert data[1] == page
        assert len(data) == int.from_bytes(data[2:4]) + 4

    @rule(cdb=st.sampled_from(["1201f0006000", "120001006000", "12027f006000", "1a003d006000"]))
    def fields_that_mean_nothing(self, cdb: str) -> None:
        self.all_fail(bytes.fromhex(cdb), INVALID_FIELD, 96)

    @rule()
    def reset(self) -> None:
        for line in self.lines.values():
            line.reset()
        self.stopped = False
        for name, line in self.lines.items():
            sense = line.ask(bytes(6)).sense
            assert sense == POWER_ON, f"{name}: {sense}"
        self.all_answer(Answer(), bytes(6))


class DiscMachine(Machine):
    """A DVD drive with a disc of 40 blocks in it."""

    def disk(self) -> RamDisk:
        disk = RamDisk(DISC_BLOCKS * DISC_BLOCK)
        fill(disk)
        return disk

    @initialize()
    def power_on(self) -> None:
        self.set_up()
        scratch = self.disk()
        self.content = fill(scratch)
        scratch.close()
        self.is_open = self.locked = False

    @rule(
        width=st.sampled_from([10, 12]),
        lba=st.integers(0, DISC_BLOCKS + 2),
        count=st.integers(0, 8),
    )
    def read(self, width: int, lba: int, count: int) -> None:
        cdb = block_cdb(width, READS, lba, count)
        room = count * DISC_BLOCK
        if self.is_open:
            self.all_fail(cdb, NO_MEDIUM, room)
        elif lba + (count or 1) > DISC_BLOCKS:
            self.all_fail(cdb, OUT_OF_RANGE, room)
        else:
            data = self.content[lba * DISC_BLOCK :][:room]
            self.all_answer(Answer(data), cdb, room=room)

    @rule()
    def read_capacity(self) -> None:
        cdb = bytes([Opcode.READ_CAPACITY_10]) + bytes(9)
        if self.is_open:
            self.all_fail(cdb, NO_MEDIUM, 8)
        else:
            assert self.all_agree(cdb, 8) == struct.pack(">II", DISC_BLOCKS - 1, DISC_BLOCK)

    @rule()
    def test_unit_ready(self) -> None:
        if self.is_open:
            self.all_fail(bytes(6), NO_MEDIUM)
        else:
            self.all_answer(Answer(), bytes(6))

    @rule(prevent=st.booleans())
    def prevent_or_allow(self, prevent: bool) -> None:
        self.all_answer(Answer(), bytes([0x1E, 0, 0, 0, prevent, 0]))
        self.locked = prevent

    @rule()
    def eject(self) -> None:
        cdb = bytes([START_STOP, 0, 0, 0, 2, 0])
        if self.locked and not self.is_open:
            self.all_fail(cdb, LOCKED[:2])
        else:
            self.all_answer(Answer(), cdb)
            self.is_open = True

    @rule()
    def load(self) -> None:
        """A disc that comes is told: not ready becomes ready."""
        self.all_answer(Answer(), bytes([START_STOP, 0, 0, 0, 3, 0]))
        if self.is_open:
            self.is_open = False
            self.all_fail(bytes(6), (6, 0x28))

    @rule(room=st.integers(5, 96))
    def inquiry(self, room: int) -> None:
        cdb = bytes([Opcode.INQUIRY, 0, 0, 0, room, 0])
        for line in self.lines.values():
            answer = line.ask(cdb, room=room)
            assert answer.data[:2] == bytes([5, 0x80])

    @rule(page=st.sampled_from([0x01, 0x2A, 0x3F]))
    def mode_sense(self, page: int) -> None:
        data = self.all_agree(bytes([Opcode.MODE_SENSE_10, 0, page, *bytes(4), 1, 0, 0]), 256)
        assert len(data) == int.from_bytes(data[:2]) + 2

    @rule(cdb=st.sampled_from([b"\x2a" + bytes(9), b"\xff" + bytes(11), b"\x7f" + bytes(11)]))
    def what_it_does_not_know(self, cdb: bytes) -> None:
        self.all_fail(cdb, (5, 0x20, 0))


def sense_of(data: Any) -> Sense:
    """Key, code and qualifier of sense data in fixed format."""
    return data[2] & 0xF, data[12], data[13]
