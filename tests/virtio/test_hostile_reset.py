"""Resets while I/O is in flight, and queues taken back: hostile.md 4.5 and 4.6."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.errors import IoError
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Resume, Suspension, Workers
from drivebay.testing import PuppetDisk

from .bench import ALL, NO_ANSWER, OK, OVER_ALL, SPLIT, TRANSPORTS, Bench, Guest, MakeBench, Sent

CANARY = b"\xc5" * 4096


@pytest.fixture(params=[SPLIT, ALL], ids=["split", "packed"])
def ring(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class SystemCall(Suspension[None]):
    """What cannot be given up once it has begun; the test ends it."""

    def __init__(self, started: list[Resume]) -> None:
        self._started = started

    def begin(self, workers: Workers, resume: Resume) -> None:
        self._started.append(resume)


class StubbornDisk(Filter):
    """Its reads are under way in the kernel until the test ends them."""

    kind = "stubborn"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self.started: list[Resume] = []
        self.holds = True

    async def read(self, sector: int, buffers: Buffers) -> None:
        if self.holds:
            await SystemCall(self.started)
        await self.below.read(sector, buffers)

    def end_all(self) -> None:
        self.holds = False
        while self.started:
            self.started.pop()(None, None)


def send(guest: Guest, count: int) -> list[Sent]:
    """So many reads into canary pages, in flight."""
    reads = [guest.request(0, 8 * n, room=4096) for n in range(count)]
    for read in reads:
        guest.memory.view(read.data, 4096)[:] = CANARY
        guest.driver.ring().add(read.chain)
    guest.kick()
    return reads


def ram(guest: Guest) -> bytes:
    return bytes(guest.memory.regions[0].view)


def fail_all(puppet: PuppetDisk) -> None:
    for operation in puppet.held:
        operation.fail(IoError(errno.EIO, "cable"))


ENDINGS: dict[str, Callable[[PuppetDisk], None]] = {
    "complete": PuppetDisk.complete_all,
    "fail": fail_all,
    "never": lambda puppet: None,
}


@OVER_ALL
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
@pytest.mark.parametrize("count", [1, 64])
def test_a_reset_gives_up_what_is_held(
    bench: MakeBench, ring: int, count: int, ending: Callable[[PuppetDisk], None]
) -> None:
    """No late DMA, no late interrupt, no answer at all, and the reset is done at once."""
    puppet = PuppetDisk(RamDisk(1 << 20))
    b = bench(disk=puppet)
    with b.survives():
        guest = b.guest(features=ring)
        send(guest, count)
        held = puppet.wait(count)
        guest.driver.set("Status", 0)
        assert guest.driver.get("Status") == 0
        assert all(operation.cancelled for operation in held)
        before, b.levels[:] = ram(guest), []
        ending(puppet)
        for operation in held:
            operation.complete()
        b.settle()
        assert ram(guest) == before
        assert not b.levels
        puppet.holds = lambda name, sector, count: False


@OVER_ALL
@pytest.mark.parametrize("count", [1, 64])
def test_a_reset_waits_for_what_cannot_be_given_up(bench: MakeBench, ring: int, count: int) -> None:
    """Section 2.4: the status reads zero when the device no longer touches memory, not before."""
    disk = StubbornDisk(RamDisk(1 << 20))
    b = bench(disk=disk)
    with b.survives():
        guest = b.guest(features=ring)
        reads = send(guest, count)
        b.levels[:] = []
        guest.driver.set("Status", 0)
        for _ in range(3):  # asking again changes nothing
            guest.driver.set("Status", 0)
            guest.driver.set("Status", 15)
            guest.driver.set("QueueReady", 1)
            guest.driver.notify(0)
            assert guest.driver.get("Status") != 0
        assert len(disk.started) == count
        disk.end_all()
        b.settle()
        assert guest.driver.get("Status") == 0
        before = ram(guest)
        assert not b.levels
        assert not b.device._runners
        b.settle()
        assert ram(guest) == before
        assert all(guest.status(read) == OK for read in reads)


def test_a_queue_taken_back_is_ready_until_it_is_at_rest(bench: MakeBench, ring: int) -> None:
    """Section 4.2.2.2: the driver reads QueueReady back to know."""
    disk = StubbornDisk(RamDisk(1 << 20))
    b = bench(disk=disk)
    with b.survives():
        guest = b.guest(features=ring)
        send(guest, 4)
        guest.driver.set("QueueReady", 0)
        assert guest.driver.get("QueueReady") == 1
        guest.driver.set("QueueReady", 1)  # too early: nothing is started over it
        guest.driver.set("QueueDescLow", 0)
        assert not b.device._runners
        disk.end_all()
        b.settle()
        assert guest.driver.get("QueueReady") == 0


def test_a_reset_waits_for_a_queue_that_was_taken_back(bench: MakeBench, ring: int) -> None:
    disk = StubbornDisk(RamDisk(1 << 20))
    b = bench(disk=disk, queues=2)
    with b.survives():
        guest = b.guest(features=ring)
        guest.driver.set("QueueSel", 0)
        send(guest, 4)
        guest.driver.set("QueueReady", 0)
        guest.driver.set("Status", 0)
        assert guest.driver.get("Status") != 0
        disk.end_all()
        b.settle()
        assert guest.driver.get("Status") == 0
        before = ram(guest)
        b.settle()
        assert ram(guest) == before


def test_a_queue_taken_back_drops_what_is_held(bench: MakeBench, ring: int) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    b = bench(disk=puppet)
    with b.survives():
        guest = b.guest(features=ring)
        reads = send(guest, 8)
        held = puppet.held
        guest.driver.set("QueueReady", 0)
        assert guest.driver.get("QueueReady") == 0
        for operation in held:
            operation.complete()
        b.settle()
        assert all(guest.status(read) == NO_ANSWER for read in reads)
        puppet.holds = lambda name, sector, count: False


@pytest.mark.parametrize("transport", TRANSPORTS[:2])  # those with a line
@pytest.mark.parametrize("interrupts", ["used buffers", "configuration"])
def test_a_reset_out_of_the_interrupt_itself(bench: MakeBench, ring: int, interrupts: str) -> None:
    """An emulator may run the guest inside the line's callback: no work is taken after that."""
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        driver = guest.driver
        driver.ring().want_interrupt()
        reads = [guest.request(0, n, room=512) for n in range(40)]

        def reset(level: bool) -> None:
            if level:
                driver.set("Status", 0)

        b.line._sink = reset
        if interrupts == "configuration":
            b.transport.config_changed()
        for read in reads:
            driver.ring().add(read.chain)
        driver.notify(0)
        before = ram(guest)
        b.settle()
        assert ram(guest) == before
        assert driver.get("Status") == 0
        assert any(guest.status(read) == NO_ANSWER for read in reads)
        b.line._sink = b.levels.append


def test_the_same_head_in_flight_breaks_the_ring(bench: MakeBench) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    b = bench(disk=puppet)
    with b.survives():
        guest = b.guest(features=SPLIT)
        head = guest.split.add(guest.request(0, room=512).chain)
        guest.split.offer(head)
        guest.kick()
        assert b.needs_reset
        assert len(puppet.held) == 1
        puppet.holds = lambda name, sector, count: False


@OVER_ALL
def test_what_was_in_flight_when_the_ring_broke_still_ends(bench: MakeBench) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    b = bench(disk=puppet)
    with b.survives():
        guest = b.guest(features=SPLIT)
        reads = send(guest, 5)
        guest.split.offer(0xFFFF)
        guest.kick()
        assert b.needs_reset
        puppet.complete_all()
        b.settle()
        assert [guest.status(read) for read in reads] == [OK] * 5
        assert len(guest.used()) == 5
        puppet.holds = lambda name, sector, count: False


def test_a_thousand_resets_leave_nothing_behind(bench: MakeBench, ring: int) -> None:
    b = bench()
    for _ in range(1000):
        b.driver(features=ring, queue_size=4)
    b.driver(features=ring).reset()
    assert not b.device._runners
    assert not b.memory._watchers
    assert not b.engine._end_of_turn
    b.still_works()


def queue_state(b: Bench) -> list[int]:
    return sorted(b.device._runners)


def test_one_queue_is_taken_back_and_the_others_go_on(bench: MakeBench, ring: int) -> None:
    b = bench(queues=4)
    with b.survives():
        guest = b.guest(features=ring)
        guest.driver.set("QueueSel", 2)
        guest.driver.set("QueueReady", 0)
        assert queue_state(b) == [0, 1, 3]
        for queue in (0, 1, 3):
            guest.driver.request(0, 0, 512, queue=queue)


@OVER_ALL
def test_a_broken_queue_does_not_stop_the_others(bench: MakeBench) -> None:
    b = bench(queues=2)
    with b.survives():
        guest = b.guest(features=SPLIT)
        guest.split.offer(0xFFFF)
        guest.kick()
        assert b.needs_reset
        guest.driver.request(0, 0, 512, queue=1)
