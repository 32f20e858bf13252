"""What controllers ask of their disks is recorded, while somebody records."""

from __future__ import annotations

import io

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.conformance import check_filter
from drivebay.disk.errors import IllegalBlock
from drivebay.lab.trace.disks import TracedDisk
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.story import Audience, DiskOperation, tell
from drivebay.platform.engine import Engine
from drivebay.suspend import Cancelled, run
from drivebay.testing.puppet import PuppetDisk
from tests.lab.trace.support import Recording

MIB = 1 << 20


def test_it_is_a_filter() -> None:
    check_filter(TracedDisk)


class Heard(Audience):
    def __init__(self) -> None:
        self.operations: list[DiskOperation] = []

    def disk(self, operation: DiskOperation) -> None:
        self.operations.append(operation)


def operations(recording: Recording) -> list[DiskOperation]:
    audience = Heard()
    tell(recording.records, audience)
    return audience.operations


def buffers(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def test_operations() -> None:
    recording = Recording()
    recorder = recording.recorder
    disk = TracedDisk(RamDisk(MIB))
    run(disk.write(4, [memoryview(b"abcd" * 256)]))  # nobody records yet
    disk.record(recorder, recorder.source(Source("vda", sector_size=512)), data=6)
    run(disk.write(0, [memoryview(b"1" * 512), memoryview(b"2" * 512)], fua=True))
    run(disk.read(4, buffers(4, 508)))
    run(disk.flush())
    run(disk.unmap(8, 8))
    run(disk.write_zeroes(16, 8))
    with pytest.raises(IllegalBlock):
        run(disk.read(MIB, buffers(512)))
    disk.record(None)
    run(disk.flush())
    found = operations(recording)
    assert [(each.name, each.sector, each.count) for each in found] == [
        *(("write", 0, 2), ("read", 4, 1), ("flush", 0, 0), ("unmap", 8, 8)),
        *(("write_zeroes", 16, 8), ("read", MIB, 1)),
    ]
    assert [each.data for each in found[:3]] == [b"111111", b"abcdab", b""]
    assert [bool(each.error) for each in found] == [False] * 5 + [True]
    assert all(each.began <= each.ended for each in found)


def test_one_that_is_given_up(engine: Engine) -> None:
    """By a reset of its controller."""
    recording = Recording()
    recorder = recording.recorder
    below = PuppetDisk(RamDisk(MIB), lambda *_: True)
    disk = TracedDisk(below)
    disk.record(recorder, recorder.source(Source("vda")), data=512)
    ends: list[BaseException | None] = []
    task = engine.start(disk.read(0, buffers(512)), lambda _value, error: ends.append(error))
    assert task is not None and task.cancel()
    assert isinstance(ends[0], Cancelled)
    [operation] = operations(recording)
    assert (operation.error, operation.data) == ("Cancelled", b"")


def test_what_was_recorded_is_what_was_read() -> None:
    """Nothing of the buffers is kept: what a guest does with them later changes no trace."""
    recording = Recording()
    recorder = recording.recorder
    disk = TracedDisk(RamDisk(MIB))
    disk.record(recorder, recorder.source(Source("vda")), data=512)
    [buffer] = buffers(512)
    run(disk.read(0, [buffer]))
    buffer[:] = b"x" * 512
    assert io.BytesIO(operations(recording)[0].data).read() == bytes(512)
