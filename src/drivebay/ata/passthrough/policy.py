"""What the guest may do to a drive that is a real one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from drivebay.ata.command import Aborted

__all__ = ["READ_ONLY", "Category", "Policy"]


class Category(enum.Enum):
    """What a command can do to the drive, at worst."""

    READ = "read"
    """Nothing that lasts: data, logs and states are read, caches flushed."""
    WRITE = "write"
    """Sectors are overwritten."""
    ERASE = "erase"
    """Data is destroyed without being sent: TRIM, SANITIZE, sectors made unreadable, SCT."""
    FIRMWARE = "firmware"
    """The drive's own program is replaced."""
    SECURITY = "security"
    """Passwords and locks, after which the drive may serve nobody any more."""
    SETTINGS = "settings"
    """Caches, power modes, SMART, the size it shows; some survive a power cycle."""


READ_ONLY = frozenset({Category.READ})


@dataclass(frozen=True)
class Policy:
    """The categories that are allowed; with `dry_run` nothing reaches the drive all the same."""

    allow: frozenset[Category] = READ_ONLY
    dry_run: bool = False

    @classmethod
    def of(cls, *names: str, dry_run: bool = False) -> Policy:
        """Reads, and the categories called `names`. Raises `ValueError` for an unknown name."""
        return cls(READ_ONLY | {Category(name) for name in names}, dry_run)

    def check(self, needs: frozenset[Category]) -> None:
        """Raises `Aborted` (ABRT) unless all of `needs` are allowed."""
        missing = sorted(category.value for category in needs - self.allow)
        if missing:
            raise Aborted(why=f"the policy does not allow {' and '.join(missing)}")
