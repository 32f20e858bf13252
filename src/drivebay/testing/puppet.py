"""A disk whose operations end when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from drivebay.disk.contract import Buffers, Disk, byte_length
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Suspension

if TYPE_CHECKING:
    from drivebay.disk.errors import DiskError
    from drivebay.suspend import Resume, Workers

__all__ = ["Held", "PuppetDisk"]


class Held(Suspension[None]):
    """An operation that waits for the test. Each of its methods may be called on any thread.

    `name` is the method of the disk, `sector` and `count` its range in sectors (0 and 0 for a
    flush), `cancelled` whether the device has given it up.
    """

    def __init__(self, puppet: PuppetDisk, name: str, sector: int, count: int) -> None:
        self._puppet = puppet
        self._resume: Resume | None = None
        self.name, self.sector, self.count = name, sector, count
        self.cancelled = False

    def complete(self) -> None:
        """Let it go on to the disk below and end as it ends there.

        Nothing happens if it has been ended or cancelled before.
        """
        self._end(None)

    def fail(self, error: DiskError) -> None:
        """Let it raise `error`; the disk below is not touched."""
        self._end(error)

    def cancel(self) -> bool:
        """Called by the engine when the device is reset: the operation ends without effect."""
        self.cancelled = True
        self._puppet._forget(self)
        return True

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Called by the engine."""
        self._resume = resume
        self._puppet._hold(self)

    def _end(self, error: DiskError | None) -> None:
        if self._puppet._forget(self) and self._resume is not None:
            self._resume(None, error)

    def __repr__(self) -> str:
        return f"<Held {self.name} {self.sector}+{self.count}>"


class PuppetDisk(Filter):
    """Holds every operation on `below` until the test completes or fails it, or never::

        puppet = PuppetDisk(RamDisk(1 << 20))
        device = BlockDevice(puppet, engine)   # the guest reads; nothing comes
        [op] = puppet.wait(1)
        op.fail(IoError(errno.EIO, "cable"))

    `holds` says which operations to hold, by name, first sector and count; the others pass. An
    operation has no effect, and leaves its buffers alone, before it is completed.
    """

    kind = "puppet"

    def __init__(
        self, below: Disk, holds: Callable[[str, int, int], bool] = lambda name, sector, count: True
    ) -> None:
        super().__init__(below)
        self.holds = holds
        self._held: list[Held] = []
        self._changed = threading.Condition()

    @property
    def held(self) -> list[Held]:
        """The operations that wait now, oldest first."""
        with self._changed:
            return list(self._held)

    def wait(self, count: int = 1, timeout: float = 5.0) -> list[Held]:
        """The operations that wait, once there are at least `count`.

        Raises `TimeoutError` after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._held) >= count, timeout):
                raise TimeoutError(f"{count} operations wanted, held are {self._held}")
            return list(self._held)

    def complete_all(self) -> None:
        """Complete all that wait now."""
        for operation in self.held:
            operation.complete()

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Hold, then read."""
        await self._pass("read", sector, byte_length(buffers) // self.sector_size)
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Hold, then write."""
        await self._pass("write", sector, byte_length(buffers) // self.sector_size)
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        """Hold, then flush."""
        await self._pass("flush", 0, 0)
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        """Hold, then unmap."""
        await self._pass("unmap", sector, count)
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Hold, then zero."""
        await self._pass("write_zeroes", sector, count)
        await self.below.write_zeroes(sector, count, fua, unmap)

    async def _pass(self, name: str, sector: int, count: int) -> None:
        if self.holds(name, sector, count):
            await Held(self, name, sector, count)

    def _hold(self, operation: Held) -> None:
        with self._changed:
            self._held.append(operation)
            self._changed.notify_all()

    def _forget(self, operation: Held) -> bool:
        with self._changed:
            found = operation in self._held
            if found:
                self._held.remove(operation)
            return found
