"""The same rules on every sort of core do the same, as far as there is a same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivebay.disk.scanner import SpecError
from drivebay.lab.language import parse_rule
from drivebay.lab.rules import Direction
from drivebay.platform.engine import Engine
from tests.ide.support import content, filled, noise

from .rigs import MIB, PATIENCE, RIGS, Failed, Lost, Rig, VirtioRig

ORIGINAL = noise(MIB, 1)
DATA = noise(4096, 7)
STATUS = {
    "virtio-blk": "ioerr",
    "scsi": "write-error",
    "storvsp": "write-error",
    "nvme": "write-fault",
}
"""What a write fails with; elsewhere ABRT."""


@pytest.fixture(params=list(RIGS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(name: str, engine: Engine) -> Iterator[Rig]:
    rig = RIGS[name](engine)
    yield rig
    rig.torment.close()
    rig.reset()
    assert rig.read(100, 8) == content(rig.disk)[51200:55296]  # it goes on as if nothing had been


def test_a_status(rig: Rig, name: str) -> None:
    status = STATUS.get(name, "abrt")
    rig.rules(f"write,nth=2:status={status}", f"write,nth=3:status={status},late")
    rig.write(0, DATA)
    for lba in (8, 16):
        with pytest.raises(Failed):
            rig.write(lba, DATA)
    rig.write(24, DATA)
    assert content(rig.disk)[: 32 * 512] == DATA + ORIGINAL[4096:8192] + DATA * 2
    found = [(each.subject.lba, each.subject.count) for each in rig.torment.faults.firings]
    assert found == [(8, 8), (16, 8)]
    assert all(each.subject.direction is Direction.WRITE for each in rig.torment.faults.firings)


def test_an_error_of_the_disk(rig: Rig) -> None:
    rig.rules("read,lba=9:error=unrecovered-read", "write:error=io")
    with pytest.raises(Failed):
        rig.read(8, 8)
    assert rig.read(16, 8) == ORIGINAL[8192:12288]
    with pytest.raises(Failed):
        rig.write(0, DATA)
    assert content(rig.disk) == ORIGINAL


def test_delay_and_hold(rig: Rig, name: str) -> None:
    rig.rules("read,nth=1:delay=1ms", "io,nth=2:hold")
    before = rig.engine.now
    rig.patient(1 << 40)  # as long as it takes
    assert rig.read(0, 8) == ORIGINAL[:4096]
    rig.patient(PATIENCE)
    assert rig.engine.now - before >= 0.001
    with pytest.raises(Lost):
        rig.read(0, 8)
    assert rig.torment.faults.release() == (name != "ide")  # whose driver has stopped the DMA
    rig.settle()
    rig.reset()
    assert rig.read(0, 8) == ORIGINAL[:4096]


@pytest.mark.parametrize(("action", "acts"), [("drop", True), ("ignore", False)])
def test_an_end_that_nobody_hears_of(rig: Rig, action: str, acts: bool) -> None:
    rig.rules(f"write,nth=1:{action}")
    with pytest.raises(Lost):
        rig.write(0, DATA)
    rig.reset()
    assert rig.read(0, 8) == (DATA if acts else ORIGINAL[:4096])


def test_an_end_that_is_a_lie(rig: Rig) -> None:
    rig.rules("write,nth=1:skip")
    rig.write(0, DATA)
    rig.write(8, DATA)
    assert content(rig.disk)[:8192] == ORIGINAL[:4096] + DATA
    rig.rules("read,nth=1:skip")
    assert rig.read(0, 8) != ORIGINAL[:4096]
    assert rig.read(0, 8) == ORIGINAL[:4096]


def test_wrong_bits(rig: Rig) -> None:
    rig.rules("read,nth=1:corrupt=3", "write:corrupt")
    wrong = int.from_bytes(rig.read(0, 8)) ^ int.from_bytes(ORIGINAL[:4096])
    assert wrong.bit_count() == 3
    rig.write(8, DATA)
    wrong = int.from_bytes(content(rig.disk)[4096:8192]) ^ int.from_bytes(DATA)
    assert wrong.bit_count() == 1
    rig.rules("read:patch,at=510,hex=cafe01")
    assert rig.read(0, 8)[508:515] == ORIGINAL[508:510] + b"\xca\xfe\x01" + ORIGINAL[513:515]


def test_a_torn_write(rig: Rig) -> None:
    rig.rules("write,nth=1:torn=3", "write,nth=2:torn=0", "write,nth=3:torn")
    for lba in (0, 8, 16):
        rig.write(lba, DATA)
    found = content(rig.disk)
    assert found[:4096] == DATA[:1536] + ORIGINAL[1536:4096]
    assert found[4096:8192] == ORIGINAL[4096:8192]
    assert found[8192:12288] in [
        DATA[:kept] + ORIGINAL[8192 + kept : 12288] for kept in range(0, 4096, 512)
    ]


def test_a_torn_write_of_large_sectors(engine: Engine) -> None:
    rig = VirtioRig(engine, filled(MIB, 1, 4096))
    rig.rules("write,nth=1:torn=15")
    rig.write(0, DATA * 2)
    assert content(rig.disk)[:8192] == DATA + ORIGINAL[4096:8192]


def test_the_wrong_place(rig: Rig) -> None:
    rig.rules("read,lba=0:misdirect=+16", "write:misdirect=-8")
    assert rig.read(0, 8) == ORIGINAL[8192:12288]
    rig.write(24, DATA)
    assert content(rig.disk)[8192:16384] == DATA + ORIGINAL[12288:16384]
    rig.rules("read:misdirect=+100000000")
    with pytest.raises(Failed):
        rig.read(0, 8)


def test_death(rig: Rig) -> None:
    rig.rules("write,nth=1:die")
    with pytest.raises(Lost):
        rig.write(0, DATA)
    rig.torment.faults.clear()
    rig.reset()
    assert rig.read(0, 8) == ORIGINAL[:4096]


def test_the_same_seed_gives_the_same_run(name: str, engine: Engine) -> None:
    runs = []
    status = STATUS.get(name, "abrt")
    for seed in (5, 5, 6):
        rig = RIGS[name](engine)
        rig.rules(f"read,p=0.3,seed={seed}:status={status}", f"read,p=0.2,seed={seed}:corrupt")
        run: list[bytes | None] = []
        for lba in range(40):
            try:
                run.append(rig.read(lba, 1))
            except Failed:
                run.append(None)
        runs.append(run)
        rig.torment.close()
    assert runs[0] == runs[1] != runs[2]
    assert 3 < runs[0].count(None) < 30


def test_what_makes_no_sense_is_said(rig: Rig, name: str) -> None:
    with pytest.raises(SpecError, match="expected a condition"):
        parse_rule("read,nonsense=1:drop", rig.vocabulary)
    if rig.vocabulary.controller == "ata":
        with pytest.raises(SpecError, match="expected what there is for ata commands"):
            parse_rule("read:duplicate", rig.vocabulary)
    if name in ("virtio-blk", "ide"):
        with pytest.raises(ValueError, match="nothing can be taken away"):
            rig.rules("read:remove")


def test_without_rules_nobody_looks_on(rig: Rig) -> None:
    rig.torment.close()
    rig.write(0, DATA)
    assert rig.read(0, 8) == DATA
    assert not rig.torment.faults.firings
