"""A real guest on every controller that is served: its trace, and what tshark makes of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from drivebay.cli.main import main
from drivebay.guests.qemu import find_qemu
from drivebay.lab.trace.formats import convert
from drivebay.lab.trace.records import read_records
from tests.lab.trace.test_capture import needs_tshark, said, tshark

pytestmark = [pytest.mark.guest, pytest.mark.nightly]

SCRIPT = """
for disk in /sys/block/vd* /sys/block/sd* /sys/block/nvme*; do
    disk=/dev/${disk##*/}
    echo drivebay | dd of=$disk bs=4k seek=2 conv=sync oflag=direct,sync 2>/dev/null
    dd if=$disk of=/dev/null bs=4k count=4 iflag=direct 2>/dev/null
    echo $disk
done
"""


@needs_tshark
def test_linux(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost, every command has ended, and no packet is strange to tshark."""
    disks = ["--virtio-blk", "mem:16M", "--scsi", "mem:16M"]
    if find_qemu().has_vfio_user:
        disks += ["--ahci", "mem:16M", "--nvme", "mem:16M"]
    native = tmp_path / "a.dbtrace"
    assert main(["boot", *disks, "--trace", f"{native},all,data=4K", "--run", SCRIPT]) == 0
    assert len(capfd.readouterr().out.split()) == len(disks) // 2
    content = native.read_bytes()
    made = {}
    for ending in (".txt", ".json", ".pcapng"):
        stream = io.BytesIO()
        convert(read_records(io.BytesIO(content)), stream, ending)
        made[ending] = stream.getvalue()
    lines = made[".txt"].decode().splitlines()
    assert not [line for line in lines if "lost" in line]
    never = [line for line in lines if "never ended" in line]
    assert all("ASYNC_EVENT" in line for line in never), never
    for words in (
        ["vda OUT queue 0 lba 16+8: OK", "vda interrupt queue 0", "vda IN queue 0 lba 0+8: OK"],
        ["scsi WRITE_10 lun 0 lba 16+8: GOOD", "scsi READ_10 lun 0 lba 0+8: GOOD"],
    ):
        said(lines, *words)
    if "--nvme" in disks:
        said(lines, "ahci write BAR5 P0CI", "ahci/0 WRITE_FPDMA_QUEUED port 0 lba 16+8: OK")
        said(lines, "nvme write BAR0 CC", "EN=1", "nvme/1 disk write 16+8", "nvme WRITE queue")
    path = tmp_path / "a.pcapng"
    path.write_bytes(made[".pcapng"])
    strange = tshark(path, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456")
    assert not strange, strange
    data = tshark(path, "-Y", 'frame contains "drivebay\\n"', "-T", "fields", "-e", "ip.src")
    assert len(data) >= len(disks) // 2
