"""Resets with commands under way: hostile.md 4.6 and 2.5."""

from __future__ import annotations

import gc
import os

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.opcodes import AdminOpcode
from drivebay.controllers.nvme.registers import NSSR_MAGIC, Shutdown
from drivebay.disk.errors import IoError
from drivebay.drivers.nvme import NvmeDriver
from drivebay.testing.puppet import PuppetDisk
from tests.ahci.support import Stubborn
from tests.ide.support import filled, noise

from .conftest import MakeBench
from .support import BAR, Bench

MIB = 1 << 20
CANARY = b"\xa5" * 512


def held(bench: Bench, puppet: PuppetDisk, count: int) -> NvmeDriver:
    """`count` reads that the disk holds, each to a canary."""
    driver = bench.driver(depth=128)
    namespace = driver.namespace(1)
    for n in range(count):
        at = driver.buffer + 512 * n
        bench.memory.view(at, 512)[:] = CANARY
        command = namespace._ranged(2, n, 1, data=(at, 512))
        namespace.queue.put(command)
    namespace.queue.ring()
    bench.wait(lambda: len(puppet.held) == count)
    return driver


def reset(bench: Bench, how: str) -> None:
    if how == "disable":
        bench.mmio.write(BAR + 0x14, 4, 0)
    elif how == "function":
        bench.nvme.reset()
        bench.enable()
    else:
        bench.mmio.write(BAR + 0x20, 4, NSSR_MAGIC)


@pytest.mark.parametrize("how", ["disable", "function", "subsystem"])
@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("later", ["complete", "fail", "never"])
def test_a_reset_gives_up_what_is_held(
    make_bench: MakeBench, how: str, count: int, later: str
) -> None:
    """{CC.EN=0, FLR, NSSR} x {1, 64 held} x {complete, fail, never}: no late DMA, no late
    completion, no late interrupt.
    """
    puppet = PuppetDisk(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = held(bench, puppet, count)
    operations = puppet.held
    reset(bench, how)
    assert not driver.status.RDY
    before = len(bench.interrupts)
    cq = bytes(bench.memory.view(driver.io[0].cq, 2048) if driver.io else b"")
    for operation in operations:
        if later == "complete":
            operation.complete()
        elif later == "fail":
            operation.fail(IoError(5, "late"))
    bench.settle()
    assert bench.memory.view(driver.buffer, 512 * count) == CANARY * count
    assert bytes(bench.memory.view(driver.io[0].cq, 2048)) == cq
    assert len(bench.interrupts) == before
    puppet.holds = lambda *_: False
    assert bench.driver().namespace(1).read(0, 1) == noise(MIB, 1)[:512]


@pytest.mark.parametrize("how", ["disable", "function", "subsystem"])
def test_what_cannot_be_given_up_is_waited_for(make_bench: MakeBench, how: str) -> None:
    """A system call under way writes to memory: the controller is not ready again before."""
    puppet = Stubborn(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = held(bench, puppet, 64)
    reset(bench, how)
    assert (how == "disable") == driver.status.RDY
    assert not bench.nvme.at_rest
    bench.mmio.write(BAR + 0x24, 4, 0x3F003F)
    bench.mmio.write(BAR + 0x28, 8, driver.admin.sq)
    bench.mmio.write(BAR + 0x30, 8, driver.admin.cq)
    bench.mmio.write(BAR + 0x14, 4, 0x460001)
    bench.settle()
    assert (how == "disable") == driver.status.RDY  # too early: it is not heeded at all
    puppet.complete_all()
    bench.settle()
    assert bench.nvme.at_rest
    assert (how != "disable") == driver.status.RDY
    puppet.holds = lambda *_: False
    assert bench.driver().namespace(1).read(0, 1) == noise(MIB, 1)[:512]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_queue_is_deleted_with_64_held(make_bench: MakeBench, stubborn: bool) -> None:
    puppet = (Stubborn if stubborn else PuppetDisk)(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = held(bench, puppet, 64)
    queue = driver.io[0]
    command = driver.command(AdminOpcode.DELETE_IO_SQ, dwords=(1,))
    driver.admin.put(command)
    driver.admin.ring()
    bench.settle()
    driver.admin.reap()
    assert (command.cid in driver.admin.done) != stubborn
    if stubborn:
        puppet.complete_all()
    assert driver.admin.wait(command.cid).status == 1
    queue.reap()
    statuses = {entry.status >> 1 & 0x7FF for entry in queue.done.values()}
    assert len(queue.done) == 64
    assert statuses == ({0} if stubborn else {Status.ABORTED_SQ_DELETION})
    if not stubborn:
        assert bench.memory.view(driver.buffer, 512 * 64) == CANARY * 64
    driver.run(AdminOpcode.DELETE_IO_CQ, dwords=(1,))


def test_a_shutdown_makes_everything_stable(make_bench: MakeBench) -> None:
    puppets = [PuppetDisk(filled(MIB, n)) for n in (1, 2)]
    bench = make_bench(dict(enumerate(puppets, 1)))
    driver = bench.driver()
    driver.put("CC", driver.get("CC") | 1 << 14)
    assert driver.status.SHST == 1
    for puppet in puppets:
        [flush] = puppet.held
        assert flush.name == "flush"
        flush.complete()
    bench.settle()
    assert driver.status.SHST == 2
    driver.enable()
    assert driver.status.SHST == 0
    for puppet in puppets:
        puppet.holds = lambda *_: False
    driver.shut_down(Shutdown.ABRUPT)


def test_a_format_that_is_given_up_leaves_the_namespace(make_bench: MakeBench) -> None:
    """Found by fuzzing: a reset while it waited for other commands."""
    puppet = Stubborn(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = held(bench, puppet, 1)
    driver.admin.put(driver.command(AdminOpcode.FORMAT_NVM, nsid=1))
    driver.admin.ring()
    bench.settle()
    reset(bench, "disable")
    puppet.complete_all()
    bench.settle()
    puppet.holds = lambda *_: False
    assert bench.driver().namespace(1).read(0, 1) == noise(MIB, 1)[:512]


def test_a_namespace_is_removed_under_load(make_bench: MakeBench) -> None:
    puppet = PuppetDisk(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = held(bench, puppet, 64)
    bench.nvme.remove(1)
    puppet.complete_all()
    bench.settle()
    driver.io[0].reap()
    assert {entry.status >> 1 for entry in driver.io[0].done.values()} == {0}


def test_memory_and_descriptors_are_flat_after_1000_resets(make_bench: MakeBench) -> None:
    puppet = PuppetDisk(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = bench.driver()
    free = driver.arena._next

    def cycle() -> None:
        driver.arena._next = free  # what the last queues took
        driver.enable()
        driver.create_queues(1, 8)
        namespace = driver.namespace(1)
        namespace.prepare_read(0, 0, 8)
        namespace.queue.ring()
        bench.settle(2)
        assert len(puppet.held) == 1

    for _ in range(20):
        cycle()
    gc.collect()
    objects, descriptors = len(gc.get_objects()), len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        cycle()
    gc.collect()
    assert len(gc.get_objects()) < objects + 200
    assert len(os.listdir("/proc/self/fd")) == descriptors
