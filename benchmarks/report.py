"""Results: how they are kept in build/bench.json, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.run import Series

PATH = Path(__file__).parents[1] / "build" / "bench.json"

Row = dict[str, Any]


@dataclass
class Result:
    """One comparison. `ratio` is ours / peer, of the medians.

    `spread` is the distance between the largest and the smallest of our `n` figures as a part of
    their median. In a unit where more is better, `floor` and `goal` are ratios; in `us`, `floor` is
    the most that ours may be. `extra` are keys of the one part.
    """

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    spread: float
    spread_peer: float
    n: int
    floor: float | None = None
    goal: float | None = None
    server_cpu_us_ours: float | None = None
    server_cpu_us_peer: float | None = None
    extra: Row = field(default_factory=dict)

    def row(self) -> Row:
        """As it is kept: rounded, without what is not known."""
        row: Row = {"name": self.name, "unit": self.unit, "ours": self.ours, "peer": self.peer}
        row |= {"peer_name": self.peer_name, "ratio": self.ours / self.peer}
        row |= {"spread": self.spread, "spread_peer": self.spread_peer, "n": self.n}
        row |= {"floor": self.floor, "goal": self.goal}
        row |= {"server_cpu_us_ours": self.server_cpu_us_ours}
        row |= {"server_cpu_us_peer": self.server_cpu_us_peer, **self.extra}
        return {key: _rounded(value) for key, value in row.items() if value is not None}


def compare(
    name: str,
    unit: str,
    figures: tuple[Series, Series],
    peer_name: str,
    *,
    floor: float | None = None,
    goal: float | None = None,
    extra: Row | None = None,
) -> Result:
    """The result of figures taken in turn."""
    ours, peer = figures
    return Result(
        name=name,
        unit=unit,
        ours=ours.median,
        peer=peer.median,
        peer_name=peer_name,
        spread=ours.spread,
        spread_peer=peer.spread,
        n=len(ours.samples),
        floor=floor,
        goal=goal,
        server_cpu_us_ours=ours.cpu_us,
        server_cpu_us_peer=peer.cpu_us,
        extra=extra or {},
    )


def verdict(row: Row) -> str:
    """Whether a row keeps its floor; empty without one."""
    if "floor" not in row:
        return ""
    if row["unit"] == "us":
        return "met" if row["ours"] <= row["floor"] else "MISSED"
    if row["ratio"] < row["floor"]:
        return "MISSED"
    return "goal met" if "goal" in row and row["ratio"] >= row["goal"] else "met"


def load(path: Path = PATH) -> list[Row]:
    """The rows kept so far."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def replace(part: str, results: Iterable[Result], taken: Row, path: Path = PATH) -> list[Row]:
    """Keep these rows in the place of all of their part; the new ones."""
    rows = [result.row() | {"taken": taken} for result in results]
    others = [row for row in load(path) if not row["name"].startswith(f"{part}/")]
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in others + rows)
    path.write_text(f"[\n{lines}\n]\n")
    return rows


# -- showing ---------------------------------------------------------------------------------------

COLUMNS = ("", "unit", "ours", "peer", "ratio", "spread", "CPU us", "floor", "peer is")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of COLUMNS."""
    floor = f"{_bound(row)} {verdict(row)}" if "floor" in row else ""
    cpu = ""
    if "server_cpu_us_ours" in row:
        cpu = f"{row['server_cpu_us_ours']:.1f} / {row['server_cpu_us_peer']:.1f}"
    spread = f"{row['spread']:.0%} / {row['spread_peer']:.0%}"
    figures = (_figure(row["ours"]), _figure(row["peer"]), f"{row['ratio']:.2f}")
    return (row["name"], row["unit"], *figures, spread, cpu, floor, row["peer_name"])


def table(rows: Sequence[Row]) -> str:
    """A table for the terminal."""
    lines = [COLUMNS, *map(cells, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if 2 <= n <= 4 else text.ljust(width)
            for n, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """The same for a page, a table for each part, with what it was taken on."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["name"].partition("/")[0], []).append(row)
    return "\n\n".join(_section(part, group) for part, group in parts.items()) + "\n"


def _section(part: str, rows: Sequence[Row]) -> str:
    lines = [f"### {part}", ""]
    for taken in _distinct(row.get("taken", {}) for row in rows):
        lines += [f"*{'; '.join(f'{key} {value}' for key, value in taken.items())}*", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---|---|---|---|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines)


def _distinct(items: Iterable[Row]) -> list[Row]:
    found: list[Row] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _bound(row: Row) -> str:
    return f"{'<=' if row['unit'] == 'us' else '>='} {row['floor']:g}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _rounded(value: Any) -> Any:
    return (
        float(f"{value:.4g}")
        if isinstance(value, float) and abs(value) < 1000
        else (round(value) if isinstance(value, float) else value)
    )
