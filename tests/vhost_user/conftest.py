"""A served disk, ready to be attacked by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.hosts.vhost_user.server import VhostUserServer, listen
from drivebay.platform.engine import Engine
from tests.fixtures import engine, no_bug_is_logged

from .support import Bay, Desk

__all__ = ["engine", "no_bug_is_logged"]  # fixtures

MakeBay = Callable[..., Bay]


@pytest.fixture
def make_bay(engine: Engine, tmp_path: Path) -> Iterator[MakeBay]:
    """Makes a bay for a disk, once; `patience` is how long the server waits for a first message."""
    bays: list[Bay] = []

    def make(disk: Disk | None = None, *, queues: int = 1, patience: float = 10.0) -> Bay:
        path = str(tmp_path / f"{len(bays)}.sock")
        device = BlockDevice(disk or RamDisk(1 << 20), engine, queues=queues)
        server = VhostUserServer(device, engine, listen(path), patience=patience)
        bays.append(Bay(engine, device.disk, device, server, path))
        return bays[-1]

    yield make
    for bay in bays:
        bay.server.close()
        bay.disk.close()


@pytest.fixture
def bay(make_bay: MakeBay) -> Bay:
    return make_bay()


@pytest.fixture
def desk(engine: Engine) -> Iterator[Desk]:
    desk = Desk(BlockDevice(RamDisk(1 << 20), engine, queues=2), engine)
    yield desk
    desk.close()


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    """Once for each kind of ring."""
    return bool(request.param)
