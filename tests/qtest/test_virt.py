"""A real ``drivebay qtest --machine virt``: virtio-blk by registers and memory, over sockets."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from .libqtest import Qtest

BASE, RAM = 0x0A00_3E00, 0x4000_0000
LINE = 47
MAGIC, VERSION, DEVICE_ID = 0x00, 0x04, 0x08
DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x10, 0x14, 0x20, 0x24
GUEST_PAGE_SIZE, QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM = 0x28, 0x30, 0x34, 0x38
QUEUE_ALIGN, QUEUE_PFN, QUEUE_READY, QUEUE_NOTIFY = 0x3C, 0x40, 0x44, 0x50
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x60, 0x64, 0x70
QUEUE_ADDRESSES = (0x80, 0x90, 0xA0)
CONFIG = 0x100

TABLE, DATA, PAGE, SIZE = RAM + 0x10000, RAM + 0x20000, 4096, 8


class Guest:
    """A driver of one request at a time, for both register sets."""

    def __init__(self, qtest: Qtest, legacy: bool) -> None:
        self.qtest, self.legacy = qtest, legacy
        self.used = TABLE + PAGE
        self.index = 0
        self.initialise()

    def get(self, register: int) -> int:
        return self.qtest.read("l", BASE + register)

    def set(self, register: int, value: int) -> None:
        self.qtest.write("l", BASE + register, value)

    def initialise(self) -> None:
        assert self.get(MAGIC) == int.from_bytes(b"virt", "little")
        assert self.get(VERSION) == (1 if self.legacy else 2)
        assert self.get(DEVICE_ID) == 2
        self.qtest.ok(f"memset {TABLE:#x} {2 * PAGE:#x} 0x0")
        for status in (0, 1, 3):
            self.set(STATUS, status)
        for word in (0,) if self.legacy else (0, 1):
            self.set(DEVICE_FEATURES_SEL, word)
            self.set(DRIVER_FEATURES_SEL, word)
            self.set(DRIVER_FEATURES, self.get(DEVICE_FEATURES) & (~(1 << 29) if not word else ~4))
        if not self.legacy:
            self.set(STATUS, 11)
        self.set(QUEUE_SEL, 0)
        assert self.get(QUEUE_NUM_MAX) >= SIZE
        self.set(QUEUE_NUM, SIZE)
        if self.legacy:
            self.set(GUEST_PAGE_SIZE, PAGE)
            self.set(QUEUE_ALIGN, PAGE)
            assert self.get(QUEUE_PFN) == 0
            self.set(QUEUE_PFN, TABLE // PAGE)
        else:
            for at, address in zip(
                QUEUE_ADDRESSES, (TABLE, TABLE + 16 * SIZE, self.used), strict=True
            ):
                self.set(at, address & 0xFFFFFFFF)
                self.set(at + 4, address >> 32)
            self.set(QUEUE_READY, 1)
        self.set(STATUS, 7 if self.legacy else 15)

    def start(self, kind: int, sector: int, data: bytes | None, room: int = 0) -> None:
        """One request: header, data, status."""
        self.qtest.store(DATA, struct.pack("<IIQ", kind, 0, sector))
        self.qtest.store(DATA + 16, b"\xff")
        if data:
            self.qtest.store(DATA + PAGE, data)
        length, flags = (len(data), 1) if data else (room, 3)
        table = struct.pack("<QIHH", DATA, 16, 1, 1)
        table += struct.pack("<QIHH", DATA + PAGE, length, flags, 2)
        table += struct.pack("<QIHH", DATA + 16, 1, 2, 0)
        self.qtest.store(TABLE, table)
        available = TABLE + 16 * SIZE
        self.qtest.write("w", available + 4 + 2 * (self.index % SIZE), 0)
        self.index += 1
        self.qtest.write("w", available + 2, self.index & 0xFFFF)
        self.set(QUEUE_NOTIFY, 0)

    def finish(self) -> int:
        """Wait for it; its status."""
        for _ in range(10_000):
            if self.qtest.read("w", self.used + 2) == self.index & 0xFFFF:
                break
            self.qtest.ok("clock_step 100")
        if cause := self.get(INTERRUPT_STATUS):
            self.set(INTERRUPT_ACK, cause)
        return self.qtest.read("b", DATA + 16)

    def write(self, sector: int, data: bytes) -> int:
        self.start(1, sector, data)
        return self.finish()

    def read(self, sector: int, length: int) -> bytes:
        self.start(0, sector, None, length)
        assert self.finish() == 0
        return self.qtest.memory(DATA + PAGE, length)


@pytest.mark.parametrize("legacy", [False, True], ids=["version 2", "version 1"])
def test_a_driver_reads_and_writes(tmp_path: Path, legacy: bool) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    arguments = ["--machine", "virt", "--virtio-blk", f"file:{image},serial=S1,id=drive0"]
    with Qtest(tmp_path, *arguments, *(["--legacy"] if legacy else [])) as qtest:
        assert qtest.ok("endianness") == "little"
        qtest.intercept()
        guest = Guest(qtest, legacy)
        assert qtest.read("q", BASE + CONFIG) == 2048
        for sector in range(20):
            assert guest.write(sector, bytes([sector + 1]) * 512) == 0
        assert guest.read(3, 1024) == b"\x04" * 512 + b"\x05" * 512
        assert qtest.irq_log[:2] == [f"IRQ raise {LINE}", f"IRQ lower {LINE}"]
        guest.start(8, 0, None, 20)
        assert guest.finish() == 0
        assert qtest.memory(DATA + PAGE, 20) == b"S1".ljust(20, b"\0")
    assert image.read_bytes()[: 20 * 512] == b"".join(bytes([n + 1]) * 512 for n in range(20))


def test_a_legacy_driver_at_a_transport_that_says_2(tmp_path: Path) -> None:
    """What QEMU's libqos does: it writes page numbers whatever the version is."""
    with Qtest(tmp_path, "--machine", "virt", "--virtio-blk", "mem:1M") as qtest:
        qtest.write("l", BASE + GUEST_PAGE_SIZE, PAGE)
        for status in (0, 1, 3):
            qtest.write("l", BASE + STATUS, status)
        qtest.write("l", BASE + QUEUE_PFN, TABLE // PAGE)
        assert qtest.read("l", BASE + QUEUE_PFN) == TABLE // PAGE


def test_resize_interrupts_the_guest(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "virt", "--virtio-blk", "mem:1M,id=drive0") as qtest:
        qtest.intercept()
        Guest(qtest, legacy=False)
        assert qtest.execute("block_resize", device="drive0", size=4 << 20) == {}
        assert qtest.irq(LINE)
        assert qtest.read("l", BASE + INTERRUPT_STATUS) == 2
        assert qtest.read("q", BASE + CONFIG) == 8192


def test_system_reset_resets_the_device(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "virt", "--virtio-blk", "mem:1M") as qtest:
        guest = Guest(qtest, legacy=False)
        qtest.execute("system_reset")
        assert qtest.event("RESET")["reason"] == "host-qmp-system-reset"
        assert guest.get(STATUS) == 0
        guest = Guest(qtest, legacy=False)
        assert guest.write(0, b"again".ljust(512)) == 0


def test_a_device_is_taken_off_its_transport_and_put_back(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "virt", "--virtio-blk", "mem:1M,id=drive0") as qtest:
        guest = Guest(qtest, legacy=False)
        assert guest.write(5, b"kept".ljust(512)) == 0
        assert qtest.execute("device_del", id="drive0") == {}
        assert qtest.event("DEVICE_DELETED")["device"] == "drive0"
        assert qtest.read("l", BASE + MAGIC) == int.from_bytes(b"virt", "little")
        assert qtest.read("l", BASE + DEVICE_ID) == 0
        add = {"driver": "virtio-blk-device", "drive": "drive0"}
        assert "serial" in qtest.refused("device_add", **add, id="d1", serial=5)
        assert qtest.execute("device_add", **add, id="d1", serial="S2") == {}
        assert "already" in qtest.refused("device_add", driver="virtio-blk", id="d2")
        assert Guest(qtest, legacy=False).read(5, 512) == b"kept".ljust(512)


def test_an_empty_transport_is_a_placeholder(tmp_path: Path) -> None:
    with Qtest(tmp_path, "--machine", "virt", "--m", "64M") as qtest:
        assert qtest.read("l", BASE + MAGIC) == int.from_bytes(b"virt", "little")
        assert qtest.read("l", BASE + DEVICE_ID) == 0
        qtest.write("l", BASE + STATUS, 1)
        assert qtest.read("l", BASE + STATUS) == 0
        qtest.write("b", RAM + (64 << 20) - 1, 0x5A)
        assert qtest.read("b", RAM + (64 << 20) - 1) == 0x5A
        assert qtest.read("b", RAM + (64 << 20)) == 0xFF
