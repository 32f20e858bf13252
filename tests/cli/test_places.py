"""The places of a controller: all or none at first, one by one later."""

from __future__ import annotations

import pytest

from drivebay.cli.errors import CliError
from drivebay.cli.places import Places
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError
from drivebay.hosts.control.slot import Slot
from drivebay.suspend import run


class Shelf:
    """Places by letters, where a capital cannot be opened, and a digit does not fit."""

    def __init__(self) -> None:
        self.open = 0
        self.places = Places(self._open, self._put, lambda wanted: wanted)

    def _open(self, wanted: str) -> Disk:
        if wanted.isupper():
            raise DiskOpenError(f"{wanted}: no such disk")
        disk = RamDisk(1 << 20)
        self.open += 1
        disk.close = self._close  # type: ignore[method-assign]
        return disk

    def _close(self) -> None:
        self.open -= 1

    def _put(self, wanted: str, disk: Disk | None) -> Slot:
        if wanted.isdigit() or wanted in self.places.slots:
            raise ValueError(f"{wanted} is taken")
        return Slot(disk, wanted)


def test_all_are_there_or_nothing_is_open() -> None:
    shelf = Shelf()
    with pytest.raises(DiskOpenError):
        shelf.places.fill("abC")
    assert shelf.open == 0
    shelf = Shelf()
    shelf.places.fill("ab")
    assert (shelf.open, list(shelf.places.slots), shelf.places.taken) == (2, ["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("wanted", "error"), [("A", DiskOpenError), ("1", CliError), ("a", CliError)]
)
def test_one_that_cannot_come_is_closed(wanted: str, error: type[Exception]) -> None:
    shelf = Shelf()
    shelf.places.fill("a")
    with pytest.raises(error):
        run(shelf.places.add(wanted))
    assert shelf.open == 1
    assert shelf.places.taken == ["a"]


def test_a_place_is_free_when_its_slot_has_gone() -> None:
    shelf = Shelf()
    shelf.places.fill("ab")
    del shelf.places.slots["a"]
    assert shelf.places.taken == ["b"]
    assert run(shelf.places.add("a")) == "a"
    assert sorted(shelf.places.taken) == ["a", "b"]
    assert len(shelf.places.disks) == 2
