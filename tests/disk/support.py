"""Small words the disk tests share."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from drivebay.disk.contract import Disk
from drivebay.suspend import Resume, Suspension, run


def view(size: int) -> memoryview:
    return memoryview(bytearray(size))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def put(disk: Disk, sector: int, data: bytes, fua: bool = False) -> None:
    run(disk.write(sector, [memoryview(bytearray(data))], fua))


def get(disk: Disk, sector: int, count: int) -> bytes:
    data = view(count * disk.sector_size)
    run(disk.read(sector, [data]))
    return bytes(data)


def fill(disk: Disk, seed: int = 1) -> bytes:
    data = noise(disk.byte_count, seed)
    put(disk, 0, data)
    return data


class Stepped:
    """A coroutine driven by hand: `work` does what it handed to a worker, then it goes on."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine
        self.done = False
        self.calls: list[tuple[Callable[[], Any], Resume]] = []
        self._step(None, None)

    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        self.calls.append((call, resume))

    def work(self) -> None:
        call, resume = self.calls.pop(0)
        try:
            value = call()
        except BaseException as error:
            resume(None, error)
        else:
            resume(value, None)

    def _step(self, value: Any, error: BaseException | None) -> None:
        try:
            suspension: Suspension[Any] = (
                self.coroutine.send(value) if error is None else self.coroutine.throw(error)
            )
        except StopIteration:
            self.done = True
        else:
            suspension.begin(self, self._step)
