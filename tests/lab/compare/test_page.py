"""What is shown: a page and drawings that are whole, a table, JSON."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from drivebay.lab.compare import (
    CONTENDERS,
    JOBS,
    Comparison,
    html_page,
    overview_svg,
    text_table,
    write_png,
)
from drivebay.lab.compare.figure import access_figure
from drivebay.lab.compare.page import PAINTERS
from drivebay.lab.compare.story import DESIGN, access_cost, facts, summary
from drivebay.lab.compare.svg import LogScale, short

from .support import PEER, made_up

SVG = "{http://www.w3.org/2000/svg}"


def text_of(tree: ET.Element) -> str:
    return " ".join(tree.itertext())


@pytest.mark.parametrize("where", ["guest", "in-process"])
def test_the_page_is_well_formed_and_whole(where: str) -> None:
    comparison = made_up(where)
    page = html_page(comparison)
    assert page.startswith("<!DOCTYPE html>")
    tree = ET.fromstring(page.partition("\n")[2])
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert not list(tree.iter("script"))
    told = text_of(tree)
    for contender, by in comparison.lanes:
        label = next(each.label for each in CONTENDERS if each.name == contender)
        assert label in told
        assert DESIGN[contender] in told
        assert facts(comparison, contender, by) in told
    for job in JOBS:
        assert job.label in told
    assert "a <fast> one & quiet" in told
    assert "Nothing was left out." in told
    figures = 2 if where == "guest" else 1
    assert len(list(tree.iter(f"{SVG}svg"))) == figures


def test_the_drawing_has_a_dot_for_each_figure() -> None:
    comparison = made_up()
    tree = ET.fromstring(overview_svg(comparison))
    told = [dot for dot in tree.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    assert len(told) == len(comparison.lanes) * 5  # two jobs in two panels, one in the third
    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    for dot in told:
        assert 0 < float(dot.attrib["cx"]) < width
        assert 0 < float(dot.attrib["cy"]) < height


def test_the_drawings_do_without_jobs_that_were_not_run() -> None:
    comparison = made_up()
    comparison.rows = [row for row in comparison.rows if row.job == "read-1m"]
    ET.fromstring(html_page(comparison).partition("\n")[2])
    assert summary(comparison) == []


def test_points_that_lie_together_have_labels_apart() -> None:
    comparison = made_up()
    for row in comparison.rows:
        row.costs.accesses, row.samples = 2.0, [100.0]
    tree = ET.fromstring(str(access_figure(comparison)))
    values = [each for each in tree.iter(f"{SVG}text") if "value" in each.attrib["class"]]
    places = {(each.attrib["x"], each.attrib["y"]) for each in values}
    assert len(places) == len(values) > 1


def test_an_access_costs_what_the_many_cost_more_than_the_few() -> None:
    comparison = made_up()
    for row in comparison.rows:
        us = 20 + 3 * row.costs.accesses if row.by == PEER else 20 + 60 * row.costs.accesses
        row.samples = [1e6 / us]
    for by, each in (("drivebay", 60), (PEER, 3)):
        cost = access_cost(comparison, by)
        assert cost is not None
        assert list(cost) == pytest.approx([each, 20])


@pytest.mark.parametrize("program", PAINTERS)
def test_a_picture_is_made_by_what_is_there(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).symlink_to(found)
    monkeypatch.setattr(shutil, "which", lambda name: found if name == program else None)
    target = tmp_path / "figure.png"
    write_png(made_up(), target)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_the_table_has_every_row() -> None:
    comparison = made_up()
    lines = text_table(comparison).splitlines()
    assert sum(" drivebay " in line or PEER in line for line in lines) == len(comparison.rows)
    assert lines[-1] == "Nothing was left out."


def test_json_comes_back_as_it_was() -> None:
    comparison = made_up()
    assert Comparison.from_json(comparison.to_json()) == comparison


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0469, "0.047"),
        (1, "1"),
        (26, "26"),
        (2079, "2.08k"),
        (999.9, "1k"),
        (1e6, "1M"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_scale_has_room_for_all_and_ends_at_powers_of_ten() -> None:
    scale = LogScale.around([0, 3, 2000], 0, 400)
    assert scale.ticks == [1, 10, 100, 1000, 10000]
    assert scale(1) == 0
    assert scale(10000) == 400
    assert scale(100) == pytest.approx(200)
    assert scale(0) == 0  # at the edge
