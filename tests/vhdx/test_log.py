"""The log and its checksums."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.store import Store
from drivebay.disk.formats.vhdx.crc32c import crc32c
from drivebay.disk.formats.vhdx.headers import Region
from drivebay.disk.formats.vhdx.log import Log, find_replay
from drivebay.disk.formats.vhdx.structs import LogEntry, ZeroDescriptor, seal
from drivebay.suspend import run
from tests.disk.support import noise

MEBIBYTE = 1 << 20
LOG = Region(MEBIBYTE, MEBIBYTE)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_is_that_of_rfc_3720(data: bytes, value: int) -> None:
    assert crc32c(data) == value


def test_crc32c_of_any_length_is_that_of_one_byte_after_the_other() -> None:
    chance = random.Random(1)
    for length in (1, 31, 32, 33, 511, 512, 513, 4096, 5000, 65536):
        data = chance.randbytes(length) + bytes(chance.randrange(600))
        register = 0xFFFFFFFF
        for byte in data:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        assert crc32c(data) == register ^ 0xFFFFFFFF


def image() -> Store:
    return Store(RamDisk(4 * MEBIBYTE))


def page(seed: int) -> bytes:
    return noise(4096, seed)


def entry(guid: bytes, **changes: Any) -> bytes:
    """An entry that zeroes two pages from the third mebibyte on."""
    number = 7
    header = LogEntry(b"loge", 0, 4096, 0, number, 1, 0, guid, 4 * MEBIBYTE, 4 * MEBIBYTE)
    zero = ZeroDescriptor(b"zero", 0, 8192, 3 * MEBIBYTE, number)
    for name, value in changes.items():
        if hasattr(header, name):
            header = replace(header, **{name: value})
        else:
            zero = replace(zero, **{name: value})
    return seal((header.pack() + zero.pack()).ljust(header.entry_length, b"\0"))


def test_entries_go_around_the_log_and_the_last_is_replayed() -> None:
    store = image()
    log = Log(store, LOG)
    for number in range(9):  # each of 121 pages: the log has 256
        pages = [(3 * MEBIBYTE + at * 4096, page(number)) for at in range(120)]
        run(log.append(pages, store.size))
        replay = run(find_replay(store, LOG, log.guid))
        run(replay.apply(store))
        assert run(store.read(3 * MEBIBYTE, 4096 * 120)) == page(number) * 120


def test_an_entry_that_is_torn_leaves_the_one_before() -> None:
    store = image()
    log = Log(store, LOG)
    run(log.append([(3 * MEBIBYTE, page(1))], store.size))
    run(log.append([(3 * MEBIBYTE, page(2))], store.size))
    run(store.write(MEBIBYTE + 8192 + 4096 + 700, [memoryview(b"torn")]))
    run(run(find_replay(store, LOG, log.guid)).apply(store))
    assert run(store.read(3 * MEBIBYTE, 4096)) == page(1)


def test_a_zero_descriptor_zeroes_and_a_short_file_grows() -> None:
    store, guid = image(), bytes(range(16))
    run(store.write(3 * MEBIBYTE, [memoryview(noise(16384))]))
    run(store.write(LOG.offset, [memoryview(entry(guid, last_file_offset=6 * MEBIBYTE))]))
    run(run(find_replay(store, LOG, guid)).apply(store))
    assert store.size == 6 * MEBIBYTE
    assert run(store.read(3 * MEBIBYTE, 16384)) == bytes(8192) + noise(16384)[8192:]


@pytest.mark.parametrize(
    "changes",
    [
        {"entry_length": 8192},
        {"entry_length": 4097},
        {"entry_length": 1 << 31},
        {"descriptor_count": 2},
        {"descriptor_count": 1 << 31},
        {"tail": 4096},
        {"tail": 1 << 31},
        {"sequence_number": 0},
        {"signature": b"logo"},
        {"log_guid": bytes(16)},
    ],
)
def test_an_entry_that_makes_no_sense_is_none(changes: dict[str, Any]) -> None:
    """Hostile 2.8: numbers in headers are not believed."""
    store, guid = image(), bytes(range(16))
    length = changes.get("entry_length", 4096)
    data = entry(guid, **{k: v for k, v in changes.items() if k != "entry_length"})
    header = replace(LogEntry.unpack(data), entry_length=length)
    run(store.write(LOG.offset, [memoryview(seal(header.pack() + data[LogEntry.size :]))]))
    with pytest.raises(DiskOpenError, match="no entry"):
        run(find_replay(store, LOG, guid))


@pytest.mark.parametrize(
    "changes",
    [
        {"file_offset": 0},
        {"file_offset": LOG.offset + 4096},
        {"file_offset": 3 * MEBIBYTE + 1},
        {"file_offset": 4 * MEBIBYTE - 4096},
        {"file_offset": 1 << 63},
        {"zero_length": 4095},
        {"zero_length": 1 << 63},
        {"flushed_file_offset": 5 * MEBIBYTE},
        {"last_file_offset": 1 << 62},
    ],
)
def test_an_entry_that_reaches_where_it_must_not_is_refused(changes: dict[str, Any]) -> None:
    store, guid = image(), bytes(range(16))
    run(store.write(LOG.offset, [memoryview(entry(guid, **changes))]))
    before = run(store.read(0, 4 * MEBIBYTE))
    with pytest.raises(DiskOpenError):
        run(run(find_replay(store, LOG, guid)).apply(store))
    assert run(store.read(0, 4 * MEBIBYTE)) == before
