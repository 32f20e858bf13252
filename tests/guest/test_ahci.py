"""AHCI over vfio-user, with Linux's libata, SeaBIOS and OVMF under QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

from .test_boot import DISKS, boot_by
from .test_ide import FILE_SYSTEM

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


def test_linux_keeps_a_file_system_on_a_queueing_sata_disk(tmp_path: Path) -> None:
    with (
        Backend(["--ahci", f"file:{tmp_path}/disk.img;create=64M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        result = guest.run(FILE_SYSTEM.replace("ata_piix", "ahci"), timeout=300)
        log = guest.run("dmesg").output
    assert result.status == 0, result.output
    assert "SATA link up 6.0 Gbps" in log
    assert "NCQ (depth 32)" in log


def test_fio_verifies_at_depth_32_and_trims() -> None:
    verify = (
        "fio --name=v --filename=/dev/sda --direct=1 --ioengine=libaio --iodepth={} --rw=randwrite"
        " --bs=4k --size=16M --verify=crc32c --do_verify=1 --verify_fatal=1"
    )
    with (
        Backend(["--ahci", "mem:32M,serial=BAY7"]) as backend,
        LinuxGuest(
            qemu_args=backend.qemu_arguments(), tools=["fio", "hdparm", "smartctl"]
        ) as guest,
    ):
        for depth in (1, 32):
            result = guest.run(verify.format(depth), timeout=300)
            assert result.status == 0, result.output
            assert "err= 0" in result.output
        assert guest.run("blkdiscard /dev/sda && cmp -n 33554432 /dev/sda /dev/zero").status == 0
        known = guest.run("hdparm -I /dev/sda").output
        assert "BAY7" in known
        assert "Native Command Queueing" in known
        assert "Data Set Management TRIM" in known
        smart = guest.run("smartctl -a /dev/sda").output
        assert "SMART overall-health self-assessment test result: PASSED" in smart
        assert "Reallocated_Sector_Ct" in smart


def test_linux_reads_a_disc(tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(b"compact disc".ljust(1 << 20, b"\0"))
    with (
        Backend(["--ahci", "mem:1M", "--ahci", f"iso:{tmp_path}/cd.iso,dvd"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["sg3-utils"]) as guest,
    ):
        assert guest.run("head -c 12 /dev/sr0").output == "compact disc"
        assert guest.run("sg_start --eject /dev/sr0").status == 0
        assert guest.run("sg_turs /dev/sr0").status == 2  # not ready
        assert guest.run(
            "sg_start --load /dev/sr0; sg_turs /dev/sr0; head -c 12 /dev/sr0"
        ).output.endswith("compact disc")


@pytest.mark.parametrize("firmware", DISKS)
def test_firmware_boots_from_a_sata_disk(tmp_path: Path, firmware: str) -> None:
    boot_by(firmware, "--ahci", tmp_path)
