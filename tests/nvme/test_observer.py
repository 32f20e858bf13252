"""Somebody looks on: commands before they act, completions before they are posted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from drivebay.controllers.nvme import Escort, Refused, Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, NvmOpcode
from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.drivers.nvme import NvmeError
from drivebay.platform.observer import Dropped
from drivebay.suspend import Resume, Suspension, Workers
from tests.ide.support import content, filled, noise

from .conftest import MakeBench

MIB = 1 << 20


class Gate(Suspension[None]):
    """Waits until the test opens it."""

    _resume: Resume

    def begin(self, workers: Workers, resume: Resume) -> None:
        self._resume = resume

    def open(self) -> None:
        self._resume(None, None)


class Watcher:
    """Notes everything; what a test sets is asked first."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.ends: list[tuple[int, int]] = []
        self.before: Callable[[Command], Awaitable[Command]] | None = None
        self.after: Callable[[Completion], Awaitable[Completion]] | None = None

    async def enable(self) -> None:
        self.seen.append((0, -1))

    def command(self, sqid: int, cid: int, command: Command) -> Escort:
        self.seen.append((sqid, command.opcode))
        return Companion(self, command)


class Companion(Escort):
    """Does what its watcher is told to do."""

    def __init__(self, watcher: Watcher, command: Command) -> None:
        super().__init__(command)
        self._watcher = watcher

    async def before(self) -> bool:
        if self._watcher.before is not None:
            self.command = await self._watcher.before(self.command)
        return True

    async def after(self, outcome: Completion) -> Completion:
        self._watcher.ends.append((self.command.opcode, outcome.status >> 1 & 0x7FF))
        return outcome if self._watcher.after is None else await self._watcher.after(outcome)


def test_everything_is_seen_and_nothing_changed(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    watcher = bench.controller.observer = Watcher()
    driver = bench.driver()
    namespace = driver.namespace(1)
    namespace.write(8, noise(4096, 2))
    assert namespace.read(8, 8) == noise(4096, 2)
    with pytest.raises(NvmeError):
        namespace.read(2048, 1)
    assert watcher.seen[0] == (0, -1)
    assert (0, AdminOpcode.IDENTIFY) in watcher.seen
    assert watcher.ends[-3:] == [
        (NvmOpcode.WRITE, 0),
        (NvmOpcode.READ, 0),
        (NvmOpcode.READ, Status.LBA_OUT_OF_RANGE),
    ]
    bench.controller.observer = None
    count = len(watcher.seen)
    namespace.read(0, 1)
    assert len(watcher.seen) == count


def test_refuse_rewrite_change_and_drop(make_bench: MakeBench) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    namespace = driver.namespace(1)
    watcher = bench.controller.observer = Watcher()

    async def refuse(_command: Command) -> Command:
        raise Refused(Status.NAMESPACE_NOT_READY, "so the test wants it", retry=True)

    async def move(command: Command) -> Command:
        return replace(command, cdw10=command.cdw10 + 100)

    async def lie(completion: Completion) -> Completion:
        return replace(completion, dw0=77, status=Status.WRITE_FAULT << 1)

    async def drop(_completion: Completion) -> Completion:
        raise Dropped

    watcher.before = refuse
    with pytest.raises(NvmeError) as failure:
        namespace.write(0, bytes(512))
    assert failure.value.status == Status.NAMESPACE_NOT_READY
    assert content(disk) == noise(MIB, 1)
    watcher.before = move
    assert namespace.read(0, 1) == noise(MIB, 1)[51200:51712]
    watcher.before, watcher.after = None, lie
    with pytest.raises(NvmeError) as failure:
        namespace.write(0, bytes(512))
    assert failure.value.status == Status.WRITE_FAULT
    assert content(disk)[:512] == bytes(512)
    watcher.after = drop
    lost = namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.settle()
    watcher.after = None
    namespace.read(1, 1)
    assert lost not in namespace.queue.done
    assert driver.run(AdminOpcode.ABORT, dwords=(lost << 16 | 1,))[0].dw0 == 0
    assert namespace.queue.wait(lost).status >> 1 & 0x7FF == Status.ABORT_REQUESTED


@pytest.mark.parametrize("reset", [False, True])
def test_hold_until_told(make_bench: MakeBench, reset: bool) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    namespace = driver.namespace(1)
    watcher = bench.controller.observer = Watcher()
    gate = Gate()

    async def hold(command: Command) -> Command:
        await gate
        return command

    watcher.before = hold
    held = namespace.prepare_read(0, 0, 1)
    namespace.queue.ring()
    bench.settle()
    watcher.before = None
    namespace.read(1, 1)
    assert held not in namespace.queue.done
    if reset:
        driver.put("CC", 0)
        assert driver.status.RDY
    gate.open()
    bench.settle()
    if reset:
        assert not driver.status.RDY
    else:
        namespace.finish([held])
        assert namespace.taken(0, 512) == noise(MIB, 1)[:512]
