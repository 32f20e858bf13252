"""Servers in processes of their own, which are killed, by us or by their guest."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.controllers.virtio.registers import BlockType
from drivebay.drivers.virtio_blk import Pending
from drivebay.drivers.virtio_ring import Buffer
from drivebay.testing import FrontEnd, GuestRam, HungUp

SERVER = str(Path(__file__).with_name("served.py"))
BLOCK, BLOCKS, DEPTH = 4096, 128, 32


class Served:
    """A file served at a path by a process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.path, self.file = str(folder / "s"), str(folder / "disk")
        with open(self.file, "wb") as file:
            file.truncate(BLOCK * BLOCKS)
        self.start()

    def start(self) -> None:
        command = [sys.executable, SERVER, self.path, self.file]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        with self.process.stdout as said:
            assert said.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        return self.process.wait(10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.kill()


class Load:
    """Reads and writes at random, many at once, and checks each read against what was written."""

    def __init__(self, guest: FrontEnd, seed: int) -> None:
        self.guest, self.rng = guest, random.Random(seed)
        self.contents = [bytes(BLOCK)] * BLOCKS
        self.flying: dict[int, tuple[Pending, bytes | None]] = {}  # by block
        self.ended = 0

    def submit(self) -> None:
        while len(self.flying) < DEPTH:
            block = self.rng.randrange(BLOCKS)
            if block in self.flying:
                continue
            queue = block % self.guest.queues
            data = self.rng.randbytes(16) * (BLOCK // 16) if self.rng.random() < 0.5 else None
            kind = BlockType.IN if data is None else BlockType.OUT
            length = BLOCK if data is None else 0
            pending = self.guest.submit(
                kind, 8 * block, length, data, queue=queue, indirect=bool(block % 3)
            )
            self.flying[block] = pending, data

    def collect(self) -> None:
        self.guest.collect()
        for block, (pending, data) in list(self.flying.items()):
            if pending.written is not None:
                got = self.guest.result(pending)
                if data is None:
                    assert got == self.contents[block], f"block {block} is not what was written"
                else:
                    self.contents[block] = data
                del self.flying[block]
                self.ended += 1

    def run(self, count: int) -> None:
        """Until `count` more have ended."""
        count += self.ended
        while self.ended < count:
            self.submit()
            self.guest._sleep()
            self.collect()

    def finish(self) -> None:
        end = time.monotonic() + 10
        while self.flying:
            assert time.monotonic() < end, f"{len(self.flying)} requests are lost"
            self.guest._sleep()
            self.collect()


def test_twenty_servers_are_killed_under_load_and_nothing_is_lost(
    served: Served, packed: bool
) -> None:
    rng = random.Random(1)
    with FrontEnd(served.path, packed=packed, queues=2, queue_size=256) as guest:
        load = Load(guest, 2)
        for _ in range(20 if not packed else 10):
            load.run(rng.randrange(100, 300))
            load.submit()
            served.kill()
            served.start()
            guest.reconnect()
        load.finish()
        for block, contents in enumerate(load.contents):
            assert guest.read(8 * block, BLOCK) == contents


def test_sealed_memory_cannot_be_truncated(served: Served) -> None:
    with FrontEnd(served.path) as guest:
        with pytest.raises(PermissionError):
            os.ftruncate(guest.ram.fd, 0)
        guest.write(0, b"x" * 512)


def test_a_guest_that_truncates_its_memory_ends_the_server_and_the_next_serves_on(
    served: Served,
) -> None:
    """Ring accesses are loads and stores: there is no error that they could return."""
    ram = GuestRam(1 << 20, sealed=False)
    with FrontEnd(served.path, ram=ram) as guest:
        guest.write(0, b"precious".ljust(512))
        os.ftruncate(ram.fd, 0)
        guest.notify(0)
        assert served.wait() == -signal.SIGBUS
        guest.disconnect()
        served.start()
    with FrontEnd(served.path) as guest:
        assert guest.read(0, 512) == b"precious".ljust(512)


def test_data_that_is_truncated_away_is_an_error_of_its_request(served: Served) -> None:
    """File data moves by system calls, which say that the memory is gone."""
    ram = GuestRam(1 << 20, sealed=False)
    with FrontEnd(served.path, ram=ram) as guest:
        status = guest.arena.take(16)
        header = guest.arena.take(16)
        gone = ram.region.guest_address + ram.region.length - BLOCK
        os.ftruncate(ram.fd, os.fstat(ram.fd).st_size - 2 * BLOCK)
        guest.memory.view(header, 16)[:] = bytes(16)  # IN, sector 0
        guest.memory.view(status, 1)[0] = 0xFF
        buffers = [Buffer(header, 16, False), Buffer(gone, BLOCK, True), Buffer(status, 1, True)]
        guest.ring().add(buffers)
        guest.notify(0)
        end = time.monotonic() + 5
        while guest.memory.view(status, 1)[0] == 0xFF and time.monotonic() < end:
            guest._sleep()
        assert guest.memory.view(status, 1)[0] == 1
        while not list(guest.ring().take()):
            guest._sleep()
        guest.write(0, b"alive".ljust(512))
    assert served.process.poll() is None


def test_a_killed_server_is_a_hang_up(served: Served) -> None:
    with FrontEnd(served.path) as guest:
        served.kill()
        with pytest.raises(HungUp):
            guest.stop()
