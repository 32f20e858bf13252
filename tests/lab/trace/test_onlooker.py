"""Somebody looks on at what crosses the seam between a virtual machine and its controllers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.hosts.vfio_user.messages import Region
from drivebay.platform.engine import Engine
from tests.vfio_user.support import Bay, make_bay


class Seen:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, bool, int, int, int]] = []
        self.interrupts: list[tuple[str, bool | None]] = []

    def access(self, place: str, write: bool, offset: int, width: int, value: int) -> None:
        self.accesses.append((place, write, offset, width, value))

    def interrupt(self, name: str, level: bool | None) -> None:
        self.interrupts.append((name, level))


@pytest.fixture
def bay(engine: Engine, tmp_path: Path) -> Iterator[Bay]:
    bay = make_bay(engine, tmp_path)
    yield bay
    bay.server.close()
    bay.function.shared.close()


def test_registers_and_interrupts(bay: Bay) -> None:
    monitor = bay.monitor()
    monitor.write(0, 0, 4, 1)
    seen = Seen()
    bay.server.watch(seen)
    monitor.write(0, 8, 8, 7)
    assert monitor.read(0, 8, 4) == 7
    monitor.write(2, 1, 1, 5)
    monitor.read(Region.CONFIG, 0, 2)
    monitor.write(0, 24, 4, 1)
    assert seen.accesses == [
        ("BAR0", True, 8, 8, 7),
        ("BAR0", False, 8, 4, 7),
        ("BAR2", True, 1, 1, 5),
        ("config", False, 0, 2, 0x1AF4),
        ("BAR0", True, 24, 4, 1),
    ]
    assert seen.interrupts == [("INTx", True)]
    bay.server.watch(None)
    monitor.write(0, 24, 4, 0)
    assert len(seen.accesses) == 5 and len(seen.interrupts) == 1


def test_who_comes_later_is_watched_too(bay: Bay) -> None:
    seen = Seen()
    bay.server.watch(seen)
    monitor = bay.monitor()
    monitor.read(0, 0, 4)
    assert seen.accesses == [("BAR0", False, 0, 4, 0)]
