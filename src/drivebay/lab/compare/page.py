"""A page with the drawings, what they tell, and the figures; and a picture of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path
from typing import Final

from drivebay.lab.compare.figure import access_figure, kind, overview_figure
from drivebay.lab.compare.jobs import contender
from drivebay.lab.compare.results import Comparison
from drivebay.lab.compare.story import DESIGN, facts, summary
from drivebay.lab.compare.table import WORDS, cells, heading

__all__ = ["NoPainter", "find_painter", "html_page", "overview_svg", "write_png"]

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1d1f; --muted: #686b6f;
  --rule: #dfe1dd; --ours: #0a66c2; --peer: #c2570c; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e9e7e3;
  --muted: #a0a29e; --rule: #2b2f34; --ours: #62aeff; --peer: #ffa45c; } }
body { margin: 2.5rem auto; max-width: 1080px; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
.lead { font-size: 1.05rem; max-width: 50rem; } .muted { color: var(--muted); font-size: .9rem; }
figure { margin: 1.2rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; }
th.word, td.word { text-align: left; } td.why { white-space: normal; }
.ours { color: var(--ours); } .peer { color: var(--peer); }
"""
PAINTERS: Final = {
    "rsvg-convert": ("--width={twice}", "--output={target}", "{source}"),
    "chromium": (
        *("--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"),
        *("--force-device-scale-factor=2", "--window-size={width},{height}"),
        *("--screenshot={target}", "file://{source}"),
    ),
}
"""Who makes a picture of a drawing, twice as large for screens that have the pixels."""


class NoPainter(Exception):
    """No program here makes a picture of a drawing."""


def html_page(comparison: Comparison) -> str:
    """One file without anything beside it, for light and dark."""
    where = "in one Linux guest" if comparison.where == "guest" else "by drivers in this process"
    lead = " ".join(summary(comparison))
    method = [METHOD, WHERE[comparison.where], *comparison.notes]
    body = [
        "<h1>Storage controllers compared</h1>",
        f'<p class="muted">The same jobs on the same disk, {where}.</p>',
        f'<p class="lead">{escape(lead)}</p>',
        f"<figure>{overview_figure(comparison)}</figure>",
        *(_exits(comparison) if comparison.where == "guest" else ()),
        "<h2>What limits each</h2>",
        _reasons(comparison),
        *(_table(comparison, *each) for each in comparison.jobs),
        "<h2>How the figures were taken</h2>",
        *(f"<p>{escape(note)}</p>" for note in method),
        _about(comparison),
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            "<title>Storage controllers compared</title>",
            f"<style>{STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def _exits(comparison: Comparison) -> list[str]:
    return [
        '<p class="muted">An exit is a register access, or a notification that ends in an '
        "eventfd: for either the virtual machine is left.</p>",
        f"<figure>{access_figure(comparison)}</figure>",
    ]


METHOD: Final = (
    "Rates are medians of rounds in which all controllers take turns; the spread is the distance "
    "between the largest and the smallest as a part of the median. The other figures are of each "
    "I/O of a run of its own, in which nothing is timed: accesses to registers, their bytes, "
    "interrupts, bytes of each command, and the most commands that a controller had at once."
)
WHERE: Final = {
    "guest": "Accesses are what QEMU traces, for its own controllers and for those of drivebay "
    "alike; kicks are notifications by eventfd; interrupts and commands are what Linux counts. "
    "One MiB is read by dd, with iflag=direct, the rest by fio. drivebay is another process, and "
    "QEMU's own controllers are a function call away.",
    "in-process": "The drivers are drivebay's own, in Python, and take their part of the time. "
    "Nothing is left for an access here, and it costs little.",
}


def _reasons(comparison: Comparison) -> str:
    parts = []
    for name in dict.fromkeys(name for name, _ in comparison.lanes):
        makers = [by for lane, by in comparison.lanes if lane == name]
        told = "".join(
            f'<div class="{kind(by)}">{escape(f"{by}: {said}.")}</div>'
            for by in makers
            if (said := facts(comparison, name, by))
        )
        parts.append(
            f'<tr><td class="word">{escape(contender(name).label)}</td>'
            f'<td class="word why">{escape(DESIGN[name])}{told}</td></tr>'
        )
    return f'<div class="scroll"><table>{"".join(parts)}</table></div>'


def _table(comparison: Comparison, name: str, cache: str) -> str:
    rows = comparison.of_job(name, cache)
    columns = cells(rows)
    head = "".join(f"<th{_word(title)}>{escape(title)}</th>" for title in columns)
    lines = [
        "<tr>"
        + "".join(f"<td{_word(t)}>{escape(c)}</td>" for t, c in zip(columns, line, strict=True))
        + "</tr>"
        for line in zip(*columns.values(), strict=True)
    ]
    return (
        f"<h2>{escape(heading(name, cache))}</h2>\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _word(title: str) -> str:
    return ' class="word"' if title in WORDS else ""


def _about(comparison: Comparison) -> str:
    items = "".join(
        f'<tr><td class="word">{escape(key)}</td><td class="word why">{escape(value)}</td></tr>'
        for key, value in comparison.about.items()
    )
    return f'<div class="scroll"><table>{items}</table></div>'


def overview_svg(comparison: Comparison) -> str:
    """The first drawing alone."""
    return str(overview_figure(comparison))


def find_painter() -> str:
    """The program that makes pictures here. Raises `NoPainter`."""
    for program in PAINTERS:
        if shutil.which(program) is not None:
            return program
    raise NoPainter(f"there is none of {', '.join(PAINTERS)} to make a picture")


def write_png(comparison: Comparison, path: Path) -> None:
    """The first drawing as a picture. Raises `NoPainter`, and `OSError` if it cannot be written."""
    figure, painter = overview_figure(comparison), find_painter()
    with tempfile.TemporaryDirectory(prefix="drivebay-") as folder:
        source, target = Path(folder) / "figure.svg", Path(folder) / "figure.png"
        source.write_text(str(figure))
        known = {
            "source": source, "target": target, "width": figure.width, "height": figure.height,
            "twice": 2 * figure.width,
        }  # fmt: skip
        words = [word.format(**known) for word in PAINTERS[painter]]
        done = subprocess.run([painter, *words], capture_output=True, text=True, check=False)
        if done.returncode or not target.exists():
            raise NoPainter(f"{painter} made no picture: {done.stderr.strip()[-200:]}")
        path.write_bytes(target.read_bytes())
