"""A SCSI command is what its bytes are, wherever a chain cuts them (virtio 1.2 section 2.7.4), and
what a hostile guest makes of the frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivebay.controllers.virtio.scsi_registers import ScsiFunction
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.drivers.virtio_scsi import VirtioScsi, lun_field
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.suspend import run

from .bench import ALL, SPLIT
from .scsi_bench import FAILURE, GOOD, OK, SIZE, ScsiBench, make, read10, write10

HALF = 1 << 20
DATA = HALF - 8192  # where the data go: around the border of two regions
REQUEST, ANSWER = 51, 108
SECTORS = SIZE // 512

cuts = st.lists(st.integers(0, REQUEST + ANSWER + 8 * 512), max_size=12)


class Guest:
    """Who lays chains out himself."""

    def __init__(self, bench: ScsiBench, features: int) -> None:
        self.bench, self.memory = bench, bench.memory
        self.driver: VirtioScsi = bench.driver(
            Arena(self.memory, 0, DATA - 4096), features=features
        )

    def put(self, address: int, data: bytes) -> None:
        for piece in self.memory.views(address, len(data)):
            piece[:], data = data[: len(piece)], data[len(piece) :]

    def got(self, address: int, length: int) -> bytes:
        return b"".join(bytes(piece) for piece in self.memory.views(address, length))

    def send(self, chain: list[Buffer], *, queue: int = 2, indirect: bool = False) -> list[int]:
        """What is written to each chain that comes back."""
        self.driver.ring(queue).add(chain, indirect=DATA - 4096 if indirect else None)
        self.driver.notify(queue)
        assert self.bench.engine.run_until(lambda: self.bench.target.at_rest, 5)
        self.bench.settle()
        return [written for _, written in self.driver.ring(queue).take()]

    def ask(self, readable: bytes, writable: int, cuts: list[int], indirect: bool) -> bytes:
        """Send so much, have room for so much, cut there; what the device wrote."""
        self.put(DATA, readable + b"\xee" * writable)
        chain = pieces(DATA, len(readable), cuts, False)
        chain += pieces(DATA + len(readable), writable, cuts, True)
        [written] = self.send(chain, indirect=indirect)
        return self.got(DATA + len(readable), written)


def pieces(start: int, length: int, cuts: list[int], writable: bool) -> list[Buffer]:
    """`length` bytes from `start` on, cut there; pieces of no length included."""
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    return [Buffer(start + a, b - a, writable) for a, b in pairwise(edges)]


def request(cdb: bytes, lun: int = 0) -> bytes:
    return lun_field(lun) + struct.pack("<QBBB", 7, 0, 0, 0) + cdb.ljust(32, b"\0")


def parts(answer: bytes) -> tuple[int, int, int, int]:
    """Length of sense data, residual, status and response."""
    sense, residual, _, status, response = struct.unpack_from("<IIHBB", answer)
    return sense, residual, status, response


@pytest.fixture(scope="module", params=[SPLIT, ALL], ids=["split", "packed"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    engine = Engine(workers=0)
    memory = GuestMemory([Region(n * HALF, memoryview(bytearray(HALF))) for n in range(2)])
    yield Guest(make(engine, memory, queue_size=64), request.param)
    engine.close()


@pytest.fixture(params=[SPLIT, ALL], ids=["split", "packed"])
def fresh(request: pytest.FixtureRequest, engine: Engine) -> Guest:
    memory = GuestMemory([Region(n * HALF, memoryview(bytearray(HALF))) for n in range(2)])
    return Guest(make(engine, memory), request.param)


# The first descriptors of a request are found in the arena, which is never given back.
examples = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@examples
@given(sector=st.integers(0, SECTORS + 2), count=st.integers(1, 8), cuts=cuts, table=st.booleans())
def test_a_read(guest: Guest, sector: int, count: int, cuts: list[int], table: bool) -> None:
    content = b"".join(struct.pack("<H", n) * 256 for n in range(SECTORS))
    run(guest.bench.puppet.below.write(0, [memoryview(content)]))
    answer = guest.ask(request(read10(sector, count)), ANSWER + 512 * count, cuts, table)
    if sector + count <= SECTORS:
        assert parts(answer) == (0, 0, GOOD, OK)
        assert answer[ANSWER:] == content[512 * sector : 512 * (sector + count)]
    else:
        assert parts(answer) == (18, 512 * count, 2, OK)
        assert len(answer) == ANSWER


@examples
@given(sector=st.integers(0, SECTORS + 2), count=st.integers(1, 8), cuts=cuts, table=st.booleans())
def test_a_write(guest: Guest, sector: int, count: int, cuts: list[int], table: bool) -> None:
    model = bytearray(b"\x11" * SIZE)
    run(guest.bench.puppet.below.write(0, [memoryview(bytes(model))]))
    data = b"".join(struct.pack("<H", 7 * n + 1) * 256 for n in range(count))
    answer = guest.ask(request(write10(sector, count)) + data, ANSWER, cuts, table)
    fits = sector + count <= SECTORS
    assert parts(answer) == ((0, 0, GOOD, OK) if fits else (18, 512 * count, 2, OK))
    if fits:
        model[512 * sector : 512 * (sector + count)] = data
    content = bytearray(SIZE)
    run(guest.bench.puppet.below.read(0, [memoryview(content)]))
    assert content == model


@pytest.mark.parametrize("size", [16, 100, 512])
def test_data_in_many_pieces(fresh: Guest, size: int) -> None:
    """As Linux sends what is long: all in one region, request and answer whole."""
    start = HALF + (64 << 10)
    data, answer = bytes(range(256)) * 4, [Buffer(start + 1024, ANSWER, True)]
    for cdb, offset, writable in ((write10(7, 2), 4096, False), (read10(7, 2), 8192, True)):
        fresh.put(start, request(cdb))
        fresh.put(start + 4096, data)
        many = pieces(start + offset, 1024, list(range(0, 1024, size)), writable)[1:]
        chain = [Buffer(start, REQUEST, False), *(answer + many if writable else many + answer)]
        assert fresh.send(chain, indirect=True) == [ANSWER + 1024 * writable]
        assert parts(fresh.got(start + 1024, ANSWER)) == (0, 0, GOOD, OK)
    assert fresh.got(start + 8192, 1024) == data


@examples
@given(
    length=st.integers(0, REQUEST + 20),
    room=st.integers(0, ANSWER + 40),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_hostile_2_7_every_length_of_request_and_answer(
    fresh: Guest, length: int, room: int, cuts: list[int]
) -> None:
    whole = request(bytes([0x12, 0, 0, 0, 36, 0])) + bytes(20)
    fresh.put(DATA, whole[:length] + b"\xee" * room)
    chain = pieces(DATA, length, cuts, False) + pieces(DATA + length, room, cuts, True)
    ends = fresh.send(chain)
    answer = fresh.got(DATA + length, room)
    if room < ANSWER:
        assert (ends, fresh.bench.needs_reset) == ([], True)
        assert answer == b"\xee" * room
        fresh.driver.reset()
        fresh.driver = fresh.bench.driver(
            Arena(fresh.memory, 0, DATA - 4096), features=fresh.driver.features
        )
    elif length < REQUEST or (length > REQUEST and room > ANSWER):
        assert ends == [ANSWER]
        assert parts(answer) == (0, 0, GOOD, FAILURE)
    elif room < ANSWER + 36:
        left = room - ANSWER or length - REQUEST
        assert (ends, parts(answer)) == ([ANSWER], (0, left, GOOD, 1))
    else:
        assert ends == [ANSWER + 36]
        assert parts(answer) == (0, room - ANSWER - 36, GOOD, OK)


NOWHERE = 1 << 60


def test_hostile_4_1_buffers_that_are_no_memory(fresh: Guest) -> None:
    for place in range(4):
        fresh.put(DATA, request(write10(0)) + b"\xaa" * 512)
        chain = [
            Buffer(DATA, REQUEST, False),
            Buffer(DATA + REQUEST, 256, False),
            Buffer(DATA + REQUEST + 256, 256, False),
            Buffer(DATA + 4096, ANSWER, True),
            Buffer(DATA + 4096 + ANSWER, 16, True),
        ]
        chain[place] = chain[place]._replace(address=NOWHERE)
        ends = fresh.send(chain)
        if place == 3:
            assert (ends, fresh.bench.needs_reset) == ([], True)
        else:
            assert ends == [ANSWER]
            assert parts(fresh.got(DATA + 4096, ANSWER))[3] == FAILURE
    content = bytearray(512)
    run(fresh.bench.puppet.below.read(0, [memoryview(content)]))
    assert content == bytes(512)


def test_hostile_2_7_a_readable_buffer_after_the_answer(fresh: Guest) -> None:
    fresh.put(DATA, request(write10(0)))
    chain = [
        Buffer(DATA, REQUEST, False),
        Buffer(DATA + 4096, ANSWER, True),
        Buffer(DATA + 512, 512, False),
    ]
    assert fresh.send(chain) == []
    assert fresh.bench.needs_reset


def test_hostile_control_requests_of_every_length(fresh: Guest) -> None:
    function = struct.pack("<II8sQ", 0, ScsiFunction.LOGICAL_UNIT_RESET, lun_field(0), 0)
    query = struct.pack("<I8sI", 1, lun_field(0), 0xFF)
    cases = [(function[:n], bytes([11])) for n in range(24)]
    cases += [(function, bytes([0])), (function + b"more", bytes([0])), (query, bytes(5))]
    cases += [(struct.pack("<I", kind), bytes([11])) for kind in (3, 0xFFFFFFFF)]
    for asked, expected in cases:
        for room in (1, 4, 5, 64):
            fresh.put(DATA, asked + b"\xee" * room)
            at = DATA + len(asked)
            ends = fresh.send([Buffer(DATA, len(asked), False), Buffer(at, room, True)], queue=0)
            kept = expected[:room]
            assert ends == [len(kept)]
            assert fresh.got(at, room) == kept.ljust(room, b"\xee")
    assert fresh.send([Buffer(DATA, 24, False)], queue=0) == []
    assert fresh.bench.needs_reset


def test_hostile_2_7_5_2_a_chain_of_more_than_four_gigabytes(engine: Engine) -> None:
    """The same memory over and over."""
    size = 8 << 20
    bench = make(engine, GuestMemory.of_size(size))
    for way in (True, False):
        driver = bench.driver(Arena(bench.memory, 0, size))
        at, table = driver.arena.take(4096), driver.arena.take(16 * 1024)
        bench.memory.view(at, REQUEST)[:] = request(read10(0) if way else write10(0))
        many = [Buffer(0, size, way)] * 520
        answer = [Buffer(at + 256, ANSWER, True)]
        chain = [Buffer(at, REQUEST, False), *(answer + many if way else many + answer)]
        driver.ring(2).add(chain, indirect=table)
        driver.notify(2)
        assert bench.needs_reset
        assert not list(driver.ring(2).take())
