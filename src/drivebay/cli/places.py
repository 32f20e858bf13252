"""The places of a controller that is served: who is in them from the start, and who comes later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from drivebay.cli.errors import CliError
from drivebay.suspend import blocking

if TYPE_CHECKING:
    from drivebay.cli.kind import AtRest
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.slot import Slot

__all__ = ["Places"]

Wanted = TypeVar("Wanted")


class Places(Generic[Wanted]):
    """The disks of a controller, each in its place.

    `open` opens a disk, on any thread; there is none of a drive that is passed through. `put` gives
    it to the controller. Both raise `CliError` and `DiskOpenError`; `put` may also raise
    `ValueError` where somebody sits there already. `name` is what a place is called. Unless `hot`,
    nobody comes later.
    """

    def __init__(
        self,
        open: Callable[[Wanted], Disk | None],
        put: Callable[[Wanted, Disk | None], Slot],
        name: Callable[[Wanted], str],
        *,
        hot: bool = False,
    ) -> None:
        self._open, self._put, self._name, self.hot = open, put, name, hot
        self.slots: dict[str, Slot] = {}
        """By the names of the places."""
        self.devices: list[AtRest] = []
        """Who must have ended its commands before the disks are closed."""
        self.opened = ExitStack()
        """Closes what was opened, while that may still turn out to be for nothing."""
        self.arrived: Callable[[str, Slot], None] = lambda name, slot: None
        """Told of a place that is filled."""
        self.held = False
        """Who comes takes no commands for now."""
        self._wanted: dict[str, Wanted] = {}

    def fill(self, wanted: Iterable[Wanted]) -> Self:
        """Open the disks and put them into their places. Raises `CliError` and `DiskOpenError`:
        then nothing is open.
        """
        with self.opened:
            for each in wanted:
                disk = self._open(each)
                if disk is not None:
                    self.opened.callback(disk.close)
                self._take(each, disk)
            self.opened.pop_all()
        return self

    async def add(self, wanted: Wanted, free: Callable[[], None] = lambda: None) -> str:
        """Open one more and put it into its place, which `free` makes free; the name of that.
        Raises as `fill` does, and what `free` raises.
        """
        disk = await blocking(lambda: self._open(wanted))
        try:
            free()
            return self._take(wanted, disk)
        except BaseException as error:
            if disk is not None:
                disk.close()
            if isinstance(error, ValueError):
                raise CliError(str(error)) from None
            raise

    def _take(self, wanted: Wanted, disk: Disk | None) -> str:
        name = self._name(wanted)
        slot = self.slots[name] = self._put(wanted, disk)
        self._wanted[name] = wanted
        self.arrived(name, slot)
        return name

    @property
    def taken(self) -> list[Wanted]:
        """Who is there."""
        return [self._wanted[name] for name in self.slots]

    def others(self, place: str) -> list[Wanted]:
        """Who is in any other place."""
        return [self._wanted[name] for name in self.slots if name != place]

    @property
    def disks(self) -> list[Disk]:
        """All that are open."""
        return [slot.disk for slot in self.slots.values() if slot.disk is not None]
