"""A controller that is held takes no commands, and forgets no doorbell."""

from __future__ import annotations

import pytest

from tests.ide.support import content, filled, noise

from .conftest import MakeBench

MIB = 1 << 20


@pytest.mark.parametrize("doorbells", [False, True])
def test_what_comes_meanwhile_is_done_later(make_bench: MakeBench, doorbells: bool) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    if doorbells:
        driver.use_doorbell_buffers()
    namespace = driver.namespace(1)
    bench.nvme.hold(True)
    ids = [namespace.prepare_write(slot, 8 * slot, noise(4096, slot)) for slot in range(4)]
    namespace.queue.ring()
    bench.settle()
    assert content(disk) == noise(MIB, 1)
    assert bench.nvme.at_rest
    bench.nvme.hold(False)
    namespace.finish(ids)
    assert content(disk)[: 4 * 4096] == b"".join(noise(4096, slot) for slot in range(4))


def test_another_controller_goes_on_with_it(make_bench: MakeBench) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    namespace = driver.namespace(1)
    bench.nvme.hold(True)
    command = namespace.prepare_read(0, 8, 8)
    namespace.queue.ring()
    bench.settle()
    bench = bench.replaced({1: disk})
    driver.mmio = bench.mmio
    namespace.finish([command])
    assert namespace.taken(0, 4096) == noise(MIB, 1)[4096:8192]
