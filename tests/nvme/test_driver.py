"""The driver works the controller, through registers and memory only."""

from __future__ import annotations

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.identity import ONCS, VWC
from drivebay.controllers.nvme.opcodes import Cns
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Operation
from drivebay.drivers.nvme import NvmeError
from drivebay.testing.recording import RecordingDisk
from tests.ide.support import content, filled, noise

from .conftest import MakeBench

MIB = 1 << 20


def test_reads_and_writes_of_every_length(make_bench: MakeBench) -> None:
    """One page, two, a list, and the largest transfer there is."""
    disk = filled(4 * MIB, 1)
    namespace = make_bench({1: disk}).driver().namespace(1)
    expected = bytearray(noise(4 * MIB, 1))
    for slba, count in ((0, 1), (7, 8), (8, 9), (16, 16), (100, 17), (1000, 1024), (2048, 2048)):
        data = noise(count * 512, count)
        assert namespace.read(slba, count) == expected[slba * 512 : (slba + count) * 512]
        namespace.write(slba, data)
        expected[slba * 512 : (slba + count) * 512] = data
        assert namespace.read(slba, count) == data
    assert content(disk) == expected
    with pytest.raises(NvmeError) as failure:
        namespace.read(0, 2049)
    assert failure.value.status == Status.INVALID_FIELD


def test_a_large_read_is_one_operation_with_one_buffer(make_bench: MakeBench) -> None:
    """Pages that adjoin are merged."""
    seen: list[list[int]] = []

    class Counting(RamDisk):
        def read(self, sector: int, buffers: Buffers) -> Operation:
            seen.append([len(buffer) for buffer in buffers])
            return super().read(sector, buffers)

    namespace = make_bench({1: Counting(4 * MIB)}).driver().namespace(1)
    namespace.read(0, 2048)
    assert seen == [[MIB]]


def test_identify_tells_the_truth(make_bench: MakeBench) -> None:
    disk = RamDisk(MIB)
    driver = make_bench({1: disk, 5: RamDisk(2 * MIB, sector_size=4096)}).driver()
    assert driver.namespaces() == [1, 5]
    first, second = driver.namespace(1), driver.namespace(5)
    assert (first.blocks, first.block) == (2048, 512)
    assert (second.blocks, second.block) == (512, 4096)
    assert first.identity.dlfeat == 0b1001  # reads zero, and write zeroes deallocates
    assert first.identity.nlbaf_z == 1
    assert second.identity.nlbaf_z == 0
    controller = driver.identity
    assert not VWC(controller.vwc).Present  # memory has no cache to lose
    assert ONCS(controller.oncs).Copy
    assert not ONCS(controller.oncs).Reservations
    assert driver.identify(Cns.DESCRIPTORS, 1)[:2] == b"\x03\x10"
    with pytest.raises(NvmeError) as failure:
        driver.identify(Cns.NAMESPACE, 0)
    assert failure.value.status == Status.INVALID_NAMESPACE_OR_FORMAT
    assert driver.identify(Cns.NAMESPACE, 2) == bytes(4096)


def test_the_other_commands(make_bench: MakeBench) -> None:
    recorder = RecordingDisk(filled(4 * MIB, 1))
    namespace = make_bench({1: recorder}).driver().namespace(1)
    data = noise(4 * MIB, 1)
    namespace.compare(8, data[4096:8192])
    with pytest.raises(NvmeError) as failure:
        namespace.compare(8, bytes(4096))
    assert failure.value.status == Status.COMPARE_FAILURE
    namespace.verify(0, 4096)
    namespace.copy([(0, 8), (16, 8)], 2000)
    assert namespace.read(2000, 16) == data[:4096] + data[8192:12288]
    namespace.write_zeroes(0, 4)
    assert namespace.read(0, 5) == bytes(2048) + data[2048:2560]
    namespace.write_zeroes(4, 4, deallocate=True)
    namespace.deallocate([(8, 8), (100, 1)])
    assert namespace.read(8, 8) == bytes(4096)
    namespace.write(9, bytes(512), fua=True)
    namespace.flush()
    calls = {(call.name, call.fua, call.unmap) for call in recorder.calls}
    assert ("write_zeroes", False, False) in calls
    assert ("write_zeroes", False, True) in calls
    assert ("unmap", False, False) in calls
    assert ("write", True, False) in calls
    assert ("flush", False, False) in calls


def test_blocks_made_bad_are_good_when_they_are_written(make_bench: MakeBench) -> None:
    namespace = make_bench({1: filled(MIB, 1)}).driver().namespace(1)
    namespace.write_uncorrectable(10, 4)
    for call in (
        lambda: namespace.read(8, 8),
        lambda: namespace.verify(13, 1),
        lambda: namespace.compare(10, bytes(512)),
        lambda: namespace.copy([(0, 11)], 100),
    ):
        with pytest.raises(NvmeError) as failure:
            call()
        assert failure.value.status == Status.UNRECOVERED_READ_ERROR
    namespace.write(10, bytes(512))
    namespace.write_zeroes(11, 3)
    assert namespace.read(10, 4) == bytes(2048)


def test_compare_and_write(make_bench: MakeBench) -> None:
    namespace = make_bench({1: filled(MIB, 1)}).driver().namespace(1)
    old, new = noise(MIB, 1)[:512], noise(512, 9)
    first, second = namespace.compare_and_write(0, old, new)
    assert not first.status >> 1
    assert not second.status >> 1
    assert namespace.read(0, 1) == new
    first, second = namespace.compare_and_write(0, old, new)
    assert first.status >> 1 & 0x7FF == Status.COMPARE_FAILURE
    assert second.status >> 1 & 0x7FF == Status.ABORTED_FAILED_FUSED


def test_doorbells_in_memory(make_bench: MakeBench) -> None:
    """A controller that is busy is told of no doorbell, and finds the commands."""
    bench = make_bench({1: filled(MIB, 1)})

    class Counting:
        writes = 0

        def read(self, address: int, width: int) -> int:
            return bench.mmio.read(address, width)

        def write(self, address: int, width: int, value: int) -> None:
            Counting.writes += 1
            bench.mmio.write(address, width, value)

    driver = bench.driver(mmio=Counting())
    driver.use_doorbell_buffers()
    namespace = driver.namespace(1)
    Counting.writes = 0
    for round_ in range(40):
        ids = []
        for slot in range(16):
            ids.append(namespace.prepare_read(slot, 8 * slot, 8))
            namespace.queue.ring()
        namespace.finish(ids)
        assert namespace.taken(3, 512) == noise(MIB, 1)[24 * 512 : 25 * 512], round_
    assert Counting.writes <= 2 * 40


def test_several_queues_and_any_stride(make_bench: MakeBench) -> None:
    driver = make_bench({1: filled(MIB, 1)}, stride=3).driver(queues=4)
    for queue in driver.io:
        namespace = type(driver.namespace(1))(driver, 1, queue)
        assert namespace.read(3, 1) == noise(MIB, 1)[1536:2048]


def test_messages_and_the_pin(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver(raised=lambda _vector: bench.level)
    namespace = driver.namespace(1)
    namespace.read(0, 1)
    assert bench.interrupts[-2:] == [True, False]
    bench.enable_messages()
    driver.raised = lambda vector: vector in bench.messages
    bench.messages.clear()
    ids = [namespace.prepare_read(slot, slot, 1) for slot in range(8)]
    namespace.queue.ring()
    namespace.finish(ids)
    assert bench.messages == [1]  # one for the batch
