"""A room imports only from the floors below its own, or from itself (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "drivebay"

FLOORS = {
    "wire": 0,
    "suspend": 0,
    "disk": 1,
    "platform": 2,
    "scsi": 3,
    "ata": 4,  # an ATAPI drive takes SCSI commands
    "controllers": 5,
    "hosts": 5,
    "guests": 5,  # knows nothing of the house: it starts other people's programs
    "drivers": 6,  # beside the controllers: they share what the specs say
    "machines": 7,
    "testing": 8,
    "lab": 9,
    "cli": 10,
}

# Rooms that may not know each other though a floor parts them.
STRANGERS = {
    ("hosts", "controllers"),
    ("disk", "guests"),
    ("platform", "guests"),
    ("controllers", "guests"),
    ("hosts", "guests"),
}


def rooms() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        if parts != ("__init__.py",):
            yield parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    """The rooms that a module imports from, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("drivebay."):
                yield name.split(".")[1]


@pytest.mark.parametrize("room", sorted({room for room, _ in rooms()}))
def test_a_room_imports_only_from_floors_below(room: str) -> None:
    assert room in FLOORS, f"{room} has no floor yet: give it one in docs/architecture.md and here"
    for owner, path in rooms():
        if owner != room:
            continue
        for other in imports(path):
            if other in ("__version__", room):
                continue
            assert FLOORS[other] < FLOORS[room], f"{path}: {room} imports {other}"
            assert (room, other) not in STRANGERS, f"{path}: {room} must not know {other}"


def test_no_file_is_over_600_lines() -> None:
    for _, path in rooms():
        assert len(path.read_text().splitlines()) <= 600, path


def test_devices_touch_no_sockets_threads_files_or_clocks() -> None:
    """Design rule 1."""
    forbidden = {"socket", "threading", "time", "random", "select", "subprocess", "os"}
    for room, path in rooms():
        if room in ("controllers", "ata", "scsi"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = set()
                if isinstance(node, ast.Import):
                    names = {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {str(node.module)}
                assert not names & forbidden, f"{path} imports {names & forbidden}"
