"""A real ``drivebay qtest --machine pc``, worked as QEMU's fdc-test works QEMU."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .libqtest import Qtest

BASE, LINE = 0x3F0, 6
SRA, DOR, MSR, FIFO, DIR = BASE, BASE + 2, BASE + 4, BASE + 5, BASE + 7
RQM, DIO, NON_DMA, BUSY, CHANGED = 0x80, 0x40, 0x20, 0x10, 0x80
SENSE, READ_ID, SEEK, VERIFY, READ, SEEK_OUT, SEEK_IN = 0x08, 0x0A, 0x0F, 0x16, 0xE6, 0x8F, 0xCF
SIZE = 1440 << 10

pytestmark = pytest.mark.timeout(120)


class Floppy(Qtest):
    """A PC, its floppy controller by bytes."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "--machine", "pc", *arguments)
        self.intercept()
        self.image = folder / "disk.img"
        self.image.write_bytes(bytes(range(256)) * (SIZE // 256))

    def put(self, *values: int) -> None:
        for value in values:
            assert self.inp("b", MSR) & (RQM | DIO) == RQM
            self.outp("b", FIFO, value)

    def get(self) -> int:
        assert self.inp("b", MSR) & (RQM | DIO) == RQM | DIO
        return self.inp("b", FIFO)

    def acknowledged(self) -> tuple[int, int]:
        """ST0 and the cylinder of the interrupt that is up."""
        assert self.irq(LINE)
        self.put(SENSE)
        found = self.get(), self.get()
        assert not self.irq(LINE)
        return found

    def seek(self, opcode: int, cylinder: int, head: int = 0) -> int:
        """The cylinder where it ends."""
        self.put(opcode, head << 2)
        assert not self.irq(LINE)
        self.put(cylinder)
        return self.acknowledged()[1]

    def result(self) -> list[int]:
        """Seven bytes; the interrupt is up until the last of them was read."""
        assert self.irq(LINE)
        found = [self.get() for _ in range(6)]
        assert self.irq(LINE)
        found.append(self.get())
        assert self.inp("b", MSR) & (RQM | DIO | BUSY) == RQM
        assert not self.irq(LINE)
        return found

    def transfer(self, opcode: int, last: int) -> None:
        self.put(opcode, 0)
        assert not self.irq(LINE)
        self.put(0, 0, 1, 2, last, 0x1B, 0xFF)

    def insert(self) -> None:
        self.execute("blockdev-change-medium", id="floppy0", filename=str(self.image), format="raw")

    def change_line(self) -> bool:
        """Reading it changes nothing."""
        first, second = self.inp("b", DIR) & CHANGED, self.inp("b", DIR) & CHANGED
        assert first == second
        return bool(first)


def test_as_a_pc_finds_it_at_power_on(tmp_path: Path) -> None:
    with Floppy(tmp_path) as qtest:
        qtest.outp("b", 0x70, 0x10)
        assert qtest.inp("b", 0x71) in (0x40, 0x50)
        assert qtest.inp("b", DOR) == 0x0C
        assert qtest.inp("b", MSR) == RQM
        assert not qtest.irq(LINE)


def test_the_change_line(tmp_path: Path) -> None:
    """It is up without a disk, and after one was put in until a step is made."""
    with Floppy(tmp_path) as qtest:
        assert qtest.change_line()
        qtest.seek(SEEK, 1)
        assert qtest.change_line()
        qtest.insert()
        assert qtest.change_line()
        qtest.seek(SEEK, 0)
        assert qtest.change_line()
        qtest.seek(SEEK, 1)
        assert not qtest.change_line()
        qtest.execute("eject", id="floppy0")
        for cylinder in (0, 1):
            qtest.seek(SEEK, cylinder)
            assert qtest.change_line()


@pytest.mark.parametrize("opcode", [READ, VERIFY])
def test_commands_without_a_disk(tmp_path: Path, opcode: int) -> None:
    with Floppy(tmp_path) as qtest:
        qtest.transfer(opcode, 1)
        assert qtest.inp("b", MSR) == RQM | DIO | BUSY
        assert qtest.result()[0] == 0x40


def test_sense_interrupt(tmp_path: Path) -> None:
    """With nothing to say it is no command, and one byte is its result."""
    with Floppy(tmp_path) as qtest:
        qtest.put(SENSE)
        assert qtest.get() == 0x80
        qtest.put(SEEK, 0, 0)
        assert qtest.acknowledged() == (0x20, 0)


def test_relative_seek(tmp_path: Path) -> None:
    with Floppy(tmp_path) as qtest:
        assert qtest.seek(SEEK, 0) == 0
        assert qtest.seek(SEEK_IN, 1) == 1
        assert qtest.seek(SEEK_OUT, 1) == 0


def test_read_id(tmp_path: Path) -> None:
    with Floppy(tmp_path) as qtest:
        qtest.insert()
        for cylinder, head in ((0, 0), (8, 1)):
            assert qtest.seek(SEEK, cylinder, head) == cylinder
            qtest.put(READ_ID, head << 2)
            st0, _, _, *where = qtest.result()
            assert (st0, where) == (head << 2, [cylinder, head, 1, 2])


def test_read_id_of_a_drive_without_a_disk(tmp_path: Path) -> None:
    """The drive is the one that the command names, whichever was last selected."""
    with Floppy(tmp_path) as qtest:
        qtest.put(READ_ID, 0)
        assert qtest.result()[:2] == [0x40, 0x01]
        qtest.execute("device_add", driver="floppy", id="floppy1", unit=1)
        qtest.insert()
        qtest.seek(SEEK, 0)
        qtest.put(READ_ID, 1)
        assert qtest.result()[:2] == [0x41, 0x01]


@pytest.mark.parametrize("sectors", [1, 18])
def test_reads_by_the_fifo(tmp_path: Path, sectors: int) -> None:
    """Both sides, with the DMA gate shut; the last byte is as good as TC."""
    with Floppy(tmp_path) as qtest:
        qtest.insert()
        qtest.outp("b", DOR, qtest.inp("b", DOR) & ~0x08)
        qtest.seek(SEEK, 0)
        qtest.transfer(READ, sectors)
        assert qtest.inp("b", MSR) == RQM | DIO | NON_DMA | BUSY
        data = bytearray()
        for _ in range(512 * 2 * sectors):
            assert qtest.inp("b", MSR) & (RQM | DIO | BUSY) == RQM | DIO | BUSY
            data.append(qtest.inp("b", FIFO))
        assert qtest.result() == [0x04, 0, 0, 1, 0, 1, 2]
        side = qtest.image.read_bytes()[: sectors * 512]
        assert bytes(data) == side * 2


def test_a_disk_on_the_command_line(tmp_path: Path) -> None:
    with Floppy(tmp_path, "--floppy", "mem:720K", "--floppy", "mem:1440K,ro") as qtest:
        qtest.outp("b", 0x70, 0x10)
        assert qtest.inp("b", 0x71) == 0x34
        found = {each["device"]: each["inserted"]["ro"] for each in qtest.execute("query-block")}
        assert found == {"floppy0": False, "floppy1": True}
        assert "does not fit" in qtest.refused(
            "blockdev-change-medium", id="floppy0", filename="mem:2880K"
        )
        qtest.execute("device_del", id="floppy1")
        assert qtest.event("DEVICE_DELETED")["device"] == "floppy1"


def test_random_registers(tmp_path: Path) -> None:
    """hostile.md section 2.1."""
    source = random.Random(5)
    with Floppy(tmp_path) as qtest:
        qtest.insert()
        for _ in range(1000):
            port = BASE + source.randrange(8)
            qtest.outp("b", port, source.randrange(256))
            qtest.inp("b", port)


@pytest.mark.parametrize(
    "script",
    [
        "w3f4:500 b3f5:0 b3f5:0 w3f4:0 b3f5:0 w3f1:400 w3f4:0 b3f5:0 b3f5:0 w3f4:0 b3f5:0 w3f1:400"
        " w3f4:0 w3f4:0 b3f5:0 b3f5:1 w3f1:500 b3f5:0",
        "l9:a0206 w3f4:1600 w3f4:0 w3f4:0 w3f4:0 w3f4:200 w3f4:200 w3f4:0 w3f4:0 w3f4:0",
    ],
    ids=["CVE-2021-20196", "CVE-2021-3507"],
)
def test_scripts_that_broke_others(tmp_path: Path, script: str) -> None:
    """hostile.md section 2.1."""
    with Floppy(tmp_path, "--floppy", "mem:1440K") as qtest:
        for word in script.split():
            port, value = word[1:].split(":")
            qtest.outp(word[0], int(port, 16), int(value, 16))
        qtest.outp("b", DOR, 0)
        qtest.outp("b", DOR, 0x0C)
        assert qtest.inp("b", MSR) == RQM
