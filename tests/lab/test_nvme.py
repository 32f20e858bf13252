"""Fault rules on an NVMe controller, seen by its driver."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, EventType, LogId
from drivebay.drivers.nvme import NvmeError
from drivebay.lab import NVME, Match, Rule, parse_rule
from drivebay.lab.rules import Fail
from tests.ide.support import content, filled, noise
from tests.nvme.conftest import MakeBench
from tests.nvme.support import Bench

from .conftest import MakeFaults

MIB = 1 << 20


def started(make_bench: MakeBench, **options: Any) -> tuple[Bench, Any, Any]:
    bench = make_bench({1: filled(MIB, 1), 2: filled(MIB, 2)}, **options)
    driver = bench.driver()
    return bench, driver, driver.namespace(1)


def failures(namespace: Any, blocks: range) -> list[int]:
    """The blocks that cannot be read."""
    found = []
    for block in blocks:
        try:
            namespace.read(block, 1)
        except NvmeError:
            found.append(block)
    return found


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("nth=3", [2]),
        ("every=4", [3, 7]),
        ("every=2,times=2", [1, 3]),
        ("lba=4-5", [4, 5]),
        ("slba=1/0x3", [1, 5]),
        ("nsid=2", []),
        ("queue=0", []),
        ("direction=write", []),
        ("on=nvme,lba=0", [0]),
        ("on=other", []),
        ("after=1min", []),
    ],
)
def test_which_commands_are_meant(
    make_bench: MakeBench, faulty: MakeFaults, condition: str, expected: list[int]
) -> None:
    bench, _, namespace = started(make_bench)
    faults = faulty(bench, f"io,{condition}:status=internal-error")
    assert failures(namespace, range(8)) == expected
    assert [firing.subject.lba for firing in faults.faults.firings] == expected


def test_the_same_seed_gives_the_same_run(make_bench: MakeBench, faulty: MakeFaults) -> None:
    runs = []
    for seed in (5, 5, 6):
        bench, _, namespace = started(make_bench)
        faulty(bench, f"read,p=0.3,seed={seed}:status=internal-error")
        runs.append(failures(namespace, range(64)))
    assert runs[0] == runs[1] != runs[2]
    assert 5 < len(runs[0]) < 40


def test_each_firing_is_logged(
    make_bench: MakeBench, faulty: MakeFaults, caplog: pytest.LogCaptureFixture
) -> None:
    bench, _, namespace = started(make_bench)
    faulty(bench, "read,nth=2:status=unrecovered-read-error")
    with caplog.at_level(logging.WARNING, "drivebay.lab.faults"):
        failures(namespace, range(3))
    [line] = [each.message for each in caplog.records if each.name == "drivebay.lab.faults"]
    assert line == (
        "fault 1: nvme READ queue 1 nsid 1 lba 1+1: read,nth=2:status=unrecovered-read-error"
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_status(make_bench: MakeBench, faulty: MakeFaults, late: bool) -> None:
    bench, _, namespace = started(make_bench)
    rule = Rule(Match(frozenset({"WRITE"}), times=1), Fail("WRITE_FAULT", retry=True, late=late))
    faulty(bench).faults.add(rule)
    with pytest.raises(NvmeError) as failure:
        namespace.write(0, bytes(512))
    assert failure.value.status == Status.WRITE_FAULT
    completion = failure.value.completion
    assert completion is not None
    assert not completion.status >> 15 & 1  # retry: no DNR
    assert (namespace.read(0, 1) == bytes(512)) == late


@pytest.mark.parametrize(("action", "acts"), [("drop", True), ("ignore", False)])
def test_a_completion_that_never_comes(
    make_bench: MakeBench, faulty: MakeFaults, action: str, acts: bool
) -> None:
    bench, driver, namespace = started(make_bench)
    faulty(bench, f"write,nth=1:{action}")
    lost = namespace.prepare_write(0, 0, bytes(512))
    namespace.queue.ring()
    bench.settle()
    assert (namespace.read(0, 1) == bytes(512)) == acts
    assert lost not in namespace.queue.done
    assert driver.run(AdminOpcode.ABORT, dwords=(lost << 16 | 1,))[0].dw0 == 0
    assert namespace.queue.wait(lost).status >> 1 & 0x7FF == Status.ABORT_REQUESTED


def test_hold_and_release(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    faults = faulty(bench, "read,nsid=1:hold").faults
    held = [namespace.prepare_read(slot, slot, 1) for slot in range(3)]
    namespace.queue.ring()
    bench.settle()
    assert not namespace.queue.done
    assert faults.release() == 3
    namespace.finish(held)
    held = [namespace.prepare_read(0, 0, 1)]
    namespace.queue.ring()
    bench.settle()
    faults.remove(faults.rules[0])
    namespace.finish(held)
    assert faults.rules == []


def test_a_reset_gives_up_what_is_held(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, driver, namespace = started(make_bench)
    faults = faulty(bench, "read:hold").faults
    namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.settle()
    driver.disable()
    assert faults.release() == 0
    faults.clear()
    assert bench.driver().namespace(1).read(0, 1) == noise(MIB, 1)[:512]


def test_delay(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    faulty(bench, "read,lba=0:delay=20ms", "read,lba=1:delay=hdd,seek=1ms")
    slow, mechanical = namespace.prepare_read(0, 0, 1), namespace.prepare_read(1, 1, 1)
    namespace.queue.ring()
    start = bench.engine.now
    namespace.read(2, 1)
    bench.wait(lambda: namespace.queue.reap() or {slow, mechanical} <= set(namespace.queue.done))
    bench.wait(lambda: namespace.queue.reap() or slow in namespace.queue.done)
    assert bench.engine.now - start >= 0.02


def test_corrupt_data_on_its_way_to_the_host(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    faulty(bench, "read,nth=1:corrupt=3")
    wrong, right = namespace.read(0, 8), namespace.read(0, 8)
    difference = int.from_bytes(wrong) ^ int.from_bytes(right)
    assert difference.bit_count() == 3
    assert right == noise(MIB, 1)[:4096]


def test_corrupt_data_on_the_disk(make_bench: MakeBench, faulty: MakeFaults) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    namespace = bench.driver().namespace(1)
    faulty(bench, "write:corrupt")
    buffer = noise(4096, 7)
    namespace.write(8, buffer)
    difference = int.from_bytes(content(disk)[4096:8192]) ^ int.from_bytes(buffer)
    assert difference.bit_count() == 1
    assert bench.memory.view(namespace.place(0), 4096) == buffer  # the host's is as it was
    assert content(disk)[:4096] == noise(MIB, 1)[:4096]


def test_rewritten_commands_and_results(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, driver, namespace = started(make_bench)
    faults = faulty(bench, "read,nsid=1:rewrite,slba=+100,nsid=2").faults
    assert namespace.read(0, 1) == noise(MIB, 2)[51200:51712]
    faults.clear()
    faults.add(parse_rule("write:rewrite,nlb=1", NVME))
    namespace.write(0, bytes(4096))
    faults.clear()
    assert namespace.read(0, 8) == bytes(512) + noise(MIB, 1)[512:4096]
    faults.add(parse_rule("get-features:rewrite,dw0=+5", NVME))
    before = driver.get_feature(4)[0]
    faults.clear()
    assert before == driver.get_feature(4)[0] + 5


def test_what_is_identified_and_logged(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, driver, _ = started(make_bench)
    faulty(
        bench, "identify,cdw10=1/0xff:patch,at=24,hex=484921", "get-log-page:patch,at=3,hex=0102"
    )
    assert driver.identify_controller().mn.startswith(b"HI!")
    assert driver.log_page(LogId.SMART, 512)[3:5] == b"\1\2"
    assert driver.log_page(LogId.SMART, 4, offset=4)[0] == 2
    assert driver.log_page(LogId.SMART, 4, offset=8) == bytes(4)


def test_a_completion_that_comes_twice(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    faulty(bench, "read,nth=1:duplicate")
    namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.settle()
    assert namespace.queue.reap() == 2
    assert namespace.read(0, 1) == noise(MIB, 1)[:512]


def test_an_interrupt_that_never_comes(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    bench.enable_messages()
    faulty(bench, "read,nth=1:lose-interrupt")
    for expected in (0, 1):
        bench.messages.clear()
        command = namespace.prepare_read(0, 0, 1)
        namespace.queue.ring()
        bench.settle()
        assert len(bench.messages) == expected
        namespace.finish([command])


def test_death_and_resurrection(make_bench: MakeBench, faulty: MakeFaults) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    namespace = driver.namespace(1)
    faulty(bench, "write,nth=2:die")
    for slot in range(3):
        namespace.prepare_write(slot, slot, bytes(512))
    namespace.queue.ring()
    bench.settle()
    assert driver.status.CFS
    assert namespace.queue.reap() == 0
    assert content(disk)[:1536] == bytes(512) + noise(MIB, 1)[512:1536]  # nothing after it acts
    assert bench.driver().namespace(1).read(1, 1) == noise(MIB, 1)[512:1024]


def test_an_event_that_has_not_happened(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, driver, namespace = started(make_bench)
    admin = driver.admin
    command = driver.command(AdminOpcode.ASYNC_EVENT_REQUEST)
    admin.put(command)
    admin.ring()
    faulty(bench, "read,nth=2:event=namespace-attributes")
    namespace.read(0, 1)
    admin.reap()
    assert command.cid not in admin.done
    assert namespace.read(5, 1)
    told = admin.wait(command.cid)
    assert told.dw0 == LogId.CHANGED_NAMESPACES << 16 | EventType.NOTICE
    assert not driver.log_page(LogId.CHANGED_NAMESPACES, 4096).strip(b"\0")


def test_never_ready_and_late_ready(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, driver, _ = started(make_bench)
    faults = faulty(bench, "enable:drop").faults
    driver.disable()
    enable = driver.get("CC") | 0x460001
    driver.put("CC", enable)
    bench.settle()
    assert not driver.status.RDY
    faults.clear()
    faults.add(parse_rule("enable:hold", NVME))
    for _ in range(3):  # each is given up by the next
        driver.put("CC", 0)
        driver.put("CC", enable)
        assert not driver.status.RDY
    assert faults.release() == 1
    bench.wait(lambda: driver.status.RDY)
    faults.clear()
    faults.add(parse_rule("enable:die", NVME))
    driver.put("CC", 0)
    driver.put("CC", enable)
    assert driver.status.CFS
    faults.clear()
    faults.add(parse_rule("enable:delay=10ms", NVME))
    driver.put("CC", 0)
    driver.put("CC", enable)
    assert not driver.status.RDY
    bench.wait(lambda: driver.status.RDY)


def test_saved_while_it_is_late(make_bench: MakeBench, faulty: MakeFaults) -> None:
    """What keeps a controller from getting ready is not its state."""
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    faulty(bench, "enable:hold")
    driver.disable()
    driver.put("CC", 0x460001)
    assert not driver.status.RDY
    assert bench.replaced({1: disk}).controller.csts.RDY


def test_costs_nothing_when_closed(make_bench: MakeBench, faulty: MakeFaults) -> None:
    bench, _, namespace = started(make_bench)
    faults = faulty(bench, "read:drop")
    assert not bench.controller.fast
    faults.close()
    assert set(bench.controller.fast) == {1, 2}
    assert namespace.read(0, 1) == noise(MIB, 1)[:512]
