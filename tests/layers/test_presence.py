"""The set of sectors a layer holds, against Python's own set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.layers.presence import REGION, SectorSet

END = 3 * REGION

places = st.one_of(
    st.integers(0, END),
    st.sampled_from([0, 1, REGION - 1, REGION, REGION + 1, 2 * REGION, END]),
)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "remove_from"]), places, places))


@given(steps, st.lists(st.tuples(places, places), min_size=1))
def test_runs_are_those_of_a_set(
    changes: list[tuple[str, int, int]], questions: list[tuple[int, int]]
) -> None:
    sectors, model = SectorSet(), bytearray(END)
    for name, a, b in changes:
        start, end = min(a, b), max(a, b)
        if name == "remove_from":
            sectors.remove_from(start)
            model[start:] = bytes(END - start)
        elif end > start:
            getattr(sectors, name)(start, end - start)
            model[start:end] = (b"\1" if name == "add" else b"\0") * (end - start)
    for a, b in [*questions, (0, END)]:
        start, end = min(a, b), max(a, b)
        if end > start:
            expected, at = [], start
            while at < end:
                other = model.find(1 - model[at], at, end)
                stop = end if other < 0 else other
                expected.append((at, stop - at, model[at] == 1))
                at = stop
            assert sectors.runs(start, end - start) == expected


def test_sixteen_tebibytes_present_is_quick_and_small() -> None:
    sectors = SectorSet()
    everything = 1 << 35
    sectors.add(0, everything)
    assert sectors.runs(0, everything) == [(0, everything, True)]
    sectors.remove(12345, 1)
    assert sectors.runs(12000, 1 << 20) == [
        (12000, 345, True),
        (12345, 1, False),
        (12346, (1 << 20) - 346, True),
    ]
    sectors.remove_from(0)
    assert sectors.runs(0, everything) == [(0, everything, False)]
