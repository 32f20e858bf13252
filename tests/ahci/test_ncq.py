"""Queued commands."""

from __future__ import annotations

import logging

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.logs import DIRECTORY, NCQ_NON_DATA_LOG, NCQ_SEND_RECEIVE
from drivebay.ata.registers import Opcode
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import Medium, MediumError
from drivebay.drivers.ahci import AhciDisk, AhciError
from drivebay.platform.engine import Engine
from drivebay.testing.puppet import PuppetDisk
from drivebay.testing.recording import RecordingDisk
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .support import Stubborn

MIB = 1 << 20


def make_disk(make_bench: MakeBench, engine: Engine, disk: object) -> AhciDisk:
    return make_bench({0: AtaDisk(disk, engine)}).driver().disk(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("depth", [1, 2, 31, 32])
def test_round_trips(make_bench: MakeBench, engine: Engine, depth: int, sector_size: int) -> None:
    backend = filled(8 * MIB, 1, sector_size)
    disk = make_disk(make_bench, engine, backend)
    spans = [(tag * 40 + 3, 1 + tag % 9) for tag in range(depth)]
    before = content(backend)
    expected = [before[lba * sector_size :][: count * sector_size] for lba, count in spans]
    assert disk.read_queued(spans) == expected
    data = [noise(count * sector_size, tag) for tag, (_, count) in enumerate(spans)]
    disk.write_queued([(lba, each) for (lba, _), each in zip(spans, data, strict=True)])
    assert disk.read_queued(spans) == data


def test_65536_sectors(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, filled(33 * MIB, 3))
    at = disk.port.buffer(0, 32 * MIB)
    disk.prepare_read(0, 9, 65536, [(at, MIB)] * 31 + [(at + MIB, MIB)])
    disk.port.issue(1, queued=True)
    disk.port.finish(1)
    data = disk.port.memory.view(at, 2 * MIB)
    assert data[MIB:] == noise(33 * MIB, 3)[9 * 512 + 31 * MIB :][:MIB]


def test_completions_out_of_order(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(filled(MIB, 4))
    puppet.holds = lambda name, _sector, _count: name == "read"
    disk = make_disk(make_bench, engine, puppet)
    for tag in range(8):
        disk.prepare_read(tag, tag, 1)
    disk.port.issue(0xFF, queued=True)
    waiting = 0xFF
    for operation in reversed(puppet.wait(8)):
        operation.complete()
        waiting &= ~(1 << operation.sector)
        disk.port.finish(0xFF & ~waiting)
        assert disk.port.get("SACT") == waiting
        assert disk.taken(operation.sector, 512) == noise(MIB, 4)[operation.sector * 512 :][:512]


def test_fua(make_bench: MakeBench, engine: Engine) -> None:
    backend = RamDisk(MIB)
    backend.volatile_cache = True
    recording = RecordingDisk(backend)
    disk = make_disk(make_bench, engine, recording)
    disk.write_queued([(0, bytes(512))])
    disk.write_queued([(1, bytes(512))], fua=True)
    assert [call.fua for call in recording.calls] == [False, True]


def test_queued_trim(make_bench: MakeBench, engine: Engine) -> None:
    backend = filled(MIB, 5)
    disk = make_disk(make_bench, engine, backend)
    disk.prepare_trim(3, [(10, 5), (20, 1)])
    disk.port.issue(8, queued=True)
    disk.port.finish(8)
    assert content(backend)[5120 : 15 * 512] == bytes(5 * 512)
    assert disk.read_log(NCQ_SEND_RECEIVE)[:8] == bytes([1, 0, 0, 0, 1, 0, 0, 0])


def test_abort(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(RamDisk(MIB), lambda name, sector, _count: sector > 0)
    disk = make_disk(make_bench, engine, puppet)
    assert disk.read_log(NCQ_NON_DATA_LOG)[0] == 0b11011
    for kind, target, left in ((3, 4, 0b101110), (0, 0, 0)):
        for tag in range(1, 6):
            disk.prepare_read(tag, tag, 1)
        disk.port.issue(0b111110, queued=True)
        held = puppet.wait(5)
        disk.prepare_abort(0, kind, target)
        disk.port.issue(1, queued=True)
        disk.port.finish(1)
        assert disk.port.get("SACT") == left
        assert [op.sector for op in held if op.cancelled] == ([4] if left else [1, 2, 3, 4, 5])
        puppet.complete_all()
        disk.port.finish(0b111110)
    disk.prepare_abort(5, 3, 5)  # itself
    disk.port.issue(1 << 5, queued=True)
    with pytest.raises(AhciError) as refusal:
        disk.port.finish(1 << 5)
    assert refusal.value.error.ABRT
    assert disk.recover().tag == 5


def test_an_error_gives_all_up_and_the_log_says_which(
    make_bench: MakeBench, engine: Engine
) -> None:
    puppet = PuppetDisk(filled(MIB, 6), lambda name, sector, _count: sector > 0)
    disk = make_disk(make_bench, engine, puppet)
    for tag in range(32):
        disk.prepare_read(tag, 8 + tag * 8, 8)
    disk.port.issue(0xFFFFFFFF, queued=True)
    held = puppet.wait(32)
    by_tag = {(operation.sector - 8) // 8: operation for operation in held}
    by_tag[3].complete()
    disk.port.finish(1 << 3)
    by_tag[7].fail(MediumError(Medium.UNRECOVERED_READ, 8 + 7 * 8 + 2))
    with pytest.raises(AhciError) as failure:
        disk.port.finish(0xFFFFFFFF)
    assert failure.value.error.UNC and failure.value.interrupts.SDBS
    assert all(op.cancelled for tag, op in by_tag.items() if tag not in (3, 7))
    assert disk.port.get("SACT") == 0xFFFFFFF7
    log = disk.recover()
    assert (log.tag, log.status, log.error, log.lba) == (7, 0x51, 0x40, 8 + 7 * 8 + 2)
    assert sum(log.pack()) & 0xFF == 0
    puppet.holds = lambda *_: False
    assert (
        disk.read_queued([(8 + tag * 8, 8) for tag in range(32)])[7]
        == noise(MIB, 6)[64 * 512 :][:4096]
    )
    assert disk.read_log(0x10)[0] == 0x80  # told once


def test_until_the_log_is_read_everything_is_refused(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, RamDisk(MIB))
    disk.prepare_read(5, 2048, 1)
    disk.port.issue(1 << 5, queued=True)
    with pytest.raises(AhciError) as failure:
        disk.port.finish(1 << 5)
    assert failure.value.error.IDNF
    disk.port.restart()
    for attempt in (lambda: disk.read(0, 1), lambda: disk.read_queued([(0, 1)])):
        with pytest.raises(AhciError) as refusal:
            attempt()
        assert refusal.value.error.ABRT
        disk.port.restart()
    assert disk.recover().tag == 5
    assert disk.read(0, 1) == bytes(512)
    disk.prepare_read(5, 2048, 1)
    disk.port.issue(1 << 5, queued=True)
    with pytest.raises(AhciError):
        disk.port.finish(1 << 5)
    disk.port.comreset()  # a reset does as well
    assert disk.read_queued([(0, 1)]) == [bytes(512)]


def test_a_command_that_is_not_queued_must_not_come_between(
    make_bench: MakeBench, engine: Engine
) -> None:
    puppet = PuppetDisk(RamDisk(MIB), lambda name, sector, _count: sector > 0)
    disk = make_disk(make_bench, engine, puppet)
    disk.prepare_read(1, 1, 1)
    disk.port.issue(2, queued=True)
    [held] = puppet.wait(1)
    with pytest.raises(AhciError) as refusal:
        disk.read(0, 1)
    assert refusal.value.error.ABRT and held.cancelled
    assert disk.recover().tag == 0x80  # not a queued one


def test_the_same_tag_twice(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(RamDisk(MIB))
    disk = make_disk(make_bench, engine, puppet)
    disk.prepare_read(1, 1, 1)
    disk.port.issue(2, queued=True)
    puppet.wait(1)
    disk.port.issue(2, queued=True)
    with pytest.raises(AhciError) as refusal:
        disk.port.finish(2)
    assert refusal.value.error.ABRT
    assert disk.recover().tag == 1


def test_logs(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, RamDisk(MIB))
    for dma in (False, True):
        directory = disk.read_log(DIRECTORY, dma=dma)
        pages = {n: directory[2 * n] for n in range(256) if directory[2 * n]}
        assert pages == {0: 1, 0x10: 1, 0x12: 1, 0x13: 1} | dict.fromkeys(range(0x80, 0xA0), 16)
        disk.write_log(0x85, noise(1024, dma), dma=dma)
        assert disk.read_log(0x85, 2, dma=dma) == noise(1024, dma)
        assert disk.read_log(0x85, 1, 1, dma=dma) == noise(1024, dma)[512:]
    for address, pages_wanted, page in ((0x30, 1, 0), (0x10, 2, 0), (0x80, 0, 0), (0x80, 1, 16)):
        with pytest.raises(AhciError) as refusal:
            disk.read_log(address, pages_wanted, page)
        assert refusal.value.error.ABRT
        disk.port.restart()


def test_sectors_declared_bad(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, filled(MIB, 8))
    disk.write_uncorrectable(100, 3)
    for count, opcode in ((1, Opcode.READ_DMA_EXT), (8, Opcode.READ_SECTORS_EXT)):
        with pytest.raises(AhciError) as failure:
            disk.read(101, count, opcode)
        assert failure.value.error.UNC
        disk.port.restart()
    with pytest.raises(AhciError) as failure:
        disk.read_queued([(96, 4), (96, 8)])
    assert failure.value.error.UNC
    log = disk.recover()
    assert (log.tag, log.lba) == (1, 100)
    with pytest.raises(AhciError):
        disk.verify(0, 128)
    disk.port.restart()
    disk.write(100, bytes(512))
    disk.write_queued([(101, bytes(512))])
    disk.trim([(102, 1)])
    assert disk.read(96, 8)[4 * 512 : 7 * 512] == bytes(1536)


def test_what_is_logged(
    make_bench: MakeBench, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    disk = make_disk(make_bench, engine, RamDisk(MIB))
    with caplog.at_level(logging.DEBUG, "drivebay.ata"):
        disk.read_queued([(16, 8), (32, 1)])
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "READ FPDMA QUEUED 0x20+0x1 tag 1 -> 50",
        "READ FPDMA QUEUED 0x10+0x8 tag 0 -> 50",
    ]


def test_a_failure_is_told_when_nothing_moves_data_any_more(
    make_bench: MakeBench, engine: Engine
) -> None:
    """System calls under way cannot be called back: the guest must not use their memory yet."""
    puppet = Stubborn(filled(MIB, 9), lambda _name, sector, _count: sector > 0)
    disk = make_disk(make_bench, engine, puppet)
    for tag in range(4):
        disk.prepare_read(tag, 1 + tag, 1)
    disk.port.issue(0xF, queued=True)
    by_tag = {operation.sector - 1: operation for operation in puppet.wait(4)}
    by_tag[2].fail(MediumError(Medium.UNRECOVERED_READ, 3))
    engine.turn(0)
    assert not disk.port.get("IS") and disk.port.get("SACT") == 0xF
    by_tag[0].complete()
    by_tag[1].complete()
    engine.turn(0)
    assert not disk.port.get("IS")
    by_tag[3].fail(MediumError(Medium.UNRECOVERED_READ, 4))
    with pytest.raises(AhciError) as failure:
        disk.port.finish(0xF)
    assert failure.value.error.UNC
    disk.port.restart()
    with pytest.raises(AhciError) as refusal:
        disk.read(0, 1)
    assert refusal.value.error.ABRT and not refusal.value.error.UNC
    log = disk.recover()
    assert (log.tag, log.lba) == (2, 3)
