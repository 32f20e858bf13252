"""SCSI over vhost-user, with Linux's sd, sr and sg under QEMU, and sg3_utils in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.control.client import Control

from .test_boot import DISKS, boot_by

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

FIND = "d=/dev/$(grep -lx {} /sys/block/sd*/size | cut -d/ -f4)\n"
"""Which disk is `sda` is chance: this one has so many sectors."""
FILE_SYSTEM = """
set -e
mkfs.ext4 -q $d
mount $d /mnt
cp -r /bin /mnt
sync
umount /mnt
fsck.ext4 -fn $d
"""
VERIFY = (
    "fio --name=v --filename=$d --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite"
    " --bs=4k --size=16M --verify=crc32c --do_verify=1 --verify_fatal=1"
)
UTILITIES = """
set -e
sg_inq $d
for page in 0x00 0x80 0x83 0x86 0xb0 0xb1 0xb2; do sg_vpd -p $page $d; done
sg_readcap $d
sg_readcap --16 $d
sg_luns $d
sg_luns -s 2 $d
sg_modes -a $d
sg_logs -a $d
sg_opcodes $d
sg_opcodes --opcode=0x28 $d
sg_opcodes --mask --opcode=0x93 $d
sg_opcodes --tmf $d
sg_turs $d
sg_requests $d
sg_senddiag --test $d
dd if=/dev/urandom of=/tmp/data bs=4096 count=1
dd if=/tmp/data of=$d bs=4096 seek=8 oflag=direct
sg_verify --lba=64 --count=8 $d
sg_verify --lba=64 --count=8 --ebytchk=1 --in=/tmp/data --ndo=4096 $d
sg_get_lba_status --lba=0 $d
sg_unmap --force --lba=64 --num=8 $d
cmp -n 4096 $d /dev/zero
sg_write_same --16 --lba=64 --num=64 --xferlen=512 --in=/tmp/data $d
sg_write_same --16 --ndob --lba=64 --num=64 $d
sg_write_same --10 --unmap --lba=64 --num=8 --xferlen=512 --in=/dev/zero $d
dd if=$d of=/tmp/old bs=512 skip=128 count=1 iflag=direct
dd if=/dev/urandom of=/tmp/new bs=512 count=1
cat /tmp/old /tmp/new > /tmp/both
sg_compare_and_write --lba=128 --num=1 --in=/tmp/both --xferlen=1024 $d
cmp -n 512 /tmp/new $d 0 65536
! sg_compare_and_write --lba=128 --num=1 --in=/tmp/both --xferlen=1024 $d
sg_test_rwbuf --size=4096 $d
sg_sync $d
sg_start --stop $d
sg_start --start $d
sg_reset --device $d
sg_turs $d || sg_turs $d
"""
RESERVE = """
set -e
d=/dev/sda
sg_persist --out --register --param-sark=abc123 $d
sg_persist --in --read-keys $d
sg_persist --out --reserve --param-rk=abc123 --prout-type=5 $d
sg_persist --in --read-reservation $d
sg_persist --in --read-full-status $d
sg_persist --in --report-capabilities $d
sg_persist --out --register-ignore --param-sark=def456 $d
sg_persist --in --read-keys $d
sg_persist --out --preempt --param-rk=def456 --param-sark=def456 --prout-type=3 $d
sg_persist --out --release --param-rk=def456 --prout-type=3 $d
sg_persist --out --clear --param-rk=def456 $d
sg_persist --in --read-keys $d
"""


def test_linux_keeps_a_file_system_and_asks_for_everything(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    units = [f"file:{image};create=64M", "mem:32M,vendor=ACME,product=Anvil,serial=BAY7,lun=300"]
    with (
        Backend([word for unit in units for word in ("--scsi", unit)]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["fio", "sg3-utils"]) as guest,
    ):
        large, small = FIND.format(131072), FIND.format(65536)
        for script in (large + FILE_SYSTEM, large + VERIFY, small + UTILITIES):
            result = guest.run(script, timeout=300)
            assert result.status == 0, result.output
        names = guest.run(f"{small}sg_inq $d").output
        assert "ACME" in names and "Anvil" in names and "BAY7" in names
        discarded = f"{large}blkdiscard $d && cmp -n 67108864 $d /dev/zero"
        assert guest.run(discarded).status == 0
        assert "error" not in guest.run("dmesg | grep -e sd[ab] -e 'scsi host'").output.lower()


def test_linux_reserves(tmp_path: Path) -> None:
    with (
        Backend(["--scsi", "prwrap:mem:16M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["sg3-utils"]) as guest,
    ):
        result = guest.run(RESERVE, timeout=200)
        assert result.status == 0, result.output
        assert "0xabc123" in result.output and "0xdef456" in result.output
        assert "Write Exclusive, registrants only" in result.output


def test_units_come_and_go_under_load_and_change(tmp_path: Path) -> None:
    disc, other = tmp_path / "one.iso", tmp_path / "two.iso"
    disc.write_bytes(b"one!" * (1 << 18))
    other.write_bytes(b"two!" * (1 << 17))
    path = f"{tmp_path}/control"
    until = "for n in $(seq 100); do {} && exit 0; sleep .2; done; exit 1"
    first = "dd if=/dev/sr0 bs=4 count=1 2>/dev/null"
    with (
        Backend(["--scsi", "mem:16M", "--scsi", f"iso:{disc},dvd", "--control", path]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["fio", "sg3-utils"]) as guest,
        Control(path) as bay,
    ):

        def wait(condition: str) -> None:
            result = guest.run(until.format(condition), timeout=200)
            assert result.status == 0, guest.run("dmesg | tail -20").output

        load = (
            "fio --name=l --filename=/dev/sda --direct=1 --ioengine=libaio --iodepth=16"
            " --rw=randwrite --bs=4k --size=8M --time_based --runtime=600 >/tmp/load 2>&1 &"
        )
        assert guest.run(load).status == 0
        for lun, size in ((2, 4096), (300, 8192)):
            name = bay.add("scsi", f"mem:{size // 2}K,lun={lun}")
            wait(f"grep -qlx {size} /sys/block/sd*/size")
            find = f"grep -lx {size} /sys/block/sd*/size | cut -d/ -f4"
            read = f"dd if=/dev/$({find}) of=/dev/null bs=64k iflag=direct"
            assert guest.run(read).status == 0
            bay.remove(name)
            wait(f"! grep -qlx {size} /sys/block/sd*/size")
        assert guest.run("pidof fio && killall fio").status == 0
        bay.resize("scsi/0", 32 << 20)
        assert guest.run("dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct").status == 0
        wait("dmesg | grep -q 'Capacity data has changed'")
        assert guest.run("echo 1 > /sys/block/sda/device/rescan").status == 0
        assert guest.run("cat /sys/block/sda/size").output.split() == ["65536"]
        assert guest.run(first).output.startswith("one!")
        bay.insert("scsi/1", f"iso:{other}", force=True)
        wait(f"{first} | grep -q two!")
        assert guest.run("sg_start --eject /dev/sr0").status == 0
        assert guest.run(first).status != 0
        assert guest.run("sg_start --load /dev/sr0").status == 0
        wait(f"{first} | grep -q two!")


@pytest.mark.parametrize("firmware", DISKS)
def test_firmware_boots_from_a_unit(tmp_path: Path, firmware: str) -> None:
    boot_by(firmware, "--scsi", tmp_path)
