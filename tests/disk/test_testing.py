"""The disks that `drivebay.testing` gives to tests."""

from __future__ import annotations

import errno
import threading

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import IoError
from drivebay.suspend import run
from drivebay.testing import Call, PuppetDisk, RecordingDisk
from tests.disk.support import Stepped, get, noise, put, view


def test_a_held_operation_has_no_effect_before_it_is_completed() -> None:
    below = RamDisk(1 << 16)
    puppet = PuppetDisk(below)
    write = Stepped(puppet.write(3, [memoryview(noise(512))]))
    [held] = puppet.wait()
    assert (held.name, held.sector, held.count, write.done) == ("write", 3, 1, False)
    assert get(below, 3, 1) == bytes(512)
    held.complete()
    assert write.done
    assert get(below, 3, 1) == noise(512)
    assert puppet.held == []
    held.complete()
    held.fail(IoError(errno.EIO, "late"))


def test_a_held_operation_fails_as_the_test_says() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    buffer = view(512)
    buffer[:] = noise(512)
    read = puppet.read(0, [buffer])
    stepped = Stepped(read)
    with pytest.raises(IoError, match="cable"):
        puppet.held[0].fail(IoError(errno.EIO, "cable"))
    assert not stepped.done
    assert buffer == noise(512)


def test_a_cancelled_operation_is_gone() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    stepped = Stepped(puppet.write_zeroes(0, 1))
    [held] = puppet.held
    assert held.cancel()
    assert held.cancelled
    held.complete()
    assert not stepped.done
    assert puppet.held == []


def test_only_what_the_predicate_names_is_held() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16), holds=lambda name, sector, count: name == "flush")
    put(puppet, 0, noise(512))
    assert get(puppet, 0, 1) == noise(512)
    assert not Stepped(puppet.flush()).done
    assert [held.name for held in puppet.held] == ["flush"]


def test_a_test_may_complete_from_another_thread() -> None:
    puppet = PuppetDisk(RamDisk(1 << 16))
    guest = threading.Thread(target=lambda: put(puppet, 0, noise(512)))
    guest.start()
    puppet.wait(1)[0].complete()
    guest.join(5)
    assert not guest.is_alive()
    with pytest.raises(TimeoutError, match="1 operations wanted"):
        puppet.wait(1, timeout=0.01)


def test_a_recording_disk_lists_what_it_was_asked() -> None:
    disk = RecordingDisk(RamDisk(1 << 16))
    put(disk, 2, noise(1024), fua=True)
    get(disk, 3, 1)
    run(disk.flush())
    run(disk.unmap(1, 2))
    run(disk.write_zeroes(4, 1, unmap=True))
    run(disk.resize(64))
    assert disk.calls == [
        Call("write", 2, 2, noise(1024), fua=True),
        Call("read", 3, 1, noise(1024)[512:]),
        Call("flush"),
        Call("unmap", 1, 2),
        Call("write_zeroes", 4, 1, unmap=True),
        Call("resize", 0, 64),
    ]
