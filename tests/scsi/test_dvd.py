"""The drive as a guest finds it when nothing goes wrong."""

from __future__ import annotations

import struct

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import InvalidInput
from drivebay.scsi import cdb
from drivebay.scsi.dvd import Dvd, PhysicalInterface
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.medium import LARGEST_CD, lba_of, msf
from drivebay.wire import Struct
from tests.scsi.support import BLOCK, READ_CAPACITY, BigDisk, disc, perform, quiet, sense


def u16(data: bytes, at: int = 0) -> int:
    return int.from_bytes(data[at : at + 2])


def u32(data: bytes, at: int = 0) -> int:
    return int.from_bytes(data[at : at + 4])


# -- discs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sector_size", "why"),
    [
        (2048 + 512, 512, "2560 bytes: a DVD is a whole number of 2048 bytes"),
        (8192, 4096, "sectors of 4096 bytes: a DVD's blocks have 2048"),
    ],
)
def test_a_disk_that_cannot_be_a_dvd(size: int, sector_size: int, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Dvd(RamDisk(size, sector_size=sector_size))
    drive = quiet(disc()[0])
    with pytest.raises(InvalidInput, match=why):
        drive.insert(RamDisk(size, sector_size=sector_size))
    assert perform(drive, READ_CAPACITY)[:4] == struct.pack(">I", 63), "the old one is still there"


def test_a_disk_without_blocks_or_with_too_many() -> None:
    with pytest.raises(InvalidInput, match="0 bytes"):
        Dvd(BigDisk(0))
    with pytest.raises(InvalidInput, match="4294967295 blocks at most"):
        Dvd(BigDisk(1 << 32))
    last = perform(quiet(BigDisk((1 << 32) - 1)), READ_CAPACITY)
    assert last == struct.pack(">II", (1 << 32) - 2, BLOCK)


def test_minutes_seconds_and_frames() -> None:
    assert msf(0) == (0, 2, 0)
    assert msf(LARGEST_CD - 1) == (99, 59, 74)
    assert msf(1_000_000_000) == (255, 59, 74)
    assert all(lba_of(bytes(msf(lba))) == lba for lba in (0, 74, 75, 4350, LARGEST_CD))
    with pytest.raises(ValueError, match="00:60:00"):
        lba_of(bytes([0, 60, 0]))


# -- identity ------------------------------------------------------------------------------------


def test_inquiry() -> None:
    data = perform(Dvd(), cdb.Inquiry(allocation_length=255))
    assert data == bytes([5, 0x80, 5, 2, 31, 0, 0, 0]) + b"drivebayDVD-ROM         1.0 "


def test_vital_product_data() -> None:
    drive = Dvd(serial="DB-17")

    def page(code: int) -> bytes:
        return perform(drive, cdb.Inquiry(flags=1, page_code=code, allocation_length=255))

    assert page(0x00) == bytes([5, 0, 0, 3, 0x00, 0x80, 0x83])
    assert page(0x80) == bytes([5, 0x80, 0, 5]) + b"DB-17"
    name = b"drivebayDVD-ROM         DB-17"
    assert page(0x83) == bytes([5, 0x83, 0, 33, 2, 1, 0, 29]) + name
    assert sense(drive, cdb.Inquiry(flags=1, page_code=0xB0)) == (5, 0x24, 0)
    assert sense(drive, cdb.Inquiry(flags=0, page_code=0x80)) == (5, 0x24, 0)
    assert sense(drive, cdb.Inquiry(flags=2)) == (5, 0x24, 0)
    assert sense(Dvd(), cdb.Inquiry(flags=1, page_code=0x80)) == (5, 0x24, 0)


def test_an_identity_is_ascii() -> None:
    with pytest.raises(ValueError, match="not printable ASCII"):
        Dvd(product="Läufwerk")
    with pytest.raises(ValueError, match="more than 20"):
        Dvd(serial="x" * 21)


def test_report_luns() -> None:
    assert perform(Dvd(), cdb.ReportLuns(allocation_length=4096)) == bytes([0, 0, 0, 8, *bytes(12)])
    assert perform(Dvd(), cdb.ReportLuns(select_report=1, allocation_length=16)) == bytes(8)
    assert sense(Dvd(), cdb.ReportLuns(select_report=3, allocation_length=16)) == (5, 0x24, 0)


# -- the disc ------------------------------------------------------------------------------------


def test_toc() -> None:
    drive = quiet(disc(64)[0])
    toc = perform(drive, mmc.ReadTocPmaAtip(allocation_length=804))
    assert toc == bytes.fromhex("0012 01 01 00140100 00000000 0014aa00 00000040")
    toc = perform(drive, mmc.ReadTocPmaAtip(flags=2, allocation_length=804))
    assert toc == bytes.fromhex("0012 01 01 00140100 00000200 0014aa00 00000240")
    toc = perform(drive, mmc.ReadTocPmaAtip(track_session_number=0xAA, allocation_length=804))
    assert toc == bytes.fromhex("000a 01 01 0014aa00 00000040")
    assert sense(drive, mmc.ReadTocPmaAtip(track_session_number=2)) == (5, 0x24, 0)


@pytest.mark.parametrize("byte", ["format", "control"])
def test_toc_of_sessions(byte: str) -> None:
    drive = quiet(disc(64)[0])
    asked = mmc.ReadTocPmaAtip(allocation_length=804)
    setattr(asked, byte, {"format": 1, "control": 0x40}[byte])
    toc = perform(drive, asked)
    assert toc == bytes.fromhex("000a 01 01 00140100 00000000")


def test_full_toc() -> None:
    drive = quiet(disc(64)[0])
    toc = perform(drive, mmc.ReadTocPmaAtip(format=2, allocation_length=804))
    assert u16(toc) == len(toc) - 2 == 46
    points = {toc[at + 3]: toc[at + 8 : at + 11] for at in range(4, len(toc), 11)}
    assert points == {
        0xA0: bytes([1, 0, 0]),
        0xA1: bytes([1, 0, 0]),
        0xA2: bytes([0, 2, 64]),
        1: bytes([0, 2, 0]),
    }
    assert sense(drive, mmc.ReadTocPmaAtip(format=2, track_session_number=2)) == (5, 0x24, 0)
    assert sense(drive, mmc.ReadTocPmaAtip(format=5)) == (5, 0x24, 0)


def test_sub_channel() -> None:
    drive = quiet(disc()[0])
    assert perform(drive, mmc.ReadSubChannel(allocation_length=99)) == bytes([0, 0x15, 0, 0])
    asked = mmc.ReadSubChannel(flags=2, subq=0x40, format=1, allocation_length=99)
    position = perform(drive, asked)
    assert position == bytes.fromhex("0015000c 01140101 00000200 00000000")
    number = perform(drive, mmc.ReadSubChannel(subq=0x40, format=2, allocation_length=99))
    assert (u16(number, 2), len(number), number[8]) == (20, 24, 0)
    assert sense(drive, mmc.ReadSubChannel(subq=0x40, format=3)) == (5, 0x24, 0)
    assert sense(drive, mmc.ReadSubChannel(subq=0x40, format=0)) == (5, 0x24, 0)


def test_disc_and_track_information() -> None:
    drive = quiet(disc(64)[0])
    information = perform(drive, mmc.ReadDiscInformation(allocation_length=99))
    assert (u16(information), len(information)) == (32, 34)
    assert information[2:9] == bytes([0x0E, 1, 1, 1, 1, 0x20, 0])
    assert sense(drive, mmc.ReadDiscInformation(data_type=1)) == (5, 0x24, 0)

    for kind, number in ((0, 0), (0, 63), (1, 1), (2, 1)):
        asked = mmc.ReadTrackInformation(
            flags=kind, logical_block_address_track_session_number=number, allocation_length=99
        )
        track = perform(drive, asked)
        assert (u16(track), len(track)) == (46, 48)
        assert (track[2:7], u32(track, 8), u32(track, 24)) == (bytes([1, 1, 0, 4, 1]), 0, 64)
    for flags, number, expected in (
        (0, 64, (5, 0x21, 0)),
        (1, 0, (5, 0x24, 0)),
        (1, 2, (5, 0x24, 0)),
        (2, 2, (5, 0x24, 0)),
        (3, 1, (5, 0x24, 0)),
        (4, 0, (5, 0x24, 0)),
    ):
        asked = mmc.ReadTrackInformation(
            flags=flags, logical_block_address_track_session_number=number
        )
        assert sense(drive, asked) == expected


# -- what it can do ------------------------------------------------------------------------------


def features(data: bytes) -> dict[int, tuple[int, bytes]]:
    """The features of a GET CONFIGURATION reply: version and flags, and data."""
    found, at = {}, 8
    while at < len(data):
        code, flags, length = struct.unpack_from(">HBB", data, at)
        found[code] = flags, data[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(data)
    return found


@pytest.mark.parametrize(
    ("blocks", "profile"), [(0, 0), (64, 8), (LARGEST_CD, 8), (LARGEST_CD + 1, 0x10)]
)
def test_get_configuration(blocks: int, profile: int) -> None:
    drive = Dvd(BigDisk(blocks) if blocks else None, serial="DB-17")
    data = perform(drive, mmc.GetConfiguration(allocation_length=0xFFFF))
    assert (u32(data), u16(data, 6)) == (len(data) - 4, profile)
    found = features(data)
    codes = [0, 1, 2, 3, 0x10, 0x1E, 0x1F, 0x100, 0x105, 0x107, 0x108]
    assert list(found) == codes
    profiles = found[0][1]
    assert profiles == bytes([0, 0x10, profile == 0x10, 0, 0, 8, profile == 8, 0])
    assert found[1] == (0b001011, bytes([0, 0, 0, PhysicalInterface.SCSI, 3, 0, 0, 0]))
    assert found[3][1][0] == 0x39
    assert found[0x10][0] & 1 == bool(blocks)
    assert (found[0x1E][0] & 1, found[0x1F][0] & 1) == (profile == 8, profile == 0x10)
    assert found[0x108][1] == b"DB-17   "
    assert all(len(body) % 4 == 0 for _, body in found.values())

    current = perform(drive, mmc.GetConfiguration(flags=1, allocation_length=0xFFFF))
    assert features(current) == {code: it for code, it in found.items() if it[0] & 1}
    later = mmc.GetConfiguration(starting_feature_number=0x1F, allocation_length=0xFFFF)
    assert list(features(perform(drive, later))) == [code for code in codes if code >= 0x1F]
    one = mmc.GetConfiguration(flags=2, starting_feature_number=0x1F, allocation_length=0xFFFF)
    assert features(perform(drive, one)) == {0x1F: found[0x1F]}
    none = mmc.GetConfiguration(flags=2, starting_feature_number=0x20, allocation_length=0xFFFF)
    assert perform(drive, none) == struct.pack(">IHH", 4, 0, profile)
    assert sense(drive, mmc.GetConfiguration(flags=3)) == (5, 0x24, 0)


def test_dvd_structure() -> None:
    drive = quiet(BigDisk(2_000_000))
    physical = perform(drive, mmc.ReadDiscStructure(allocation_length=0xFFFF))
    assert (u16(physical), len(physical)) == (2050, 2052)
    assert (u32(physical, 8), u32(physical, 12)) == (0x30000, 0x30000 + 1_999_999)
    copyright_ = perform(drive, mmc.ReadDiscStructure(format=1, allocation_length=0xFFFF))
    assert copyright_ == bytes([0, 6, *bytes(6)])
    manufacturing = perform(drive, mmc.ReadDiscStructure(format=4, allocation_length=0xFFFF))
    assert manufacturing == bytes([8, 2, *bytes(2050)])
    known = perform(drive, mmc.ReadDiscStructure(format=0xFF, allocation_length=0xFFFF))
    assert [known[at] for at in range(4, len(known), 4)] == [0, 1, 4]
    assert sense(drive, mmc.ReadDiscStructure(format=3)) == (5, 0x24, 0)
    assert sense(drive, mmc.ReadDiscStructure(layer_number=1)) == (5, 0x24, 0)
    assert sense(drive, mmc.ReadDiscStructure(media_type=1)) == (5, 0x24, 0)
    assert sense(quiet(disc()[0]), mmc.ReadDiscStructure()) == (5, 0x30, 2)


def test_performance() -> None:
    drive = quiet(disc(64)[0])

    def get(most: int = 4, kind: int = 0, flags: int = 0x10) -> bytes:
        return perform(
            drive,
            mmc.GetPerformance(data_type=flags, maximum_number_of_descriptors=most, type=kind),
        )

    assert get() == struct.pack(">IBBHIIII", 20, 0, 0, 0, 0, 22160, 63, 22160)
    assert get(most=0) == struct.pack(">IBBH", 20, 0, 0, 0), "what there would be"
    assert get(flags=0x11) == struct.pack(">IBBH", 4, 1, 0, 0)
    assert get(kind=3) == struct.pack(">IBBH", 4, 0, 0, 0)
    for bad in (
        mmc.GetPerformance(),
        mmc.GetPerformance(data_type=0x14),
        mmc.GetPerformance(data_type=0x13),
        mmc.GetPerformance(data_type=0x10, type=5),
    ):
        assert sense(drive, bad) == (5, 0x24, 0)


def test_streaming() -> None:
    drive = quiet(disc(64)[0])
    ask = mmc.SetStreaming(parameter_list_length=28)

    def wish(start: int, end: int) -> bytes:
        return struct.pack(">IIIIIII", 0, start, end, 1000, 1000, 0, 0)

    assert sense(drive, ask, wish(0, 63)) == (0, 0, 0)
    assert sense(drive, ask, wish(0, 64)) == (5, 0x26, 0)
    assert sense(drive, ask, wish(5, 4)) == (5, 0x26, 0)
    assert sense(drive, ask, wish(0, 63)[:27]) == (5, 0x1A, 0)
    assert sense(drive, mmc.SetStreaming(parameter_list_length=27), wish(0, 63)) == (5, 0x1A, 0)
    assert sense(drive, mmc.SetStreaming(type=5, parameter_list_length=28)) == (5, 0x24, 0)


def test_speed_and_buffer() -> None:
    drive = quiet()
    for asked, shown in ((1385, 1385), (0xFFFF, 22160)):
        perform(drive, mmc.SetCdSpeed(read_speed=asked))
        page = perform(drive, cdb.ModeSense10(page=0x2A, allocation_length=99))[8:]
        assert u16(page, 14) == shown
    buffer = perform(drive, mmc.ReadBufferCapacity(block=1, allocation_length=99))
    assert buffer == bytes([0, 10, 0, 1, *bytes(8)])


# -- settings ------------------------------------------------------------------------------------


def test_mode_sense() -> None:
    drive = quiet()
    every = perform(drive, cdb.ModeSense10(page=0x3F, allocation_length=0xFFFF))
    assert u16(every) == len(every) - 2
    assert every[2:8] == bytes(6)
    short = perform(drive, cdb.ModeSense6(page=0x3F, allocation_length=255))
    assert short == bytes([len(short) - 1, 0, 0, 0]) + every[8:]
    pages, at = {}, 8
    while at < len(every):
        pages[every[at]] = every[at : at + 2 + every[at + 1]]
        at += 2 + every[at + 1]
    assert list(pages) == [0x01, 0x1A, 0x1D, 0x2A]
    for code, page in pages.items():
        one = perform(drive, cdb.ModeSense10(page=code, allocation_length=0xFFFF))
        assert one[8:] == page
        default = perform(drive, cdb.ModeSense10(page=0x80 | code, allocation_length=0xFFFF))
        assert default[8:] == page
        changeable = perform(drive, cdb.ModeSense10(page=0x40 | code, allocation_length=0xFFFF))
        assert changeable[8:10] == page[:2]
        assert sense(drive, cdb.ModeSense10(page=0xC0 | code)) == (5, 0x39, 0)
    assert sense(drive, cdb.ModeSense10(page=0x0E)) == (5, 0x24, 0)
    assert sense(drive, cdb.ModeSense10(page=0x01, subpage_code=1)) == (5, 0x24, 0)


def test_mode_select() -> None:
    drive = quiet()

    def page() -> bytes:
        return perform(drive, cdb.ModeSense10(page=1, allocation_length=0xFFFF))[8:]

    retries = bytes([1, 10, 0x20, 9, *bytes(8)])
    long, short = bytes(8) + retries, bytes(4) + retries
    perform(drive, cdb.ModeSelect10(parameter_list_length=len(long)), long)
    assert page() == retries
    drive.reset()
    sense(drive, bytes(6))
    assert page() == bytes([1, 10, 0, 5, *bytes(8)])
    perform(drive, cdb.ModeSelect6(parameter_list_length=len(short)), short)
    assert page() == retries
    descriptor = bytes([0, 0, 0, 8]) + bytes([0, 0, 0, 0, 0, 0, 8, 0]) + retries
    perform(drive, cdb.ModeSelect6(parameter_list_length=len(descriptor)), descriptor)
    perform(drive, cdb.ModeSelect10())
    assert sense(drive, cdb.ModeSelect10(flags=0x11)) == (5, 0x24, 0)
    assert sense(drive, cdb.ModeSelect10(flags=0, parameter_list_length=8)) == (5, 0x24, 0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes(7), 0x1A),
        (bytes(8) + bytes([1]), 0x1A),
        (bytes(8) + bytes([1, 10, *bytes(9)]), 0x1A),
        (bytes(6) + bytes([0, 16]), 0x1A),
        (bytes(6) + bytes([0, 16]) + bytes([*bytes(6), 8, 0]) * 2, 0x26),
        (bytes(6) + bytes([0, 4, *bytes(4)]), 0x26),
        (bytes(8) + bytes([1, 9, *bytes(9)]), 0x26),
        (bytes(8) + bytes([1, 10, 0, 5, *bytes(7), 1]), 0x26),
        (bytes(8) + bytes([8, 10, *bytes(10)]), 0x26),
        (bytes(8) + bytes([0x41, 10, *bytes(10)]), 0x26),
        (bytes(8) + bytes([1, 10, 0, 77, *bytes(8)]) + bytes([8, 0]), 0x26),
    ],
)
def test_mode_select_refuses_all_or_takes_all(data: bytes, code: int) -> None:
    drive = quiet()
    before = perform(drive, cdb.ModeSense10(page=0x3F, allocation_length=0xFFFF))
    asked = cdb.ModeSelect10(parameter_list_length=len(data))
    assert sense(drive, asked, data) == (5, code, 0)
    assert perform(drive, cdb.ModeSense10(page=0x3F, allocation_length=0xFFFF)) == before


def test_capabilities_show_the_lock() -> None:
    drive = quiet()
    asked = cdb.ModeSense10(page=0x2A, allocation_length=0xFFFF)
    assert perform(drive, asked)[8 + 6] == 0x29
    drive.lock(True)
    assert perform(drive, asked)[8 + 6] == 0x2B


# -- without media -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x45, 0x47, 0xA5])
def test_there_is_nothing_to_play(code: int) -> None:
    assert sense(quiet(), bytes([code, *bytes(11)])) == (2, 0x3A, 1)
    assert sense(quiet(disc()[0]), bytes([code, *bytes(11)])) == (5, 0x64, 0)


def test_nothing_plays() -> None:
    drive = quiet(disc()[0])
    assert sense(drive, bytes([0x4B, *bytes(9)])) == (5, 0x2C, 0)
    assert sense(drive, bytes([0x4E, *bytes(9)])) == (0, 0, 0)
    assert sense(drive, bytes([0x35, *bytes(9)])) == (0, 0, 0)


@pytest.mark.parametrize(
    "command",
    [
        cdb.Read10(transfer_length=1),
        cdb.Read10(),
        cdb.Read12(transfer_length=1),
        mmc.ReadCd(selection=0x10, transfer_length=b"\0\0\1"),
        mmc.ReadCdMsf(starting_msf=b"\0\2\0", ending_msf=b"\0\2\1", selection=0x10),
        cdb.Read10(operation_code=0x2F, transfer_length=1),
        cdb.Cdb10(),
        cdb.Cdb10(operation_code=0x25),
        mmc.ReadTocPmaAtip(allocation_length=99),
        mmc.ReadSubChannel(),
        mmc.ReadDiscInformation(),
        mmc.ReadTrackInformation(),
        mmc.ReadDiscStructure(),
        mmc.GetPerformance(data_type=0x10),
        mmc.SetStreaming(parameter_list_length=28),
        cdb.Cdb6(),
    ],
    ids=lambda command: type(command).__name__,
)
def test_not_ready(command: Struct) -> None:
    drive = quiet()
    assert sense(drive, command) == (2, 0x3A, 1)
    drive.open_tray()
    assert sense(drive, command) == (2, 0x3A, 2)
