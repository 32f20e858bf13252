"""A real ``drivebay qtest --machine pc``, worked as QEMU's ide-test works QEMU."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from .libqtest import Qtest

COMMAND, CONTROL, LINE = 0x1F0, 0x3F6, 14
DATA, FEATURE, COUNT, LOW, MIDDLE, HIGH, DEVICE, STATUS = range(COMMAND, COMMAND + 8)
BSY, DRDY, DF, DRQ, ERR = 0x80, 0x40, 0x20, 0x08, 0x01
READ_DMA, WRITE_DMA, FLUSH_CACHE, IDENTIFY, PACKET, DIAGNOSE = 0xC8, 0xCA, 0xE7, 0xEC, 0xA0, 0x90
WRITE_SECTORS, READ_SECTORS = 0x30, 0x20
START, TO_MEMORY, ACTIVE, INTERRUPT = 1, 8, 1, 4
BUS_MASTER, PRDT, BUFFER = 0xC000, 0x10000, 0x20000

pytestmark = pytest.mark.timeout(120)


def pc(folder: Path, *drives: str) -> Qtest:
    return Qtest(folder, "--machine", "pc", *(w for drive in drives for w in ("--ide", drive)))


def config(qtest: Qtest, slot: int, function: int, offset: int, value: int | None = None) -> int:
    """Read a PCI register of 32 bits, or write it."""
    qtest.outp("l", 0xCF8, 0x80000000 | slot << 11 | function << 8 | offset & 0xFC)
    if value is None:
        return qtest.inp("l", 0xCFC)
    qtest.outp("l", 0xCFC, value)
    return value


def enable(qtest: Qtest) -> None:
    """Give the bus master its ports, and let it master."""
    assert config(qtest, 1, 1, 0) == 0x7010_8086  # as QEMU's pc has it
    config(qtest, 1, 1, 0x20, BUS_MASTER)
    config(qtest, 1, 1, 0x04, 5)


def wait(qtest: Qtest, bits: int = BSY) -> int:
    for _ in range(20_000):
        status = qtest.inp("b", STATUS)
        if not status & bits:
            return status
        qtest.ok("clock_step 400")
    raise AssertionError(f"status {status:#x}")


def dma(qtest: Qtest, command: int, sector: int, count: int) -> int:
    """One transfer between the disk and `BUFFER`; the bus master's status in the end."""
    qtest.outp("b", DEVICE, 0x40)
    qtest.outp("b", BUS_MASTER, 0)
    qtest.outp("b", BUS_MASTER + 2, INTERRUPT)
    qtest.store(PRDT, struct.pack("<II", BUFFER, count * 512 | 1 << 31))
    qtest.outp("l", BUS_MASTER + 4, PRDT)
    for register, value in (
        (COUNT, count),
        (LOW, sector & 0xFF),
        (MIDDLE, sector >> 8 & 0xFF),
        (HIGH, sector >> 16 & 0xFF),
        (STATUS, command),
    ):
        qtest.outp("b", register, value)
    qtest.outp("b", BUS_MASTER, START | (TO_MEMORY if command == READ_DMA else 0))
    return finish(qtest)


def finish(qtest: Qtest) -> int:
    while (status := qtest.inp("b", BUS_MASTER + 2)) & (ACTIVE | INTERRUPT) == ACTIVE:
        qtest.ok("clock_step 400")
    assert qtest.irq(LINE) == bool(status & INTERRUPT)
    assert qtest.inp("b", STATUS) & (DRDY | BSY | DRQ) == DRDY
    assert not qtest.irq(LINE)
    return status


def words(qtest: Qtest, count: int) -> bytes:
    return b"".join(qtest.inp("w", DATA).to_bytes(2, "little") for _ in range(count))


def text(data: bytes) -> str:
    """A string of IDENTIFY: the bytes of each word change places."""
    return b"".join(data[n : n + 2][::-1] for n in range(0, len(data), 2)).decode().rstrip()


# -- the machine ---------------------------------------------------------------------------------


def test_the_machine_is_qemus(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "pc", "--m", "96M") as qtest:
        assert config(qtest, 0, 0, 0) == 0x1237_8086
        assert config(qtest, 1, 1, 0) == 0x7010_8086
        assert config(qtest, 1, 1, 8) >> 16 == 0x0101
        qtest.outp("w", 0x510, 3)  # fw_cfg: the size of RAM
        size = bytes(qtest.inp("b", 0x511) for _ in range(8))
        assert int.from_bytes(size, "little") == 96 << 20
        qtest.outp("b", 0x70, 0x34)
        assert qtest.inp("b", 0x71) == (96 - 16) * 16 & 0xFF


def test_a_reset_by_the_guest_is_told(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M") as qtest:
        enable(qtest)
        qtest.outp("b", 0xCF9, 6)
        assert qtest.event("RESET") == {"guest": True, "reason": "guest-reset"}
        assert config(qtest, 1, 1, 0x20) == 1


def test_q35_has_its_bridges(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "q35", "--m", "128M") as qtest:
        assert config(qtest, 0, 0, 0) == 0x29C0_8086
        assert config(qtest, 0x1F, 0, 0) == 0x2918_8086
        assert config(qtest, 0x1F, 2, 0) == 0x2922_8086
        qtest.outp("w", 0x510, 3)
        assert int.from_bytes(bytes(qtest.inp("b", 0x511) for _ in range(8)), "little") == 128 << 20
        assert config(qtest, 0x1F, 3, 0) == 0xFFFF_FFFF


# -- disks ---------------------------------------------------------------------------------------


def test_identify(tmp_path: Path) -> None:
    disk = f"file:{tmp_path}/disk.img;create=64M"
    with pc(tmp_path, f"{disk},serial=testdisk,firmware=version,model=A disk") as qtest:
        qtest.outp("b", DEVICE, 0)
        qtest.outp("b", STATUS, IDENTIFY)
        assert wait(qtest) & (DRDY | DRQ | DF | ERR) == DRDY | DRQ
        data = words(qtest, 256)
        assert qtest.inp("b", STATUS) & (DRDY | BSY | DF | ERR | DRQ) == DRDY
        assert text(data[20:40]) == "testdisk"
        assert text(data[46:54]) == "version"
        assert text(data[54:94]) == "A disk"
        assert struct.unpack_from("<I", data, 120)[0] == (64 << 20) // 512
        assert data[170] & 0x20  # the write cache is on


def test_diagnostic_selects_device_0(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M", "mem:1M") as qtest:
        qtest.outp("b", DEVICE, 0x10)
        assert qtest.inp("b", DEVICE) & 0x10
        qtest.outp("b", STATUS, DIAGNOSE)
        wait(qtest)
        assert not qtest.inp("b", DEVICE) & 0x10


def test_dma_there_and_back(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with pc(tmp_path, f"file:{image};create=8M") as qtest:
        qtest.intercept()
        enable(qtest)
        for sector, value in ((0, 0x55), (1, 0xAA)):
            qtest.ok(f"memset {BUFFER:#x} 0x200 {value:#x}")
            assert dma(qtest, WRITE_DMA, sector, 1) == INTERRUPT
        qtest.ok(f"memset {BUFFER:#x} 0x400 0x0")
        assert dma(qtest, READ_DMA, 0, 2) == INTERRUPT
        assert qtest.memory(BUFFER, 1024) == b"\x55" * 512 + b"\xaa" * 512
    assert image.read_bytes()[:1024] == b"\x55" * 512 + b"\xaa" * 512


def test_pio(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M") as qtest:
        qtest.intercept()
        data = bytes(range(256)) * 2
        for command in (WRITE_SECTORS, READ_SECTORS):
            for register, value in ((DEVICE, 0x40), (COUNT, 1), (LOW, 7), (MIDDLE, 0), (HIGH, 0)):
                qtest.outp("b", register, value)
            qtest.outp("b", STATUS, command)
            assert wait(qtest) & DRQ
            if command == WRITE_SECTORS:
                for at in range(0, 512, 2):
                    qtest.outp("w", DATA, int.from_bytes(data[at : at + 2], "little"))
                assert wait(qtest) & (DRQ | ERR) == 0
            else:
                assert words(qtest, 256) == data
            assert "IRQ raise 14" in qtest.irq_log


def test_flush_without_a_drive_does_nothing(tmp_path: Path) -> None:
    with pc(tmp_path) as qtest:
        qtest.outp("b", DEVICE, 0)
        qtest.outp("b", STATUS, FLUSH_CACHE)
        assert not qtest.inp("b", STATUS) & BSY


def test_drives_come_and_go(tmp_path: Path) -> None:
    with pc(tmp_path, "mem:1M,serial=one") as qtest:
        assert qtest.execute("device_del", id="ide0-hd0") == {}
        assert qtest.event("DEVICE_DELETED")["device"] == "ide0-hd0"
        assert serial(qtest) is None
        add = {"driver": "ide-hd", "drive": "ide0-hd0", "bus": "ide.0"}
        assert "unit" in qtest.refused("device_add", **add, id="x", unit=2)
        assert "Bus" in qtest.refused("device_add", **add | {"bus": "scsi.0"}, id="x")
        assert "colour" in qtest.refused("device_add", **add, id="x", colour=2)
        assert qtest.execute("device_add", **add, id="x", unit=0, serial="two") == {}
        assert serial(qtest) == "two"


def serial(qtest: Qtest) -> str | None:
    qtest.outp("b", DEVICE, 0)
    qtest.outp("b", STATUS, IDENTIFY)
    if wait(qtest) == 0x7F:  # a cable without drives
        return None
    return text(words(qtest, 256)[20:40])


@pytest.mark.parametrize("command", [WRITE_DMA, FLUSH_CACHE])
def test_an_error_stops_the_guest_and_is_tried_again(tmp_path: Path, command: int) -> None:
    """werror=stop: a file may not grow past a limit, until somebody lifts it."""
    image = tmp_path / "disk.img"
    with pc(tmp_path, f"file:{image};create=8M,on-error=stop,id=drive0") as qtest:
        qtest.intercept()
        enable(qtest)
        qtest.ok(f"memset {BUFFER:#x} 0x200 0x77")
        limits = resource.prlimit(qtest.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(qtest.process.pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
        run_dma(qtest, 100)
        error = qtest.event("BLOCK_IO_ERROR")
        assert (error["device"], error["action"]) == ("drive0", "stop")
        assert (error["operation"], error["nospace"]) == ("write", False)
        qtest.event("STOP")
        assert qtest.execute("query-status") == {"running": False, "status": "io-error"}
        assert qtest.inp("b", BUS_MASTER + 2) & (ACTIVE | INTERRUPT) == ACTIVE
        resource.prlimit(qtest.process.pid, resource.RLIMIT_FSIZE, limits)
        qtest.execute("cont")
        qtest.event("RESUME")
        assert finish(qtest) == INTERRUPT
    assert image.read_bytes()[51200:51712] == b"\x77" * 512


def run_dma(qtest: Qtest, sector: int) -> None:
    """A write that does not end."""
    qtest.store(PRDT, struct.pack("<II", BUFFER, 512 | 1 << 31))
    qtest.outp("l", BUS_MASTER + 4, PRDT)
    for register, value in ((DEVICE, 0x40), (COUNT, 1), (LOW, sector), (MIDDLE, 0), (HIGH, 0)):
        qtest.outp("b", register, value)
    qtest.outp("b", STATUS, WRITE_DMA)
    qtest.outp("b", BUS_MASTER, START)


def test_an_error_that_is_reported_is_the_guests(tmp_path: Path) -> None:
    with pc(tmp_path, f"file:{tmp_path}/disk.img;create=8M,on-error=report") as qtest:
        enable(qtest)
        hard = resource.prlimit(qtest.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(qtest.process.pid, resource.RLIMIT_FSIZE, (4096, hard))
        run_dma(qtest, 100)
        assert qtest.event("BLOCK_IO_ERROR")["action"] == "report"
        assert wait(qtest) & ERR


# -- DVDs ----------------------------------------------------------------------------------------


def packet(qtest: Qtest, cdb: bytes, limit: int = 5120) -> int:
    """Send a packet; the status after it."""
    for register, value in (
        (DEVICE, 0),
        (FEATURE, 0),
        (MIDDLE, limit & 0xFF),
        (HIGH, limit >> 8),
        (STATUS, PACKET),
    ):
        qtest.outp("b", register, value)
    assert wait(qtest) & (DRQ | ERR | DF) == DRQ
    for at in range(0, 12, 2):
        qtest.outp("w", DATA, int.from_bytes(cdb.ljust(12, b"\0")[at : at + 2], "little"))
    return wait(qtest)


def read_10(qtest: Qtest, block: int, count: int) -> bytes:
    status = packet(qtest, struct.pack(">BBIBHB", 0x28, 0, block, 0, count, 0))
    data = b""
    while status & DRQ:
        size = qtest.inp("b", MIDDLE) | qtest.inp("b", HIGH) << 8
        data += words(qtest, size // 2)
        status = wait(qtest)
    assert not status & (ERR | DF)
    return data


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    path = tmp_path / "disc.iso"
    path.write_bytes(b"".join(bytes([n]) * 2048 for n in range(16)))
    return path


def test_a_dvd_is_read_by_packets(tmp_path: Path, disc: Path) -> None:
    with pc(tmp_path, f"file:{disc},dvd") as qtest:
        qtest.intercept()
        assert read_10(qtest, 0, 1) == bytes(2048)
        assert read_10(qtest, 3, 10) == disc.read_bytes()[3 * 2048 : 13 * 2048]
        assert "IRQ raise 14" in qtest.irq_log


def test_the_guest_opens_the_tray(tmp_path: Path, disc: Path) -> None:
    with pc(tmp_path, f"file:{disc},dvd,id=cd") as qtest:
        assert not packet(qtest, bytes([0x1B, 0, 0, 0, 2])) & ERR
        assert qtest.event("DEVICE_TRAY_MOVED") == {"device": "cd", "id": "cd", "tray-open": True}
        assert qtest.execute("query-block")[0]["tray_open"] is True
        assert not packet(qtest, bytes([0x1B, 0, 0, 0, 3])) & ERR
        assert qtest.event("DEVICE_TRAY_MOVED")["tray-open"] is False


def test_a_locked_tray_is_the_guests(tmp_path: Path, disc: Path) -> None:
    with pc(tmp_path, f"file:{disc},dvd") as qtest:
        assert not packet(qtest, bytes([0x1E, 0, 0, 0, 1])) & ERR
        assert qtest.execute("query-block")[0]["locked"] is True
        assert "locked" in qtest.refused("eject", device="ide0-cd0")
        assert qtest.execute("eject", device="ide0-cd0", force=True) == {}
        assert qtest.event("DEVICE_TRAY_MOVED")["tray-open"] is True


def change(qtest: Qtest, path: Path) -> None:
    qtest.execute("blockdev-change-medium", id="ide0-cd0", filename=str(path))


def step_by_step(qtest: Qtest, path: Path) -> None:
    qtest.execute("blockdev-open-tray", id="ide0-cd0")
    qtest.execute("blockdev-remove-medium", id="ide0-cd0")
    node = {"driver": "raw", "file": {"driver": "file", "filename": str(path)}}
    qtest.execute("blockdev-add", node_name="new", read_only=True, **node)
    qtest.execute("blockdev-insert-medium", id="ide0-cd0", node_name="new")
    assert qtest.execute("query-block")[0]["tray_open"] is True
    qtest.execute("blockdev-close-tray", id="ide0-cd0")


@pytest.mark.parametrize("put", [change, step_by_step])
def test_the_medium_is_changed(
    tmp_path: Path, disc: Path, put: Callable[[Qtest, Path], None]
) -> None:
    new = tmp_path / "new.iso"
    new.write_bytes(b"new!" * 512 * 4)
    with pc(tmp_path, f"file:{disc},dvd") as qtest:
        assert read_10(qtest, 1, 1) == b"\x01" * 2048
        put(qtest, new)
        assert qtest.event("DEVICE_TRAY_MOVED")["tray-open"] is True
        assert qtest.event("DEVICE_TRAY_MOVED")["tray-open"] is False
        assert packet(qtest, bytes(12)) & ERR  # it may have changed
        assert read_10(qtest, 1, 1) == b"new!" * 512
        new.write_bytes(b"odd")
        assert (
            "error"
            in qtest.refused("blockdev-change-medium", id="ide0-cd0", filename=str(new)).lower()
        )
