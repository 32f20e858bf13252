"""A driver works the controller: versions, sizes, commands, units that come and go."""

from __future__ import annotations

import pytest

from drivebay.controllers.storvsp.protocol import (
    ChannelProperties,
    Header,
    NtStatus,
    Operation,
    ProtocolVersion,
    QueueAction,
    ScsiPacket,
    SrbCode,
    SrbFlags,
    SubChannels,
    Version,
)
from drivebay.controllers.storvsp.requests import STATUSES
from drivebay.controllers.storvsp.storvsp import MOST_SUB_CHANNELS, StorVsp
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import IoError
from drivebay.drivers.storvsc import GuestRing, ScsiError, StorVscChannel, StorVscError
from drivebay.scsi.cdb import Read10
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.status import Status
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, noise

from .support import INSTANCE, Bench, quiet

SPOKEN = (Version.WIN6, Version.WIN7, Version.WIN8, Version.BLUE)
RESETS = (Operation.RESET_LUN, Operation.RESET_ADAPTER, Operation.RESET_BUS)
TEST_UNIT_READY = bytes(6)
REPORT_LUNS = bytes([Opcode.REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])


def read(lba: int, count: int = 1) -> bytes:
    return Read10(Opcode.READ_10, 0, lba, transfer_length=count).pack()


def first(bench: Bench) -> StorVscChannel:
    """The first channel, on which nothing was said yet."""
    return StorVscChannel(bench.guest, bench.offer(), GuestRing(bench.arena, 4))


def status(answer: bytes) -> int:
    return Header.unpack(answer).status


# -- negotiation (openvmm.md section 12.4) -------------------------------------------------------


@pytest.mark.parametrize("version", SPOKEN)
def test_every_version(version: Version) -> None:
    bench = Bench(sub_channels=2)
    driver = bench.driver(version=version)
    data = noise(4096, 1)
    driver.write(8, data)
    assert driver.read(8, 8) == data
    driver.flush()
    assert driver.luns() == [0]
    assert driver.capacity() == (2048, 512)
    ended, _ = driver.run(read(1 << 20), 512)
    assert (ended.code, ended.scsi_status) == (SrbCode.ERROR, Status.CHECK_CONDITION)
    assert ended.status == NtStatus.IO_DEVICE_ERROR
    assert (ended.sense[2], ended.sense[12], len(ended.sense)) == (5, 0x21, 20)
    assert driver.most_sub_channels == (2 if version >= Version.WIN8 else 0)


@pytest.mark.parametrize("version", SPOKEN)
def test_completions_are_as_large_as_their_requests(version: Version) -> None:
    bench = Bench()
    driver = bench.driver(version=version)
    packet = driver.packet(TEST_UNIT_READY)
    (answer,) = driver.channel.wait([driver.channel.send(packet)])
    assert len(answer) == driver.packet_size == (64 if version >= Version.WIN8 else 48)
    bench.target.add(1, ScsiDisk(RamDisk(1 << 16)))
    bench.settle()
    packets, _ = driver.channel.ring.receive()
    assert [len(packet.payload) for packet in packets] == (
        [] if version < Version.WIN7 else [48 if version < Version.WIN8 else 64]
    )


@pytest.mark.parametrize(("size", "answered"), [(48, 48), (50, 56), (56, 56), (64, 64), (72, 64)])
def test_packet_sizes_of_section_12_6(size: int, answered: int) -> None:
    channel = first(Bench())
    for operation, payload in (
        (Operation.BEGIN_INITIALIZATION, b""),
        (Operation.QUERY_PROTOCOL_VERSION, ProtocolVersion(Version.WIN8).pack()),
        (Operation.QUERY_PROPERTIES, b""),
        (Operation.END_INITIALIZATION, b""),
    ):
        answer = channel.ask(operation, payload, size)
        assert (len(answer), status(answer)) == (answered, NtStatus.SUCCESS)
        assert Header.unpack(answer).operation == Operation.COMPLETE_IO
    request = ScsiPacket(cdb_length=6, data_in=2).pack().ljust(size, b"\0")[:size]
    answer = channel.wait([channel.send(request)])[0]
    assert (len(answer), status(answer)) == (answered, NtStatus.SUCCESS)


def test_a_version_that_is_not_spoken_is_refused_and_another_may_be_tried() -> None:
    bench = Bench()
    with pytest.raises(StorVscError) as refused:
        bench.driver(version=Version.THRESHOLD)
    assert refused.value.status == NtStatus.REVISION_MISMATCH
    channel = first(Bench())
    channel.ask(Operation.BEGIN_INITIALIZATION)
    for version in (Version.THRESHOLD, 0, 0xFFFF):
        answer = channel.ask(Operation.QUERY_PROTOCOL_VERSION, ProtocolVersion(version).pack())
        assert status(answer) == NtStatus.REVISION_MISMATCH
        assert ProtocolVersion.unpack(answer, Header.size).version == version
    answer = channel.ask(Operation.QUERY_PROTOCOL_VERSION, ProtocolVersion(Version.WIN7).pack())
    assert status(answer) == NtStatus.SUCCESS


def test_properties() -> None:
    for version, most in ((Version.WIN7, 0), (Version.BLUE, 5)):
        channel = first(Bench(sub_channels=5))
        channel.ask(Operation.BEGIN_INITIALIZATION)
        channel.ask(Operation.QUERY_PROTOCOL_VERSION, ProtocolVersion(version).pack())
        answer = channel.ask(Operation.QUERY_PROPERTIES)
        properties = ChannelProperties.unpack(answer, Header.size)
        assert properties == ChannelProperties(
            max_sub_channels=most, flags=int(most > 0), max_transfer=0x40000
        )


STEPS = (
    Operation.BEGIN_INITIALIZATION,
    Operation.QUERY_PROTOCOL_VERSION,
    Operation.QUERY_PROPERTIES,
    Operation.END_INITIALIZATION,
)


@pytest.mark.parametrize("stage", range(5))
def test_a_wrong_operation_changes_nothing(stage: int) -> None:
    channel = first(Bench(sub_channels=1))
    version = ProtocolVersion(Version.WIN8).pack()
    for operation in STEPS[:stage]:
        assert status(channel.ask(operation, version)) == NtStatus.SUCCESS
    refused = set(Operation) - {*STEPS[stage : stage + 1], Operation.FC_HBA_DATA}
    if stage >= 3:
        refused -= {Operation.CREATE_SUB_CHANNELS}
    if stage == 4:
        refused -= {*RESETS, Operation.EXECUTE_SRB}
    for operation in sorted(refused):
        assert status(channel.ask(operation, version)) == NtStatus.INVALID_DEVICE_STATE
    assert status(channel.ask(Operation.FC_HBA_DATA)) == NtStatus.NOT_IMPLEMENTED
    for operation in STEPS[stage:]:
        assert status(channel.ask(operation, version)) == NtStatus.SUCCESS
    assert status(channel.wait([channel.send(ScsiPacket(cdb_length=6).pack())])[0]) == 0


# -- sub-channels --------------------------------------------------------------------------------


def test_sub_channels_carry_commands() -> None:
    disk = RamDisk(1 << 20)
    data = fill(disk)
    bench = Bench({0: disk}, sub_channels=3)
    driver = bench.driver(sub_channels=3, slots=4)
    assert [channel.offer.sub_channel_index for channel in driver.channels] == [0, 1, 2, 3]
    for n in range(4):
        sent = driver.start(read(n, 2), 1024, slot=n, channel=n)
        (ended,) = driver.finish([sent], channel=n)
        assert ended.status == NtStatus.SUCCESS
        assert driver.got(1024, n) == data[512 * n :][:1024]
    answer = driver.channels[1].ask(Operation.BEGIN_INITIALIZATION)
    assert status(answer) == NtStatus.INVALID_DEVICE_STATE
    answer = driver.channels[1].ask(Operation.CREATE_SUB_CHANNELS, SubChannels(1).pack())
    assert status(answer) == NtStatus.INVALID_DEVICE_STATE
    assert status(driver.channels[2].ask(Operation.RESET_BUS)) == NtStatus.SUCCESS
    assert len(bench.device.channels) == 4


def test_too_many_sub_channels_are_refused_and_the_rest_goes_on() -> None:
    bench = Bench(sub_channels=2)
    driver = bench.driver()
    for count in (3, 0xFFFF):
        with pytest.raises(StorVscError) as refused:
            driver.ask(Operation.CREATE_SUB_CHANNELS, SubChannels(count))
        assert refused.value.status == NtStatus.INVALID_PARAMETER
    driver.ask(Operation.CREATE_SUB_CHANNELS, SubChannels(2))
    driver.open_sub_channels()
    with pytest.raises(StorVscError) as refused:
        driver.ask(Operation.CREATE_SUB_CHANNELS, SubChannels(1))
    assert refused.value.status == NtStatus.INVALID_DEVICE_STATE
    assert driver.finish([driver.start(TEST_UNIT_READY, channel=2)], channel=2)[0].status == 0


@pytest.mark.parametrize("version", [Version.WIN6, Version.WIN7])
def test_no_sub_channels_before_windows_8(version: Version) -> None:
    with pytest.raises(StorVscError) as refused:
        Bench(sub_channels=2).driver(version=version, sub_channels=1)
    assert refused.value.status == NtStatus.INVALID_DEVICE_STATE


def test_a_sub_channel_waits_until_the_first_is_ready() -> None:
    bench = Bench(sub_channels=1)
    channel = first(bench)
    version = ProtocolVersion(Version.BLUE).pack()
    for operation in STEPS[:3]:
        channel.ask(operation, version)
    channel.ask(Operation.CREATE_SUB_CHANNELS, SubChannels(1).pack())
    (offer,) = bench.guest.sub_channels(channel.offer)
    other = StorVscChannel(bench.guest, offer, GuestRing(bench.arena, 4))
    sent = other.send(ScsiPacket(cdb_length=6, data_in=2).pack())
    bench.settle()
    other.take()
    assert not other.ended
    channel.ask(Operation.END_INITIALIZATION)
    assert status(other.wait([sent])[0]) == NtStatus.SUCCESS


def test_closing_the_first_channel_takes_the_others_away() -> None:
    bench = Bench(sub_channels=2)
    driver = bench.driver(sub_channels=2)
    ids = [channel.offer.channel_id for channel in driver.channels]
    driver.channel.reopen()
    assert bench.guest.rescinded == set(ids[1:])
    for channel_id in ids[1:]:
        bench.guest.release(channel_id)
    driver.negotiate(sub_channels=1)
    assert len(driver.channels) == 2
    assert driver.read(0, 1) == bytes(512)


def test_what_cannot_be() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="sub-channels"):
        StorVsp(
            bench.target,
            bench.memory,
            bench.engine,
            instance=INSTANCE,
            sub_channels=MOST_SUB_CHANNELS + 1,
        )
    with pytest.raises(ValueError, match="second channel"):
        bench.bus.offer(bench.device.channels[0])


# -- commands (section 12.5) ---------------------------------------------------------------------


def test_units_that_are_not_there() -> None:
    driver = Bench({3: RamDisk(1 << 16)}).driver()
    for lun, path, target in ((0, 0, 0), (255, 0, 0), (3, 1, 0), (3, 0, 1), (0, 7, 255)):
        inquiry = bytes([Opcode.INQUIRY, 0, 0, 0, 36, 0])
        address = {"path_id": path, "target_id": target}
        ended, data = driver.run(inquiry, 36, lun=lun, fields=address)
        assert (ended.code, ended.status, data[0]) == (SrbCode.SUCCESS, 0, 0x7F)
        vital, _ = driver.run(bytes([Opcode.INQUIRY, 1, 0, 0, 36, 0]), 36, lun=lun, fields=address)
        assert (vital.sense[2], vital.sense[12]) == (5, 0x24)
        for cdb in (TEST_UNIT_READY, read(0), bytes([Opcode.REQUEST_SENSE, 0, 0, 0, 18, 0])):
            ended, _ = driver.run(cdb, 512, lun=lun, fields=address)
            assert ended.code == SrbCode.INVALID_LUN
            assert ended.status == NtStatus.DEVICE_DOES_NOT_EXIST
        ended, data = driver.run(REPORT_LUNS, 256, lun=lun, fields=address)
        # Were it an error, Linux would take away the unit of that number on the first path.
        assert ended.code == SrbCode.SUCCESS
        assert data[8:] == bytes([0, 0 if path or target else 3]) + bytes(6)
    assert driver.luns() == [3]


def test_less_data_than_there_is_room_for_and_more() -> None:
    driver = Bench().driver()
    ended, data = driver.run(bytes([Opcode.INQUIRY, 0, 0, 0, 36, 0]), 4096)
    assert (ended.code, ended.length, len(data)) == (SrbCode.SUCCESS, 36, 36)
    ended, _ = driver.run(read(0, 2), 512)
    assert (ended.code, ended.status) == (SrbCode.DATA_OVERRUN, NtStatus.BUFFER_OVERFLOW)
    assert ended.length == 0
    assert driver.run(TEST_UNIT_READY)[0].length == 0


def test_a_cdb_that_is_too_long_or_empty() -> None:
    driver = Bench().driver()
    ended, _ = driver.run(TEST_UNIT_READY, fields={"cdb_length": 17})
    assert (ended.code, ended.status) == (SrbCode.INVALID_REQUEST, NtStatus.IO_DEVICE_ERROR)
    ended, _ = driver.run(TEST_UNIT_READY, fields={"cdb_length": 0})
    assert (ended.sense[2], ended.sense[12]) == (5, 0x24)


def test_a_direction_that_is_none_has_no_data() -> None:
    driver = Bench().driver()
    ended, _ = driver.run(read(0), 512, fields={"data_in": 2})
    assert ended.code == SrbCode.DATA_OVERRUN


@pytest.mark.parametrize("start", [0, 8, 4088])
def test_data_of_any_size_anywhere(start: int) -> None:
    disk = RamDisk(1 << 20)
    data = fill(disk)
    bench = Bench({0: disk})
    driver = bench.driver()
    driver.buffers[0] += start
    for count in (1, 7, 8, 9, 100):
        assert driver.read(3, count) == data[1536:][: 512 * count]
    driver.write(1, data[: 512 * 17])
    assert driver.read(0, 18) == data[:512] + data[: 512 * 17]


def test_the_tests_of_a_status_are_as_section_12_5_has_them() -> None:
    assert STATUSES == {
        0x01: 0,
        0x02: 0xC0000120,
        0x05: 0x80000011,
        0x08: 0xC00000C0,
        0x09: 0xC00000B5,
        0x0A: 0xC000009D,
        0x0B: 0xC00000B5,
        0x11: 0xC00000C0,
        0x12: 0x80000005,
        0x15: 0xC0000010,
        0x16: 0xC0000001,
        0x20: 0xC00000C0,
        0x21: 0xC00000C0,
        0x22: 0xC0000010,
    }


def test_commands_end_out_of_order() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet})
    driver = bench.driver(slots=3)
    sent = [driver.start(read(n), 512, slot=n) for n in range(3)]
    bench.settle()
    assert len(puppet.held) == 3
    for n in (2, 0):
        next(held for held in puppet.held if held.sector == n).complete()
        bench.settle()
        driver.channel.take()
        assert list(driver.channel.ended) == [sent[n]]
        driver.finish([sent[n]])
    puppet.held[0].fail(IoError(5, "gone"))
    (ended,) = driver.finish([sent[1]])
    assert (ended.code, ended.scsi_status) == (SrbCode.ERROR, Status.CHECK_CONDITION)


def test_queue_actions_order_commands() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet})
    for version, orders in ((Version.BLUE, True), (Version.WIN7, False)):
        driver = bench.driver(version=version, slots=3)
        flags = SrbFlags.of(QUEUE_ACTION_ENABLE=1)
        ordered = {"queue_action": QueueAction.ORDERED, "srb_flags": flags}
        sent = [
            driver.start(read(0), 512, slot=0),
            driver.start(read(1), 512, slot=1, fields=ordered),
            driver.start(read(2), 512, slot=2, fields={"queue_action": 0x77, "srb_flags": flags}),
        ]
        bench.settle()
        assert [held.sector for held in puppet.held] == ([0] if orders else [0, 1, 2])
        while puppet.held:
            puppet.held[0].complete()
            bench.settle()
        assert [ended.status for ended in driver.finish(sent)] == [0, 0, 0]
        driver.channel.close()


def test_a_command_that_is_aborted_says_so() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet})
    driver = bench.driver()
    sent = driver.start(read(0), 512)
    bench.settle()
    bench.target.abort_task_set(0)
    (ended,) = driver.finish([sent])
    assert (ended.code, ended.status) == (SrbCode.ABORTED, NtStatus.CANCELLED)


# -- resets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", RESETS)
def test_a_reset_aborts_what_is_under_way_and_waits_for_it(operation: Operation) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet, 1: RamDisk(1 << 20)})
    driver = bench.driver(slots=2)
    sent = [driver.start(read(n), 512, slot=n) for n in range(2)]
    bench.settle()
    stuck, other = puppet.held
    stuck.cancel = lambda: False  # type: ignore[method-assign]
    reset = driver.channel.send(ScsiPacket(operation).pack())
    bench.settle()
    driver.channel.take()
    assert list(driver.channel.ended) == [sent[1]], "the other has been given up at once"
    assert other not in puppet.held
    stuck.complete()
    ended = driver.finish([*sent, reset])
    assert [each.code for each in ended[1:2]] == [SrbCode.ABORTED]
    assert ended[2].status == NtStatus.SUCCESS
    with pytest.raises(ScsiError) as attention:
        driver.read(0, 1)
    assert (attention.value.sense[2], attention.value.sense[12]) == (6, 0x29)
    puppet.holds = lambda *_: False
    assert driver.read(0, 1) == bytes(512)


def test_reset_of_a_unit_that_is_not_there() -> None:
    driver = Bench().driver()
    answer = driver.channel.wait(
        [driver.channel.send(ScsiPacket(Operation.RESET_LUN, lun=9).pack())]
    )
    assert status(answer[0]) == NtStatus.DEVICE_DOES_NOT_EXIST


# -- units that come and go ----------------------------------------------------------------------


def test_hot_add_and_remove() -> None:
    bench = Bench()
    driver = bench.driver()
    bench.target.add(5, quiet(ScsiDisk(RamDisk(1 << 16))))
    bench.settle()
    driver.channel.take()
    assert driver.channel.notices == [Operation.ENUMERATE_BUS]
    assert driver.luns() == [0, 5]
    assert driver.capacity(5) == (128, 512)
    bench.target.remove(5)
    bench.settle()
    driver.channel.take()
    assert driver.channel.notices == 2 * [Operation.ENUMERATE_BUS]
    assert driver.luns() == [0]
    assert driver.run(TEST_UNIT_READY, lun=5)[0].code == SrbCode.INVALID_LUN


def test_a_unit_that_goes_takes_its_commands_with_it() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet})
    driver = bench.driver()
    sent = driver.start(read(0), 512)
    bench.settle()
    bench.target.remove(0)
    assert driver.finish([sent])[0].code == SrbCode.ABORTED
    assert driver.run(TEST_UNIT_READY)[0].code == SrbCode.INVALID_LUN


def test_what_comes_before_a_guest_is_ready_is_not_told_and_much_is_told_once() -> None:
    bench = Bench()
    channel = first(bench)
    for operation in STEPS:
        bench.target.add(len(bench.target.luns), ScsiDisk(RamDisk(1 << 16)))
        channel.ask(operation, ProtocolVersion(Version.BLUE).pack())
    bench.settle()
    channel.take()
    assert channel.notices == []
    for lun in range(10, 20):
        bench.target.add(lun, ScsiDisk(RamDisk(1 << 16)))
    bench.settle()
    channel.take()
    assert channel.notices == [Operation.ENUMERATE_BUS]


def test_a_dead_disk_does_not_keep_the_guest_from_hearing_of_others() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet}, depth=1)
    driver = bench.driver()
    driver.start(read(0), 512)
    bench.settle()
    bench.target.add(1, ScsiDisk(RamDisk(1 << 16)))
    bench.settle()
    driver.channel.take()
    assert driver.channel.notices == [Operation.ENUMERATE_BUS]
    assert len(puppet.held) == 1


def test_a_controller_that_is_taken_away() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet}, sub_channels=1)
    driver = bench.driver(sub_channels=1)
    driver.start(read(0), 512)
    bench.settle()
    bench.device.detach()
    ids = {channel.offer.channel_id for channel in driver.channels}
    assert bench.guest.rescinded == ids
    assert not puppet.held
    for channel in driver.channels:
        channel.close()
        bench.guest.release(channel.offer.channel_id)
    bench.device.attach(bench.bus)
    driver = bench.driver(sub_channels=1)
    puppet.holds = lambda *_: False
    assert driver.read(0, 1) == bytes(512)
