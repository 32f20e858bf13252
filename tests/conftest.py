"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine that others use too may be slow at any moment: that is no failure.
settings.register_profile("drivebay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("drivebay")
