"""The drive against a bytearray: any commands, at any depth, that end in any order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciDisk
from drivebay.platform.engine import Engine
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import noise

from .support import Bench

SECTORS = 64
CELL = 2
"""Sectors: commands that are under way at once are on cells of their own, so that their order does
not matter."""

operation = st.tuples(
    st.sampled_from(["read", "write", "trim"]),
    st.integers(0, SECTORS // CELL - 1),
    st.integers(1, CELL),
    st.integers(0, 255),
)
batch = st.tuples(
    st.lists(operation, min_size=1, max_size=32, unique_by=lambda each: each[1]),
    st.randoms(use_true_random=False),
    st.sampled_from(["queued", "dma", "pio", "flush", "save"]),
)


class Model:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.backend = RamDisk(SECTORS * 512)
        self.backend.volatile_cache = True
        self.puppet = PuppetDisk(self.backend)
        self.bench = Bench(engine, {0: AtaDisk(self.puppet, engine)})
        self.bench.enable()
        self.puppet.holds = lambda *_: False
        self.driver = self.bench.driver()
        self.disk = self.driver.disk(0)
        self.expected = bytearray(SECTORS * 512)

    def prepare(self, tag: int, kind: str, lba: int, count: int, seed: int) -> None:
        disk: AhciDisk = self.disk
        if kind == "read":
            disk.prepare_read(tag, lba, count)
        elif kind == "write":
            disk.prepare_write(tag, lba, noise(count * 512, seed))
        else:
            disk.prepare_trim(tag, [(lba, count)])

    def effect(self, tag: int, kind: str, lba: int, count: int, seed: int) -> None:
        part = slice(lba * 512, (lba + count) * 512)
        if kind == "read":
            assert self.disk.taken(tag, count * 512) == self.expected[part]
        else:
            self.expected[part] = (
                noise(count * 512, seed) if kind == "write" else bytes(count * 512)
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(batch, min_size=1, max_size=6))
def test_any_commands_at_any_depth_in_any_order(batches: list) -> None:  # type: ignore[type-arg]
    engine = Engine(workers=0)
    try:
        run(Model(engine), batches)
    finally:
        engine.close()


def run(model: Model, batches: list) -> None:  # type: ignore[type-arg]
    disk, puppet, engine = model.disk, model.puppet, model.engine
    for operations, order, how in batches:
        if how in ("dma", "pio"):
            read, write = (
                (Opcode.READ_DMA_EXT, Opcode.WRITE_DMA_EXT)
                if how == "dma"
                else (Opcode.READ_SECTORS_EXT, Opcode.WRITE_SECTORS_EXT)
            )
            for kind, cell, count, seed in operations:
                part = slice(cell * CELL * 512, (cell * CELL + count) * 512)
                if kind == "read":
                    assert disk.read(cell * CELL, count, read) == model.expected[part]
                else:
                    model.expected[part] = noise(count * 512, seed)
                    disk.write(cell * CELL, noise(count * 512, seed), write)
            continue
        if how == "flush":
            disk.flush()
        puppet.holds = lambda *_: True
        jobs = [
            (tag, kind, cell * CELL, count, seed)
            for tag, (kind, cell, count, seed) in enumerate(operations)
        ]
        for job in jobs:
            model.prepare(*job)
        mask = (1 << len(jobs)) - 1
        disk.port.issue(mask, queued=True)
        if how == "save":
            held = puppet.wait(len(jobs))
            drive = AtaDisk(puppet, engine)
            other = model.bench.replaced({0: drive})
            for each in held:
                each.cancel()  # the machine that was saved is no more
            model.bench = other
            model.driver.mmio = other.mmio
            model.driver.raised = lambda other=other: other.level
        while disk.port.get("SACT"):
            held = puppet.held
            order.shuffle(held)
            for each in held[: order.randint(1, 32)]:
                each.complete()
            engine.turn(0)
        puppet.holds = lambda *_: False
        disk.port.finish(mask)
        for job in jobs:
            model.effect(*job)
    assert disk.read(0, SECTORS) == model.expected
