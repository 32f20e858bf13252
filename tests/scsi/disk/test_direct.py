"""READ and WRITE that go to the disk in one step do as those that go the long way; and long
commands let others have their turn.
"""

from __future__ import annotations

import errno

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Operation
from drivebay.disk.errors import IoError, Medium, MediumError
from drivebay.disk.filters.base import Filter
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.status import Status
from drivebay.scsi.target import Attribute
from drivebay.testing import PuppetDisk
from tests.disk.support import get

from .support import Initiator
from .test_access import OUT_OF_RANGE, READS, SAMES, VERIFIES, WRITES, cdb

SIZES = (6, 10, 12, 16)


class Refusing(Filter):
    """Says no before it has begun anything."""

    def read(self, sector: int, buffers: Buffers) -> Operation:
        raise MediumError(Medium.UNRECOVERED_READ, sector + 1)

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        raise IoError(errno.EIO, "no")


@pytest.mark.parametrize("size", SIZES)
def test_a_disk_that_refuses_before_it_begins(size: int) -> None:
    initiator = Initiator(Refusing(RamDisk(1 << 16)))
    outcome = initiator.ask(cdb(size, READS[size], 7, 2), room=1024)
    assert outcome.sense[2:7] == bytes([3, 0, 0, 0, 8])
    assert initiator.sense(cdb(size, WRITES[size], 7, 1), bytes(512))[0] in (3, 4)
    assert initiator.target.at_rest


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fails", [False, True])
def test_a_disk_that_waits(size: int, fails: bool) -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet)
    write, _ = initiator.send(cdb(size, WRITES[size], 3, 1), b"w" * 512)
    read, memory = initiator.send(cdb(size, READS[size], 9, 1), room=512)
    for held in puppet.held:
        if fails:
            held.fail(MediumError(Medium.UNRECOVERED_READ, held.sector))
        else:
            held.complete()
    assert initiator.engine.run_until(lambda: initiator.target.at_rest)
    for tag in (write, read):
        outcome = initiator.told[tag]
        if fails:
            assert (outcome.status, outcome.sense[2]) == (Status.CHECK_CONDITION, 3)
        else:
            assert (outcome.status, outcome.transferred) == (Status.GOOD, 512)
    assert memory == bytes(512)
    assert get(puppet.below, 3, 1) == (bytes(512) if fails else b"w" * 512)


@pytest.mark.parametrize("size", SIZES)
def test_what_speaks_against_it(size: int) -> None:
    disk = RamDisk(1 << 16)
    initiator = Initiator(disk)
    read, write = cdb(size, READS[size], 0, 1), cdb(size, WRITES[size], 0, 1)
    assert initiator.sense(cdb(size, READS[size], 128, 1), room=512) == OUT_OF_RANGE
    assert initiator.ask(read, room=511).overrun
    assert initiator.ask(write, bytes(511)).overrun
    assert initiator.ask(write, room=512).overrun
    outcome = initiator.ask(read, room=513)
    assert (outcome.status, outcome.transferred) == (Status.GOOD, 512)
    disk.read_only = True
    assert initiator.sense(write, bytes(512)) == (7, 0x27, 0)
    initiator.good(bytes([0x1B, 0, 0, 0, 0, 0]))
    assert initiator.sense(read, room=512) == (2, 4, 2)
    initiator.target.reset_unit(0)
    assert initiator.sense(read, room=512) == (6, 0x29, 0)


def test_a_head_of_the_queue_is_waited_for_as_an_ordered_one() -> None:
    """SAM-5 section 8.6.2: no simple command that came later begins before it has ended."""
    puppet = PuppetDisk(RamDisk(1 << 16))
    initiator = Initiator(puppet)
    read = cdb(10, Opcode.READ_10, 0, 1)
    first, _ = initiator.send(read, room=512)
    head, _ = initiator.send(read, room=512, attribute=Attribute.HEAD_OF_QUEUE)
    initiator.send(read, room=512)
    second, _ = initiator.send(read, room=512, attribute=Attribute.HEAD_OF_QUEUE)
    assert len(puppet.held) == 3
    puppet.complete_all()
    assert initiator.engine.run_until(lambda: {first, head, second} <= initiator.told.keys())
    assert len(puppet.held) == 1
    puppet.complete_all()
    assert initiator.engine.run_until(lambda: initiator.target.at_rest)


@pytest.mark.parametrize("what", ["verify", "compare", "write same"])
def test_hostile_4_a_long_command_lets_others_have_their_turn_and_ends_when_told(
    what: str,
) -> None:
    initiator = Initiator(RamDisk(64 << 20))
    blocks = 64 << 11
    long = {
        "verify": (cdb(16, VERIFIES[16], 0, blocks), b""),
        "compare": (cdb(16, VERIFIES[16], 0, blocks, 6), bytes(512)),
        "write same": (cdb(16, SAMES[16], 0, blocks), b"x" * 512),
    }
    tag, _ = initiator.send(*long[what])
    assert tag not in initiator.told
    initiator.good(cdb(10, Opcode.READ_10, blocks - 1, 1), room=512)
    assert tag not in initiator.told
    initiator.target.abort_task(0, tag)
    assert initiator.engine.run_until(lambda: tag in initiator.told)
    assert initiator.told[tag].aborted
    assert initiator.good(cdb(10, Opcode.READ_10, blocks - 1, 1), room=512) == bytes(512)
