from __future__ import annotations

import pytest

from drivebay.controllers.storvsp import channel
from drivebay.platform import vmbus_bus
from drivebay.platform.logs import RationedLog
from tests.fixtures import no_bug_is_logged

__all__ = ["no_bug_is_logged"]  # a fixture


@pytest.fixture(autouse=True)
def fresh_rations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test may count lines from the first on."""
    for module in (channel, vmbus_bus):
        monkeypatch.setattr(module, "guest_log", RationedLog(module.log))
