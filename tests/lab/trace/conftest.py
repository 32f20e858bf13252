"""Controllers with a recorder on them, and what was recorded."""

from __future__ import annotations

from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged
from tests.virtio.conftest import bench, transport

__all__ = ["bench", "engine", "no_bug_is_logged", "transport"]  # fixtures
