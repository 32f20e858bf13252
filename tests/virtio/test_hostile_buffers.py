"""Buffers of guests that break the rules: hostile.md 2.4, 4.2 and 4.4. On either kind of ring."""

from __future__ import annotations

import pytest

from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.platform.memory import GuestMemory, Region

from .bench import (
    ALL,
    BASE,
    IOERR,
    NO_ANSWER,
    OK,
    RAM_SIZE,
    RAM_START,
    SPLIT,
    UNSUPP,
    MakeBench,
)

IN, OUT, FLUSH, SCSI_CMD, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 2, 8, 11, 13
END = RAM_START + RAM_SIZE
NOT_RAM = {
    "a hole": RAM_START - 0x1000,
    "the last byte but not more": END - 1,
    "the end": END,
    "across the start": RAM_START - 1,
    "wraps at 2^64": (1 << 64) - 1,
    "beyond 2^52": 1 << 52,
    "address 0": 0,
    "the device's registers": BASE,
    "the notify register": BASE + 0x50,
}


@pytest.fixture(params=[SPLIT, ALL], ids=["split", "packed"])
def ring(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("address", NOT_RAM.values(), ids=list(NOT_RAM))
@pytest.mark.parametrize("kind", [IN, OUT, GET_ID, DISCARD])
def test_data_that_are_not_in_ram_are_an_io_error(
    bench: MakeBench, ring: int, kind: int, address: int
) -> None:
    """CVE-2016-7422, cloud-hypervisor 4192f5101; and DMA to the device's own registers, 4.4."""
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(kind, 0, out=b"" if kind in (IN, GET_ID) else bytes(512), room=512)
        request.chain[1] = request.chain[1]._replace(address=address)
        assert guest.ask(request) == IOERR
        assert not b.needs_reset


@pytest.mark.parametrize("address", NOT_RAM.values(), ids=list(NOT_RAM))
def test_a_header_that_is_not_in_ram_is_an_io_error(
    bench: MakeBench, ring: int, address: int
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(IN, 0, room=512)
        request.chain[0] = Buffer(address, 16, False)
        assert guest.ask(request) == IOERR


@pytest.mark.parametrize("address", [a for n, a in NOT_RAM.items() if "last byte" not in n])
def test_a_status_that_is_not_in_ram_breaks_the_ring(
    bench: MakeBench, ring: int, address: int
) -> None:
    """Nothing can be answered."""
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(IN, 0, room=512)
        request.chain[2] = Buffer(address, 1, True)
        guest.send(request.chain)
        assert b.needs_reset


@pytest.mark.parametrize("room", [0, 1])
def test_an_empty_descriptor_is_passed_over(bench: MakeBench, ring: int, room: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        read = guest.request(IN, 0, room=512)
        nothing = Buffer(0 if room else 1 << 63, 0, True)
        read.chain.insert(1, Buffer(RAM_START, 0, False))
        read.chain.insert(2, nothing)
        read.chain.insert(4, nothing)
        assert guest.ask(read) == OK


@pytest.mark.parametrize("empty", [True, False], ids=["of no length", "absent"])
def test_a_request_without_a_status_byte_breaks_the_ring(
    bench: MakeBench, ring: int, empty: bool
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        write = guest.request(OUT, 0, out=bytes(512))
        last = [Buffer(RAM_START, 0, True)] if empty else []
        guest.send(write.chain[:-1] + last)
        assert b.needs_reset


def test_a_readable_buffer_after_a_writable_one_breaks_the_ring(
    bench: MakeBench, ring: int
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        read = guest.request(IN, 0, room=512)
        guest.send([read.chain[0], read.chain[2], read.chain[1]._replace(writable=False)])
        assert b.needs_reset


def test_a_status_byte_that_two_requests_share(bench: MakeBench, ring: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        first, second = guest.request(IN, 0, room=512), guest.request(IN, 1 << 40, room=512)
        guest.driver.ring().add(first.chain)
        guest.send([*second.chain[:2], first.chain[2]])
        assert len(guest.used()) == 2
        assert guest.status(first) == IOERR
        assert guest.status(second) == NO_ANSWER


def test_a_status_byte_that_lies_in_the_data_is_written_last(bench: MakeBench, ring: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        guest.driver.write(0, b"\xaa" * 512)
        read = guest.request(IN, 0, room=512)
        read.chain[2] = Buffer(read.data + 100, 1, True)
        guest.send(read.chain)
        got = bytearray(guest.get(read.data, 512))
        assert got.pop(100) == OK
        assert got == b"\xaa" * 511


# -- more than the used ring can say ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [IN, OUT, FLUSH, GET_ID, 99])
@pytest.mark.parametrize("cut", [False, True])
def test_a_chain_of_4_gib_to_write_breaks_the_ring(
    bench: MakeBench, ring: int, kind: int, cut: bool
) -> None:
    """Section 2.7.5.2 forbids it, but the same 16 MiB named 256 times come to as much."""
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(kind, 0, room=16)
        request.chain[1:2] = [Buffer(RAM_START, RAM_SIZE, True)] * (4096 // 16)
        if cut:
            request.chain[1:1] = [Buffer(RAM_START, 0, True)]
        guest.send(request.chain, indirect=True)
        assert b.needs_reset


@pytest.mark.parametrize("kind", [IN, FLUSH, GET_ID, 99])
def test_a_buffer_of_4_gib_to_write_breaks_the_ring(bench: MakeBench, ring: int, kind: int) -> None:
    """In one piece, where a guest has so much memory."""
    memory = GuestMemory.of_size((4 << 30) + RAM_SIZE, RAM_START)
    b = bench(memory=memory)
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(kind, 0, room=16)
        request.chain[1] = Buffer(RAM_START, 0xFFFFFFFF, True)
        guest.send(request.chain)
        assert b.needs_reset


# -- who may write where (section 2.7.5.1) ---------------------------------------------------------


@pytest.mark.parametrize("kind", [IN, GET_ID])
@pytest.mark.parametrize("cut", [False, True])
def test_nothing_is_ever_written_to_a_readable_buffer(
    bench: MakeBench, ring: int, kind: int, cut: bool
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        canary = b"\x5c" * 512
        request = guest.request(kind, 0, out=canary)
        if cut:  # not laid out as every driver does
            at = request.data
            request.chain[1:2] = [Buffer(at, 1, False), Buffer(at + 1, 511, False)]
        assert guest.ask(request) == IOERR
        assert guest.get(request.data, 512) == canary


@pytest.mark.parametrize("kind", [OUT, DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize("cut", [False, True])
def test_nothing_is_taken_from_a_writable_buffer(
    bench: MakeBench, ring: int, kind: int, cut: bool
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        guest.driver.write(0, b"\xaa" * 512)
        request = guest.request(kind, 0, room=512)
        if cut:
            at = request.data
            request.chain[1:2] = [Buffer(at, 1, True), Buffer(at + 1, 511, True)]
        assert guest.ask(request) == IOERR
        assert guest.driver.read(0, 512) == b"\xaa" * 512


@pytest.mark.parametrize("kind", [IN, OUT, GET_ID, DISCARD, WRITE_ZEROES, FLUSH])
def test_data_to_read_and_data_to_write_are_an_io_error(
    bench: MakeBench, ring: int, kind: int
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(kind, 0, out=bytes(512))
        request.chain.insert(2, Buffer(guest.put(b"\x5c" * 512), 512, True))
        assert guest.ask(request) == IOERR
        assert guest.get(request.chain[2].address, 512) == b"\x5c" * 512


# -- lengths and types -----------------------------------------------------------------------------


def test_every_length_of_data_for_every_type_has_its_answer(bench: MakeBench, ring: int) -> None:
    """CVE-2026-48914 and its kin: 0 to 64 bytes either way, for each of the first types."""
    b = bench()
    with b.survives(seconds=5):
        for kind in range(32):
            guest = b.guest(features=ring)
            for length in range(65):
                for out in (False, True):
                    data = b"\xff" * length if out else b""
                    request = guest.request(kind, 0, out=data, room=length)
                    answer = guest.ask(request)
                    assert answer == expected(kind, length, out), (kind, length, out)
            assert not b.needs_reset


def expected(kind: int, length: int, out: bool) -> int:
    wrong_side = out if kind in (IN, GET_ID) else not out
    if kind in (IN, OUT):
        return IOERR if length % 512 else OK
    if kind == GET_ID:
        return IOERR if length and wrong_side else OK
    if kind == FLUSH:
        return OK
    if kind in (DISCARD, WRITE_ZEROES):
        if not length or length % 16 or wrong_side:
            return IOERR
        return UNSUPP  # flags of all ones
    return UNSUPP


@pytest.mark.parametrize("length", range(16))
def test_a_header_cut_short_is_an_io_error(bench: MakeBench, ring: int, length: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        request = guest.request(IN, 0, room=512)
        request.chain[0] = request.chain[0]._replace(length=length)
        if not length:
            del request.chain[0]
        assert guest.ask(request) == IOERR


@pytest.mark.parametrize("kind", [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 24, 1 << 31, 0xFFFFFFFF])
def test_an_unknown_type_is_unsupported(bench: MakeBench, ring: int, kind: int) -> None:
    """SCSI_CMD, GET_LIFETIME, SECURE_ERASE and the zoned types among them."""
    b = bench()
    with b.survives():
        guest = b.guest(features=ring)
        assert guest.ask(guest.request(kind, 0, room=512)) == UNSUPP
        assert guest.ask(guest.request(kind, 0, out=bytes(512))) == UNSUPP


# -- regions ---------------------------------------------------------------------------------------


def two_regions() -> GuestMemory:
    """Two that adjoin, each of their own host memory."""
    ram = [memoryview(bytearray(RAM_SIZE)) for _ in range(2)]
    return GuestMemory([Region(RAM_START, ram[0]), Region(END, ram[1])])


@pytest.mark.parametrize("before", [0, 1, 511, 512])
def test_data_across_two_adjoining_regions(bench: MakeBench, ring: int, before: int) -> None:
    b = bench(memory=two_regions())
    with b.survives():
        guest = b.guest(Arena(b.memory, RAM_START, RAM_SIZE - 4096), features=ring)
        content = bytes(range(256)) * 2
        guest.driver.write(0, content)
        read = guest.request(IN, 0, room=512)
        read.chain[1] = Buffer(END - before, 512, True)
        assert guest.ask(read) == OK
        got = b"".join(bytes(piece) for piece in b.memory.views(END - before, 512))
        assert got == content
        write = guest.request(OUT, 1, out=bytes(512))
        write.chain[1] = Buffer(END - before, 512, False)
        assert guest.ask(write) == OK
        assert guest.driver.read(1, 512) == content


@pytest.mark.parametrize("cut", range(0, 17, 4))
def test_a_header_across_two_adjoining_regions(bench: MakeBench, ring: int, cut: int) -> None:
    b = bench(memory=two_regions())
    with b.survives():
        guest = b.guest(Arena(b.memory, RAM_START, RAM_SIZE - 4096), features=ring)
        read = guest.request(IN, 1 << 30, room=512)
        header = guest.get(read.chain[0].address, 16)
        for piece in b.memory.views(END - cut, 16):
            piece[:], header = header[: len(piece)], header[len(piece) :]
        read.chain[0] = Buffer(END - cut, 16, False)
        assert guest.ask(read) == IOERR  # it saw the sector, in both halves


def test_buffers_may_end_where_ram_ends(bench: MakeBench, ring: int) -> None:
    """Firecracker 5b99f414e: the last byte is RAM."""
    b = bench()
    guest = b.guest(Arena(b.memory, RAM_START, RAM_SIZE - 4096), features=ring)
    read = guest.request(IN, 0, room=512)
    read.chain[1] = Buffer(END - 513, 512, True)
    read.chain[2] = Buffer(END - 1, 1, True)
    guest.memory.view(END - 1, 1)[0] = NO_ANSWER
    guest.send(read.chain)
    assert guest.get(END - 1, 1)[0] == OK
    write = guest.request(OUT, 0, out=bytes(512))
    write.chain[0] = Buffer(END - 16, 16, False)
    guest.memory.view(END - 16, 16)[:] = guest.get(read.chain[0].address, 16)
    write.chain[1] = Buffer(END - 512, 512, True)
    assert guest.ask(write) == OK
