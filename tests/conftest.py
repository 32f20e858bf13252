"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A machine that others use too may be slow at any moment: that is no failure.
# DRIVEBAY_SAME_EXAMPLES has the same code meet the same examples: what CI says, it says again.
settings.register_profile(
    "drivebay",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="DRIVEBAY_SAME_EXAMPLES" in os.environ,
)
settings.load_profile("drivebay")
