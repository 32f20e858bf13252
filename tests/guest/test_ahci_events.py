"""What Linux's ahci driver does when sectors are bad and drives come and go, over vfio-user."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.guests.linux import LinuxGuest

from .served import served

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


SERVER = "tests.guest.ahci_server"


def test_linux_recovers_from_a_bad_sector(tmp_path: Path) -> None:
    """libata reads the NCQ error log, names the sector, and goes on."""
    with (
        served(SERVER, tmp_path / "ahci.sock", "mem:4M") as adapter,
        LinuxGuest(qemu_args=adapter.arguments) as guest,
    ):
        adapter.tell("bad 0 100")
        read = "dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct skip="
        assert guest.run(f"{read}12").status != 0
        dmesg = guest.run("dmesg").output
        assert "READ FPDMA QUEUED" in dmesg and "{ UNC }" in dmesg, dmesg
        assert "sector 100" in dmesg or "sector 96" in dmesg, dmesg
        assert guest.run(f"{read}11").status == 0
        write = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct seek=12"
        assert guest.run(f"{write} && {read}12").status == 0
        assert "hard resetting" not in guest.run("dmesg").output


def test_linux_hot_plugs(tmp_path: Path) -> None:
    """The second disk, whatever Linux has called it: it is known by its size in sectors."""
    find = "grep -lx 16384 /sys/block/sd*/size"
    with (
        served(SERVER, tmp_path / "ahci.sock", "mem:4M", "mem:8M") as adapter,
        LinuxGuest(qemu_args=adapter.arguments) as guest,
    ):
        for verb, status in (("pull", 1), ("plug", 0)):
            adapter.tell(f"{verb} 1")
            found = f"{find} >/dev/null; [ $? = {status} ] && exit 0"
            result = guest.run(
                f"for n in $(seq 200); do {found}; sleep .3; done; exit 1", timeout=200
            )
            assert result.status == 0, guest.run("dmesg | tail -20").output
        name = guest.run(find).output.split("/")[3]
        read = f"dd if=/dev/{name} of=/dev/null bs=1M iflag=direct"
        assert guest.run(read).status == 0
