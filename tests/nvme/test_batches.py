"""How many completions an interrupt tells of."""

from __future__ import annotations

import pytest

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
