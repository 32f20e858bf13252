"""Wireshark's dissectors understand every packet, and name every command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.nvme import NvmeDriver
from drivebay.lab.taps import tap_into
from drivebay.lab.trace.capture import MOST_KEPT, Capture, Kept
from drivebay.lab.trace.disks import TracedDisk
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.story import Command, DiskOperation
from drivebay.lab.trace.tcp import Connection, checksum
from drivebay.platform.engine import Engine
from tests.lab.trace import support
from tests.lab.trace.support import Recording
from tests.nvme.support import Bench as NvmeBench
from tests.virtio.bench import MakeBench

MIB = 1 << 20

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")


def tshark(path: Path, *options: str) -> list[str]:
    command = ["tshark", "-n", "-r", str(path), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.splitlines()


def dissected(recording: Recording, path: Path) -> list[str]:
    """What tshark says of each packet, none of which is malformed or strange to it."""
    path.write_bytes(recording.told(Capture))
    strange = tshark(path, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456")
    assert not strange, strange
    checked = "tcp.checksum.status == 0 || ip.checksum.status == 0"
    options = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    assert not tshark(path, *options, "-Y", checked)
    return [line.split(maxsplit=5)[-1].split(" ", 1)[1] for line in tshark(path)]


def said(lines: list[str], *words: str) -> None:
    """The words stand in the lines, in this order."""
    rest = iter(lines)
    for word in words:
        assert any(word in line for line in rest), (word, lines)


@needs_tshark
def test_nvme(engine: Engine, tmp_path: Path) -> None:
    recording = Recording()
    support.nvme(engine, recording)
    lines = dissected(recording, tmp_path / "nvme.pcapng")
    said(lines, "Initialize Connection Request", "Initialize Connection Response")
    said(lines, "NVMeOF Connect", "NVMeOF CQE for Connect", "NVMe Identify Controller")
    said(lines, "NVMe Write", "CQE for Write", "NVMe Read", "CQE for Read", "NVMe Flush")
    fields = ["-T", "fields", "-e", "nvme.cqe.status.sc", "-e", "frame.comment"]
    ends = tshark(tmp_path / "nvme.pcapng", "-Y", "nvme.cqe.status", *fields)
    assert any("0x0080" in end and "LBA_OUT_OF_RANGE" in end for end in ends), ends


@needs_tshark
def test_scsi(engine: Engine, tmp_path: Path) -> None:
    recording = Recording()
    support.scsi(engine, recording)
    lines = dissected(recording, tmp_path / "scsi.pcapng")
    said(lines, "Login Command", "Login Response (Success)", "Inquiry LUN: 0x00")
    said(
        lines,
        "Read(10) LUN: 0x00 (LBA: 0x00000009, Len: 1)",
        "Response LUN: 0x00 (Read(10)) (Good)",
    )
    said(lines, "SCSI Response (Check Condition)", "Write(16)", "Synchronize Cache(10)")
    said(lines, "Report LUNs LUN: 0x4d")
    sense = tshark(tmp_path / "scsi.pcapng", "-T", "fields", "-e", "scsi.sns.ascascq")
    assert "0x2100" in sense  # LOGICAL BLOCK ADDRESS OUT OF RANGE


@needs_tshark
def test_ata_as_scsi(engine: Engine, tmp_path: Path) -> None:
    """What SBC-3 has no like of is ATA PASS-THROUGH (16), which tshark 4.0 has no name for."""
    recording = Recording()
    support.ata(engine, recording)
    lines = dissected(recording, tmp_path / "ata.pcapng")
    said(lines, "Command: 0x85", "Read(16) LUN: 0x00 (LBA: 9, Len: 1)")
    said(lines, "Write(16) LUN: 0x00 (LBA: 4, Len: 2)", "Synchronize Cache(16)")
    said(lines, "Read(16) LUN: 0x00 (LBA: 1099511627776, Len: 1)", "Check Condition")
    comments = tshark(tmp_path / "ata.pcapng", "-T", "fields", "-e", "frame.comment")
    said(comments, "ahci/0 IDENTIFY_DEVICE", "READ_FPDMA_QUEUED", "IDNF+ABRT")


@needs_tshark
def test_packets_are_scsi(engine: Engine, tmp_path: Path) -> None:
    """They are known when they end, and come before that."""
    recording = Recording()
    support.dvd(engine, recording)
    lines = dissected(recording, tmp_path / "dvd.pcapng")
    said(lines, "Test Unit Ready LUN: 0x00", "Response LUN: 0x00 (Test Unit Ready) (Good)")
    said(lines, "Read(10) LUN: 0x00 (LBA: 0x00000003, Len: 2)", "(Read(10)) (Good)")
    said(lines, "Read(10) LUN: 0x00 (LBA: 0x00100000, Len: 1)", "Check Condition")
    comments = tshark(tmp_path / "dvd.pcapng", "-T", "fields", "-e", "frame.comment")
    said(comments, "ahci/1 READ_10 port 0 lba 3+2: OK")


@needs_tshark
def test_virtio_as_scsi(bench: MakeBench, tmp_path: Path) -> None:
    recording = Recording()
    support.virtio(bench, recording)
    lines = dissected(recording, tmp_path / "virtio.pcapng")
    said(lines, "Read(16) LUN: 0x00 (LBA: 9, Len: 2)", "Write(16) LUN: 0x00 (LBA: 2, Len: 1)")
    said(lines, "Synchronize Cache(16)", "Inquiry", "Unmap", "Write Same(16)")
    said(lines, "Check Condition")


@needs_tshark
def test_all_in_one_file(engine: Engine, bench: MakeBench, tmp_path: Path) -> None:
    """Controllers have names and interfaces of their own; floppies are left out."""
    recording = Recording()
    support.nvme(engine, recording)
    support.ata(engine, recording)
    support.virtio(bench, recording)
    support.floppy(engine, recording)
    path = tmp_path / "all.pcapng"
    dissected(recording, path)
    names = set(tshark(path, "-T", "fields", "-e", "frame.interface_name"))
    assert names == {"nvme", "ahci/0", "vda"}


@needs_tshark
def test_data(engine: Engine, tmp_path: Path) -> None:
    """What was read and written stands between a command and its end."""
    recording = Recording()
    recorder = recording.recorder
    disk = TracedDisk(RamDisk(MIB))
    disk.record(recorder, recorder.source(Source("nvme", part="1")), data=64 << 10)
    bench = NvmeBench(engine, {1: disk})
    bench.enable()
    tap_into(bench.controller.worker, recorder.tap(Source("nvme", "nvme")))
    driver: NvmeDriver = bench.driver()
    namespace = driver.namespace(1)
    written = bytes(range(256)) * 160
    namespace.write(8, written)
    assert namespace.read(8, 80) == written
    path = tmp_path / "data.pcapng"
    lines = dissected(recording, path)
    said(lines, "NVMe Write", "Ready To Transfer", "NVMeOF Data for Write", "CQE for Write")
    said(lines, "NVMeOF Data for Read", "CQE for Read")
    found = tshark(path, "-Y", "nvme-tcp.type == 7", "-T", "fields", "-e", "tcp.reassembled.data")
    assert any(written.hex() in line for line in found)


def test_data_in_pieces() -> None:
    """What a command has read may have come in parts; what was there before is none of it."""
    source = Source("a", part="1")
    kept = Kept()

    def operation(sector: int, count: int, data: bytes, began: int = 5) -> DiskOperation:
        return DiskOperation(source, began, 6, "read", sector, count, "", data)

    command = Command(source, 0, 1, None, 4)
    kept.add(operation(0, 1, b"old".ljust(512), began=3))
    kept.add(operation(8, 1, b"a" * 512))
    kept.add(operation(9, 2, b"b" * 1000))
    kept.add(operation(11, 1, b"c" * 512))
    assert kept.data_of(command, "read", 0, 512) == b""
    assert kept.data_of(command, "write", 4096, 512) == b""
    assert kept.data_of(command, "read", 4096, 2048) == b"a" * 512 + b"b" * 1000
    assert kept.data_of(command, "read", 4096, 100) == b"a" * 100
    for sector in range(MOST_KEPT >> 9):
        kept.add(operation(100 + sector, 1, bytes(512)))
    assert kept.data_of(command, "read", 4096, 512) == b""
    assert kept.data_of(command, "read", 50 << 10, 512)


@needs_tshark
def test_sections_may_follow_each_other(engine: Engine, tmp_path: Path) -> None:
    """A server that is started again appends to the file."""
    path = tmp_path / "twice.pcapng"
    for _ in range(2):
        recording = Recording()
        support.scsi(engine, recording)
        with path.open("ab") as stream:
            stream.write(recording.told(Capture))
    assert len([line for line in tshark(path) if "Login Command" in line]) == 2


@given(st.binary(max_size=99))
def test_checksum(data: bytes) -> None:
    """RFC 1071: with its complement, all words together are 0xFFFF."""
    words = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(words[at : at + 2]) for at in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == ~total & 0xFFFF


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100_000)), max_size=8))
def test_sequence_numbers(sent: list[tuple[bool, int]]) -> None:
    """Each packet begins where the last of its side ended, and acknowledges all of the other's."""
    packets: list[bytes] = []
    connection = Connection(
        (bytes(4), 1), (bytes(4), 2), lambda _time, packet, _comment: packets.append(packet), 0
    )
    for to_device, size in sent:
        send = connection.to_device if to_device else connection.to_host
        send(0, bytes(size))
    ends: dict[int, int] = {}
    for packet in packets:
        port, other = (int.from_bytes(packet[at : at + 2]) for at in (20, 22))
        sequence, acknowledged = (int.from_bytes(packet[at : at + 4]) for at in (24, 28))
        assert ends.get(port, sequence) == sequence
        assert not packet[33] & 0x10 or acknowledged == ends[other]
        assert len(packet) == int.from_bytes(packet[2:4]) <= 0xFFFF
        ends[port] = sequence + len(packet) - 40 + (packet[33] >> 1 & 1)
