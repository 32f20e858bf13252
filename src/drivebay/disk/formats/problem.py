"""What is wrong with an image, as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Problem", "Severity"]


class Severity(enum.Enum):
    """What a problem costs."""

    LEAK = "leak"
    """Space that nothing uses; no data are at stake."""
    DAMAGE = "damage"
    """Data are lost, or would be by writing."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in one line."""

    severity: Severity
    text: str
