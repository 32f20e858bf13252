"""A command with somebody who meddles: see `drivebay.platform.observer`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from drivebay.ata.command import ABRT, Aborted, Command, Refused
from drivebay.ata.registers import Status
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.contract import Buffers
from drivebay.platform.observer import Dropped, Escort, Observer
from drivebay.suspend import Cancelled

__all__ = ["AtaEscort", "AtaObserver", "Escorted"]

AtaEscort = Escort[TaskFile, tuple[int, int]]
"""Sees how a command ended as Status and Error: 0 and 0, or ERR and ABRT as long as nobody knows
more. It may end it otherwise by raising `Aborted`."""
AtaObserver = Observer[TaskFile, tuple[int, int]]

FAILED: Final = int(Status.ERR), ABRT


class Escorted(Command):
    """`inner` in the company of `escort`, who is asked when its first part is to be moved, or when
    it is to act if it has no data.
    """

    acts = True

    def __init__(self, escort: AtaEscort, inner: Command) -> None:
        self._escort, self._inner = escort, inner
        self._asked, self._does = False, True
        self._refusal: Exception | None = None
        self.protocol, self.length = inner.protocol, inner.length
        self.block, self.unit = inner.block, inner.unit
        self.interrupts_at_start = inner.interrupts_at_start
        self.interrupts_at_end = inner.interrupts_at_end
        self.received = inner.received
        self.quiet = escort.quiet

    @classmethod
    def parse(cls, escort: AtaEscort, parse: Callable[[TaskFile], Command]) -> Escorted:
        """The command that `parse` finds, or one that is refused when it acts."""
        try:
            return cls(escort, parse(escort.command))
        except Aborted as refusal:
            return cls(escort, Refused(refusal))

    async def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            try:
                self._does = await self._escort.before()
            except Exception as error:
                self._refusal = error
        if self._refusal is not None:  # also when a device tries again in smaller parts
            raise self._refusal

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the escort know of what fails."""
        try:
            await work
        except (Cancelled, Dropped):
            raise
        except Exception:
            await self._escort.after(FAILED)
            raise

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Move a part, if it is to act."""
        await self._ask()
        if self._does:
            move = partial(self._inner.transfer, offset)
            await self._guard(self._escort.move(offset, buffers, move))

    async def finish(self) -> None:
        """Act, if it is to."""
        await self._ask()
        if self._does:
            await self._guard(self._inner.finish())
        await self._escort.after((0, 0))

    def show_block(self, size: int) -> None:
        """As it shows one."""
        self._inner.show_block(size)

    def ended(self, offset: int, failure: Exception | None) -> int:
        """As it ends."""
        return self._inner.ended(offset, failure)
