"""Saved and restored in the middle: the guest notices nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from drivebay.controllers.storvsp.protocol import (
    Operation,
    ProtocolVersion,
    ScsiPacket,
    SrbCode,
    Version,
)
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.storvsc import GuestRing, StorVscChannel
from drivebay.scsi.cdb import Read10
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.opcodes import Opcode
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, noise

from .support import Bench
from .test_driver import STEPS, status


def read(lba: int) -> bytes:
    return Read10(Opcode.READ_10, 0, lba, transfer_length=1).pack()


@pytest.mark.parametrize("stage", range(5))
def test_in_the_middle_of_the_negotiation(stage: int) -> None:
    disk = RamDisk(1 << 20)
    bench = Bench({0: disk})
    channel = StorVscChannel(bench.guest, bench.offer(), GuestRing(bench.arena, 4))
    version = ProtocolVersion(Version.WIN8).pack()
    for operation in STEPS[:stage]:
        channel.ask(operation, version)
    bench = bench.replaced({0: disk})
    for operation in STEPS[stage:]:
        assert status(channel.ask(operation, version)) == 0
    sent = channel.send(ScsiPacket(cdb_length=6, data_in=2).pack())
    assert status(channel.wait([sent])[0]) == 0


@pytest.mark.parametrize("version", [Version.WIN7, Version.BLUE])
def test_commands_under_way_are_done_again(version: Version) -> None:
    disk = RamDisk(1 << 20)
    data = fill(disk)
    puppet = PuppetDisk(disk)
    subs = 1 if version is Version.BLUE else 0
    bench = Bench({0: puppet}, sub_channels=1, depth=3)
    driver = bench.driver(version=version, slots=6, sub_channels=subs)
    sent = [
        driver.start(read(slot), 512, slot=slot, channel=slot % (subs + 1)) for slot in range(6)
    ]
    bench.settle()
    held = len(puppet.held)
    bench = bench.replaced({0: disk})
    bench.target.add(7, ScsiDisk(RamDisk(1 << 16)))
    assert len(puppet.held) == held, "the first does no more"
    for slot in range(6):
        (ended,) = driver.finish([sent[slot]], channel=slot % (subs + 1))
        if ended.code == SrbCode.ERROR:  # it is told that there is another unit
            assert (slot, ended.sense[2], ended.sense[12]) == (0, 6, 0x3F)
        else:
            assert driver.got(512, slot) == data[512 * slot :][:512]
    assert driver.channel.notices == [Operation.ENUMERATE_BUS]
    driver.write(0, noise(512, 9))
    assert driver.read(0, 1) == noise(512, 9)


def test_a_reset_under_way_and_a_notice_that_found_no_room() -> None:
    disks: Mapping[int, Disk] = {0: PuppetDisk(RamDisk(1 << 20))}
    bench = Bench(disks)
    driver = bench.driver(slots=1)
    sent = driver.start(read(0), 512)
    bench.settle()
    (stuck,) = disks[0].held  # type: ignore[attr-defined]
    stuck.cancel = lambda: False
    reset = driver.channel.send(ScsiPacket(Operation.RESET_BUS).pack())
    bench.settle()
    bench.device.channels[0].notify(ScsiPacket(Operation.ENUMERATE_BUS).pack())
    bench = bench.replaced({0: RamDisk(1 << 20)})
    ends = driver.finish([sent, reset])
    assert [end.status for end in ends[1:]] == [0]
    bench.settle()
    driver.channel.take()
    assert driver.channel.notices == [Operation.ENUMERATE_BUS]


def test_a_channel_that_was_closed_for_a_mistake_stays_so() -> None:
    disk = RamDisk(1 << 20)
    bench = Bench({0: disk})
    driver = bench.driver()
    driver.channel.send(b"")
    bench.settle()
    bench = bench.replaced({0: disk})
    sent = driver.channel.send(ScsiPacket(Operation.RESET_BUS).pack())
    bench.settle()
    driver.channel.take()
    assert sent not in driver.channel.ended
    driver.channel.reopen()
    driver.negotiate()
    assert driver.luns() == [0]


def test_unit_attentions_go_along_and_other_units_do_not_fit() -> None:
    disk = RamDisk(1 << 20)
    bench = Bench({0: disk})
    driver = bench.driver()
    bench.target.reset()
    state = bench.device.save()
    with pytest.raises(ValueError, match="units"):
        Bench({1: disk}).device.restore(state)
    with pytest.raises(ValueError, match="sub-channels"):
        Bench({0: disk}).device.restore(
            {**state, "negotiation": {**state["negotiation"], "sub_channels": 1}}
        )
    bench.replaced({0: disk})
    assert driver.run(bytes(6))[0].sense[12] == 0x29
    assert driver.run(bytes(6))[0].status == 0


def test_a_bus_that_does_not_fit() -> None:
    bench = Bench()
    bench.driver()
    state = bench.bus.save()
    other = Bench()
    state["gpadls"].clear()
    with pytest.raises(ValueError, match="channel 1"):
        other.bus.restore(state)
