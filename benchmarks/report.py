"""Results: how they are kept in build/bench.json, and shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.run import Series

PATH = Path(__file__).parents[1] / "build" / "bench.json"

BEGIN, END = "<!-- figures: python -m benchmarks --into -->", "<!-- end of figures -->"

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


def load() -> list[Row]:
    """The rows kept so far."""
    rows: list[Row] = json.loads(PATH.read_text()) if PATH.exists() else []
    return rows


def replace(part: str, results: Iterable[Result], taken: Row, keep: bool = True) -> list[Row]:
    """Keep these rows in the place of all of their part; the new ones."""
    rows = [result.row() | {"taken": taken} for result in results]
    if keep:
        others = [row for row in load() if not row["name"].startswith(f"{part}/")]
        PATH.parent.mkdir(exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in others + rows)
        PATH.write_text(f"[\n{lines}\n]\n")
    return rows


# -- showing ---------------------------------------------------------------------------------------

Cell = Callable[[Row], str]


def _floor(row: Row) -> str:
    if "floor" not in row:
        return ""
    return f"{'<=' if row['unit'] == 'us' else '>='} {row['floor']:g} {verdict(row)}"


COLUMNS: dict[str, Cell] = {
    "job": lambda row: str(row["name"]),
    "unit": lambda row: str(row["unit"]),
    "ours": lambda row: _figure(row["ours"]),
    "peer": lambda row: _figure(row["peer"]),
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "spread": lambda row: f"{row['spread']:.0%} / {row['spread_peer']:.0%}",
    "server CPU us": lambda row: _pair(row, "server_cpu_us_ours", "server_cpu_us_peer"),
    "with driver": lambda row: _figure(row["total_us"]) if "total_us" in row else "",
    "accesses": lambda row: str(row.get("accesses", "")),
    "us of all": lambda row: _figure(row["request_us"]) if "request_us" in row else "",
    "floor": _floor,
    "peer is": lambda row: str(row["peer_name"]),
}
"""What is shown of a row; a column without a word in it is left out."""
NUMBERS = ("ours", "peer", "ratio")


def line(row: Row) -> str:
    """A row in one line."""
    return " ".join(filter(None, (cell(row) for cell in COLUMNS.values())))


def table(rows: Sequence[Row]) -> str:
    """A table for the terminal."""
    columns = _columns(rows)
    widths = {name: max(len(name), *map(len, cells)) for name, cells in columns.items()}
    lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if name in NUMBERS else text.ljust(width)
            for text, (name, width) in zip(texts, widths.items(), strict=True)
        ).rstrip()
        for texts in lines
    )


def summary(rows: Sequence[Row]) -> str:
    """How many floors are met, and which are not."""
    missed = [row["name"] for row in rows if verdict(row) == "MISSED"]
    met = sum(bool(verdict(row)) for row in rows) - len(missed)
    text = f"{met} floors met, {len(missed)} missed"
    return f"{text}: {', '.join(missed)}." if missed else f"{text}."


def markdown(rows: Sequence[Row]) -> str:
    """The same for a page, a table for each part, with what it was taken on."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["name"].partition("/")[0], []).append(row)
    sections = [_section(part, group) for part, group in parts.items()]
    return "\n\n".join([summary(rows), *sections]) + "\n"


def put_into(page: Path, text: str) -> None:
    """Replace what is between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _section(part: str, rows: Sequence[Row]) -> str:
    columns = _columns(rows)
    lines = [f"### {part}", ""]
    for taken in _distinct(row.get("taken", {}) for row in rows):
        lines += ["; ".join(f"{key}: {value}" for key, value in taken.items()) + ".", ""]
    lines.append(f"| {' | '.join(columns)} |")
    lines.append("|" + "|".join("---:" if name in NUMBERS else "---" for name in columns) + "|")
    lines += [f"| {' | '.join(cells)} |" for cells in zip(*columns.values(), strict=True)]
    return "\n".join(lines)


def _columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    columns = {name: [cell(row) for row in rows] for name, cell in COLUMNS.items()}
    return {name: cells for name, cells in columns.items() if any(cells)}


def _distinct(items: Iterable[Row]) -> list[Row]:
    found: list[Row] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _pair(row: Row, ours: str, peer: str) -> str:
    return f"{row[ours]:.1f} / {row[peer]:.1f}" if ours in row else ""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _rounded(value: Any) -> Any:
    """Four digits are more than the figures are good for."""
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
