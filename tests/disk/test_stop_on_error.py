"""StopOnError: a failed operation waits, and is tried again."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk, Operation
from drivebay.disk.errors import (
    DiskError,
    IllegalBlock,
    IoError,
    Medium,
    MediumError,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.filters.stop_on_error import StopOnError
from drivebay.platform.engine import Engine
from drivebay.suspend import Cancelled
from drivebay.testing import PuppetDisk


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(workers=0)
    yield engine
    engine.close()


OPERATIONS = {
    "read": lambda disk: disk.read(1, [memoryview(bytearray(512))]),
    "write": lambda disk: disk.write(1, [memoryview(b"x" * 512)]),
    "flush": lambda disk: disk.flush(),
    "unmap": lambda disk: disk.unmap(1, 1),
    "write_zeroes": lambda disk: disk.write_zeroes(1, 1),
}


class Stand:
    """A disk that fails when told, behind the filter, and what became of one operation."""

    def __init__(self, engine: Engine, hold: bool = True) -> None:
        self.engine = engine
        self.told: list[tuple[str, DiskError]] = []
        self.puppet = PuppetDisk(RamDisk(1 << 20))
        self.ends: list[BaseException | None] = []

        def failed(name: str, error: IoError | MediumError) -> bool:
            self.told.append((name, error))
            return hold

        self.disk = StopOnError(self.puppet, failed)

    def start(self, operation: Operation) -> object:
        return self.engine.start(operation, lambda _, error: self.ends.append(error))

    def fail(self, error: DiskError) -> None:
        self.puppet.wait()[0].fail(error)
        self.engine.turn(0)

    def complete(self) -> None:
        self.puppet.wait()[0].complete()
        self.engine.run_until(lambda: bool(self.ends))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_tried_until_it_works(engine: Engine, name: str) -> None:
    stand = Stand(engine)
    stand.start(OPERATIONS[name](stand.disk))
    errors = [NoSpace(errno.ENOSPC, "disk"), MediumError(Medium.WRITE_FAULT, 1)]
    for error in errors:
        stand.fail(error)
        assert stand.disk.held == 1
        assert not stand.ends
        stand.disk.resume()
        engine.turn(0)
    stand.complete()
    assert stand.ends == [None]
    assert stand.told == [(name, error) for error in errors]
    assert stand.disk.held == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_not_held_fails(engine: Engine, name: str) -> None:
    stand = Stand(engine, hold=False)
    stand.start(OPERATIONS[name](stand.disk))
    error = IoError(errno.EIO, "disk")
    stand.fail(error)
    assert stand.ends == [error]
    assert stand.told == [(name, error)]


@pytest.mark.parametrize("error", [IllegalBlock(9, 1, 8), ReadOnly("no")])
def test_a_guests_mistake_is_no_reason_to_stop(engine: Engine, error: DiskError) -> None:
    stand = Stand(engine)
    stand.start(stand.disk.flush())
    stand.fail(error)
    assert stand.ends == [error]
    assert not stand.told


def test_a_reset_gives_up_what_is_held(engine: Engine) -> None:
    stand = Stand(engine)
    task = stand.start(stand.disk.flush())
    stand.fail(IoError(errno.EIO, "disk"))
    assert task.cancel()  # type: ignore[attr-defined]
    assert isinstance(stand.ends[0], Cancelled)
    stand.disk.resume()
    engine.turn(0)
    assert not stand.puppet.held


def test_the_rest_is_the_disk_below(engine: Engine) -> None:
    below: Disk = RamDisk(1 << 20)
    disk = StopOnError(below, lambda name, error: True)
    assert disk.resize == below.resize
    assert disk.sector_count == below.sector_count


def test_it_closes_when_nothing_is_under_way(engine: Engine) -> None:
    stand = Stand(engine)
    closed: list[bool] = []
    stand.puppet.close = lambda: closed.append(True)  # type: ignore[method-assign]
    stand.start(stand.disk.read(0, [memoryview(bytearray(512))]))
    stand.disk.close()
    assert not closed
    stand.complete()
    assert closed == [True]
    assert stand.ends == [None]
