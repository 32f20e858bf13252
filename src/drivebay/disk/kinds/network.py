"""Kinds of disk that are somewhere else."""

from __future__ import annotations

from typing import Final

from drivebay.disk.scanner import Kind

__all__ = ["KINDS"]

KINDS: Final[tuple[Kind, ...]] = ()
