"""Reading, writing and comparing, against a bytearray; ranges; the gate."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.platform.engine import Engine
from drivebay.scsi.cdb import Read10, Read12
from drivebay.scsi.disk.cdb import CompareAndWrite, Read6, Read16, Unmap
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.status import Status
from drivebay.scsi.target import Attribute
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import fill, get, noise

from .support import Initiator

BLOCKS = 300
OUT_OF_RANGE = (5, 0x21, 0)
INVALID_CDB = (5, 0x24, 0)


def settle(initiator: Initiator) -> None:
    for _ in range(6):
        initiator.engine.turn(0)


def cdb(size: int, opcode: int, lba: int, count: int, flags: int = 0) -> bytes:
    if size == 6:
        return Read6(opcode, lba >> 16, lba & 0xFFFF, count).pack()
    if size == 10:
        return Read10(opcode, flags, lba, transfer_length=count).pack()
    if size == 12:
        return Read12(opcode, flags, lba, count).pack()
    return Read16(opcode, flags, lba, count).pack()


READS = {6: Opcode.READ_6, 10: Opcode.READ_10, 12: Opcode.READ_12, 16: Opcode.READ_16}
WRITES = {6: Opcode.WRITE_6, 10: Opcode.WRITE_10, 12: Opcode.WRITE_12, 16: Opcode.WRITE_16}
VERIFIES = {10: Opcode.VERIFY_10, 12: Opcode.VERIFY_12, 16: Opcode.VERIFY_16}
WRITES_AND_VERIFIES = {
    10: Opcode.WRITE_AND_VERIFY_10,
    12: Opcode.WRITE_AND_VERIFY_12,
    16: Opcode.WRITE_AND_VERIFY_16,
}
SAMES = {10: Opcode.WRITE_SAME_10, 16: Opcode.WRITE_SAME_16}

spans = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 20)).map(
    lambda span: (span[0], min(span[1], BLOCKS - span[0]))
)
steps = st.lists(
    st.tuples(
        st.sampled_from(("write", "write and verify", "compare and write", "same", "unmap")),
        st.sampled_from((6, 10, 12, 16)),
        spans,
    ),
    max_size=6,
)


@pytest.mark.parametrize("block", [512, 4096])
@given(steps=steps)
def test_a_disk_is_a_bytearray(block: int, steps: list[tuple[str, int, tuple[int, int]]]) -> None:
    initiator = Initiator(RamDisk(BLOCKS * block, sector_size=block))
    model = bytearray(BLOCKS * block)
    for number, (name, width, (lba, count)) in enumerate(steps):
        size = max(width, 10)
        part = slice(lba * block, (lba + count) * block)
        data = noise(count * block, number)
        if name == "write":
            initiator.good(cdb(width, WRITES[width], lba, count), data)
        elif name == "write and verify":
            initiator.good(cdb(size, WRITES_AND_VERIFIES[size], lba, count, 2), data)
        elif name == "compare and write":
            command = CompareAndWrite(
                logical_block_address=lba, number_of_logical_blocks=count
            ).pack()
            initiator.good(command, bytes(model[part]) + data)
        elif name == "same":
            size = 16 if width > 10 else 10
            data = data[:block] * count if number & 1 else bytes(count * block)
            initiator.good(cdb(size, SAMES[size], lba, count, 8 if number & 2 else 0), data[:block])
        else:
            listed = struct.pack(">HHI QII", 22, 16, 0, lba, count, 0)
            initiator.good(Unmap(parameter_list_length=len(listed)).pack(), listed)
            data = bytes(count * block)
        model[part] = data
        size = max(width, 10)
        initiator.good(cdb(size, VERIFIES[size], lba, count, 2), data)
        assert initiator.good(cdb(size, READS[size], lba, count), room=len(data)) == data
    assert initiator.good(cdb(10, Opcode.READ_10, 0, BLOCKS), room=len(model)) == model
    initiator.unit.disk.close()


def test_of_six_bytes_no_length_is_256() -> None:
    disk = RamDisk(BLOCKS * 512)
    data = fill(disk)
    assert (
        Initiator(disk).good(cdb(6, Opcode.READ_6, 10, 0), room=1 << 18) == data[5120:][: 1 << 17]
    )


EVERY = [
    *((6, Opcode(code)) for code in (8, 0xA)),
    *((10, Opcode(code)) for code in (0x28, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x41)),
    *((12, Opcode(code)) for code in (0xA8, 0xAA, 0xAE, 0xAF)),
    *((16, Opcode(code)) for code in (0x88, 0x8A, 0x8E, 0x8F, 0x90, 0x91, 0x93)),
]


@pytest.mark.parametrize(("size", "opcode"), EVERY)
def test_section_5_ranges_that_are_not_on_the_disk(size: int, opcode: Opcode) -> None:
    disk = RamDisk(BLOCKS * 512)
    before = fill(disk)
    initiator = Initiator(disk)
    widest = {6: (1 << 21) - 1, 10: (1 << 32) - 1, 12: (1 << 32) - 1, 16: (1 << 64) - 1}[size]
    most = {6: 255, 10: 0xFFFF, 12: 0xFFFFFFFF, 16: 0xFFFFFFFF}[size]
    for lba, count in [
        (BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS, 0), (0, BLOCKS + 1), (widest, 1), (widest - 1, 2),
        (widest, 0), (1, most),
    ]:  # fmt: skip
        if count <= most and (lba + count > BLOCKS or not count):
            assert initiator.sense(cdb(size, opcode, lba, count), room=512) == OUT_OF_RANGE
    assert get(disk, 0, BLOCKS) == before


def test_more_data_than_memory_is_an_overrun_and_does_nothing() -> None:
    disk = RamDisk(BLOCKS * 512)
    before = fill(disk)
    initiator = Initiator(disk)
    assert initiator.ask(cdb(10, Opcode.WRITE_10, 0, 2), noise(512)).overrun
    assert initiator.ask(cdb(10, Opcode.READ_10, 0, 2), room=1000).overrun
    assert initiator.memory == bytes(1000)
    assert get(disk, 0, BLOCKS) == before


def test_a_miscompare_says_where_and_writes_nothing() -> None:
    disk = RamDisk(1 << 20)
    before = fill(disk)
    initiator = Initiator(disk)
    wrong = bytearray(before[: 512 * 4])
    wrong[777] ^= 1
    command = CompareAndWrite(number_of_logical_blocks=4).pack()
    outcome = initiator.ask(command, bytes(wrong) + noise(2048))
    assert outcome.status == Status.CHECK_CONDITION
    assert (outcome.sense[2], outcome.sense[12]) == (0x0E, 0x1D)
    assert int.from_bytes(outcome.sense[3:7]) == 777
    late = bytearray(before)
    late[-1] ^= 1
    outcome = initiator.ask(cdb(16, Opcode.VERIFY_16, 0, 2048, 2), bytes(late))
    assert int.from_bytes(outcome.sense[3:7]) == len(late) - 1
    assert get(disk, 0, 2048) == before


def test_verify_of_one_block_against_all() -> None:
    disk = RamDisk(BLOCKS * 512)
    initiator = Initiator(disk)
    initiator.good(cdb(16, Opcode.WRITE_SAME_16, 0, 0), b"x" * 512)
    initiator.good(cdb(10, Opcode.VERIFY_10, 0, BLOCKS, 6), b"x" * 512)
    assert initiator.sense(cdb(10, Opcode.VERIFY_10, 0, BLOCKS, 6), b"y" * 512) == (0xE, 0x1D, 0)
    assert initiator.sense(cdb(10, Opcode.VERIFY_10, 0, 1, 4), b"y" * 512) == INVALID_CDB


def test_write_same_without_data_writes_zeroes() -> None:
    disk = RamDisk(BLOCKS * 512)
    fill(disk)
    recorded = RecordingDisk(disk)
    initiator = Initiator(recorded)
    initiator.good(cdb(16, Opcode.WRITE_SAME_16, 5, 7, 0x09))
    assert (recorded.calls[-1].name, recorded.calls[-1].unmap) == ("write_zeroes", True)
    assert not any(get(disk, 5, 7))


def test_section_5_2_of_sbc_no_write_comes_between_compare_and_write() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet)
    old = bytes(512)
    writing, _ = initiator.send(cdb(10, Opcode.WRITE_10, 0, 1), b"a" * 512)
    swap, _ = initiator.send(
        CompareAndWrite(logical_block_address=1, number_of_logical_blocks=1).pack(),
        old + b"b" * 512,
    )
    reading, _ = initiator.send(cdb(10, Opcode.READ_10, 2, 1), room=512)
    late, _ = initiator.send(cdb(10, Opcode.WRITE_10, 1, 1), b"c" * 512)
    assert [held.name for held in puppet.held] == ["write", "read"]  # the read waits for nobody
    for expected in (["read"], ["write"], ["write"], []):
        puppet.complete_all()
        settle(initiator)
        assert [held.name for held in puppet.held] == expected
    assert {writing, swap, reading, late} == initiator.told.keys()
    assert initiator.told[swap].status == Status.GOOD
    assert get(puppet.below, 1, 1) == b"c" * 512


def test_a_comparison_that_is_aborted_lets_the_others_in() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet)
    command = CompareAndWrite(number_of_logical_blocks=1).pack()
    first, _ = initiator.send(command, bytes(1024))
    second, _ = initiator.send(command, bytes(1024))
    write, _ = initiator.send(cdb(10, Opcode.WRITE_10, 0, 1), bytes(512))
    initiator.target.abort_task(0, second)
    initiator.target.abort_task(0, first)
    initiator.engine.turn(0)
    assert initiator.told[first].aborted
    assert initiator.told[second].aborted
    assert [held.name for held in puppet.held] == ["write"]
    puppet.complete_all()
    assert initiator.engine.run_until(lambda: write in initiator.told)


def test_write_cache_off_makes_writes_stable() -> None:
    recorded = RecordingDisk(RamDisk(1 << 16))
    recorded.volatile_cache = True
    initiator = Initiator(recorded)
    page = initiator.good(bytes([0x1A, 0, 8, 0, 255, 0]), room=255)
    assert page[6] & 4
    changed = bytes(4) + page[4:6] + bytes([page[6] & ~4]) + page[7:]
    initiator.good(bytes([0x15, 0x10, 0, 0, len(changed), 0]), changed)
    initiator.good(cdb(10, Opcode.WRITE_10, 0, 1), bytes(512))
    assert recorded.calls[-1].fua
    assert not initiator.good(bytes([0x1A, 0, 8, 0, 255, 0]), room=255)[6] & 4
    initiator.target.reset_unit(0)
    assert initiator.sense(bytes(6)) == (6, 0x29, 0)
    assert initiator.good(bytes([0x1A, 0, 8, 0, 255, 0]), room=255)[6] & 4


def test_ordered_tasks_wait_for_those_before_and_hold_up_those_after() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet)
    read = cdb(10, Opcode.READ_10, 0, 1)
    for attribute in (Attribute.SIMPLE, Attribute.SIMPLE, Attribute.ORDERED, Attribute.SIMPLE):
        initiator.send(read, room=512, attribute=attribute)
    initiator.send(read, room=512, attribute=Attribute.HEAD_OF_QUEUE)
    assert len(puppet.held) == 3
    for left in (1, 1, 0):
        puppet.complete_all()
        settle(initiator)
        assert len(puppet.held) == left
    assert len(initiator.told) == 5


def test_hostile_4_6_a_reset_ends_what_is_under_way() -> None:
    engine = Engine(workers=0)
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet, engine)
    tags = [initiator.send(cdb(10, Opcode.READ_10, 0, 1), room=512)[0] for _ in range(64)]
    ordered = initiator.send(cdb(10, Opcode.READ_10, 0, 1), room=512, attribute=Attribute.ORDERED)
    tags.append(ordered[0])
    initiator.target.reset_unit(0)
    assert [initiator.told[tag].aborted for tag in tags] == [True] * 65
    assert initiator.target.at_rest
    assert not puppet.held
    engine.close()
