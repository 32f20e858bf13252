"""Faults by the control socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drivebay.disk.errors import DiskOpenError
from drivebay.hosts.control.client import Control, ControlError

from .support import controller, ram, serve


@dataclass
class Desk:
    """Rules that nobody does."""

    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if text == "nonsense":
            raise DiskOpenError("nonsense makes no sense", "try sense")
        self.texts.append(text)

    def rules(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    def release(self) -> int:
        return len(self.texts)

    def clear(self) -> None:
        self.texts.clear()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    able = controller("nvme", {"1": ram()}, faults=Desk())
    with serve(tmp_path, able, controller("vda", {"": ram()})) as served, served.control() as found:
        yield found


def test_rules_come_and_go(control: Control) -> None:
    control.add_fault("nvme", "read:hold")
    control.add_fault("nvme", "write:drop")
    assert control.faults("nvme") == {"read:hold": 0, "write:drop": 1}
    assert control.release_faults("nvme") == 2
    control.clear_faults("nvme")
    assert control.faults("nvme") == {}


def test_what_is_refused(control: Control) -> None:
    with pytest.raises(ControlError, match="vda: test has no faults"):
        control.add_fault("vda", "read:drop")
    with pytest.raises(ControlError, match="no controller x"):
        control.faults("x")
    with pytest.raises(ControlError, match="nonsense makes no sense"):
        control.add_fault("nvme", "nonsense")
