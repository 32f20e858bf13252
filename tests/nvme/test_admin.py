"""Admin commands: queues, log pages, features, events, aborts, firmware, namespaces."""

from __future__ import annotations

import struct

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, Cns, FeatureId, LogId, Select
from drivebay.controllers.nvme.structures import (
    Command,
    ErrorEntry,
    FirmwareSlots,
    NamespaceTemplate,
    SanitizeStatus,
    SmartLog,
)
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.nvme import NvmeDriver, NvmeError
from drivebay.platform.engine import Engine
from drivebay.testing.puppet import PuppetDisk
from drivebay.testing.recording import RecordingDisk
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .raw import send

MIB = 1 << 20


def refused(status: Status, driver: NvmeDriver, opcode: int, *dwords: int, **options: int) -> None:
    with pytest.raises(NvmeError) as failure:
        driver.run(opcode, dwords=dwords, **options)  # type: ignore[arg-type]
    assert Status(failure.value.status) == status


# -- queues --------------------------------------------------------------------------------------


def test_queues_are_created_and_deleted_by_the_rules(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}, queues=4).driver(queues=1)
    page = driver.arena.take(4096, 4096)

    def create(opcode: int, qid: int, size: int, dword: int, at: int = page) -> int:
        command = Command(opcode, 0, driver.admin.next_id(), 0, 0, 0, 0, at, 0,
                          (size - 1) << 16 | qid, dword, 0, 0, 0, 0)  # fmt: skip
        driver.admin.put(command)
        driver.admin.ring()
        return driver.admin.wait(command.cid).status >> 1 & 0x7FF

    cq, sq = AdminOpcode.CREATE_IO_CQ, AdminOpcode.CREATE_IO_SQ
    driver.run(AdminOpcode.DELETE_IO_SQ, dwords=(1,))
    driver.run(AdminOpcode.DELETE_IO_CQ, dwords=(1,))
    assert driver.set_feature(FeatureId.NUMBER_OF_QUEUES, 0xFF << 16 | 0xFF) == 3 << 16 | 3
    assert create(cq, 0, 4, 3) == Status.INVALID_QUEUE_ID
    assert create(cq, 5, 4, 3) == Status.INVALID_QUEUE_ID
    assert create(cq, 1, 1, 3) == Status.INVALID_QUEUE_SIZE
    assert create(cq, 1, 4, 2) == Status.INVALID_FIELD  # not contiguous
    assert create(cq, 1, 4, 5 << 16 | 3) == Status.INVALID_INTERRUPT_VECTOR
    assert create(cq, 1, 4, 3, page + 8) == Status.PRP_OFFSET_INVALID
    assert create(cq, 1, 4, 3, 1 << 40) == Status.DATA_TRANSFER_ERROR
    assert create(cq, 1, 0x10000, 3, 0x2F80000) == Status.DATA_TRANSFER_ERROR  # not all of it
    assert create(cq, 1, 0x10000, 3, 0x2000000) == 0
    assert create(cq, 1, 4, 3) == Status.INVALID_QUEUE_ID
    assert create(sq, 1, 4, 2 << 16 | 1) == Status.COMPLETION_QUEUE_INVALID
    assert create(sq, 1, 4, 9 << 16 | 1) == Status.INVALID_QUEUE_ID
    assert create(sq, 1, 4, 1) == Status.INVALID_QUEUE_ID
    assert create(sq, 1, 0x10000, 1 << 16 | 1, 0x2400000) == 0
    assert create(sq, 1, 4, 1 << 16 | 1) == Status.INVALID_QUEUE_ID
    refused(Status.INVALID_QUEUE_DELETION, driver, AdminOpcode.DELETE_IO_CQ, 1)
    refused(Status.INVALID_QUEUE_ID, driver, AdminOpcode.DELETE_IO_SQ, 0)
    refused(Status.INVALID_QUEUE_ID, driver, AdminOpcode.DELETE_IO_SQ, 2)
    refused(Status.INVALID_QUEUE_ID, driver, AdminOpcode.DELETE_IO_CQ, 0)
    driver.run(AdminOpcode.DELETE_IO_SQ, dwords=(1,))
    driver.run(AdminOpcode.DELETE_IO_CQ, dwords=(1,))


def test_weighted_round_robin(make_bench: MakeBench) -> None:
    """Urgent commands come first, then each class by its weight (section 3.4.4)."""
    recorder = RecordingDisk(filled(MIB, 1))
    bench = make_bench({1: recorder})
    driver = bench.driver(queues=0x4, arbitration=1)
    for queue in driver.io:
        driver.run(AdminOpcode.DELETE_IO_SQ, dwords=(queue.number,))
        driver.run(AdminOpcode.DELETE_IO_CQ, dwords=(queue.number,))
    driver.io.clear()
    queues = [driver.create_queue(64, priority=priority) for priority in (3, 2, 1, 0)]
    driver.set_feature(FeatureId.ARBITRATION, 3 << 24 | 1 << 16 | 0 << 8 | 0)
    first = driver.namespace(1)
    for n, queue in enumerate(queues):
        namespace = type(first)(driver, 1, queue)
        for slot in range(8):
            namespace.prepare_read(slot, 100 * n, 1)
    for queue in queues:
        queue.ring()
    bench.settle()
    order = "".join("LMHU"[call.sector // 100] for call in recorder.calls)
    assert order == "UUUUUUUU" + "HHHHMML" + "HHHHMML" + "MML" + "MML" + "LLLL"


# -- log pages -----------------------------------------------------------------------------------


def test_log_pages_have_offsets_and_ends(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}).driver()
    supported = struct.unpack("<256I", driver.log_page(LogId.SUPPORTED, 1024))
    known = [number for number in range(256) if supported[number]]
    assert known == [0, 1, 2, 3, 4, 5, 0x80, 0x81]
    for number in known:
        size = 64
        whole = driver.log_page(number, size, retain=True)
        assert driver.log_page(number, size - 16, offset=16, retain=True) == whole[16:]
    refused(Status.INVALID_LOG_PAGE, driver, AdminOpcode.GET_LOG_PAGE, 0x07, room=64)
    for offset in (2, 512, 1 << 32, 1 << 63):
        with pytest.raises(NvmeError) as failure:
            driver.log_page(LogId.SMART, 64, offset=offset)
        assert failure.value.status == Status.INVALID_FIELD
    effects = driver.log_page(LogId.COMMAND_EFFECTS, 4096)
    assert struct.unpack_from("<I", effects, 1024 + 4)[0] == 3  # WRITE changes blocks


def test_health_and_errors_are_told(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    namespace = driver.namespace(1)
    namespace.read(0, 8)
    namespace.write(0, bytes(512))
    with pytest.raises(NvmeError):
        namespace.read(2048, 1)
    entry = ErrorEntry.unpack(driver.log_page(LogId.ERRORS, 64))
    assert (entry.count, entry.sqid, entry.lba, entry.nsid) == (1, 1, 2048, 1)
    assert entry.status >> 1 & 0x7FF == Status.LBA_OUT_OF_RANGE
    bench.controller.logs.health.percentage_used = 7
    smart = SmartLog.unpack(driver.log_page(LogId.SMART, 512))
    assert smart.percentage_used == 7
    assert smart.temperature == 311
    assert int.from_bytes(smart.host_reads, "little") == 2
    assert int.from_bytes(smart.data_units_written, "little") == 1
    assert int.from_bytes(smart.error_entries, "little") == 1


# -- features ------------------------------------------------------------------------------------


def test_features_are_kept_until_a_reset(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}).driver()
    for number, value in (
        (FeatureId.ARBITRATION, 0x01020303),
        (FeatureId.ERROR_RECOVERY, 77),
        (FeatureId.WRITE_ATOMICITY, 1),
        (FeatureId.INTERRUPT_COALESCING, 0x0102),
        (FeatureId.ASYNC_EVENTS, 0x101),
        (FeatureId.TEMPERATURE_THRESHOLD, 350),
        (FeatureId.KEEP_ALIVE_TIMER, 5000),
    ):
        default = driver.get_feature(number)[0]
        driver.set_feature(number, value)
        assert driver.get_feature(number)[0] == value
        assert driver.get_feature(number, select=Select.DEFAULT)[0] == default
        assert driver.get_feature(number, select=Select.CAPABILITIES)[0] == 4
        driver.enable()
        assert driver.get_feature(number)[0] == default, FeatureId(number).name
    driver.set_feature(FeatureId.HOST_IDENTIFIER, 1, data=bytes(range(16)))
    assert driver.get_feature(FeatureId.HOST_IDENTIFIER, cdw11=1, room=16)[1] == bytes(range(16))
    driver.set_feature(FeatureId.TIMESTAMP, data=struct.pack("<Q", 1_700_000_000_000))
    told = struct.unpack("<Q", driver.get_feature(FeatureId.TIMESTAMP, room=8)[1])[0]
    assert 1_700_000_000_000 <= told & (1 << 48) - 1 < 1_700_000_100_000


def test_admin_commands_have_prps_and_are_not_fused(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}).driver()
    for flags in (1, 2, 0x40, 0x80, 0xC0):
        end = send(driver.admin, AdminOpcode.IDENTIFY, 0, 1, prp1=driver.buffer, flags=flags)
        assert end == Status.INVALID_FIELD
    assert send(driver.io[0], 2, 1, prp1=driver.buffer, flags=0xC0) == Status.INVALID_FIELD


def test_what_no_feature_can_be(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}).driver()
    set_, get = AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES
    refused(Status.INVALID_FIELD, driver, get, 0x7F)
    refused(Status.INVALID_FIELD, driver, get, 4 << 8 | FeatureId.ARBITRATION)
    refused(Status.INVALID_FIELD, driver, set_, FeatureId.POWER_MANAGEMENT, 1)
    refused(Status.INVALID_FIELD, driver, set_, FeatureId.VOLATILE_WRITE_CACHE, 0)  # there is none
    refused(Status.INVALID_FIELD, driver, set_, FeatureId.INTERRUPT_VECTOR, 999)
    refused(Status.INVALID_FIELD, driver, set_, FeatureId.TEMPERATURE_THRESHOLD, 2 << 20)
    refused(Status.FEATURE_NOT_SAVEABLE, driver, set_, 1 << 31 | FeatureId.ARBITRATION)
    refused(Status.COMMAND_SEQUENCE_ERROR, driver, set_, FeatureId.NUMBER_OF_QUEUES, 0)


def test_without_a_write_cache_every_write_is_stable(make_bench: MakeBench) -> None:
    recorder = RecordingDisk(filled(MIB, 1))
    recorder.volatile_cache = True
    driver = make_bench({1: recorder}).driver()
    namespace = driver.namespace(1)
    namespace.write(0, bytes(512))
    driver.set_feature(FeatureId.VOLATILE_WRITE_CACHE, 0)
    namespace.write(0, bytes(512))
    assert [(call.name, call.fua) for call in recorder.calls] == [
        ("write", False),
        ("flush", False),
        ("write", True),
    ]


def test_interrupts_are_coalesced(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    bench.enable_messages()
    driver.set_feature(FeatureId.INTERRUPT_COALESCING, 100 << 8 | 3)  # four, or 10 ms
    namespace = driver.namespace(1)
    bench.messages.clear()
    for slot in range(3):
        namespace.prepare_read(slot, 0, 1)
        namespace.queue.ring()
        bench.settle()
    assert 1 not in bench.messages
    namespace.prepare_read(3, 0, 1)
    namespace.queue.ring()
    bench.settle()
    assert bench.messages.count(1) == 1
    namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.wait(lambda: bench.messages.count(1) == 2)
    driver.set_feature(FeatureId.INTERRUPT_VECTOR, 1 << 16 | 1)
    namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.settle()
    assert bench.messages.count(1) == 3


# -- events --------------------------------------------------------------------------------------


def ask(driver: NvmeDriver) -> int:
    command = driver.command(AdminOpcode.ASYNC_EVENT_REQUEST)
    driver.admin.put(command)
    driver.admin.ring()
    return command.cid


def test_namespaces_come_change_and_go_with_events(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    requests = [ask(driver) for _ in range(8)]
    refused(Status.ASYNC_EVENT_LIMIT_EXCEEDED, driver, AdminOpcode.ASYNC_EVENT_REQUEST)
    bench.nvme.add(9, RamDisk(MIB))
    bench.nvme.add(10, RamDisk(MIB))  # not told again, before the log was read
    assert driver.admin.wait(requests[0]).dw0 == 0x040002
    assert struct.unpack("<3I", driver.log_page(LogId.CHANGED_NAMESPACES, 12)) == (9, 10, 0)
    assert driver.namespaces() == [1, 9, 10]
    disk = bench.subsystem.namespaces[9].disk
    resize = disk.resize(4096)
    bench.engine.start(resize, lambda _value, error: None)
    assert driver.admin.wait(requests[1]).dw0 == 0x040002
    assert driver.namespace(9).blocks == 4096
    assert driver.log_page(LogId.CHANGED_NAMESPACES, 4, retain=True) == struct.pack("<I", 9)
    bench.nvme.remove(9)
    driver.log_page(LogId.CHANGED_NAMESPACES, 4)
    driver.set_feature(FeatureId.ASYNC_EVENTS, 0)
    bench.nvme.remove(10)
    bench.settle()
    driver.admin.reap()
    assert not driver.admin.done
    assert driver.namespaces() == [1]


def test_a_hot_drive_says_so(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    request = ask(driver)
    health = bench.controller.logs.health
    health.temperature = 360
    health.changed()
    assert driver.admin.wait(request).dw0 == 0x020101
    assert SmartLog.unpack(driver.log_page(LogId.SMART, 512)).critical_warning == 2


def test_a_silent_host_is_gone(make_bench: MakeBench) -> None:
    """Keep alive (section 3.9): a command in time keeps it going."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    driver.set_feature(FeatureId.KEEP_ALIVE_TIMER, 1000)
    driver.run(AdminOpcode.KEEP_ALIVE)
    keep_alive = bench.controller.admin.keep_alive
    keep_alive._expired()
    assert not driver.status.CFS
    keep_alive._expired()
    assert driver.status.CFS
    driver.enable()


# -- aborts --------------------------------------------------------------------------------------


def test_abort_aborts_what_waits(make_bench: MakeBench) -> None:
    puppet = PuppetDisk(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = bench.driver()
    namespace = driver.namespace(1)
    ids = [namespace.prepare_read(slot, slot, 1) for slot in range(3)]
    namespace.queue.ring()
    bench.wait(lambda: len(puppet.held) == 3)
    completion, _ = driver.run(AdminOpcode.ABORT, dwords=(ids[1] << 16 | 1,))
    assert completion.dw0 == 0
    assert namespace.queue.wait(ids[1]).status >> 1 & 0x7FF == Status.ABORT_REQUESTED
    assert len(puppet.held) == 2
    for target in (ids[1] << 16 | 1, 0xFFFF0001, 77 << 16 | 9, 0xFFFFFFFF):
        assert driver.run(AdminOpcode.ABORT, dwords=(target,))[0].dw0 == 1
    puppet.complete_all()
    namespace.finish([ids[0], ids[2]])
    request = ask(driver)
    assert driver.run(AdminOpcode.ABORT, dwords=(request << 16,))[0].dw0 == 0
    assert driver.admin.wait(request).status >> 1 & 0x7FF == Status.ABORT_REQUESTED


# -- firmware, format, sanitize, namespaces ------------------------------------------------------


def test_firmware_is_taken_and_reported(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}).driver()
    download, commit = AdminOpcode.FIRMWARE_DOWNLOAD, AdminOpcode.FIRMWARE_COMMIT
    driver.run(download, dwords=(1023, 0), data=noise(4096, 1))
    driver.run(download, dwords=(1023, 1024), data=noise(4096, 2))
    with pytest.raises(NvmeError) as failure:
        driver.run(download, dwords=(1023, 512), data=noise(4096, 2))
    assert failure.value.status == Status.OVERLAPPING_RANGE
    refused(Status.FIRMWARE_NEEDS_RESET, driver, commit, 1 << 3 | 2)
    slots = FirmwareSlots.unpack(driver.log_page(LogId.FIRMWARE_SLOTS, 512))
    assert slots.active == 0x21
    driver.enable()
    revision = driver.identify_controller().fr
    assert revision == slots.revisions[8:16] != driver.identity.fr
    refused(Status.INVALID_FIRMWARE_SLOT, driver, commit, 3 << 3 | 3)  # nothing is there
    refused(Status.INVALID_FIRMWARE_IMAGE, driver, commit, 3)
    driver.run(commit, dwords=(3 << 3 | 1,))
    assert driver.identify_controller().fr == driver.identity.fr


def test_format_changes_the_block_size_and_erases(make_bench: MakeBench) -> None:
    disk = filled(MIB, 1)
    driver = make_bench({1: disk}).driver()
    namespace = driver.namespace(1)
    driver.run(AdminOpcode.FORMAT_NVM, nsid=1, dwords=(1,))
    namespace.refresh()
    assert (namespace.blocks, namespace.block) == (256, 4096)
    assert content(disk) == bytes(MIB)
    namespace.write(255, noise(4096, 5))
    assert content(disk)[-4096:] == noise(4096, 5)
    with pytest.raises(NvmeError) as failure:
        namespace.read(256, 1)
    assert failure.value.status == Status.LBA_OUT_OF_RANGE
    refused(Status.INVALID_FORMAT, driver, AdminOpcode.FORMAT_NVM, 2, nsid=1)
    refused(Status.INVALID_FORMAT, driver, AdminOpcode.FORMAT_NVM, 1 << 5, nsid=1)
    refused(Status.INVALID_FIELD, driver, AdminOpcode.FORMAT_NVM, 2 << 9, nsid=1)
    refused(Status.INVALID_NAMESPACE_OR_FORMAT, driver, AdminOpcode.FORMAT_NVM, 0, nsid=2)


def test_format_waits_for_what_is_under_way(make_bench: MakeBench) -> None:
    puppet = PuppetDisk(filled(MIB, 1), lambda name, *_: name == "read")
    bench = make_bench({1: puppet})
    driver = bench.driver()
    namespace = driver.namespace(1)
    [held_id] = [namespace.prepare_read(0, 0, 8)]
    namespace.queue.ring()
    bench.wait(lambda: puppet.held)
    command = driver.command(AdminOpcode.FORMAT_NVM, nsid=1)
    driver.admin.put(command)
    driver.admin.ring()
    bench.settle()
    with pytest.raises(NvmeError) as failure:
        namespace.read(8, 8)
    assert failure.value.status == Status.FORMAT_IN_PROGRESS
    puppet.complete_all()
    namespace.finish([held_id])
    assert namespace.taken(0, 4096) == noise(MIB, 1)[:4096]
    bench.wait(lambda: driver.admin.reap() or command.cid in driver.admin.done)
    puppet.holds = lambda *_: False
    assert namespace.read(0, 8) == bytes(4096)


def test_sanitize_leaves_nothing(make_bench: MakeBench) -> None:
    disks = {1: filled(MIB, 1), 2: filled(MIB, 2)}
    puppet = PuppetDisk(disks[1], lambda name, *_: name == "write_zeroes")
    bench = make_bench({1: puppet, 2: disks[2]})
    driver = bench.driver()
    request = ask(driver)
    driver.run(AdminOpcode.SANITIZE, dwords=(2,))
    bench.wait(lambda: puppet.held)
    with pytest.raises(NvmeError) as failure:
        driver.namespace(2).read(0, 1)
    assert failure.value.status == Status.SANITIZE_IN_PROGRESS
    refused(Status.SANITIZE_IN_PROGRESS, driver, AdminOpcode.SANITIZE, 2)
    assert SanitizeStatus.unpack(driver.log_page(LogId.SANITIZE, 512)).status == 2
    puppet.complete_all()
    bench.wait(lambda: driver.admin.reap() or request in driver.admin.done)
    assert driver.admin.wait(request).dw0 == 0x810106
    assert SanitizeStatus.unpack(driver.log_page(LogId.SANITIZE, 512)).status == 0x101
    assert driver.namespace(1).read(0, 8) == driver.namespace(2).read(0, 8) == bytes(4096)
    refused(Status.INVALID_FIELD, driver, AdminOpcode.SANITIZE, 4)


def test_hosts_create_attach_detach_and_delete_namespaces(make_bench: MakeBench) -> None:
    from drivebay.controllers.nvme import Subsystem

    subsystem = Subsystem(
        create=lambda size, sector: RamDisk(size, sector_size=sector), capacity=4 * MIB
    )
    driver = make_bench({1: filled(MIB, 1)}, subsystem=subsystem).driver()
    manage, attach = AdminOpcode.NAMESPACE_MANAGEMENT, AdminOpcode.NAMESPACE_ATTACHMENT

    def template(blocks: int, flbas: int = 0, ncap: int | None = None) -> bytes:
        return NamespaceTemplate(blocks, blocks if ncap is None else ncap, flbas=flbas).pack()

    completion, _ = driver.run(manage, dwords=(0,), data=template(512, 1))
    nsid = completion.dw0
    assert nsid == 2
    assert driver.namespaces() == [1]
    assert struct.unpack_from("<3I", driver.identify(Cns.ALLOCATED_NAMESPACES)) == (1, 2, 0)
    controllers = struct.pack("<2H", 1, 0).ljust(4096, b"\0")
    driver.run(attach, nsid=nsid, dwords=(0,), data=controllers)
    namespace = driver.namespace(nsid)
    assert (namespace.blocks, namespace.block) == (512, 4096)
    namespace.write(3, noise(4096, 3))
    for bad, status in (
        (template(1 << 40), Status.INSUFFICIENT_CAPACITY),
        (template(8, 2), Status.INVALID_FORMAT),
        (template(8, 0, 4), Status.THIN_PROVISIONING_UNSUPPORTED),
    ):
        with pytest.raises(NvmeError) as failure:
            driver.run(manage, dwords=(0,), data=bad)
        assert failure.value.status == status
    with pytest.raises(NvmeError) as failure:
        driver.run(attach, nsid=nsid, dwords=(0,), data=controllers)
    assert failure.value.status == Status.ALREADY_ATTACHED
    with pytest.raises(NvmeError) as failure:
        driver.run(attach, nsid=nsid, dwords=(0,), data=b"\x01\0\x07".ljust(4096, b"\0"))
    assert failure.value.status == Status.CONTROLLER_LIST_INVALID
    driver.run(attach, nsid=nsid, dwords=(1,), data=controllers)
    with pytest.raises(NvmeError) as failure:
        namespace.read(3, 1)
    assert failure.value.status == Status.INVALID_NAMESPACE_OR_FORMAT
    driver.run(manage, nsid=nsid, dwords=(1,))
    assert list(subsystem.namespaces) == [1]
    refused(Status.OPERATION_DENIED, driver, manage, 1, nsid=1)  # it is not the host's
