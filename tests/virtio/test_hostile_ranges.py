"""Sector ranges that do not lie on the disk, and announced limits: hostile.md 2.4 and 5."""

from __future__ import annotations

import struct

import pytest

from drivebay.controllers.virtio.registers import Segment
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.virtio_ring import Buffer
from drivebay.suspend import run
from drivebay.testing import RecordingDisk

from .bench import ALL, IOERR, OK, SPLIT, UNSUPP, Bench, Guest, MakeBench

IN, OUT, FLUSH, DISCARD, WRITE_ZEROES = 0, 1, 4, 11, 13
UNITS = 2048  # 512-byte units of the disk under test

PAST_THE_END = {
    "n": UNITS,
    "n + a block": UNITS + 8,
    "2^63 / 512": (1 << 63) // 512,
    "2^63 / 512 - a block": (1 << 63) // 512 - 8,
    "2^64 / 512: wraps to 0 as bytes": (1 << 64) // 512,
    "2^64 / 512 + a block": (1 << 64) // 512 + 8,
    "2^63": 1 << 63,
    "2^64 - a block": (1 << 64) - 8,
    "2^64 - two blocks": (1 << 64) - 16,
    "2^32 blocks": 1 << 35,
}
RUNS_OUT = {"n - 1, 2": (UNITS - 8, 16), "0, n + 1": (0, UNITS + 8), "n - 2, 3": (UNITS - 16, 24)}
INSIDE = {"first": (0, 8), "last": (UNITS - 8, 8), "all": (0, UNITS), "middle": (UNITS // 2, 16)}


@pytest.fixture(params=[512, 4096])
def guest(bench: MakeBench, request: pytest.FixtureRequest) -> Guest:
    """Of a disk full of content, of either sector size."""
    disk = RamDisk(UNITS * 512, sector_size=request.param)
    run(disk.write(0, [memoryview(b"\xaa" * (UNITS * 512))]))
    return bench(disk).guest(features=SPLIT)


def content(bench: Bench) -> bytes:
    data = bytearray(UNITS * 512)
    run(bench.disk.read(0, [memoryview(data)]))
    return bytes(data)


def ask(guest: Guest, kind: int, sector: int, units: int) -> int:
    """The status of a request for that range, of whatever type."""
    if kind == IN:
        return guest.ask(guest.request(IN, sector, room=512 * units))
    if kind == OUT:
        return guest.ask(guest.request(OUT, sector, out=b"\x55" * (512 * units)))
    segment = Segment(sector, units, 0).pack()
    return guest.ask(guest.request(kind, 0, out=segment))


KINDS = pytest.mark.parametrize("kind", [IN, OUT, DISCARD, WRITE_ZEROES])


@KINDS
@pytest.mark.parametrize("sector", PAST_THE_END.values(), ids=list(PAST_THE_END))
@pytest.mark.parametrize("units", [8, 16])
def test_a_range_past_the_end_fails_and_touches_nothing(
    guest: Guest, kind: int, sector: int, units: int
) -> None:
    """cloud-hypervisor f7ebb4b87, Firecracker afd05d6d3, OpenVMM 6d86b2cf4."""
    with guest.bench.survives():
        before = content(guest.bench)
        assert ask(guest, kind, sector, units) == IOERR
        assert content(guest.bench) == before


@KINDS
@pytest.mark.parametrize("place", RUNS_OUT.values(), ids=list(RUNS_OUT))
def test_a_range_that_runs_out_of_the_disk_fails_whole(
    guest: Guest, kind: int, place: tuple[int, int]
) -> None:
    with guest.bench.survives():
        before = content(guest.bench)
        assert ask(guest, kind, *place) == IOERR
        assert content(guest.bench) == before


@KINDS
@pytest.mark.parametrize("place", INSIDE.values(), ids=list(INSIDE))
def test_a_range_on_the_disk_succeeds_exactly(
    guest: Guest, kind: int, place: tuple[int, int]
) -> None:
    start, units = place
    expected = bytearray(content(guest.bench))
    if kind != IN:
        new = b"\x55" if kind == OUT else b"\0"
        expected[512 * start : 512 * (start + units)] = new * (512 * units)
    assert ask(guest, kind, start, units) == OK
    assert content(guest.bench) == expected


@KINDS
def test_of_many_good_segments_or_descriptors_the_sum_counts(guest: Guest, kind: int) -> None:
    """cloud-hypervisor 376434a69: each descriptor was on the disk, their sum was not."""
    with guest.bench.survives():
        before = content(guest.bench)
        request = guest.request(kind, UNITS - 8, out=b"" if kind == IN else bytes(4096), room=4096)
        one = request.chain[1]
        if kind in (DISCARD, WRITE_ZEROES):
            segments = Segment(0, 8, 0).pack() + Segment(UNITS - 8, 16, 0).pack()
            request = guest.request(kind, 0, out=segments)
        else:
            request.chain[1:2] = [one] * 8
        assert guest.ask(request) == IOERR
        assert content(guest.bench) == before


@KINDS
@pytest.mark.parametrize("sector, units", [(1, 8), (4, 8), (0, 1), (8, 9), (7, 1)])
def test_part_of_a_block_of_4096_bytes_is_an_io_error(
    bench: MakeBench, kind: int, sector: int, units: int
) -> None:
    b = bench(RamDisk(UNITS * 512, sector_size=4096))
    with b.survives():
        assert ask(b.guest(features=SPLIT), kind, sector, units) == IOERR


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("length", [1, 511, 513, 1023, 4095])
def test_part_of_a_sector_is_an_io_error(guest: Guest, kind: int, length: int) -> None:
    with guest.bench.survives():
        out = bytes(length) if kind == OUT else b""
        assert guest.ask(guest.request(kind, 0, out=out, room=length)) == IOERR


# -- segments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_a_million_segments_fail_fast(guest: Guest, kind: int) -> None:
    """crosvm 83237647d: minutes in one request. 16 bytes each, in descriptors of a MiB."""
    with guest.bench.survives():
        request = guest.request(kind, 0, out=Segment(0, 8, 0).pack() * (1 << 16))
        request.chain[1:2] = [request.chain[1]] * 16
        assert guest.ask(request) == IOERR
        assert guest.driver.read(0, 4096) == b"\xaa" * 4096


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_as_many_segments_as_announced_succeed(guest: Guest, kind: int) -> None:
    config = guest.driver.config
    most = config.max_discard_seg if kind == DISCARD else config.max_write_zeroes_seg
    segments = b"".join(Segment(n * 8 % UNITS, 8, 0).pack() for n in range(most))
    assert guest.ask(guest.request(kind, 0, out=segments)) == OK
    assert guest.ask(guest.request(kind, 0, out=segments + segments[:16])) == IOERR


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_the_largest_segment_announced_succeeds(bench: MakeBench, kind: int) -> None:
    b = bench(RamDisk(4 << 30))
    with b.survives():
        guest = b.guest(features=SPLIT)
        config = guest.driver.config
        sectors = config.max_discard_sectors if kind == DISCARD else config.max_write_zeroes_sectors
        assert ask(guest, kind, 0, sectors) == OK
        assert ask(guest, kind, 0, sectors + 1) == IOERR


@pytest.mark.parametrize("flags", [1, 2, 3, 1 << 31, 0xFFFFFFFF])
def test_flags_of_a_segment(guest: Guest, flags: int) -> None:
    """Section 5.2.6.2: unmap is for write zeroes alone, the others for nobody."""
    segment = struct.pack("<QII", 0, 8, flags)
    assert guest.ask(guest.request(DISCARD, 0, out=segment)) == UNSUPP
    expected = OK if flags == 1 else UNSUPP
    assert guest.ask(guest.request(WRITE_ZEROES, 0, out=segment)) == expected


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 33])
def test_segments_of_odd_length_are_an_io_error(guest: Guest, kind: int, length: int) -> None:
    assert guest.ask(guest.request(kind, 0, out=bytes(length))) == IOERR


def test_one_bad_segment_and_none_has_an_effect(guest: Guest) -> None:
    """A request is parsed completely before it acts."""
    segments = Segment(0, 8, 0).pack() * 3 + Segment(UNITS, 8, 0).pack()
    for kind in (DISCARD, WRITE_ZEROES):
        assert guest.ask(guest.request(kind, 0, out=segments)) == IOERR
    assert guest.driver.read(0, 4096) == b"\xaa" * 4096


# -- announced limits ------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("size, queue_size", [(256, 256), (4, 4), (256, 64), (1024, 1024)])
def test_a_request_of_as_many_segments_as_announced_succeeds(
    bench: MakeBench, features: int, indirect: bool, size: int, queue_size: int
) -> None:
    """OpenVMM 33217159d announced 128 with a queue of 64: Linux fills an indirect table with them.

    Without one a chain of that length needs a queue of its full size.
    """
    disk = RecordingDisk(RamDisk(1 << 20))
    b = bench(disk, queue_size=size)
    guest = b.guest(features=features, queue_size=queue_size)
    count = guest.driver.config.seg_max
    if queue_size < size and not indirect:
        count = queue_size - 2
    for kind in (OUT, IN):
        out = bytes(range(256)) * 2 * count if kind == OUT else b""
        request = guest.request(kind, 0, out=out, room=512 * count)
        parts = [Buffer(request.data + 512 * n, 512, kind == IN) for n in range(count)]
        request.chain[1:2] = parts
        assert guest.ask(request, indirect=indirect) == OK
    assert [call.count for call in disk.calls] == [count, count]
    assert disk.calls[0].data == disk.calls[1].data


def test_a_flush_ignores_its_sector(guest: Guest) -> None:
    for sector in (0, UNITS, (1 << 64) - 1):
        assert guest.ask(guest.request(FLUSH, sector)) == OK
