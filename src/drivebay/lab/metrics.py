"""How many commands of each name there were, how long they took, and how they ended: counters and
histograms in the text format of Prometheus (version 0.0.4).

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from drivebay.hosts.control.bay import Bay, Controller
from drivebay.lab.dialects import Dialect
from drivebay.lab.taps import tap_into
from drivebay.platform.observer import Observed

__all__ = ["BUCKETS", "Latencies", "Meter", "Metrics"]

BUCKETS: Final = (
    *(part * 10.0**power for power in range(-5, 1) for part in (1.0, 2.5, 5.0)),
    10.0,
)
"""Upper bounds in seconds: 10 us to 10 s."""
MOST_BEGUN: Final = 1 << 16
"""Commands whose end is waited for. More are only remembered of a guest that begins them without
end, over resets; then all are forgotten, and begin to count anew."""


class Latencies:
    """Of the commands of one name: how many took how long, and how those ended that failed."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.errors: Counter[str] = Counter()


class Meter:
    """A `platform.observer.Tap` that measures, by the names of `dialect`."""

    def __init__(self, dialect: Dialect, clock: Callable[[], float] = time.perf_counter) -> None:
        self._dialect, self._clock = dialect, clock
        self._begun: dict[tuple[int, int], tuple[Any, float]] = {}
        self.latencies: dict[str, Latencies] = {}
        """By the commands' names."""

    def began(self, queue: int, tag: int, command: Any) -> None:
        """A command was taken from the guest."""
        if len(self._begun) >= MOST_BEGUN:
            self._begun.clear()
        self._begun[queue, tag] = command, self._clock()

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        """The guest is told how it ended."""
        begun = self._begun.pop((queue, tag), None)
        if begun is None:  # it began before us
            return
        command, since = begun
        seconds = self._clock() - since
        name = self._dialect.describe(queue, command).command
        found = self.latencies.get(name)
        if found is None:
            found = self.latencies[name] = Latencies()
        found.counts[bisect_left(BUCKETS, seconds)] += 1
        found.seconds += seconds
        ended = self._dialect.outcome(outcome)
        if not ended.ok:
            found.errors[ended.status] += 1


class _Metered(NamedTuple):
    observed: Observed
    meter: Meter
    end: Callable[[], None]


class Metrics:
    """Measures the commands of `bay` until `close`. `dialects` are those of its kinds of
    controllers.
    """

    def __init__(self, bay: Bay, dialects: Mapping[str, Callable[[], Dialect]]) -> None:
        self._bay, self._dialects = bay, dialects
        self._metered: dict[tuple[str, str], _Metered] = {}
        self.refresh()

    def refresh(self) -> None:
        """Drives may have come or gone. Of one that has gone nothing is told any more."""
        found = {
            (controller.id, place): (controller.kind, part)
            for controller in self._bay.controllers.values()
            for place, part in controller.parts().items()
        }
        for key, metered in tuple(self._metered.items()):
            if key not in found or found[key][1] is not metered.observed:
                self._metered.pop(key).end()
        for key, (kind, part) in found.items():
            if key not in self._metered:
                meter = Meter(self._dialects[kind]())
                self._metered[key] = _Metered(part, meter, tap_into(part, meter))

    def close(self) -> None:
        """Measure no more."""
        for metered in self._metered.values():
            metered.end()
        self._metered.clear()

    # -- telling ---------------------------------------------------------------------------------

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        self.refresh()
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        controllers = self._bay.controllers.values()
        seconds = "drivebay_command_seconds"
        yield from _head(seconds, "histogram", "Time from taking a command to telling its end.")
        for labels, latencies in self._measured():
            counts = accumulate(latencies.counts)
            for bound, count in zip((*map(_number, BUCKETS), "+Inf"), counts, strict=True):
                yield _line(f"{seconds}_bucket", count, {**labels, "le": bound})
            yield _line(f"{seconds}_sum", latencies.seconds, labels)
            yield _line(f"{seconds}_count", sum(latencies.counts), labels)
        errors = "drivebay_command_errors_total"
        yield from _head(errors, "counter", "Commands that failed, by the status's name.")
        for labels, latencies in self._measured():
            for status, count in latencies.errors.items():
                yield _line(errors, count, {**labels, "status": status})
        under_way = "drivebay_commands_under_way"
        yield from _head(under_way, "gauge", "Commands that wait for something.")
        for (name, place), metered in self._metered.items():
            count = sum(1 for _ in metered.observed.in_flight())
            yield _line(under_way, count, self._of(name, place))
        states: dict[str, tuple[str, Callable[[Controller], bool]]] = {
            "drivebay_connected": ("Whether a guest is attached.", lambda each: each.connected()),
            "drivebay_stopped": ("Whether no commands are taken.", lambda each: each.stopped),
        }
        for name, (what, value) in states.items():
            yield from _head(name, "gauge", what)
            for each in controllers:
                yield _line(name, int(value(each)), {"controller": each.id, "kind": each.kind})
        yield from self._statistics(controllers)
        size = "drivebay_disk_bytes"
        yield from _head(size, "gauge", "The size of a disk.")
        for name, slot in self._bay.slots:
            if slot.disk is not None:
                yield _line(size, slot.disk.byte_count, {"disk": name})

    def _measured(self) -> Iterator[tuple[dict[str, str], Latencies]]:
        for (name, place), metered in self._metered.items():
            for command, latencies in metered.meter.latencies.items():
                yield {**self._of(name, place), "command": command}, latencies

    def _of(self, name: str, place: str) -> dict[str, str]:
        return {"controller": name, "device": self._bay.controllers[name].name(place)}

    @staticmethod
    def _statistics(controllers: Iterable[Controller]) -> Iterator[str]:
        """What controllers count whether somebody measures or not."""
        counted = {each.id: each.statistics() for each in controllers}
        for name in dict.fromkeys(name for found in counted.values() for name in found):
            metric = f"drivebay_{name.replace('-', '_')}_total"
            yield from _head(metric, "counter", f"{name.replace('-', ' ').capitalize()}.")
            for controller, found in counted.items():
                if name in found:
                    yield _line(metric, found[name], {"controller": controller})


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, value: float, labels: Mapping[str, str]) -> str:
    said = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{said}}} {_number(value)}"


def _number(value: float) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
