from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from tests.disk.support import fill
from tests.fixtures import engine, no_bug_is_logged
from tests.nbd.support import SIZE, RawClient, Serving

__all__ = ["engine", "no_bug_is_logged"]


@pytest.fixture
def disk() -> RamDisk:
    return RamDisk(SIZE)


@pytest.fixture
def content(disk: RamDisk) -> bytes:
    return fill(disk)


@pytest.fixture
def serving(disk: RamDisk, tmp_path: Path) -> Iterator[Serving]:
    with Serving(disk, tmp_path) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Iterator[RawClient]:
    client = RawClient(serving.path).go()
    yield client
    client.close()
