"""What Linux's nvme driver does when completions are lost, controllers die, and namespaces come,
go and grow, over vfio-user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivebay.guests.linux import LinuxGuest

from .served import Served, served

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SERVER = "tests.guest.nvme_server"
TIMEOUTS = "nvme_core.io_timeout=2 nvme_core.admin_timeout=3 nvme_core.shutdown_timeout=3"
MIB = 1 << 20


@dataclass
class Rig:
    """A guest with a controller; `file` holds namespace 1."""

    controller: Served
    guest: LinuxGuest
    file: Path

    def run(self, script: str, status: int = 0) -> str:
        result = self.guest.run(script, timeout=200)
        assert result.status == status, result.output + self.guest.run("dmesg | tail -30").output
        return result.output

    def wait_for(self, condition: str) -> None:
        """Until a condition holds in the guest."""
        loop = f"for n in $(seq 400); do {condition} && exit 0; sleep .1; done; exit 1"
        self.run(loop)

    def torment(self, *rules: str) -> None:
        self.run("dmesg -c >/dev/null")
        for rule in rules:
            self.controller.tell(f"fault {rule}")

    def logged(self) -> str:
        self.controller.tell("clear")
        return self.run("dmesg")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One guest for all: whatever is done to it, it must go on."""
    folder = tmp_path_factory.mktemp("nvme")
    file = folder / "disk.img"
    file.write_bytes(os.urandom(16 * MIB))
    with (
        served(SERVER, folder / "nvme.sock", f"file:{file}") as controller,
        LinuxGuest(qemu_args=controller.arguments, tools=["nvme", "fio"], append=TIMEOUTS) as guest,
    ):
        yield Rig(controller, guest, file)


READ = "dd if=/dev/nvme0n1 of=/dev/null bs=4096 count=16 iflag=direct"
WRITE = "dd if=/dev/zero of=/dev/nvme0n1 bs=4096 count=16 seek=64 oflag=direct conv=notrunc"


def test_linux_aborts_what_is_never_completed(rig: Rig) -> None:
    rig.torment("io,nth=3:drop")
    rig.run(READ)
    log = rig.logged()
    assert "timeout, aborting" in log, log
    assert "Abort status: 0x0" in log, log
    assert "reset controller" not in log, log


def test_linux_resets_a_controller_that_does_not_abort(rig: Rig) -> None:
    rig.torment("io,nth=3:drop", "abort:ignore")
    rig.run(READ)
    log = rig.logged()
    assert "timeout, aborting" in log, log
    assert "timeout, reset controller" in log, log
    assert "default/read/poll queues" in log, log


def test_linux_resets_a_controller_that_has_failed(rig: Rig) -> None:
    rig.torment("write,nth=3:die")
    rig.run(WRITE)
    log = rig.logged()
    assert "controller is down; will reset: CSTS=0x3" in log, log
    assert "default/read/poll queues" in log, log


def test_linux_waits_for_a_controller_that_comes_back_late(rig: Rig) -> None:
    """CAP.TO says twenty seconds; it takes ten."""
    rig.torment("write,nth=3:die", "enable:delay=10s")
    rig.run(WRITE)
    log = rig.logged()
    assert "CSTS=0x3" in log, log
    assert "default/read/poll queues" in log, log


def test_linux_retries_what_may_pass_and_reports_what_may_not(rig: Rig) -> None:
    rig.torment("read,nth=1:status=namespace-not-ready,retry")
    rig.run(READ)
    rig.torment("read,nth=1:status=unrecovered-read-error")
    rig.run(READ, status=1)
    assert "critical medium error" in rig.logged()


def test_a_duplicate_completion_and_a_lost_interrupt(rig: Rig) -> None:
    rig.torment("io,nth=2:lose-interrupt")
    rig.run(READ)
    assert "completion polled" in rig.logged()
    rig.torment("io,nth=2:duplicate")
    rig.run(READ)
    assert "invalid id" in rig.logged()


def test_a_namespace_grows(rig: Rig) -> None:
    with rig.file.open("r+b") as file:
        file.truncate(24 * MIB)
    rig.controller.tell("refresh 1")
    rig.wait_for(f"test $(cat /sys/block/nvme0n1/size) = {24 * MIB // 512}")


def test_a_namespace_is_added_and_removed_under_load(rig: Rig) -> None:
    rig.controller.tell("add 2 mem:8M")
    rig.wait_for("test -b /dev/nvme0n2")
    rig.run(
        "fio --name=load --filename=/dev/nvme0n2 --ioengine=libaio --direct=1 --rw=randrw --bs=4k"
        " --iodepth=32 --time_based --runtime=60 >/dev/null 2>&1 &"
    )
    rig.wait_for("test $(awk '{print $1}' /sys/block/nvme0n2/stat) -gt 100")
    rig.controller.tell("remove 2")
    rig.wait_for("! test -e /sys/block/nvme0n2")
    rig.wait_for("! pidof fio >/dev/null")
    rig.run(READ)


def test_the_subsystem_is_reset(rig: Rig) -> None:
    rig.run("dmesg -c >/dev/null; nvme subsystem-reset /dev/nvme0")
    rig.run("nvme reset /dev/nvme0; true")
    rig.wait_for("grep -q live /sys/class/nvme/nvme0/state")
    rig.run(READ)


RESERVE = """
set -e
n=/dev/$(grep -lx 3 /sys/block/nvme0n*/nsid | cut -d/ -f4)
nvme resv-register $n --nrkey=0x11 --rrega=0
nvme resv-acquire $n --crkey=0x11 --rtype=1 --racqa=0
nvme resv-report $n --numd=63 --eds
dd if=/dev/zero of=$n bs=4096 count=1 oflag=direct
nvme resv-release $n --crkey=0x11 --rtype=1 --rrela=0
nvme resv-register $n --crkey=0x11 --rrega=1
"""


def test_reservations_on_a_disk_that_has_them(rig: Rig) -> None:
    rig.controller.tell("add 3 prwrap:mem:8M")
    rig.wait_for("grep -qx 3 /sys/block/nvme0n*/nsid")  # the name is the first that is free
    output = rig.run(RESERVE)
    assert "rtype" in output and "regctl" in output, output


UNBIND = """
set -e
cd /sys/bus/pci/drivers/nvme
slot=$(basename $(ls -d 0000:*))
before=$(dd if=/dev/nvme0n1 bs=1M count=4 iflag=direct 2>/dev/null | md5sum)
live() { grep -q live /sys/bus/pci/devices/$slot/nvme/nvme*/state; }
for n in $(seq 100); do
    echo $slot > unbind; echo $slot > bind
    # Four of five are torn down while they come up.
    [ $((n % 5)) = 0 ] || continue
    for m in $(seq 100); do live && break; sleep .1; done
    live
done
for m in $(seq 100); do
    name=$(cd /sys/bus/pci/devices/$slot/nvme/nvme*; ls -d nvme*n1) && break
    sleep .1
done
after=$(dd if=/dev/$name bs=1M count=4 iflag=direct 2>/dev/null | md5sum)
[ "$before" = "$after" ]
"""


def test_the_driver_is_unbound_and_bound_100_times(rig: Rig) -> None:
    """The last: afterwards the disk may have another name."""
    rig.run(UNBIND)
