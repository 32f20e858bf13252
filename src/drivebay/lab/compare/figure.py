"""The two drawings: what each controller does, and what an access costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from drivebay.lab.compare.jobs import contender, job
from drivebay.lab.compare.results import OURS, Comparison, Row
from drivebay.lab.compare.story import MANY, ONE, access_cost, exits
from drivebay.lab.compare.svg import Drawing, LogScale, short

__all__ = ["access_figure", "kind", "overview_figure"]

WIDTH: Final = 1080
MARGIN: Final = 24
LABELS: Final = 196
TOP, FOOT = 118, 34
LINE: Final = 21
"""Pixels of a maker's line; a controller has one for each."""
TICK_ROOM: Final = 32


@dataclass(frozen=True)
class Panel:
    """A column: a measure of one job, or of two that are linked."""

    title: str
    unit: str
    width: int
    jobs: tuple[str, ...]
    measure: Callable[[Row], float]


PANELS: Final = (
    Panel("4 KiB random reads", "IOPS, log scale: one at a time, 32 at a time", 300, (ONE, MANY),
          lambda row: row.median),
    Panel("1 MiB reads", "MB/s, log scale", 200, ("read-1m",), lambda row: row.median),
    Panel("{exits} for a 4 KiB read", "log scale: one at a time, 32 at a time", 260, (ONE, MANY),
          lambda row: row.costs.exits),
)  # fmt: skip


def overview_figure(comparison: Comparison) -> Drawing:
    """Every controller's line: how fast, and what each request takes."""
    lanes = comparison.lanes
    height = TOP + FOOT + sum(_gap(group) for group in _groups(lanes))
    figure = Drawing(WIDTH, height, "Storage controllers compared")
    where = "one Linux guest" if comparison.where == "guest" else "drivers in this process"
    figure.text(MARGIN, 34, f"Storage controllers on the same disk, {where}", "title")
    _legend(figure, lanes)
    lines: dict[tuple[str, str], float] = {}
    top: float = TOP
    for number, group in enumerate(_groups(lanes)):
        if number % 2 == 0:
            figure.rect(0, top, WIDTH, _gap(group), "band")
        middle = top + _gap(group) / 2
        figure.text(MARGIN, middle + 4.5, contender(group[0][0]).label, "head")
        for at, lane in enumerate(group):
            lines[lane] = middle + (at - (len(group) - 1) / 2) * LINE
        top += _gap(group)
    left: float = MARGIN + LABELS
    spare = WIDTH - left - sum(panel.width for panel in PANELS) - MARGIN
    for panel in PANELS:
        _panel(figure, comparison, panel, lines, (left, left + panel.width), (TOP, top))
        left += panel.width + spare / (len(PANELS) - 1)
    return figure


def _groups(lanes: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    return [list(group) for _, group in groupby(lanes, key=lambda lane: lane[0])]


def _gap(group: Sequence[object]) -> int:
    return LINE * len(group) + 16


def _legend(figure: Drawing, lanes: Sequence[tuple[str, str]]) -> None:
    x: float = MARGIN
    for by in dict.fromkeys(by for _, by in lanes):
        figure.dot(x + 6, 57, 5, kind(by))
        figure.text(x + 18, 61.5, by, kind(by))
        x += 36 + 7.5 * len(by)
    figure.dot(x + 12, 57, 4, "hollow axis")
    figure.line(x + 17, 57, x + 36, 57, "axis")
    figure.dot(x + 41, 57, 4.5, "axis")
    figure.text(x + 54, 61.5, "one at a time, and with 32 waiting", "muted")


def kind(by: str) -> str:
    """The class that a maker's dots and words have."""
    return "ours" if by == OURS else "peer"


def _panel(
    figure: Drawing,
    comparison: Comparison,
    panel: Panel,
    lines: dict[tuple[str, str], float],
    across: tuple[float, float],
    down: tuple[float, float],
) -> None:
    rows = [row for name in panel.jobs for row in comparison.of_job(name)]
    title = panel.title.format(exits=exits(comparison).capitalize())
    figure.text(across[0], down[0] - 28, title, "head")
    figure.text(across[0], down[0] - 11, panel.unit, "muted")
    if not rows:
        return
    scale = LogScale.around(map(panel.measure, rows), across[0] + 4, across[1] - 34)
    apart = scale(scale.ticks[1]) - scale(scale.ticks[0])
    for number, tick in enumerate(scale.ticks):
        figure.line(scale(tick), down[0], scale(tick), down[1], "grid")
        if number % math.ceil(TICK_ROOM / apart) == 0:
            figure.text(scale(tick), down[1] + 18, short(tick), "muted", "middle")
    for lane, y in lines.items():
        found = [row for row in rows if (row.contender, row.by) == lane]
        _dots(figure, panel, found, scale, y)


def _dots(figure: Drawing, panel: Panel, rows: Sequence[Row], scale: LogScale, y: float) -> None:
    """The first job's dot is hollow if there is a second; numbers stand at the outer sides."""
    if not rows:
        return
    values = [panel.measure(row) for row in rows]
    own = kind(rows[0].by)
    if len(rows) > 1:
        figure.line(scale(values[0]), y, scale(values[-1]), y, f"link {own}")
    for at, (row, value) in enumerate(zip(rows, values, strict=True)):
        first = at == 0 and len(rows) > 1
        told = f"{contender(row.contender).label}, {row.by}: {job(row.job).label}: {short(value)}"
        figure.dot(scale(value), y, 4 if first else 4.5, f"{own} hollow" if first else own, told)
    leftmost, rightmost = min(values), max(values)
    figure.text(scale(rightmost) + 9, y + 4, short(rightmost), "value")
    if scale(rightmost) - scale(leftmost) > 14 and scale(leftmost) - scale.start > 6:
        figure.text(scale(leftmost) - 9, y + 4, short(leftmost), "value", "end")


# -- what an access costs --------------------------------------------------------------------------

HEIGHT: Final = 470
LEFT, RIGHT, UPPER, LOWER = 84, 40, 96, 58


def access_figure(comparison: Comparison) -> Drawing:
    """The time of a 4 KiB read by the exits that it takes, and the line that makers follow."""
    figure = Drawing(WIDTH, HEIGHT, "What a register access costs")
    figure.text(MARGIN, 34, "What a register access costs", "title")
    rows = [row for row in comparison.of_job(ONE) if row.costs.exits]
    across = LogScale.around((row.costs.exits for row in rows), LEFT, WIDTH - RIGHT)
    up = LogScale.around((row.us for row in rows), HEIGHT - LOWER, UPPER)
    for tick in across.ticks:
        figure.line(across(tick), UPPER, across(tick), HEIGHT - LOWER, "grid")
        figure.text(across(tick), HEIGHT - LOWER + 19, short(tick), "muted", "middle")
    for tick in up.ticks:
        figure.line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "grid")
        figure.text(LEFT - 10, up(tick) + 4, _time(tick), "muted", "end")
    figure.text(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "exits for a 4 KiB read, one at a time", "muted",
        "middle",
    )  # fmt: skip
    figure.text(MARGIN, UPPER - 14, "time of one read", "muted")
    x: float = MARGIN
    for by in dict.fromkeys(row.by for row in rows):
        cost = access_cost(comparison, by)
        said = by if cost is None else f"{by}: {short(cost[0])} us an access"
        figure.dot(x + 6, 57, 5, kind(by))
        figure.text(x + 18, 61.5, said, kind(by))
        x += 46 + 7.2 * len(said)
        if cost is not None:
            figure.path(_trend(across, up, *cost), f"trend {kind(by)}")
    _points(figure, rows, across, up)
    return figure


def _trend(across: LogScale, up: LogScale, each: float, least: float) -> list[tuple[float, float]]:
    steps = 60
    low, high = math.log10(across.low), math.log10(across.high)
    exits = [10 ** (low + (high - low) * step / steps) for step in range(steps + 1)]
    points = [(across(count), least + each * count) for count in exits]
    return [(x, up(us)) for x, us in points if up.low <= us <= up.high]


def _points(figure: Drawing, rows: Sequence[Row], across: LogScale, up: LogScale) -> None:
    """Dots with names, each of which avoids those that stand already."""
    taken: list[tuple[float, float, float, float]] = []
    for row in rows:
        x, y = across(row.costs.exits), up(row.us)
        taken.append((x - 6, y - 6, x + 6, y + 6))
    for row in rows:
        x, y = across(row.costs.exits), up(row.us)
        label = contender(row.contender).label
        told = f"{label}, {row.by}: {short(row.costs.exits)} exits, {_time(row.us)}"
        figure.dot(x, y, 5, kind(row.by), told)
        width = 6.6 * len(label)
        for left, base in (
            *((x + 10, y + 4), (x - 12 - width, y + 4), (x + 8, y - 9), (x + 8, y + 18)),
            *((x - width - 8, y - 9), (x - width - 8, y + 18), (x + 8, y - 22), (x + 8, y + 31)),
        ):
            box = (left, base - 11, left + width, base + 3)
            if box[2] < WIDTH - 4 and not any(_meet(box, other) for other in taken):
                taken.append(box)
                figure.text(left, base, label, f"value {kind(row.by)}")
                break


def _meet(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _time(us: float) -> str:
    return f"{short(us / 1000)} ms" if us >= 1000 else f"{short(us)} us"
