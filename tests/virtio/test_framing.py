"""A request may be cut anywhere (section 2.7.4): its answer does not depend on where."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.suspend import run

from .bench import ALL, IOERR, OK, SPLIT, Guest, on_mmio

IN, OUT, GET_ID = 0, 1, 8
SECTORS = 64
HALF = 1 << 20
DATA = HALF - 8192  # where the data go: around the border of two regions

cuts = st.lists(st.integers(0, 16 + 8 * 512 + 1), max_size=12)


@pytest.fixture(scope="module", params=[SPLIT, ALL], ids=["split", "packed"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    engine = Engine(workers=0)
    disk = RamDisk(SECTORS * 512)
    memory = GuestMemory([Region(n * HALF, memoryview(bytearray(HALF))) for n in range(2)])
    device = BlockDevice(disk, engine, serial="0123456789abcdefghij", queue_size=64)
    bench = on_mmio(engine, disk, memory, device)
    yield bench.guest(Arena(memory, 0, DATA - 4096), features=request.param)
    engine.close()


def put(guest: Guest, address: int, data: bytes) -> None:
    for piece in guest.memory.views(address, len(data)):
        piece[:], data = data[: len(piece)], data[len(piece) :]


def got(guest: Guest, address: int, length: int) -> bytes:
    return b"".join(bytes(piece) for piece in guest.memory.views(address, length))


def pieces(start: int, length: int, cuts: list[int], writable: bool) -> list[Buffer]:
    """`length` bytes from `start` on, cut there; pieces of no length included."""
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    return [Buffer(start + a, b - a, writable) for a, b in pairwise(edges)]


def ask(guest: Guest, readable: bytes, writable: int, cuts: list[int], indirect: bool) -> bytes:
    """Send so much, have room for so much, cut there; what the device wrote."""
    put(guest, DATA, readable + b"\xee" * writable)
    chain = pieces(DATA, len(readable), cuts, False)
    chain += pieces(DATA + len(readable), writable, cuts, True)
    table = DATA - 4096 if indirect else None
    guest.driver.ring().add(chain, indirect=table)
    guest.driver.notify(0)
    guest.bench.finish()
    [(_, written)] = guest.used()
    assert written == writable
    return got(guest, DATA + len(readable), writable)


# The first descriptors of a request are found in the arena, which is never given back.
examples = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@examples
@given(sector=st.integers(0, SECTORS + 2), count=st.integers(0, 8), cuts=cuts, table=st.booleans())
def test_a_read(guest: Guest, sector: int, count: int, cuts: list[int], table: bool) -> None:
    content = b"".join(struct.pack("<H", n) * 256 for n in range(SECTORS))
    run(guest.bench.disk.write(0, [memoryview(content)]))
    answer = ask(guest, struct.pack("<IIQ", IN, 0, sector), 512 * count + 1, cuts, table)
    if sector + max(count, 1) <= SECTORS:
        assert answer == content[512 * sector : 512 * (sector + count)] + bytes([OK])
    else:
        assert answer == b"\xee" * (512 * count) + bytes([IOERR])


@examples
@given(sector=st.integers(0, SECTORS + 2), count=st.integers(0, 8), cuts=cuts, table=st.booleans())
def test_a_write(guest: Guest, sector: int, count: int, cuts: list[int], table: bool) -> None:
    model = bytearray(b"\x11" * (SECTORS * 512))
    run(guest.bench.disk.write(0, [memoryview(bytes(model))]))
    data = b"".join(struct.pack("<H", 7 * n + 1) * 256 for n in range(count))
    answer = ask(guest, struct.pack("<IIQ", OUT, 0, sector) + data, 1, cuts, table)
    fits = sector + max(count, 1) <= SECTORS
    assert answer == bytes([OK if fits else IOERR])
    if fits:
        model[512 * sector : 512 * (sector + count)] = data
    content = bytearray(SECTORS * 512)
    run(guest.bench.disk.read(0, [memoryview(content)]))
    assert content == model


@examples
@given(room=st.integers(0, 40), cuts=st.lists(st.integers(0, 40), max_size=6), table=st.booleans())
def test_an_identity(guest: Guest, room: int, cuts: list[int], table: bool) -> None:
    answer = ask(guest, struct.pack("<IIQ", GET_ID, 0, 0), room + 1, cuts, table)
    assert answer == b"0123456789abcdefghij"[:room].ljust(room, b"\xee") + bytes([OK])
