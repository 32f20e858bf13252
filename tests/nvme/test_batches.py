"""How many completions an interrupt tells of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivebay.controllers.nvme.worker import SINGLES
from drivebay.platform.engine import Linger
from tests.ide.support import filled, noise

from .conftest import MakeBench

MIB = 1 << 20


@pytest.mark.parametrize(("count", "blocks", "interrupts"), [(16, 8, 1), (4, 256, 2)])
def test_an_interrupt_tells_of_all_there_was_but_of_no_more_than_256_kib(
    make_bench: MakeBench, count: int, blocks: int, interrupts: int
) -> None:
    """The host goes on with what has been read while the next is read."""
    bench = make_bench({1: filled(MIB, 1)})
    bench.enable_messages()
    namespace = bench.driver().namespace(1)
    bench.messages.clear()
    ids = [namespace.prepare_read(slot, slot * blocks, blocks) for slot in range(count)]
    namespace.queue.ring()
    bench.settle()
    namespace.finish(ids)
    assert len(bench.messages) == interrupts
    size = 512 * blocks
    for slot in range(count):
        assert namespace.taken(slot, size) == noise(MIB, 1)[slot * size :][:size]


def test_it_looks_out_longer_for_a_driver_that_has_one_command_at_a_time(
    make_bench: MakeBench,
) -> None:
    looks: list[str] = []

    def once(kind: str) -> Linger:
        def linger(came: Callable[[], bool]) -> bool:
            looks.append(kind)
            return came()

        return linger

    bench = make_bench({1: filled(MIB, 1)}, linger=once("short"), linger_long=once("long"))
    driver = bench.driver()
    namespace = driver.namespace(1)
    driver.use_doorbell_buffers()
    kinds = []
    for count in [*[1] * SINGLES, 3, *[1] * SINGLES]:
        ids = [namespace.prepare_read(slot, slot, 1) for slot in range(count)]
        namespace.queue.ring()
        bench.settle()
        kinds.append(looks[-1])
        namespace.finish(ids)
    assert kinds[SINGLES - 1 :] == ["long", *["short"] * SINGLES, "long"]
