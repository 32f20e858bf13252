"""What all adapters share: a core's observer, and what a rule does to a command that it meets.

An adapter knows one sort of core: how to end a command with a status, to change it, to let its
controller die. What can be done without knowing that is done here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from drivebay.disk.buffers import cut, gather, scatter
from drivebay.disk.contract import Buffers, Disk, Operation, byte_length
from drivebay.disk.errors import DiskError
from drivebay.lab.faults import Faults, Live
from drivebay.lab.rules import (
    Corrupt,
    Delay,
    Die,
    Direction,
    DiskFault,
    Drop,
    Duplicate,
    Fail,
    Hold,
    Ignore,
    LoseInterrupt,
    Misdirect,
    Patch,
    Remove,
    Rewrite,
    Rule,
    Skip,
    Subject,
    Torn,
)
from drivebay.platform.engine import Engine
from drivebay.platform.observer import Dropped, Escort
from drivebay.suspend import Promise, sleep

__all__ = ["CoreFaults", "Extent", "Torment", "flip"]

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True)
class Extent:
    """Where a command goes: sectors of a disk, in blocks of so many bytes."""

    disk: Disk | None = None
    sector: int = 0
    sectors: int = 0
    block: int = 512


class CoreFaults(Generic[C, R]):
    """Has `rules` work on a core that calls itself `name` in them, until `close`.

    `faults` adds and removes rules, and lets go what they hold. `remove` takes away what a command
    is for; without it there can be no rules that say so, and `ValueError` is raised.
    """

    def __init__(
        self,
        engine: Engine,
        rules: Iterable[Rule],
        name: str,
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        self.engine, self.name, self.remove = engine, name, remove
        self.faults = Faults(lambda: engine.now, check=self.check)
        for rule in rules:
            self.faults.add(rule)

    def check(self, rule: Rule) -> None:
        """Raise `ValueError` for one that cannot be here."""
        if isinstance(rule.action, Remove) and self.remove is None:
            raise ValueError(f"{rule}: nothing can be taken away here")

    def close(self) -> None:
        """Nothing is done to commands any more."""
        self.faults.clear()

    def command(self, queue: int, tag: int, command: C) -> Torment[C, R] | None:
        """Who goes with a command: mostly nobody."""
        subject = self.describe(queue, command)
        found = self.faults.meet(subject)
        return self.escort(subject, command, found) if found else None

    def escort(self, subject: Subject, command: C, found: list[Live]) -> Torment[C, R]:
        """Who does what these rules say."""
        return Torment(self, subject, command, found)

    # -- what adapters say -----------------------------------------------------------------------

    def describe(self, queue: int, command: C) -> Subject:
        """A command as rules see it."""
        raise NotImplementedError

    def extent(self, subject: Subject) -> Extent:
        """Where it goes."""
        raise NotImplementedError

    def refusal(self, subject: Subject, command: C, action: Fail) -> Exception:
        """What ends a command with a status."""
        raise NotImplementedError

    def failure(self, subject: Subject, error: DiskError) -> Exception:
        """What a command raises when its disk has raised that."""
        return error

    def rewritten(self, command: C, action: Rewrite) -> C:
        """A command with other fields."""
        raise NotImplementedError

    def misdirected(self, subject: Subject, command: C, blocks: int) -> C:
        """A command for so many blocks further on."""
        raise NotImplementedError

    def die(self, subject: Subject, why: str) -> None:
        """Let the controller fail."""
        raise NotImplementedError


class Torment(Escort[C, R]):
    """Does to one command what the rules say that it has met."""

    def __init__(
        self, core: CoreFaults[C, R], subject: Subject, command: C, found: list[Live]
    ) -> None:
        super().__init__(command)
        self.core, self.subject, self.found = core, subject, found
        actions = [live.rule.action for live in found]
        self.twice = any(isinstance(action, Duplicate) for action in actions)
        self.quiet = any(isinstance(action, LoseInterrupt) for action in actions)
        self.skips = any(isinstance(action, Skip) for action in actions)
        self.kept: int | None = None
        """So many blocks of what it writes reach the disk."""
        for live in found:
            action = live.rule.action
            if isinstance(action, Rewrite):
                self.command = core.rewritten(self.command, action)
            elif isinstance(action, Misdirect) and subject.lba is not None:
                blocks = max(action.blocks, -subject.lba)
                self.command = core.misdirected(subject, self.command, blocks)
            elif isinstance(action, Torn) and self.writes:
                kept = action.blocks
                self.kept = live.dice.randrange(subject.count) if kept is None else kept

    @property
    def writes(self) -> bool:
        """Whether it writes blocks."""
        subject = self.subject
        return subject.direction is Direction.WRITE and subject.count > 0

    async def before(self) -> bool:
        """Whatever happens before it acts."""
        for live in self.found:
            await self.meet(live)
        return not self.skips

    async def meet(self, live: Live) -> None:
        """What one of the rules does before it acts."""
        core, action = self.core, live.rule.action
        if isinstance(action, Fail) and not action.late:
            raise core.refusal(self.subject, self.command, action)
        if isinstance(action, DiskFault):
            extent = core.extent(self.subject)
            raise core.failure(self.subject, action.make(extent.sector, extent.sectors))
        if isinstance(action, Delay):
            extent = core.extent(self.subject)
            seconds = live.seconds(extent.disk, extent.sector, extent.sectors)
            if seconds > 0:
                await sleep(seconds)
        elif isinstance(action, Hold):
            await live.released()
        elif isinstance(action, Duplicate):
            promise = Promise[None]()  # only the end of what had to wait can be told twice
            core.engine.later(partial(promise.give, None))
            await promise
        elif isinstance(action, Ignore):
            raise Dropped
        elif isinstance(action, Die):
            core.die(self.subject, f"rule {live.rule}")
            raise Dropped
        elif isinstance(action, Remove):
            assert core.remove is not None
            core.engine.later(partial(core.remove, self.subject))

    async def move(
        self, offset: int, buffers: Buffers, move: Callable[[Buffers], Operation]
    ) -> None:
        """Move a part of its data, or what is left of that, and change it on its way. Bits that are
        wrong are in the first part.
        """
        outward = self.subject.direction is Direction.WRITE
        if self.kept is not None:
            extent = self.core.extent(self.subject)
            room = self.kept * extent.block - offset
            if extent.disk is not None:  # whose sectors are whole
                room -= room % extent.disk.sector_size
            if room <= 0:
                return
            buffers = cut(buffers, 0, room)
        if outward and not offset:
            for live, action in self._changes(Corrupt):
                buffers = [_copy(buffers)]  # the guest's own are the guest's
                flip(buffers, action.bits, live.dice)
        await move(buffers)
        if outward:
            return
        for _, action in self._changes(Patch):
            patch(buffers, action, offset)
        if not offset:
            for live, action in self._changes(Corrupt):
                flip(buffers, action.bits, live.dice)

    def _changes(self, kind: type[Any]) -> Iterable[tuple[Live, Any]]:
        return [
            (live, live.rule.action) for live in self.found if isinstance(live.rule.action, kind)
        ]

    async def after(self, outcome: R) -> R:
        """Whatever happens when it has acted."""
        for live in self.found:
            action = live.rule.action
            if isinstance(action, Fail) and action.late:
                raise self.core.refusal(self.subject, self.command, action)
            if isinstance(action, Drop):
                raise Dropped
        return outcome


def _copy(buffers: Buffers) -> memoryview:
    copied = memoryview(bytearray(byte_length(buffers)))
    gather(buffers, copied)
    return copied


def flip(buffers: Buffers, bits: int, dice: random.Random) -> None:
    """Make `bits` different bits wrong."""
    size = 8 * byte_length(buffers)
    for bit in dice.sample(range(size), min(bits, size)):
        part = cut(buffers, bit >> 3, (bit >> 3) + 1)[0]
        part[0] ^= 1 << (bit & 7)


def patch(buffers: Buffers, action: Patch, offset: int) -> None:
    """Put its bytes into `buffers`, which begin at byte `offset` of what it counts from."""
    start = action.at - offset
    first, last = max(start, 0), min(start + len(action.data), byte_length(buffers))
    if first < last:
        part = cut(buffers, first, last)
        scatter(part, memoryview(action.data)[first - start : last - start])
