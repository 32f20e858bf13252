"""The SCSI host through its MMIO registers and rings, as a guest drives it."""

from __future__ import annotations

import os

import pytest

from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.scsi_registers import ScsiFunction
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.virtio_scsi import DeviceError
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk

from .scsi_bench import (
    ABORTED,
    BAD_TARGET,
    CHECK,
    COMPLETE,
    FAILURE,
    GOOD,
    INCORRECT_LUN,
    OK,
    ORDERED,
    OVERRUN,
    REJECTED,
    RESET,
    SIZE,
    SUCCEEDED,
    ScsiBench,
    make,
    read10,
    sense_of,
    write10,
)

INQUIRY = bytes([0x12, 0, 0, 0, 96, 0])
REPORT_LUNS = bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])


@pytest.fixture
def bench(engine: Engine) -> ScsiBench:
    return make(engine)


# -- commands ------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    for round_ in range(200):  # the rings wrap
        data = os.urandom(1024)
        driver.ask(0, write10(round_, 2), data=data)
        assert driver.ask(0, read10(round_, 2), room=1024) == data
    answer = driver.wait(driver.submit(0, read10(199, 2), room=1024, indirect=True))
    assert answer.data == data


def test_units_of_every_kind_by_their_numbers(bench: ScsiBench) -> None:
    driver = bench.driver()
    assert [driver.ask(lun, INQUIRY, room=96)[0] for lun in (0, 1, 300)] == [0, 0, 5]
    luns = driver.ask(5, REPORT_LUNS, room=256)
    assert luns[8:] == bytes(8) + bytes([0, 1]) + bytes(6) + bytes([0x41, 0x2C]) + bytes(6)
    assert driver.ask(7, INQUIRY, room=96)[0] == 0x7F
    assert sense_of(driver.command(7, bytes(6))) == (5, 0x25, 0)
    assert driver.ask(300, read10(0), room=2048) == bytes(2048)


def test_section_5_6_6_1_the_well_known_unit_reports_the_others(bench: ScsiBench) -> None:
    driver = bench.driver()
    field = bytes([0xC1, 0x01, 0, 0, 0, 0, 0, 0])
    for cdb, begins in ((REPORT_LUNS, bytes([0, 0, 0, 24])), (INQUIRY, b"\x1e"), (bytes(6), b"")):
        answer = driver.wait(driver.submit(0, cdb, room=256 * bool(begins), field=field))
        assert (answer.response, answer.status) == (OK, GOOD)
        assert answer.data.startswith(begins)


@pytest.mark.parametrize(
    "field",
    ["0101400000000000", "0201400000000000", "0000000000000000", "0100c10100000001", "01008000"],
)
def test_section_5_6_6_1_luns_of_other_targets(bench: ScsiBench, field: str) -> None:
    driver = bench.driver()
    pending = driver.submit(0, bytes(6), field=bytes.fromhex(field.ljust(16, "0")))
    assert driver.wait(pending).response == BAD_TARGET


def test_sense_says_why_a_command_failed(bench: ScsiBench) -> None:
    answer = bench.driver().command(0, read10(SIZE // 512), room=512)
    assert sense_of(answer) == (5, 0x21, 0)
    assert (len(answer.sense), answer.residual, answer.data) == (18, 512, b"")


def test_residual_is_what_was_not_moved(bench: ScsiBench) -> None:
    driver = bench.driver()
    answer = driver.command(0, INQUIRY, room=255)
    assert (answer.residual, len(answer.data)) == (255 - 96, 96)
    answer = driver.command(0, write10(0), data=bytes(1500))
    assert (answer.response, answer.status, answer.residual) == (OK, GOOD, 1500 - 512)


@pytest.mark.parametrize("room", [1, 511])
def test_more_data_than_memory_is_an_overrun_and_moves_nothing(bench: ScsiBench, room: int) -> None:
    driver = bench.driver()
    answer = driver.command(0, read10(0), room=room)
    assert (answer.response, answer.residual, answer.data) == (OVERRUN, room, b"")
    answer = driver.command(0, write10(0), data=b"\xff" * room)
    assert (answer.response, answer.residual) == (OVERRUN, room)
    assert driver.ask(0, read10(0), room=512) == bytes(512)


def test_data_both_ways_was_not_on_offer(bench: ScsiBench) -> None:
    driver = bench.driver()
    assert driver.command(0, read10(0), data=bytes(512), room=512).response == FAILURE


def test_section_5_6_4_the_driver_chooses_sizes(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    for sense, cdb in ((252, 64), (18, 16), (8, 12), (0, 10)):
        driver.choose_sizes(sense, cdb)
        assert (driver.config.sense_size, driver.config.cdb_size) == (sense, cdb)
        driver.ask(0, write10(3), data=b"\x5a" * 512)
        assert driver.ask(0, read10(3), room=512) == b"\x5a" * 512
        answer = driver.command(0, bytes([0xFF]))
        assert (answer.status, len(answer.sense)) == (CHECK, min(sense, 18))
    assert bench.device.driver_state == 10 << 16
    driver = bench.driver()
    assert (driver.config.sense_size, driver.config.cdb_size) == (96, 32)


def test_hostile_sizes_that_nobody_could_keep_want_a_reset(bench: ScsiBench) -> None:
    for offset in (20, 24):
        driver = bench.driver()
        driver.write_config(offset, 0xFFFFFFFF, 4)
        assert bench.needs_reset
        assert driver.ask(0, read10(0), room=512) == bytes(512)


def test_many_queues_many_commands(engine: Engine) -> None:
    bench = make(engine, queues=4, queue_size=16)
    driver = bench.driver(features=~(1 << RingFeature.RING_PACKED))
    assert driver.config.num_queues == 4
    pending = [
        driver.submit(lun, read10(0), room=4096, queue=queue, kick=False)
        for queue in range(4)
        for lun in (0, 1, 300, 0)
    ]
    for queue in range(4):
        driver.kick(2 + queue)
    assert [len(driver.wait(each).data) for each in pending] == [512, 4096, 2048, 512] * 4


# -- tasks and their management ------------------------------------------------------------------


def test_an_ordered_command_waits_and_is_waited_for(bench: ScsiBench) -> None:
    driver = bench.driver()
    bench.hold("read")
    first = driver.submit(0, read10(0), room=512)
    ordered = driver.submit(0, write10(0), data=b"\x11" * 512, attribute=ORDERED)
    last = driver.submit(0, read10(0), room=512)
    bench.settle()
    driver.collect()
    assert (ordered.written, last.written) == (None, None)
    bench.puppet.complete_all()
    assert driver.wait(first).data == bytes(512)
    bench.settle()
    bench.hold()
    bench.puppet.complete_all()
    assert driver.wait(last).data == b"\x11" * 512


def test_a_thousand_ordered_commands_behind_one(bench: ScsiBench) -> None:
    """Each ends at once when its turn comes: not on the shoulders of the one before."""
    driver = bench.driver()
    bench.hold("flush")
    flush = driver.submit(0, bytes([0x35, *bytes(9)]))
    ordered = [
        driver.submit(0, read10(0), room=512, queue=0, attribute=ORDERED, indirect=True)
        for _ in range(200)
    ]
    done: list[int] = []
    for n in range(2000):
        bench.target.submit(0, bytes(6), n, [], [], lambda _: done.append(1))
    bench.puppet.complete_all()
    assert driver.wait(flush).status == GOOD
    assert [driver.wait(each).status for each in ordered] == [GOOD] * 200
    assert len(done) == 2000


def test_a_held_command_is_found_and_aborted(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    bench.hold("write")
    held = driver.submit(0, write10(0), data=b"\x77" * 512, tag=77)
    query, query_all = ScsiFunction.QUERY_TASK, ScsiFunction.QUERY_TASK_SET
    assert driver.manage(query, 0, 77) == driver.manage(query_all, 0) == SUCCEEDED
    assert driver.manage(query, 0, 78) == driver.manage(query_all, 1) == COMPLETE
    assert driver.manage(ScsiFunction.ABORT_TASK, 0, 77) == COMPLETE
    assert driver.wait(held).response == ABORTED
    assert driver.manage(query, 0, 77) == COMPLETE
    assert driver.manage(ScsiFunction.ABORT_TASK, 0, 77) == COMPLETE
    bench.hold()
    assert driver.ask(0, read10(0), room=512) == bytes(512)


@pytest.mark.parametrize(
    ("function", "response", "attention"),
    [
        (ScsiFunction.ABORT_TASK_SET, ABORTED, False),
        (ScsiFunction.CLEAR_TASK_SET, ABORTED, False),
        (ScsiFunction.LOGICAL_UNIT_RESET, RESET, True),
        (ScsiFunction.I_T_NEXUS_RESET, RESET, True),
    ],
)
def test_functions_that_end_all_tasks(
    bench: ScsiBench, function: ScsiFunction, response: int, attention: bool
) -> None:
    driver = bench.driver()
    bench.hold("write")
    held = [driver.submit(0, write10(n), data=b"\x77" * 512) for n in range(3)]
    held.append(driver.submit(0, write10(9), data=b"\x77" * 512, attribute=ORDERED))
    assert driver.manage(function) == COMPLETE
    assert [driver.wait(each).response for each in held] == [response] * 4
    bench.hold()
    answer = driver.command(0, read10(9), room=512)
    if attention:
        assert sense_of(answer) == (6, 0x29, 0)
        answer = driver.command(0, read10(9), room=512)
    assert answer.data == bytes(512)


def test_an_abort_waits_for_what_cannot_be_given_up(bench: ScsiBench) -> None:
    """A system call that writes to guest memory runs to its end."""
    driver = bench.driver()
    bench.hold("read")
    held = driver.submit(0, read10(0), room=512, tag=5)
    [operation] = bench.puppet.wait()
    operation.cancel = lambda: False  # type: ignore[method-assign]
    abort = driver.start_function(ScsiFunction.ABORT_TASK, 0, 5)
    bench.settle()
    driver.collect()
    assert abort.written is None
    operation.complete()
    assert driver.finish(abort) == 1
    assert driver.wait(held).response in (OK, ABORTED)


def test_functions_that_nobody_knows(bench: ScsiBench) -> None:
    driver = bench.driver()
    assert driver.manage(ScsiFunction.CLEAR_ACA) == REJECTED
    assert driver.manage(ScsiFunction.ABORT_TASK, 7) == INCORRECT_LUN
    assert driver.manage(ScsiFunction.QUERY_TASK, 0, 1) == COMPLETE


# -- stopping, and going on ----------------------------------------------------------------------


def test_a_reset_gives_up_what_waits(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    bench.hold("write")
    driver.submit(0, write10(0), data=b"\x77" * 512)
    driver.submit(0, write10(1), data=b"\x77" * 512, attribute=ORDERED)
    driver.submit(0, write10(2), data=b"\x77" * 512)
    driver.reset()
    assert bench.target.at_rest and not bench.puppet.held
    bench.hold()
    again = bench.driver(features=features)
    assert again.ask(0, read10(0, 3), room=1536) == bytes(1536)


def test_a_reset_makes_units_as_they_were(bench: ScsiBench) -> None:
    driver = bench.driver()
    driver.ask(0, bytes([0x1B, 0, 0, 0, 0, 0]))
    assert sense_of(driver.command(0, bytes(6))) == (2, 4, 2)
    driver.reset()
    bench.driver().ask(0, bytes(6))


def test_a_management_function_outlives_its_queue(bench: ScsiBench) -> None:
    driver = bench.driver()
    bench.hold("read")
    driver.submit(0, read10(0), room=512, tag=5)
    [operation] = bench.puppet.wait()
    operation.cancel = lambda: False  # type: ignore[method-assign]
    driver.start_function(ScsiFunction.ABORT_TASK, 0, 5)
    driver.set("Status", 0)
    assert driver.get("Status")
    operation.complete()
    driver.reset()
    bench.hold()
    assert bench.driver().ask(0, read10(0), room=512) == bytes(512)


def test_a_unit_that_goes_ends_what_it_was_doing(bench: ScsiBench) -> None:
    driver = bench.driver()
    bench.hold("read")
    held = driver.submit(0, read10(0), room=512)
    [operation] = bench.puppet.wait()
    cancel, operation.cancel = operation.cancel, lambda: False  # type: ignore[method-assign]
    gone: list[bool] = []
    bench.target.remove(0, lambda: gone.append(True))
    assert not gone and not bench.target.at_rest
    bench.target.add(0, ScsiDisk(RamDisk(SIZE)))
    operation.complete()
    assert driver.wait(held).response in (OK, ABORTED)
    assert gone and bench.target.at_rest
    assert cancel()
    assert sense_of(driver.command(0, bytes(6))) == (6, 0x29, 0)


def test_an_answer_that_never_comes(bench: ScsiBench) -> None:
    driver = bench.driver()
    bench.hold("read")
    with pytest.raises(DeviceError, match="does not end"):
        driver.wait(driver.submit(0, read10(0), room=512), turns=3)
