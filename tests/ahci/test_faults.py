"""Disks that fail, and bugs of ours: a status for one command, and the drive goes on."""

from __future__ import annotations

import errno
import logging

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import (
    DiskError,
    IllegalBlock,
    IoError,
    Medium,
    MediumError,
    MemoryAccess,
    NoSpace,
    ReadOnly,
    ReservationConflict,
)
from drivebay.disk.filters.base import Filter
from drivebay.drivers.ahci import AhciDisk, AhciError
from drivebay.platform.engine import Engine
from tests.ide.support import filled, noise

from .conftest import MakeBench

MIB = 1 << 20
ABRT, IDNF, UNC = 0x04, 0x10, 0x40


class Failing(Filter):
    """Raises `error` for every read and write of sector 5."""

    kind = "failing"
    error: Exception = DiskError("none")

    async def read(self, sector: int, buffers: Buffers) -> None:
        if sector == 5:
            raise self.error
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        if sector == 5:
            raise self.error
        await self.below.write(sector, buffers, fua)


@pytest.fixture
def failing() -> Failing:
    return Failing(filled(MIB, 1))


@pytest.fixture
def disk(make_bench: MakeBench, engine: Engine, failing: Failing) -> AhciDisk:
    return make_bench({0: AtaDisk(failing, engine)}).driver().disk(0)


@pytest.mark.parametrize(
    ("error", "bits"),
    [
        (IoError(errno.EIO, "read"), ABRT),
        (NoSpace(errno.ENOSPC, "write"), ABRT),
        (MediumError(Medium.UNRECOVERED_READ, 5), UNC),
        (MediumError(Medium.WRITE_FAULT, 5), ABRT),
        (IllegalBlock(5, 1, 2), IDNF),
        (MemoryAccess("gone"), ABRT),
        (ReadOnly("no"), ABRT),
        (ReservationConflict("no"), ABRT),
    ],
)
def test_hostile_4_8_what_the_disk_raises(
    disk: AhciDisk, failing: Failing, error: DiskError, bits: int
) -> None:
    failing.error = error
    for opcode in (Opcode.READ_DMA_EXT, Opcode.READ_SECTORS_EXT):
        with pytest.raises(AhciError) as failure:
            disk.read(5, 1, opcode)
        assert failure.value.error & bits and failure.value.status.ERR
        assert disk.port.moved(0) == 0
        disk.port.restart()
    for opcode in (Opcode.WRITE_DMA_EXT, Opcode.WRITE_SECTORS_EXT):
        with pytest.raises(AhciError) as failure:
            disk.write(5, bytes(512), opcode)
        assert failure.value.error & bits
        disk.port.restart()
    with pytest.raises(AhciError) as failure:
        disk.read_queued([(0, 1), (5, 1), (6, 1)])
    assert failure.value.error & bits
    log = disk.recover()
    assert (log.tag, log.lba) == (1, 5)
    with pytest.raises(AhciError):
        disk.write_queued([(0, noise(512)), (5, bytes(512))])
    assert disk.recover().tag == 1
    assert disk.read_queued([(6, 1)]) == [noise(MIB, 1)[6 * 512 : 7 * 512]]


@pytest.mark.parametrize("queued", [False, True])
def test_hostile_4_8_bugs_of_ours(
    disk: AhciDisk, failing: Failing, queued: bool, caplog: pytest.LogCaptureFixture
) -> None:
    failing.error = ZeroDivisionError("ours")
    with pytest.raises(AhciError) as failure:
        _ = disk.read_queued([(5, 1)]) if queued else disk.read(5, 1)
    assert failure.value.error.ABRT
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None and "ours" in str(record.exc_info[1])
    caplog.clear()
    if queued:
        assert disk.recover().tag == 0
    else:
        disk.port.restart()
    assert disk.read(6, 1) == noise(MIB, 1)[6 * 512 : 7 * 512]


def test_the_error_is_that_of_the_command_that_failed(disk: AhciDisk, failing: Failing) -> None:
    """A queued command that fails, and one that comes after it in the same breath."""
    failing.error = MediumError(Medium.UNRECOVERED_READ, 5)
    for tag, lba in enumerate((9, 5, 7)):
        disk.prepare_read(tag, lba, 1)
    disk.port.issue(0b111, queued=True)
    with pytest.raises(AhciError) as failure:
        disk.port.finish(0b111)
    assert failure.value.error.UNC
    assert disk.port.get("CI") == 0b101  # these were not even fetched
    assert disk.recover().tag == 1
