"""Fixtures of these tests."""

from __future__ import annotations

from tests.fixtures import engine

__all__ = ["engine"]
