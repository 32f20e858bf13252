"""A disc with a file system on it, read through an ATAPI drive by every route."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pycdlib
import pytest

from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Status
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ide import IdeCd, IdeDisk, IdeError, IdeTimeout, PacketError
from drivebay.drivers.ide.cd import BLOCK
from drivebay.platform.engine import Engine
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import Dvd, PhysicalInterface
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.sense import Sense, SenseKey
from drivebay.suspend import run
from drivebay.testing import PuppetDisk

from .conftest import MakeBench
from .support import Bench, PortLog, noise

NO_DISC = Sense(SenseKey.NOT_READY, 0x3A, 0x02)
OUT_OF_RANGE = Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)

Read = Callable[[IdeCd, int, int], bytes]
"""Blocks from one on, as many."""


def by_int13(cd: IdeCd, lba: int, count: int) -> bytes:
    """A request's head and tail are 16-bit numbers of bytes."""
    return cd.read_int13(lba, count * BLOCK)


ROUTES: dict[str, Read] = {
    "pio": lambda cd, lba, count: cd.read(lba, count, dma=False),
    "pio by blocks": lambda cd, lba, count: cd.read(lba, count, dma=False, limit=BLOCK),
    "pio by odd bits": lambda cd, lba, count: cd.read(lba, count, dma=False, limit=778),
    "dma": lambda cd, lba, count: cd.read(lba, count),
    "int13": by_int13,
}


def image(files: dict[str, bytes]) -> bytes:
    """An ISO 9660 image with these files in its root."""
    iso = pycdlib.PyCdlib()
    iso.new()
    for name, data in files.items():
        iso.add_fp(io.BytesIO(data), len(data), f"/{name};1")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def files(data: bytes) -> dict[str, bytes]:
    """The files in the root of an ISO 9660 image."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(data))
    found = {}
    for child in iso.list_children(iso_path="/"):
        name = child.file_identifier().decode()
        if child.is_file():
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, iso_path=f"/{name}")
            found[name.removesuffix(";1")] = out.getvalue()
    iso.close()
    return found


def disc(data: bytes) -> RamDisk:
    disk = RamDisk(len(data))
    run(disk.write(0, [memoryview(bytearray(data))]))
    return disk


FIRST = {"HELLO.TXT": b"hello\n", "NOISE.BIN": noise(300_001)}
SECOND = {"OTHER.TXT": b"another disc\n", "MORE.BIN": noise(70_000, 1)}


class Rig:
    def __init__(self, make_bench: MakeBench, engine: Engine, polled: bool) -> None:
        self.image = image(FIRST)
        self.puppet = PuppetDisk(disc(self.image), lambda *_: False)
        self.dvd = Dvd(self.puppet, interface=PhysicalInterface.ATAPI)
        self.bench: Bench = make_bench({(1, 0): PacketDevice(self.dvd, engine)})
        self.log = PortLog(self.bench.ports)
        self.cd = self.bench.driver(polled=polled, ports=self.log).cd(1, 0)
        self.cd.settle()

    def read_disc(self, read: Read) -> bytes:
        """All of what is in the drive, 40 blocks at a time."""
        blocks = self.cd.capacity()
        return b"".join(read(self.cd, at, min(40, blocks - at)) for at in range(0, blocks, 40))


@pytest.fixture(params=[False, True], ids=["interrupts", "polled"])
def rig(request: pytest.FixtureRequest, make_bench: MakeBench, engine: Engine) -> Iterator[Rig]:
    rig = Rig(make_bench, engine, request.param)
    yield rig
    rig.puppet.close()


@pytest.mark.parametrize("read", ROUTES.values(), ids=list(ROUTES))
def test_a_disc_is_read_byte_for_byte(rig: Rig, read: Read) -> None:
    got = rig.read_disc(read)
    assert got == rig.image
    assert files(got) == FIRST


@pytest.mark.parametrize("read", ROUTES.values(), ids=list(ROUTES))
def test_eject_and_a_second_disc(rig: Rig, read: Read) -> None:
    """The tray opens, nothing is read; the other disc is told of once, and is all there is."""
    cd = rig.cd
    assert read(cd, 0, 4) == rig.image[: 4 * BLOCK]
    cd.lock(True)
    with pytest.raises(PacketError) as caught:
        cd.eject()
    assert caught.value.sense.key is SenseKey.ILLEGAL_REQUEST
    cd.lock(False)
    cd.eject()
    assert rig.dvd.tray_open
    with pytest.raises(IdeError) as failed:
        read(cd, 0, 4)
    if isinstance(failed.value, PacketError):
        assert failed.value.sense == NO_DISC
        assert failed.value.error >> 4 == SenseKey.NOT_READY
    second = image(SECOND)
    rig.dvd.insert(disc(second))
    with pytest.raises(PacketError) as changed:
        cd.test_unit_ready()
    assert changed.value.sense == Sense(SenseKey.UNIT_ATTENTION, 0x28, 0x00)
    assert cd.capacity() == len(second) // BLOCK
    got = rig.read_disc(read)
    assert got == second
    assert files(got) == SECOND


@pytest.mark.parametrize("limit", [2, 778, 2047, 2048, 2049, 4096, 10000, 0xFFFE, 0xFFFF])
def test_the_byte_count_limit(rig: Rig, limit: int) -> None:
    """No DRQ block is longer; all but the last are even (ATA/ATAPI-6 section 8.23)."""
    assert rig.cd.read(3, 40, dma=False, limit=limit) == rig.image[3 * BLOCK : 43 * BLOCK]
    blocks = rig.cd.blocks
    assert sum(blocks) == 40 * BLOCK
    assert max(blocks) <= limit
    assert not any(block % 2 for block in blocks[:-1])


def test_an_odd_answer(rig: Rig) -> None:
    """Its last byte comes with a whole word."""
    for length in (1, 5, 36, 37):
        for width in (2, 4):
            rig.cd.channel.width = width
            whole = rig.cd.inquiry()
            assert rig.cd.inquiry(length) == whole[:length]
    with pytest.raises(IdeError):
        rig.cd.packet(cdbs.Inquiry(allocation_length=36), limit=0)


def test_an_answer_by_dma_is_as_long_as_it_is(rig: Rig) -> None:
    """What memory has beyond stays as it was."""
    whole = rig.cd.inquiry()
    cdb = cdbs.Inquiry(allocation_length=200)
    assert rig.cd.packet(cdb, 200, dma=True) == whole.ljust(200, b"\0")


def test_mode_select_takes_data(rig: Rig) -> None:
    """Data out, by PIO and by DMA: the page that was read goes back changed."""
    sense = cdbs.ModeSense10(page=0x01, allocation_length=0xFF)
    page = bytearray(rig.cd.packet(sense, 0xFF))
    for dma in (False, True):
        page[:2] = bytes(2)
        page[11] ^= 0x05
        select = cdbs.ModeSelect10(flags=0x10, parameter_list_length=len(page))
        rig.cd.packet(select, data=bytes(page), dma=dma)
        again = rig.cd.packet(sense, 0xFF)
        assert again[8:] == page[8:]


def test_int13_takes_any_bytes(rig: Rig) -> None:
    """What is skipped at the head and at the tail goes nowhere."""
    cd = rig.cd
    for lba, skip, length in (
        (0, 0, 1),
        (0, 2047, 2),
        (16, 100, 5000),
        (3, 0xFFFF, 4096),
        (20, 4096, BLOCK),
        (20, 512, 512),
    ):
        at = lba * BLOCK + skip
        rig.log.accesses.clear()
        assert cd.read_int13(lba, length, skip) == rig.image[at : at + length]
        assert rig.log.accesses == [("out", 0x160, 4)]
    end = len(rig.image) // BLOCK
    with pytest.raises(IdeError) as caught:
        cd.read_int13(end, BLOCK)
    assert caught.value.status.ERR


def test_errors_have_their_sense(rig: Rig) -> None:
    cd, end = rig.cd, len(rig.image) // BLOCK
    for dma in (False, True):
        for lba, count in ((end, 1), (end - 1, 2), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0xFFFF)):
            cdb = cdbs.Read10(logical_block_address=lba, transfer_length=count)
            with pytest.raises(PacketError) as caught:
                cd.packet(cdb, 2 * BLOCK, dma=dma)
            assert caught.value.sense == OUT_OF_RANGE
            assert caught.value.error >> 4 == SenseKey.ILLEGAL_REQUEST
            assert caught.value.error.ABRT
            assert caught.value.status == Status.DRDY | Status.DSC | Status.ERR
    assert cd.request_sense().key is SenseKey.NO_SENSE, "it is told once"
    with pytest.raises(PacketError):
        cd.packet(bytes([0xFF, *bytes(11)]))


@pytest.mark.parametrize("read", ROUTES.values(), ids=list(ROUTES))
def test_a_disc_that_takes_its_time(rig: Rig, read: Read) -> None:
    rig.puppet.holds = lambda name, *_: name == "read"

    def poll() -> None:
        rig.bench.engine.turn(0)
        rig.puppet.complete_all()

    rig.cd.channel.poll = poll
    assert read(rig.cd, 5, 9) == rig.image[5 * BLOCK : 14 * BLOCK]


def test_device_reset_at_any_time(rig: Rig) -> None:
    """DEVICE RESET is taken while a packet is under way, and tells the signature (9.11)."""
    cd, channel = rig.cd, rig.cd.channel
    rig.puppet.holds = lambda *_: True
    channel.patience = 5
    with pytest.raises(IdeTimeout):
        cd.read(0, 4, dma=False)
    rig.puppet.holds = lambda *_: False
    channel.set("Command", 0x08)
    channel.patience = 100
    channel.wait_ready()
    assert [channel.get(name) for name in ("Count", "LBALow", "LBAMid", "LBAHigh")] == [
        1,
        1,
        0x14,
        0xEB,
    ]
    assert cd.read(0, 4, dma=False) == rig.image[: 4 * BLOCK]


def test_a_disks_commands_are_refused(rig: Rig) -> None:
    """IDENTIFY DEVICE aborts and shows the signature, by which drivers tell it (9.12)."""
    with pytest.raises(IdeError) as caught:
        IdeDisk(rig.cd.channel, 0)
    assert caught.value.error.ABRT
    assert rig.cd.channel.get("LBAMid") == 0x14
    assert rig.cd.channel.get("LBAHigh") == 0xEB


def test_an_empty_drive(make_bench: MakeBench, engine: Engine) -> None:
    cd = make_bench({(0, 1): PacketDevice(Dvd(), engine)}).driver().cd(0, 1)
    with pytest.raises(PacketError) as caught:
        cd.settle()
    assert caught.value.sense.key is SenseKey.NOT_READY
    with pytest.raises(IdeError):
        cd.read_int13(0, BLOCK)
    cd.packet(cdbs.Cdb6(Opcode.REQUEST_SENSE), 0)
