"""What hostile guests do to the SCSI host (hostile.md section 4)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import pytest

from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.scsi_registers import ScsiFunction
from drivebay.disk.errors import Medium, MediumError
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.drivers.virtio_scsi import PendingCommand, VirtioScsi, lun_field
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk
from drivebay.testing import FlippingMemory

from .bench import ALL, RAM_SIZE, RAM_START, SPLIT
from .scsi_bench import CHECK, GOOD, OK, OVERRUN, ScsiBench, make, read10, write10

REQUEST, ANSWER = 51, 108
CANARY = 0xC5

Ending = Callable[[ScsiBench, VirtioScsi], None]


def remove(bench: ScsiBench, driver: VirtioScsi) -> None:
    bench.target.remove(0)
    bench.target.add(0, ScsiDisk(bench.puppet))


def manage(function: ScsiFunction, bench: ScsiBench, driver: VirtioScsi) -> None:
    driver.start_function(function)


ENDINGS: dict[str, Ending] = {
    "device reset": lambda bench, driver: driver.set("Status", 0),
    "hot remove": remove,
    "unit reset": partial(manage, ScsiFunction.LOGICAL_UNIT_RESET),
    "nexus reset": partial(manage, ScsiFunction.I_T_NEXUS_RESET),
    "abort task set": partial(manage, ScsiFunction.ABORT_TASK_SET),
}


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
@pytest.mark.parametrize(
    ("how", "given_up"),
    [("complete", True), ("fail", True), ("never", True), ("complete", False), ("fail", False)],
)
@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("ending", ENDINGS)
def test_hostile_4_6_no_late_data_and_no_second_end(
    engine: Engine, ending: str, count: int, how: str, given_up: bool, features: int
) -> None:
    """Of 1 and of 64 reads; what cannot be given up is waited for."""
    bench = make(engine)
    driver = bench.driver(features=features)
    bench.hold("read")
    pending = [driver.submit(0, read10(n), room=512, queue=0) for n in range(count)]
    for each in pending:
        bench.memory.view(each.data_at, 512)[:] = bytes([CANARY]) * 512
    held = bench.puppet.wait(count)
    if not given_up:
        for operation in held:
            operation.cancel = lambda: False  # type: ignore[method-assign]
    ENDINGS[ending](bench, driver)
    for operation in held:
        if how == "complete":
            operation.complete()
        elif how == "fail":
            operation.fail(MediumError(Medium.UNRECOVERED_READ, operation.sector))
    assert engine.run_until(lambda: bench.target.at_rest, 5)
    bench.settle()
    untouched = given_up or how == "fail"
    for each in pending:
        data = bytes(bench.memory.view(each.data_at, 512))
        assert data == (bytes([CANARY]) * 512 if untouched else bytes(512))
    if ending != "device reset":
        ends = [driver.wait(each) for each in pending]
        assert all(end.response or end.status or not given_up for end in ends)
    driver.collect()  # each chain is known, so no one came twice
    bench.hold()
    driver.reset()
    again = bench.driver(
        Arena(bench.memory, RAM_START + RAM_SIZE // 2, RAM_SIZE // 2), features=features
    )
    assert again.ask(0, read10(0), room=512) == bytes(512)


def ask(bench: ScsiBench, driver: VirtioScsi, chain: list[Buffer]) -> None:
    driver.ring(2).add(chain)
    driver.notify(2)
    bench.settle()


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
def test_hostile_4_4_data_that_is_the_ring_the_request_or_the_answer(
    engine: Engine, features: int
) -> None:
    bench = make(engine)
    for target in ("ring", "request", "answer"):
        driver = bench.driver(features=features)
        at = driver.arena.take(4096)
        bench.memory.view(at, REQUEST)[:] = (
            lun_field(0) + struct.pack("<QBBB", 1, 0, 0, 0) + read10(0).ljust(32, b"\0")
        )
        data = {"ring": driver.ring(2).addresses[0], "request": at, "answer": at + 1024}[target]
        chain = [
            Buffer(at, REQUEST, False),
            Buffer(at + 1024, ANSWER, True),
            Buffer(data, 512, True),
        ]
        ask(bench, driver, chain)
        bench.settle()
        driver.reset()
    assert bench.driver(features=features).ask(0, read10(0), room=512) == bytes(512)


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
def test_hostile_4_3_a_request_is_looked_at_once(engine: Engine, features: int) -> None:
    """Its CDB is a READ to one look and a WRITE to another."""
    memory = FlippingMemory.of_size(RAM_SIZE, RAM_START)
    memory.armed = False
    bench = make(engine, memory)
    driver = bench.driver(features=features)
    pending, responses = PendingCommand(0, 0, 0, 0), set()
    for start in range(3):
        at = driver.arena.take(4096)
        head = lun_field(0) + struct.pack("<QBBB", 1, 0, 0, 0)
        reads, writes = (head + cdb.ljust(32, b"\0") for cdb in (read10(5), write10(5)))
        looks = [reads, writes, head + bytes([0x35]).ljust(32, b"\0")]
        watch = memory.watch(at, looks[start:] + looks[:start])
        chain = [
            Buffer(at, REQUEST, False),
            Buffer(at + 1024, ANSWER, True),
            Buffer(at + 2048, 512, True),
        ]
        driver.offer(2, chain, pending, kick=False)
        memory.armed = True
        driver.notify(2)
        bench.settle()
        memory.armed = False
        assert watch.views == 1
        driver.finish(pending)
        pending.written = None
        responses.add(bench.memory.view(at + 1024, ANSWER)[11])
    assert responses == {OK, OVERRUN}  # a WRITE has no data to write here


def test_hostile_4_5_the_same_tag_and_tasks_beyond_count(engine: Engine) -> None:
    """Tags are the driver's: two commands of one are two, and one abort ends both."""
    bench = make(engine, queue_size=64)
    driver = bench.driver(features=~(1 << RingFeature.RING_PACKED))
    bench.hold("read")
    pending = [driver.submit(0, read10(0), room=512, tag=9) for _ in range(20)]
    assert driver.manage(ScsiFunction.ABORT_TASK, 0, 9) == OK
    assert {driver.wait(each).response for each in pending} == {2}


@pytest.mark.parametrize("opcode", [0x15, 0x55])
def test_hostile_2_6_mode_parameters_that_are_cut_or_lie(engine: Engine, opcode: int) -> None:
    """CVE-2023-42467: a block length that is none; lists shorter than they say."""
    bench = make(engine)
    driver = bench.driver()
    long = opcode == 0x55
    header = bytes(7) + b"\x08" if long else bytes(3) + b"\x08"
    page = bytes([0x08, 18, *bytes(18)])
    for block in (0, 1, 511, 512, 4096, 0xFFFFFF):
        whole = header + bytes(5) + block.to_bytes(3) + page
        for size in (*range(len(whole) + 1), 255):
            sent = whole[:size].ljust(size, b"\xff")
            cdb = bytes([opcode, 0x10, 0, 0, size, 0])
            if long:
                cdb = bytes([opcode, 0x10, *bytes(5), *size.to_bytes(2), 0])
            answer = driver.command(0, cdb, data=sent)
            assert (answer.response, answer.status) in ((OK, GOOD), (OK, CHECK))
            if size == len(whole):
                assert answer.status == (GOOD if block == 512 else CHECK)
    assert driver.ask(0, read10(0), room=512) == bytes(512)
