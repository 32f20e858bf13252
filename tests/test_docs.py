"""What the pages show works: their Python runs, their commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from drivebay.cli.controllers import KINDS, parse_controllers
from drivebay.cli.floppy import parse_floppies
from drivebay.cli.main import cli, main
from drivebay.disk.spec import parse

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"disks.md"}  # tests/disk/test_docs.py runs its Python
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, *sorted((ROOT / "src").rglob("README.md"))]
SPECS = {"spec", "source", "one", "two", "base"}
"""Arguments that name disks."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def scripts(page: Path, guest: bool) -> list[str]:
    """The page's Python, with or without guests; one block goes on where the last ended."""
    return [block for block in blocks(page, "python") if block.startswith("# guest") == guest]


def run(page: Path, guest: bool) -> None:
    names = {"__name__": "page"}
    for script in scripts(page, guest):
        exec(compile(script, str(page), "exec"), names)


def pages(guest: bool) -> list[Path]:
    return [page for page in PAGES if page.name not in ELSEWHERE and scripts(page, guest)]


@pytest.mark.parametrize("page", pages(guest=False), ids=lambda page: page.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, guest=False)


@pytest.mark.guest
@pytest.mark.parametrize("page", pages(guest=True), ids=lambda page: page.name)
def test_python_with_guests_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, guest=True)


def commands() -> list[tuple[str, str]]:
    lines = [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "console")
        for line in re.findall(r"^\$ (drivebay .*)$", block, re.MULTILINE)
    ]
    assert len(lines) > 5
    return lines


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_understood(page: str, line: str) -> None:
    """Each command line parses, to the last option of its controllers."""
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"{page}: {line}"
    known = {"--kernel": "/dev/null", "--initrd": "/dev/null"}  # only their existence is checked
    for option, stand_in in known.items():
        if option in arguments:
            arguments[arguments.index(option) + 1] = stand_in
    said = command.make_context(name, arguments).params
    if "virtio_blk" in said:
        names = [*KINDS, "controller", "disk", "fault"]
        words = [(key, text) for key in names for text in said[key.replace("-", "_")]]
        floppies = bool(parse_floppies(said.get("floppies", ())))
        parse_controllers(words, may_be_none=floppies or name == "qtest")
    for key in SPECS & said.keys():
        parse(said[key])


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_specs_are_understood(page: Path) -> None:
    for block in blocks(page, "disk"):
        for line in block.splitlines():
            assert parse(line).text == line


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """What a link may name of the page, by GitHub's rule for headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_can_be_found() -> None:
    """From README, by links."""
    found, to_do = set(), [ROOT / "README.md"]
    while to_do:
        page = to_do.pop().resolve()
        if page.suffix == ".md" and page.exists() and page not in found:
            found.add(page)
            to_do += [page.parent / path for path, _ in LINK.findall(page.read_text())]
    assert set(PAGES) <= found


@pytest.mark.guest
def test_run_ends_with_the_guests_status(capfd: pytest.CaptureFixture[str]) -> None:
    line = "boot --virtio-blk mem:64M --run"
    size = "echo size; test $(cat /sys/block/vda/size) = 131072"
    assert main([*line.split(), size]) == 0
    assert capfd.readouterr().out == "size\n"
    assert main([*line.split(), "exit 7"]) == 7


@pytest.mark.guest
def test_demo(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capfd.readouterr().out
    assert "the same" in out
    assert "0 errors" in out
