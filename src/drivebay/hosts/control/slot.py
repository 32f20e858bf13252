"""A place for a disk on a controller, as whoever controls it sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.bay import Health
    from drivebay.platform.observer import Observed
    from drivebay.scsi.dvd import Dvd

__all__ = ["Slot"]


@dataclass(eq=False)
class Slot:
    """A place on a controller, and the disk in it, which `text` opened."""

    inside: Disk | None
    """What was put there first."""
    text: str
    dvd: Dvd | None = None
    """The drive, where media come and go."""
    pull: Callable[[], Callable[[], bool]] | None = None
    """Takes the disk from the guest, and returns what says whether nothing of it is under way any
    more; None where that cannot be done."""
    part: Observed | None = None
    """What takes its commands, if no other place has the same."""
    block: int | None = None
    """Bytes of what its commands count, where those are not the disk's sectors."""
    health: Health | None = None
    """How it says that it is, if no other place has the same."""
    pushed: list[str] = field(default_factory=list)
    """The layers that were put on it since, the last on top."""

    @property
    def disk(self) -> Disk | None:
        """What is in it."""
        return self.dvd.disk if self.dvd is not None else self.inside

    @property
    def spec(self) -> str | None:
        """What opens it as it is now."""
        return None if self.disk is None else ":".join([*reversed(self.pushed), self.text])
