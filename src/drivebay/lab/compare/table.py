"""The rows as text: for a terminal, and cell by cell for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from drivebay.lab.compare.jobs import contender, job
from drivebay.lab.compare.results import Comparison, Row
from drivebay.lab.compare.svg import short

__all__ = ["COLUMNS", "cells", "heading", "text_table"]

COLUMNS: Final[dict[str, Callable[[Row], str]]] = {
    "controller": lambda row: contender(row.contender).label,
    "by": lambda row: row.by,
    "rate": lambda row: f"{_rate(row.median)} {row.unit}{_sized(row)}",
    "spread": lambda row: f"{row.spread:.0%}",
    "accesses": lambda row: short(row.costs.accesses),
    "kicks": lambda row: short(row.costs.kicks),
    "interrupts": lambda row: short(row.costs.interrupts),
    "register bytes": lambda row: short(row.costs.register_bytes),
    "bytes a command": lambda row: _bytes(row.size / row.costs.commands),
    "in flight": lambda row: str(row.costs.in_flight),
    "server us": lambda row: "" if row.server_us is None else short(row.server_us),
}
"""What is shown of a row. Figures are of each I/O; empty columns are left out."""
WORDS: Final = ("controller", "by")
"""Columns that are no figures."""


def cells(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns that have something in them, cell by cell."""
    found = {name: [cell(row) for row in rows] for name, cell in COLUMNS.items()}
    return {name: column for name, column in found.items() if {*column} - {"", "0"}}


def heading(name: str, cache: str) -> str:
    """What a job's rows are called."""
    return job(name).label + (f", cache={cache}" if cache else "")


def text_table(comparison: Comparison) -> str:
    """All rows in plain text, a table for each job, with notes below."""
    parts = []
    for name, cache in comparison.jobs:
        columns = cells(comparison.of_job(name, cache))
        widths = {title: max(map(len, [title, *column])) for title, column in columns.items()}
        lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        parts.append(heading(name, cache))
        for line in lines:
            padded = (
                cell.ljust(widths[title]) if title in WORDS else cell.rjust(widths[title])
                for title, cell in zip(columns, line, strict=True)
            )
            parts.append("  ".join(padded).rstrip())
        parts.append("")
    return "\n".join([*parts, *comparison.notes, *[""] * bool(comparison.notes)])


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _sized(row: Row) -> str:
    """A mark where the I/O are not as large as the others'."""
    usual = job(row.job).size
    return f" ({_bytes(row.size)})" if row.size != usual else ""


def _bytes(count: float) -> str:
    return f"{count / 1024:.4g}K" if count < 1 << 20 else f"{count / (1 << 20):.3g}M"
