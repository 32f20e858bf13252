"""What a `PowerCutDisk` says may be left."""

from __future__ import annotations

from drivebay.disk.backends.ram import RamDisk
from drivebay.suspend import run
from drivebay.testing import PowerCutDisk
from tests.disk.support import fill, put

STATES = 300


def test_what_was_flushed_is_there_and_what_was_not_may_be() -> None:
    below = RamDisk(8 * 512)
    before = fill(below)
    disk = PowerCutDisk(below)
    put(disk, 0, b"1" * 1024)
    run(disk.flush())
    flushed = disk.moment
    put(disk, 1, b"2" * 1024)
    put(disk, 5, b"3" * 512, fua=True)
    with_fua = disk.moment
    run(disk.write_zeroes(0, 1))
    seen = {0: set[bytes](), 1: set[bytes](), 2: set[bytes](), 5: set[bytes]()}
    for state in disk.states(STATES):
        assert len(state.data) == len(before)
        for sector in seen:
            if state.moment >= flushed:
                seen[sector].add(bytes(state.data[sector * 512 : (sector + 1) * 512]))
        if state.moment >= with_fua:
            assert state.data[5 * 512 : 6 * 512] == b"3" * 512
        assert state.data[6 * 512 :] == before[6 * 512 :]
    assert seen[0] == {b"1" * 512, bytes(512)}
    assert seen[1] == {b"1" * 512, b"2" * 512}  # torn apart from the next one
    assert seen[2] == {before[1024:1536], b"2" * 512}
    assert seen[5] == {before[5 * 512 : 6 * 512], b"3" * 512}


def test_a_size_that_was_not_flushed_may_be_lost() -> None:
    disk = PowerCutDisk(RamDisk(2 * 512))
    run(disk.resize(4))
    sizes = {len(state.data) for state in disk.states(STATES)}
    assert sizes == {2 * 512, 4 * 512}
    run(disk.flush())
    assert [len(state.data) for state in disk.states(1)] == [4 * 512]


def test_the_same_seed_gives_the_same_states() -> None:
    disk = PowerCutDisk(RamDisk(64 * 512))
    for number in range(9):
        put(disk, number * 3, bytes([number + 1]) * 2048)
    one, two = ([state.data for state in disk.states(20, seed)] for seed in (1, 1))
    assert one == two
    assert one != [state.data for state in disk.states(20, 2)]
