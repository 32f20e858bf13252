"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)

# A machine that others use too may be slow at any moment: that is no failure.
# DRIVEBAY_SAME_EXAMPLES has the same code meet the same examples: what CI says, it says again.
settings.register_profile(
    "drivebay",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="DRIVEBAY_SAME_EXAMPLES" in os.environ,
)
settings.load_profile("drivebay")

# What a shell starts in its background has SIGINT ignored, and all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A program that a later test starts would inherit what is ignored or blocked here."""

    def state() -> object:
        return [signal.getsignal(n) for n in SIGNALS], signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = state()
    yield
    assert state() == before
