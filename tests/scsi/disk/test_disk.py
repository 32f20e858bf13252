"""What a disk says of itself, what it holds, what else it knows; and its target."""

from __future__ import annotations

import struct

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Unmap
from drivebay.disk.errors import IoError, MediumError, NoSpace
from drivebay.disk.errors import Medium as Why
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk, cdb
from drivebay.scsi.opcodes import Opcode, cdb_length
from drivebay.scsi.status import Status
from drivebay.scsi.target import Target, lun_field, lun_of
from drivebay.suspend import run
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, get

from .support import HOST, Initiator
from .test_access import cdb as block_cdb

INVALID_CDB = (5, 0x24, 0)
INVALID_LIST = (5, 0x26, 0)
LIST_LENGTH = (5, 0x1A, 0)


def inquiry(page: int | None = None, room: int = 255) -> bytes:
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, room, 0)


def capacity(room: int = 32) -> bytes:
    return cdb.ServiceActionIn16(service_action=0x10, allocation_length=room).pack()


def lba_status(lba: int, room: int = 4096) -> bytes:
    return cdb.ServiceActionIn16(
        service_action=0x12, logical_block_address=lba, allocation_length=room
    ).pack()


# -- identity ------------------------------------------------------------------------------------


def test_inquiry_and_all_pages_have_the_lengths_they_say() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    standard = initiator.good(inquiry(), room=255)
    assert len(standard) == standard[4] + 5 == 96
    assert standard[8:16] == b"drivebay"
    listed = initiator.good(inquiry(0), room=255)
    assert list(listed[4:]) == [0, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2]
    for page in listed[4:]:
        data = initiator.good(inquiry(page), room=255)
        assert (data[1], len(data)) == (page, 4 + int.from_bytes(data[2:4]))
    assert initiator.sense(inquiry(0xB9), room=255) == INVALID_CDB


def test_designators_of_page_83_are_well_formed() -> None:
    data = Initiator(RamDisk(1 << 20)).good(inquiry(0x83), room=255)[4:]
    kinds = []
    while data:
        kinds.append((data[0], data[1], data[3]))
        data = data[4 + data[3] :]
    assert kinds == [(2, 1, 44), (1, 3, 8), (1, 0xA, 18)]


def test_hostile_2_6_every_allocation_length() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    whole = initiator.good(inquiry(0xB0), room=255)
    for room in [*range(256), 65535]:
        assert initiator.good(inquiry(0xB0, room), room=max(room, 1)) == whole[:room]
        assert (
            initiator.good(capacity(room), room=max(room, 1))
            == initiator.good(capacity(), room=32)[:room]
        )
        for sense in (bytes([0x1A, 0, 0x3F, 0, room & 255, 0]), bytes([0x4D, 0, 0x40, 0, 0, 0, 0])
                      + room.to_bytes(2) + bytes(1)):  # fmt: skip
            assert len(initiator.good(sense, room=max(room, 1))) <= room


def test_hostile_2_6_cdbs_cut_at_every_length() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    for opcode in range(256):
        length = cdb_length(opcode) or 16
        for size in range(length):
            outcome = initiator.ask(bytes([opcode] + [0] * 15)[:size], room=512)
            assert outcome.status == Status.CHECK_CONDITION


def test_capacity_of_small_and_large_disks() -> None:
    initiator = Initiator(RamDisk(4096 << 20, sector_size=4096))
    last, block, _, exponent, thin = struct.unpack_from(
        ">QIBBH", initiator.good(capacity(), room=32)
    )
    assert (last, block, exponent, thin) == ((1 << 20) - 1, 4096, 0, 0xC000)
    huge = Initiator(RamDisk(3 << 40))
    assert huge.good(bytes([0x25, *bytes(9)]), room=8) == struct.pack(">II", 0xFFFFFFFF, 512)


def test_a_resize_is_told_once() -> None:
    disk = RamDisk(1 << 20)
    initiator = Initiator(disk)
    run(disk.resize(4096))
    assert initiator.good(inquiry(), room=255)
    assert initiator.sense(bytes(6)) == (6, 0x2A, 9)
    assert int.from_bytes(initiator.good(capacity(8), room=8)) == 4095
    initiator.unit.close()
    run(disk.resize(2048))
    initiator.good(bytes(6))


def test_stopped_it_flushes_and_is_not_ready() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    initiator.good(bytes([0x1B, 0, 0, 0, 0, 0]))
    assert initiator.sense(bytes(6)) == (2, 4, 2)
    assert initiator.sense(block_cdb(10, Opcode.READ_10, 0, 1), room=512) == (2, 4, 2)
    assert initiator.good(inquiry(), room=255)
    initiator.good(bytes([0x1B, 0, 0, 0, 1, 0]))
    initiator.good(bytes(6))


def test_a_read_only_disk_is_write_protected() -> None:
    initiator = Initiator(RamDisk(1 << 20, read_only=True))
    assert initiator.good(bytes([0x1A, 0, 8, 0, 255, 0]), room=255)[2] == 0x90
    assert initiator.sense(block_cdb(10, Opcode.WRITE_10, 0, 1), bytes(512)) == (7, 0x27, 0)
    assert initiator.good(block_cdb(10, Opcode.READ_10, 0, 1), room=512)


def test_sense_in_descriptor_format_when_asked() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    page = initiator.good(bytes([0x1A, 0, 0x0A, 0, 255, 0]), room=255)
    changed = bytes(4) + page[4:6] + bytes([page[6] | 4]) + page[7:]
    initiator.good(bytes([0x15, 0x10, 0, 0, len(changed), 0]), changed)
    outcome = initiator.ask(block_cdb(10, Opcode.READ_10, 1 << 30, 1), room=512)
    assert outcome.sense[:4] == bytes([0x72, 5, 0x21, 0])


ERRORS = [
    (IoError(5, "x"), (3, 0x11, 0), (3, 0x0C, 0)),
    (NoSpace(28, "x"), (3, 0x11, 0), (7, 0x27, 7)),
    (MediumError(Why.UNRECOVERED_READ, 3), (3, 0x11, 0), (3, 0x11, 0)),
    (MediumError(Why.WRITE_FAULT), (3, 3, 0), (3, 3, 0)),
]


@pytest.mark.parametrize(("error", "reading", "writing"), ERRORS)
def test_hostile_4_8_errors_of_the_disk(
    error: IoError, reading: tuple[int, int, int], writing: tuple[int, int, int]
) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    initiator = Initiator(puppet)
    for command, data, room, expected in [
        (block_cdb(10, Opcode.READ_10, 2, 4), b"", 2048, reading),
        (block_cdb(10, Opcode.WRITE_10, 2, 4), bytes(2048), 0, writing),
        (block_cdb(10, Opcode.WRITE_SAME_10, 2, 4), bytes(512), 0, writing),
        (bytes([0x35, *bytes(9)]), b"", 0, writing),
    ]:
        tag, _ = initiator.send(command, data, room)
        puppet.held[0].fail(error)
        assert initiator.engine.run_until(lambda tag=tag: tag in initiator.told)  # type: ignore[misc]
        sense = initiator.told[tag].sense
        assert (sense[2], sense[12], sense[13]) == expected


def test_a_bug_of_ours_fails_one_command(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Filter):
        async def read(self, sector: int, buffers: Buffers) -> None:
            raise ZeroDivisionError

    initiator = Initiator(Broken(RamDisk(1 << 20)))
    assert initiator.sense(block_cdb(10, Opcode.READ_10, 0, 1), room=512) == (4, 0x44, 0)
    assert "unexpected error" in caplog.text
    caplog.clear()
    initiator.good(bytes(6))


# -- what it holds -------------------------------------------------------------------------------


def unmap(*ranges: tuple[int, int], said: int | None = None) -> tuple[bytes, bytes]:
    body = b"".join(struct.pack(">QII", lba, count, 0) for lba, count in ranges)
    data = struct.pack(">HHI", 6 + len(body), len(body) if said is None else said, 0) + body
    return cdb.Unmap(parameter_list_length=len(data)).pack(), data


def test_unmap_all_ranges_or_none() -> None:
    disk = RamDisk(1 << 20)
    before = fill(disk)
    initiator = Initiator(disk)
    assert initiator.sense(*unmap((0, 8), (2048, 1))) == (5, 0x21, 0)
    assert get(disk, 0, 2048) == before
    initiator.good(*unmap((0, 8), (16, 8), (3, 0)))
    assert get(disk, 0, 32) == bytes(4096) + before[4096:8192] + bytes(4096) + before[12288:16384]


def test_hostile_2_6_unmap_lists_that_lie() -> None:
    disk = RamDisk(1 << 20)
    before = fill(disk)
    initiator = Initiator(disk)
    assert initiator.sense(*unmap((0, 8), said=17)) == INVALID_LIST
    assert initiator.sense(*unmap((0, 8), said=32)) == LIST_LENGTH
    command, data = unmap((0, 8))
    assert initiator.sense(command, b"\0\0" + data[2:]) == INVALID_LIST
    for size in range(1, 8):
        short = cdb.Unmap(parameter_list_length=size).pack()
        assert initiator.sense(short, data[:size]) == LIST_LENGTH
    assert initiator.ask(command, data[:10]).overrun
    initiator.good(cdb.Unmap().pack())
    assert get(disk, 0, 2048) == before


def test_lba_status_tells_holes_from_data() -> None:
    disk = RamDisk(1 << 20)
    run(disk.write(64, [memoryview(bytes(b"x" * 32768))]))
    initiator = Initiator(disk)
    data = initiator.good(lba_status(0), room=4096)
    assert int.from_bytes(data[:4]) == len(data) - 4
    found = [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]
    assert found == [(0, 64, 1), (64, 64, 0), (128, 1920, 1)]
    assert initiator.good(lba_status(70, 24), room=24)[8:] == struct.pack(">QIBxxx", 70, 58, 0)
    assert initiator.sense(lba_status(2048), room=64) == (5, 0x21, 0)


def test_a_disk_that_cannot_unmap_does_not_know_the_command() -> None:
    disk = Filter(RamDisk(1 << 20))
    disk.unmap_behaviour = Unmap.IGNORED
    initiator = Initiator(disk)
    assert initiator.sense(*unmap((0, 1))) == (5, 0x20, 0)
    assert initiator.good(inquiry(0xB2), room=255)[5] == 0
    assert initiator.good(capacity(), room=32)[14] == 0


# -- what it knows -------------------------------------------------------------------------------


def supported(how: int, opcode: int = 0, action: int = 0) -> bytes:
    return cdb.ReportSupported(
        service_action=0x0C, options=how, requested_operation_code=opcode,
        requested_service_action=action, allocation_length=4096,
    ).pack()  # fmt: skip


def test_it_reports_the_commands_that_it_knows() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    data = initiator.good(supported(0), room=4096)
    assert int.from_bytes(data[:4]) == len(data) - 4
    listed = [struct.unpack_from(">BxHxBH", data, at) for at in range(4, len(data), 8)]
    for opcode, action, flags, size in listed:
        one = initiator.good(supported(3, opcode, action), room=4096)
        assert (one[1], int.from_bytes(one[2:4])) == (3, size)
        assert one[4] == opcode
        assert flags == (opcode in (0x9E, 0xA3))
    assert {opcode for opcode, *_ in listed} >= {0x28, 0x42, 0x89, 0x9E}
    assert initiator.good(supported(1, 0xFF), room=4096)[1] == 1
    assert initiator.sense(supported(1, 0x9E), room=4096) == INVALID_CDB
    assert initiator.good(supported(1, 0x28), room=4096)[4:].hex() == "2818ffffffff00ffff00"


def test_alua_is_refused_as_there_is_one_port() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    assert initiator.sense(bytes([0xA3, 0x0A, *bytes(10)]), room=64) == INVALID_CDB
    assert initiator.good(inquiry(), room=255)[5] & 0x30 == 0


def test_the_buffer_echoes() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    described = initiator.good(bytes([0x3C, 3, 0, 0, 0, 0, 0, 0, 4, 0]), room=4)
    assert int.from_bytes(described[1:]) == 1 << 16
    pattern = bytes(range(256)) * 4
    initiator.good(bytes([0x3B, 2, 0, 0, 0, 0, 0, 4, 0, 0]), pattern)
    assert initiator.good(bytes([0x3C, 2, 0, 0, 0, 1, 0, 4, 0, 0]), room=1024)[:1023] == pattern[1:]
    assert initiator.sense(bytes([0x3B, 2, 0, 1, 0, 0, 0, 0, 1, 0]), b"x") == INVALID_CDB


# -- reservations --------------------------------------------------------------------------------


def out(action: int, key: int = 0, other: int = 0, kind: int = 0) -> tuple[bytes, bytes]:
    command = cdb.PersistentReserveOut(
        service_action=action, scope_type=kind, parameter_list_length=24
    )
    return command.pack(), struct.pack(">QQ8x", key, other)


def told(action: int) -> bytes:
    return cdb.PersistentReserveIn(service_action=action, allocation_length=512).pack()


@pytest.fixture
def hosts() -> tuple[Initiator, Initiator]:
    disk, engine = Prwrap(RamDisk(1 << 20)), Engine(workers=0)
    return Initiator(disk, engine), Initiator(disk, engine, HOST[:11] + b"\x02" + HOST[12:])


def test_a_reservation_keeps_the_other_out(hosts: tuple[Initiator, Initiator]) -> None:
    one, two = hosts
    one.good(*out(0, 0, 0x11))
    one.good(*out(1, 0x11, kind=3))
    keys = two.good(told(0), room=512)
    assert keys == struct.pack(">IIQ", 1, 8, 0x11)
    assert two.good(told(1), room=512) == struct.pack(">IIQ4xxBxx", 1, 16, 0x11, 3)
    read, write = block_cdb(10, Opcode.READ_10, 0, 1), block_cdb(10, Opcode.WRITE_10, 0, 1)
    assert two.ask(read, room=512).status == Status.RESERVATION_CONFLICT
    assert two.ask(write, bytes(512)).status == Status.RESERVATION_CONFLICT
    two.good(bytes(6))
    one.good(write, bytes(512))
    assert two.ask(*out(1, 0x22, kind=3)).status == Status.RESERVATION_CONFLICT
    two.good(*out(0, 0, 0x22))
    two.good(*out(4, 0x22, 0x11, kind=1))
    assert one.sense(bytes(6)) == (6, 0x2A, 5)
    assert one.ask(write, bytes(512)).status == Status.RESERVATION_CONFLICT
    one.good(read, room=512)


def test_preempt_and_abort_ends_what_is_under_way() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk, engine = Prwrap(puppet), Engine(workers=0)
    one, two = Initiator(disk, engine), Initiator(disk, engine, HOST[:11] + b"\x02" + HOST[12:])
    one.good(*out(0, 0, 1))
    one.good(*out(1, 1, kind=1))
    two.good(*out(0, 0, 2))
    tag, _ = one.send(block_cdb(10, Opcode.READ_10, 0, 1), room=512)
    two.good(*out(5, 2, 1, kind=1))
    assert one.told[tag].aborted
    assert not puppet.held


def test_full_status_has_well_formed_transport_ids(hosts: tuple[Initiator, Initiator]) -> None:
    one, two = hosts
    one.good(*out(6, 0, 0x11))
    two.good(*out(6, 0, 0x22))
    one.good(*out(1, 0x11, kind=7))
    data = one.good(told(3), room=512)[8:]
    names = []
    while data:
        key, holder, kind, size = struct.unpack_from(">Q4xBB6xI", data)
        assert (holder, kind) == (1, 7)
        names.append((key, data[24 : 24 + size]))
        data = data[24 + size :]
    assert names == [(0x11, HOST), (0x22, HOST[:11] + b"\x02" + HOST[12:])]


def test_reserve_out_that_makes_no_sense(hosts: tuple[Initiator, Initiator]) -> None:
    one, _ = hosts
    command, data = out(1, 1, kind=2)
    assert one.sense(command, data) == INVALID_CDB
    assert one.sense(cdb.PersistentReserveOut(parameter_list_length=23).pack(), data) == LIST_LENGTH
    command, data = out(0, 0, 1)
    assert one.sense(command, data[:20] + b"\x08" + data[21:]) == INVALID_LIST
    assert one.sense(bytes([0x5F, 7, *bytes(8)])) == INVALID_CDB
    assert Initiator(RamDisk(1 << 20)).sense(told(0), room=8) == (5, 0x20, 0)


# -- the target ----------------------------------------------------------------------------------


def test_units_come_and_go() -> None:
    initiator = Initiator(RamDisk(1 << 20))
    target, heard = initiator.target, []
    target.on_change(lambda lun, added: heard.append((lun, added)))
    puppet = PuppetDisk(RamDisk(1 << 20))
    target.add(300, ScsiDisk(puppet))
    assert initiator.sense(bytes(6)) == (6, 0x3F, 0x0E)
    luns = initiator.good(bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), room=256)
    assert luns == struct.pack(">II", 16, 0) + lun_field(0) + lun_field(300)
    assert initiator.ask(bytes(6), lun=300).sense[12] == 0x29
    tag, _ = initiator.send(block_cdb(10, Opcode.READ_10, 0, 1), room=512, lun=300)
    target.remove(300)
    assert initiator.told[tag].aborted
    assert heard == [(300, True), (300, False)]
    assert initiator.sense(bytes(6)) == (6, 0x3F, 0x0E)
    assert initiator.ask(bytes(6), lun=300).sense[12] == 0x25
    assert initiator.ask(inquiry(), room=255, lun=300).status == Status.GOOD
    assert initiator.memory[0] == 0x7F
    with pytest.raises(ValueError, match="taken"):
        target.add(0, ScsiDisk(puppet))


def test_luns_of_every_form() -> None:
    for lun in (0, 255, 256, 16383):
        assert lun_of(int.from_bytes(lun_field(lun)[:2])) == lun
    assert lun_of(0x0100) is lun_of(0xC000) is lun_of(0x8000) is None


def test_task_management_finds_tasks_by_tag() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    initiator = Initiator(puppet)
    target: Target = initiator.target
    tag, _ = initiator.send(block_cdb(10, Opcode.READ_10, 0, 1), room=512)
    assert target.has_task(0, tag)
    assert target.has_tasks(0)
    assert not target.has_task(0, tag + 1)
    target.abort_task(0, tag + 1)
    target.abort_task(0, tag)
    assert initiator.told[tag].aborted
    assert not target.has_tasks(0)
