"""A device that is held takes no requests, and forgets no kick."""

from __future__ import annotations

from drivebay.controllers.virtio.registers import BlockType

from .bench import NO_ANSWER, MakeBench


def test_what_comes_meanwhile_is_done_later(bench: MakeBench, features: int) -> None:
    b = bench()
    driver = b.driver(features=features)
    driver.write(0, b"a" * 512)
    b.device.hold(True)
    pending = driver.submit(BlockType.OUT, 0, data=b"b" * 512)
    b.settle()
    assert b.memory.view(pending.status_at, 1)[0] == NO_ANSWER
    b.device.hold(False)
    assert driver.wait(pending) == 0
    assert driver.read(0, 512) == b"b" * 512


def test_a_queue_that_is_set_up_meanwhile_is_held_too(bench: MakeBench, features: int) -> None:
    b = bench()
    b.device.hold(True)
    driver = b.driver(features=features)
    pending = driver.submit(BlockType.OUT, 0, data=b"b" * 512)
    b.settle()
    assert b.memory.view(pending.status_at, 1)[0] == NO_ANSWER
    b.device.hold(False)
    assert driver.wait(pending) == 0
