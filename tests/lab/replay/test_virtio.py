"""Virtio is recorded and replayed: its rings are copies then, which fences bring in line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.drivers.arena import Arena
from drivebay.drivers.pci import PciAddress, PciConfig
from drivebay.drivers.virtio_blk import VirtioBlkPci
from drivebay.drivers.virtio_scsi import VirtioScsiPci
from drivebay.hosts.vfio_user.messages import DmaFlags, DmaMap
from drivebay.lab.replay import Recording
from drivebay.lab.replay.memory import MOST_LOADS, TapedMemory
from drivebay.platform.engine import Engine
from drivebay.platform.pci import ConfigMechanism1
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import content, filled, noise
from tests.virtio.bench import ALL, MESSAGES, PORTS, REGISTERS, RINGS, SPLIT, Guest

from .support import MIB, RAM_SIZE, RecordedBench, replay

AT = PciAddress(4, 0)
OTHER = 1 << 32
"""Where memory comes and goes."""


def block(memory: Any, engine: Engine, disks: list[Any]) -> VirtioPci:
    return VirtioPci(BlockDevice(disks[0], engine, packed=True), memory)


def scsi(memory: Any, engine: Engine, disks: list[Any]) -> VirtioPci:
    target = Target(engine)
    target.add(0, ScsiDisk(disks[0]))
    return VirtioPci(ScsiDevice(target, engine), memory)


class Bench(RecordedBench):
    """A recorded function whose BARs are found as a driver of PCI finds them."""

    def connect(self, kind: Any, **options: Any) -> Any:
        arena = Arena(self.memory, MIB, RAM_SIZE - MIB)
        self.board.ports.map(0xCF8, ConfigMechanism1(self.bus))
        PciConfig(self.board.ports).place(AT, PORTS, REGISTERS)
        return kind(self.board.ports, self.mmio, AT, arena, poll=self.poll, **options)


@pytest.mark.parametrize("features", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("messages", [(), MESSAGES], ids=["line", "messages"])
def test_block(tmp_path: Path, engine: Engine, features: int, messages: Any) -> None:
    path, disk = tmp_path / "it.dbreplay", filled(MIB, 1)
    bench = Bench(path, engine, block, [disk])
    driver = bench.connect(VirtioBlkPci, features=features, messages=messages, queue_size=8)
    model = bytearray(content(disk))
    dice = random.Random(1)
    for _ in range(40):
        sector, length = dice.randrange(1000), 512 * dice.randrange(1, 40)
        if dice.random() < 0.5:
            data = noise(length, sector)
            driver.write(sector, data)
            model[512 * sector : 512 * sector + length] = data
        else:
            assert driver.read(sector, length) == model[512 * sector :][:length]
    pending = [driver.submit(0, n, 512, indirect=n % 2 > 0, kick=n == 3) for n in range(4)]
    assert [driver.wait(each) for each in pending] == [0] * 4
    driver.reset()
    assert content(disk) == model
    bench.recorder.close()
    assert replay(path, block) > 500


def test_scsi(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "it.dbreplay"
    bench = Bench(path, engine, scsi, [filled(MIB, 1)])
    driver = bench.connect(VirtioScsiPci)
    driver.leave_room()
    driver.command(0, bytes(6))  # a unit attention
    assert len(driver.ask(0, bytes([0x12, 0, 0, 0, 36, 0]), room=36)) == 36
    driver.ask(0, bytes.fromhex("2a 00 00000007 00 0001 00"), data=noise(512, 7))
    read = bytes.fromhex("28 00 00000007 00 0001 00")
    assert driver.ask(0, read, room=512) == noise(512, 7)
    bench.recorder.close()
    assert replay(path, scsi) > 100


def test_what_waits_goes_on_in_the_same_order(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "it.dbreplay"
    puppet = PuppetDisk(filled(MIB, 1), lambda name, _sector, _count: name == "read")
    bench = Bench(path, engine, block, [puppet])
    driver = bench.connect(VirtioBlkPci, features=SPLIT)
    for round_ in range(10):
        pending = [driver.submit(0, round_ + n, 4096) for n in range(6)]
        while len(puppet.held) < 6:
            bench.poll()
        held = puppet.held
        random.Random(round_).shuffle(held)
        for each in held:
            each.complete()
        assert [driver.wait(each) for each in pending] == [0] * 6
    bench.recorder.close()
    assert replay(path, block) > 300


def test_a_broken_ring_is_broken_again(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "it.dbreplay"
    bench = Bench(path, engine, block, [filled(MIB, 1)])
    driver = bench.connect(VirtioBlkPci, features=SPLIT)
    ring = Guest(bench, driver).split  # type: ignore[arg-type]
    ring.avail[1] = 5000
    driver.notify(0)
    bench.poll()
    assert driver.status.DEVICE_NEEDS_RESET
    bench.recorder.close()
    assert replay(path, block) > 50


def test_memory_that_comes_and_goes(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "it.dbreplay"
    bench = Bench(path, engine, block, [filled(MIB, 1)])
    driver = bench.connect(VirtioBlkPci, features=ALL)
    both, memory = DmaFlags.READ | DmaFlags.WRITE, bench.recorder.memory
    memory.map(DmaMap(DmaMap.size, both, 0, OTHER, MIB), None)
    driver.write(3, noise(512, 3))
    assert memory.unmap(OTHER, MIB)()
    assert driver.read(3, 512) == noise(512, 3)
    bench.recorder.close()
    assert [entry for entry in Recording(path) if entry[0] == "relaid"] == [("relaid",)] * 2
    assert replay(path, block) > 50


# -- the copies ------------------------------------------------------------------------------------


class Tape:
    """Notes what it is told, and asks what it is to answer."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def told(self, *entry: Any) -> None:
        self.entries.append(entry)

    def answer(self, kind: str, *question: Any, find: Any) -> Any:
        found = find()
        self.entries.append((kind, *question, found))
        return found


class Ram:
    """4 KiB of it, behind messages."""

    def __init__(self) -> None:
        self.data = bytearray(4096)

    def fetch(self, address: int, length: int) -> bytes:
        return bytes(self.data[address % 4096 :][:length])

    def store(self, address: int, data: bytes) -> None:
        self.data[address % 4096 : address % 4096 + len(data)] = data


class Restless:
    """Memory that somebody stores to all the time."""

    def __init__(self) -> None:
        self.fetched = 0

    def fetch(self, _address: int, length: int) -> bytes:
        self.fetched += 1
        return self.fetched.to_bytes(length, "little")

    def store(self, _address: int, _data: bytes) -> None:
        pass


def remote(address: int, carrier: Any) -> tuple[Tape, TapedMemory]:
    """Memory behind a carrier."""
    tape = Tape()
    memory = TapedMemory(tape)  # type: ignore[arg-type]
    both = DmaFlags.READ | DmaFlags.WRITE
    memory.map(DmaMap(DmaMap.size, both, 0, address, 4096), None)
    memory.carrier = carrier
    return tape, memory


def test_what_tells_of_others_is_stored_last() -> None:
    tape, memory = remote(0x1000, Ram())
    ring = memory.lasting_view(0x100C, 30)
    ring[:] = bytes(range(1, 31))
    memory.fence()
    stores = [entry[1:] for entry in tape.entries if entry[0] == "store"]
    assert [(address, len(data)) for address, data in stores] == [
        (0x1028, 2), (0x1020, 8), (0x1018, 8), (0x1010, 8), (0x100C, 4),
    ]  # fmt: skip
    assert b"".join(data for _, data in reversed(stores)) == bytes(range(1, 31))
    tape.entries.clear()
    memory.fence()
    assert bytes(ring) == bytes(range(1, 31))
    assert not [entry for entry in tape.entries if entry[0] == "store"]


def test_a_guest_that_never_ceases_to_store_keeps_nobody() -> None:
    carrier = Restless()
    tape, memory = remote(0x1000, carrier)
    ring = memory.lasting_view(0x1000, 8)
    memory.fence()
    assert carrier.fetched == MOST_LOADS + 2
    kind, [(address, data)] = tape.entries[-1]
    assert (kind, address, data) == ("changed", 0x1000, bytes(ring))
    assert int.from_bytes(ring, "little") == carrier.fetched


def test_a_ring_that_is_gone_stays_as_it_was() -> None:
    tape, memory = remote(0x1000, Restless())
    ring = memory.lasting_view(0x1000, 8)
    memory.carrier = None
    memory.fence()
    assert tape.entries[-1] == ("changed", []) and ring[0] == 1


def test_rings_that_were_half_where_others_are() -> None:
    ram = Ram()
    tape, memory = remote(0x1000, ram)
    old, new = memory.lasting_view(0x1000, 12), memory.lasting_view(0x1008, 16)
    ram.store(0x1000, bytes(range(1, 25)))
    memory.fence()
    assert bytes(old) == bytes(range(1, 13))
    assert bytes(new) == bytes(range(9, 25))
    assert tape.entries[-1][0] == "changed"


def test_what_nobody_looks_at_is_no_longer_loaded() -> None:
    _, memory = remote(0x1000, Restless())
    memory.lasting_view(0x1000, 8).release()
    kept = memory.lasting_view(0x1008, 8)
    assert [each.address for each in memory._lasting] == [0x1008]
    kept.release()
