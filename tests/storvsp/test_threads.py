"""The guest on a thread of its own, waiting for interrupts: none is lost, nor any packet.

`DRIVEBAY_PACKETS=1000000` sends a million, in place of some thousands.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.storvsc import StorVsc, VmbusDriver
from drivebay.platform.engine import Engine
from drivebay.scsi.cdb import Read10
from drivebay.scsi.opcodes import Opcode
from tests.disk.support import fill

from .support import Bench

PACKETS = int(os.environ.get("DRIVEBAY_PACKETS", "20000"))
DEPTH = 32


@contextmanager
def running(bench: Bench) -> Iterator[VmbusDriver]:
    """The device on a thread; a driver for this one, which sleeps until it is interrupted."""
    engine, bus = bench.engine, bench.bus
    came = threading.Event()

    def wait() -> None:
        assert came.wait(20), "an interrupt was lost"
        came.clear()

    def signal(connection: int) -> None:
        bus.signal(connection)

    guest = VmbusDriver(
        lambda message: engine.later(lambda: bus.message(message)),
        lambda connection: engine.later(lambda: signal(connection)),
        wait,
    )

    def receive(message: bytes) -> None:
        guest.receive(message)
        came.set()

    bus._send = receive
    bus._interrupt = lambda _channel, _vp: came.set()
    bench.guest = guest
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield guest
    finally:
        engine.stop()
        thread.join()


@pytest.mark.parametrize("pages", [1, 16])
@pytest.mark.parametrize("workers", [0, 2])
def test_packets_of_another_thread(pages: int, workers: int) -> None:
    disk = RamDisk(1 << 20)
    data = fill(disk)
    bench = Bench({0: disk}, engine=Engine(workers=workers))
    with running(bench):
        driver = bench.driver(pages=pages, slots=DEPTH)
        work(driver, data, PACKETS // 4)
    bench.engine.close()


def work(driver: StorVsc, data: bytes, packets: int) -> None:
    """Reads at depth, each checked."""
    channel = driver.channel
    sent: dict[int, tuple[int, int]] = {}
    free = list(range(DEPTH))
    started = ended = 0
    while ended < packets:
        while free and started < packets:
            slot, lba = free.pop(), started * 7 % 2048
            cdb = Read10(Opcode.READ_10, 0, lba, transfer_length=1).pack()
            sent[driver.start(cdb, 512, slot=slot)] = slot, lba
            started += 1
        channel.ring.mask()
        channel.take()
        if not channel.ended:
            if channel.ring.unmask():
                driver.bus.poll()
            continue
        for transaction in tuple(channel.ended):
            end = driver.ended(channel.ended.pop(transaction))
            slot, lba = sent.pop(transaction)
            assert end.status == 0
            assert driver.got(512, slot) == data[512 * lba :][:512]
            free.append(slot)
            ended += 1
    assert not sent
