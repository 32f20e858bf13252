"""The controller against a dict of blocks: any commands, at any depth, that end in any order."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.controllers.nvme import Status
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.nvme import NvmeNamespace
from drivebay.platform.engine import Engine
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import noise

from .support import Bench

BLOCKS = 64
CELL = 4
"""Blocks: commands that are under way at once are on cells of their own, so that their order does
not matter."""

operation = st.tuples(
    st.sampled_from(["read", "write", "zero", "trim", "spoil", "copy"]),
    st.integers(0, BLOCKS // CELL - 1),
    st.integers(1, CELL),
    st.integers(0, 255),
)
batch = st.tuples(
    st.lists(operation, min_size=1, max_size=16, unique_by=lambda each: each[1]),
    st.randoms(use_true_random=False),
    st.sampled_from(["queued", "queued", "save", "one by one", "reset"]),
    st.booleans(),
)


class Model:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.puppet = PuppetDisk(RamDisk(BLOCKS * 512), lambda *_: False)
        self.bench = Bench(engine, {1: self.puppet})
        self.bench.enable()
        self.driver = self.bench.driver()
        self.disk = self.driver.namespace(1)
        self.blocks: dict[int, bytes | None] = {}
        """None is a block that was made bad; one that is not there is zeroes."""

    def expected(self, lba: int, count: int) -> bytes | None:
        parts = [self.blocks.get(lba + n, bytes(512)) for n in range(count)]
        return None if None in parts else b"".join(part or b"" for part in parts)

    def fill(self, lba: int, count: int, data: bytes | None) -> None:
        for n in range(count):
            self.blocks[lba + n] = None if data is None else data[512 * n : 512 * (n + 1)]

    def begin(self, slot: int, kind: str, lba: int, count: int, seed: int) -> int:
        disk: NvmeNamespace = self.disk
        if kind == "read":
            return disk.prepare_read(slot, lba, count)
        if kind == "write":
            return disk.prepare_write(slot, lba, noise(count * 512, seed))
        opcode = 0x04 if kind == "spoil" else 0x08
        bits = 1 << 25 if kind == "trim" else 0
        return disk.queue.put(disk._ranged(opcode, lba, count, bits=bits, slot=slot))

    def ended(self, slot: int, kind: str, lba: int, count: int, seed: int, status: int) -> None:
        if kind == "read":
            expected = self.expected(lba, count)
            assert status == (Status.UNRECOVERED_READ_ERROR if expected is None else 0)
            assert expected is None or self.disk.taken(slot, count * 512) == expected
            return
        assert status == 0
        written = {"write": noise(count * 512, seed), "spoil": None}
        self.fill(lba, count, written.get(kind, bytes(count * 512)))


@settings(max_examples=60, deadline=None)
@given(st.lists(batch, min_size=1, max_size=6))
def test_any_commands_at_any_depth_in_any_order(batches: list) -> None:  # type: ignore[type-arg]
    engine = Engine(workers=0)
    try:
        model = Model(engine)
        for operations, order, how, in_memory in batches:
            run(model, operations, order, how, in_memory)
    finally:
        engine.close()


def run(model: Model, operations: list, order: Random, how: str, in_memory: bool) -> None:  # type: ignore[type-arg]
    driver, puppet = model.driver, model.puppet
    if how == "reset":
        driver.enable()
        driver.create_queues(1, 64)
        model.disk = driver.namespace(1)
        if in_memory:
            driver.use_doorbell_buffers()
        return
    jobs = [(slot, kind if kind != "copy" else "write", cell * CELL, count, seed)
            for slot, (kind, cell, count, seed) in enumerate(operations)]  # fmt: skip
    queue = model.disk.queue
    if how == "one by one":
        for job in jobs:
            cid = model.begin(*job)
            queue.ring()
            model.ended(*job, queue.wait(cid).status >> 1 & 0x7FF)
        for _, cell, count, seed in operations:
            to = seed % (BLOCKS // CELL) * CELL
            if model.expected(cell * CELL, count) is not None and to != cell * CELL:
                model.disk.copy([(cell * CELL, count)], to)
                model.fill(to, count, model.expected(cell * CELL, count))
        return
    puppet.holds = lambda *_: True
    ids = {model.begin(*job): job for job in jobs}
    queue.ring()
    model.bench.settle(3)
    if how == "save":
        old = puppet.held
        model.bench = model.bench.replaced({1: puppet})
        for each in old:
            each.cancel()  # the machine that was saved is no more
        driver.mmio = model.bench.mmio
        model.bench.settle(3)
    while puppet.held:
        held = puppet.held
        order.shuffle(held)
        for each in held[: order.randint(1, 16)]:
            each.complete()
        model.bench.settle(3)
    puppet.holds = lambda *_: False
    for cid, job in ids.items():
        model.ended(*job, queue.wait(cid).status >> 1 & 0x7FF)
