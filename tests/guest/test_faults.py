"""What Linux does when commands of IDE, SATA, SCSI and virtio-blk disks go wrong; the table is in
`docs/faults.md`. NVMe's are in `test_nvme_events`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.control.client import Control

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SECTORS = {"vda": 28672, "scsi": 32768, "ide": 36864, "ahci": 40960}
"""By which a disk is known in the guest: what it is called is chance."""
READ = "dd if=$d of=/dev/null bs=4096 count=8 iflag=direct"
WRITE = "dd if=/dev/zero of=$d bs=4096 count=8 oflag=direct conv=notrunc"
SETUP = """
for n in $(seq 100); do [ $(ls -d /sys/block/sd* | wc -l) = 3 ] && break; sleep .1; done
for each in /sys/block/sd*/device/timeout; do echo 2 >$each; done
"""
nightly = pytest.mark.nightly


@dataclass
class Rig:
    """A guest with a disk of each kind, and what is done to them."""

    guest: LinuxGuest
    control: Control

    def run(self, script: str) -> tuple[int, str]:
        result = self.guest.run(script, timeout=100)
        return result.status, result.output

    def suffer(self, name: str, rule: str, script: str) -> tuple[int, str]:
        """Status of a script with ``$d`` for the disk, while a rule works; and what was logged."""
        self.run("dmesg -c >/dev/null")
        self.control.add_fault(name, rule)
        find = f"d=/dev/$(grep -lx {SECTORS[name]} /sys/block/[sv]d*/size | cut -d/ -f4)"
        status, output = self.run(f"{find}\n{script}")
        assert self.control.faults(name) == {rule: 1}, output
        self.control.clear_faults(name)
        assert self.run(f"{find}\n{READ}")[0] == 0  # it goes on
        return status, self.run("dmesg")[1]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One guest for all: whatever is done to it, it must go on."""
    path = str(tmp_path_factory.mktemp("faults") / "bay.sock")
    words = ["--virtio-blk", "mem:14M", "--scsi", "mem:16M", "--ide", "mem:18M"]
    words += ["--ahci", "mem:20M", "--control", path]
    with (
        Backend(words) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
        Control(path, timeout=120) as control,
    ):
        assert guest.run(SETUP).status == 0
        yield Rig(guest, control)


LINK = ["(timeout)", "hard resetting link"]
SLOW = ["link is slow to respond", "soft resetting link"]


@pytest.mark.parametrize(
    ("name", "rule", "status", "logged"),
    [
        ("vda", "read,nth=3:status=ioerr", 1, ["I/O error, dev vda, sector 16"]),
        ("vda", "read,nth=3:delay=1s", 0, []),
        ("scsi", "read,nth=3:status=busy", 0, []),
        ("scsi", "read,nth=3:status=unrecovered-read-error", 1, ["critical medium error"]),
        ("scsi", "read,nth=3:status=power-on-or-reset", 0, ["device reset occurred"]),
        ("scsi", "read,nth=3:status=task-aborted", 1, ["DID_ABORT"]),
        ("scsi", "write,nth=3:error=no-space", 1, ["Space allocation failed"]),
        pytest.param("scsi", "read,nth=3:delay=3s", 0, [], marks=nightly),
        ("ide", "read,nth=3:status=icrc", 0, ["{ ICRC ABRT }", "soft resetting link"]),
        ("ide", "read,nth=3:status=unc", 1, ["{ UNC }", "I/O error"]),
        ("ide", "read,nth=3:lose-interrupt", 0, ["lost interrupt (Status 0x50)"]),
        pytest.param("ide", "read,nth=3:drop", 0, SLOW, marks=nightly),
        pytest.param("ide", "write,nth=3:die", 0, SLOW, marks=nightly),
        pytest.param(
            "ide", "read,nth=3:delay=4s", 0, ["(timeout)", "soft resetting link"], marks=nightly
        ),
        ("ahci", "read,nth=3:status=icrc", 0, ["{ ICRC ABRT }", "hard resetting link"]),
        ("ahci", "read,nth=3:error=unrecovered-read", 1, ["{ UNC }", "I/O error"]),
        ("ahci", "read,nth=3:drop", 0, LINK),
        pytest.param("ahci", "read,nth=3:lose-interrupt", 0, LINK, marks=nightly),
        pytest.param("ahci", "write,nth=3:die", 0, LINK, marks=nightly),
        pytest.param("ahci", "read,nth=3:delay=4s", 0, LINK, marks=nightly),
    ],
)
def test_linux_recovers(rig: Rig, name: str, rule: str, status: int, logged: list[str]) -> None:
    found, log = rig.suffer(name, rule, WRITE if rule.startswith("write") else READ)
    assert found == status, log
    for line in logged:
        assert line in log, log
    if not logged:
        assert "error" not in log.lower(), log


def test_linux_lets_a_drive_go_that_was_pulled_under_load(rig: Rig) -> None:
    rig.control.add_fault("ahci", "read,nth=20:remove")
    script = f"""
d=$(grep -lx {SECTORS["ahci"]} /sys/block/sd*/size | cut -d/ -f4)
dd if=/dev/$d of=/dev/null bs=4096 iflag=direct && exit 1
for n in $(seq 300); do [ -e /sys/block/$d ] || exit 0; sleep .1; done
exit 2
"""
    status, output = rig.run(script)
    assert status == 0, output + rig.run("dmesg | tail -30")[1]
    assert "SATA link down" in rig.run("dmesg")[1]
    [ahci] = [each for each in rig.control.tree().controllers if each.id == "ahci"]
    assert not ahci.disks


@nightly
def test_linux_gives_an_ide_drive_up_that_was_pulled_and_takes_another(rig: Rig) -> None:
    """No link goes down: it asks three times, for ten seconds each."""
    rig.control.add_fault("ide", "read,nth=20:remove")
    find = f"d=$(grep -lx {SECTORS['ide']} /sys/block/sd*/size | cut -d/ -f4)"
    status, output = rig.run(f"{find}; dd if=/dev/$d of=/dev/null bs=4096 iflag=direct")
    assert status == 1, output
    assert "disable device" in rig.run("dmesg")[1]
    rig.control.clear_faults("ide")
    rig.control.add("ide", "mem:22M")
    status, output = rig.run(
        f"""
{find}; host=/sys/class/scsi_host/$(readlink -f /sys/block/$d | grep -o 'host[0-9]*' | head -1)
echo 1 >/sys/block/$d/device/delete; echo - - - >$host/scan
for n in $(seq 100); do grep -qx 45056 /sys/block/sd*/size && exit 0; sleep .1; done; exit 1
"""
    )
    assert status == 0, output + rig.run("dmesg | tail -30")[1]


@pytest.mark.nightly
@pytest.mark.parametrize("action", ["drop", "lose-interrupt", "die"])
def test_a_server_that_is_started_again_ends_what_virtio_waits_for(
    tmp_path: Path, action: str
) -> None:
    """Linux has no timeout there. Whoever takes the rings over does what was never ended."""
    path = str(tmp_path / "bay.sock")
    rule = f"read,nth=3:{action}"
    words = ["--virtio-blk", f"file:{tmp_path}/disk.img;create=14M", "--control", path]
    with (
        Backend(words) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
        ThreadPoolExecutor(1) as pool,
    ):
        with Control(path, timeout=60) as control:
            control.add_fault("vda", rule)
            reading = pool.submit(guest.run, f"d=/dev/vda; {READ}", timeout=100)
            while control.faults("vda") != {rule: 1}:
                time.sleep(0.01)
            control.crash()
        result = reading.result()
        assert result.status == 0, result.output
