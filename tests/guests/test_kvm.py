"""KVM is judged quickly and never in the way."""

from __future__ import annotations

import time

from drivebay.guests.kvm import PROBE_SECONDS, kvm_works


def test_the_answer_is_a_bool_and_comes_in_time() -> None:
    started = time.monotonic()
    assert kvm_works() in (True, False)
    assert time.monotonic() - started < PROBE_SECONDS + 5
