"""AHCI over vfio-user, with Linux's libata, SeaBIOS and OVMF under QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.ata.identify import IdentifyData, ata_string
from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

from .test_boot import DISKS, boot_by
from .test_ide import FILE_SYSTEM

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


UNTIL = """
until_() { for n in $(seq 100); do eval "$1" && return; sleep .1; done; echo "not: $1"; exit 1; }
"""
POWER = """set -e
policy=/sys/class/scsi_host/host0/link_power_management_policy
bar=$(sed -n 6p /sys/bus/pci/drivers/ahci/0000:*/resource | cut -d' ' -f1)
done_() { read -r reads _ </sys/block/sda/stat; echo $reads; }
alpm() { echo $(($(devmem $((bar + 0x118))) >> 26 & 3)); }
fio --name=load --filename=/dev/sda --direct=1 --ioengine=libaio --iodepth=8 --bs=4k \\
	--rw=randread --time_based --runtime=600 >/tmp/load 2>&1 &
for level in medium_power=1 min_power=3 max_performance=0; do
	echo ${level%=*} >$policy
	until_ '[ $(alpm) = ${level#*=} ]'
	before=$(done_)
	until_ '[ $(done_) -gt $((before + 20)) ]'
done
kill -INT $!
wait $! || true
grep -o 'err= 0' /tmp/load
"""
SUSPEND = """set -e
power=$(readlink -f /sys/block/sda/device/power)
is() { until_ "[ \\$(cat $power/runtime_status) = $1 ]"; }
echo 10 >$power/autosuspend_delay_ms
echo auto >$power/control
is suspended
dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct
is suspended
echo on >$power/control
is active
hdparm -C /dev/sda
"""
RESCAN = """set -e
echo 1 >/sys/block/sda/device/delete
test ! -e /sys/block/sda
echo '- - -' >/sys/class/scsi_host/host0/scan
until_ '[ -b /dev/sd? ]'
hdparm -I /dev/sd? | grep BAY7
"""


def test_linux_keeps_a_file_system_on_a_queueing_sata_disk(tmp_path: Path) -> None:
    """fstrim gives back what files had taken of the image."""
    image = tmp_path / "disk.img"
    with (
        Backend(["--ahci", f"file:{image};create=64M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        result = guest.run(FILE_SYSTEM.replace("ata_piix", "ahci"), timeout=300)
        log = guest.run("dmesg").output
        assert result.status == 0, result.output
        used = image.stat().st_blocks
        trim = "mount /dev/sda /mnt && rm /mnt/a /mnt/b && sync && fstrim -v /mnt && umount /mnt"
        assert "trimmed" in guest.run(trim).output
        assert (used - image.stat().st_blocks) * 512 >= 8 << 20
    assert "SATA link up 6.0 Gbps" in log
    assert "NCQ (depth 32)" in log


@pytest.fixture(scope="module")
def guest() -> Iterator[LinuxGuest]:
    """One disk, a guest with all the tools, and its registers for who looks at them."""
    with (
        Backend(["--ahci", "mem:32M,serial=BAY7"]) as backend,
        LinuxGuest(
            qemu_args=backend.qemu_arguments(),
            tools=["fio", "hdparm", "smartctl", "sg3-utils"],
            append="iomem=relaxed",
        ) as guest,
    ):
        yield guest
        assert not guest.run("dmesg | grep -E 'ata[0-9].*(error|exception|failed|lost)'").output


@pytest.mark.parametrize("depth", [1, 32])
def test_fio_verifies(guest: LinuxGuest, depth: int) -> None:
    result = guest.run(
        f"fio --name=v --filename=/dev/sda --direct=1 --ioengine=libaio --iodepth={depth}"
        " --rw=randwrite --bs=4k --size=16M --verify=crc32c --do_verify=1 --verify_fatal=1",
        timeout=300,
    )
    assert result.status == 0, result.output
    assert "err= 0" in result.output


def test_what_is_trimmed_reads_as_zeroes(guest: LinuxGuest) -> None:
    assert guest.run("blkdiscard /dev/sda && cmp -n 33554432 /dev/sda /dev/zero").status == 0


def test_tools_know_the_drive(guest: LinuxGuest) -> None:
    known = guest.run("hdparm -I /dev/sda").output
    assert "BAY7" in known
    assert "Native Command Queueing" in known
    assert "Data Set Management TRIM" in known
    smart = guest.run("smartctl -a /dev/sda").output
    assert "SMART overall-health self-assessment test result: PASSED" in smart
    assert "Reallocated_Sector_Ct" in smart
    for length in (12, 16):  # of the SCSI command that carries it
        asked = f"sg_sat_identify --len={length} --raw /dev/sda | od -An -v -tx1"
        identity = bytes.fromhex(guest.run(asked).output)
        assert len(identity) == 512
        assert IdentifyData.unpack(identity).serial_number == ata_string("BAY7", 20)


def test_the_link_may_sleep_under_load(guest: LinuxGuest) -> None:
    """Each policy sets PxCMD.ALPE and ASP its own way, and requests go on."""
    result = guest.run(UNTIL + POWER, timeout=300)
    assert result.status == 0, result.output


def test_the_disk_is_suspended_and_wakes(guest: LinuxGuest) -> None:
    result = guest.run(UNTIL + SUSPEND)
    assert result.status == 0, result.output
    assert "active/idle" in result.output


def test_linux_forgets_the_disk_and_finds_it_again(guest: LinuxGuest) -> None:
    assert "BAY7" in guest.run(UNTIL + RESCAN).output


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
