"""What the control socket changes, as Linux sees it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.guest import Guest
from drivebay.guests.linux import LinuxGuest
from drivebay.hosts.control.client import Control

from .conftest import FIO

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Guest, Control, Path]]:
    """A guest with a virtio-blk disk in a file, and a namespace, a LUN and a SATA drive in memory;
    and its control socket.
    """
    folder = tmp_path_factory.mktemp("control")
    path = str(folder / "bay.sock")
    words = ["--virtio-blk", f"file:{folder}/disk.img;create=64M", "--nvme", "mem:16M"]
    words += ["--scsi", "mem:16M", "--ahci", "mem:16M", "--control", path]
    with (
        Backend(words) as backend,
        LinuxGuest(
            qemu_args=backend.qemu_arguments(), tools=["fio"], memory="768M", cpus=2
        ) as guest,
        Control(path, timeout=120) as control,
    ):
        yield guest, control, folder


def ok(guest: Guest, script: str) -> str:
    result = guest.run(script, timeout=250)
    assert result.status == 0, result.output
    return result.output.strip()


def wait_for(guest: Guest, condition: str) -> None:
    """Until a shell condition holds in the guest, for at most 20 seconds of its own time."""
    ok(guest, f"for n in $(seq 200); do {condition} && exit 0; sleep .1; done; exit 1")


def disks(guest: Guest) -> set[str]:
    return set(ok(guest, "ls /sys/block").split())


WRITE_AND_COMPARE = (
    "dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null"
    " && dd if=/tmp/x of=/dev/{0} bs=1M oflag=direct 2>/dev/null"
    " && dd if=/dev/{0} bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/x"
)


def test_fio_verifies_while_snapshots_are_taken_and_merged(
    machine: tuple[Guest, Control, Path],
) -> None:
    guest, control, folder = machine
    script = f"{FIO} --name=v --filename=/dev/vda --rw=randwrite --size=24M"
    rounds = 0
    with ThreadPoolExecutor(1) as pool:
        fio = pool.submit(lambda: ok(guest, script))
        while not fio.done():
            control.snapshot("vda", f"sqldiff:{folder}/{rounds}.dbhd;create")
            control.commit("vda")
            rounds += 1
        fio.result()
    assert rounds > 3
    ok(guest, "mkfs.ext4 -q -F /dev/vda && fsck.ext4 -fn /dev/vda")


def test_a_new_size_is_noticed(machine: tuple[Guest, Control, Path]) -> None:
    guest, control, folder = machine
    control.snapshot("vda", f"sqldiff:{folder}/size.dbhd;create")
    control.resize("vda", 96 * MIB)
    wait_for(guest, "[ $(cat /sys/block/vda/size) = 196608 ]")
    ok(guest, WRITE_AND_COMPARE.format("vda"))
    control.commit("vda")
    ok(guest, "dd if=/dev/vda bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/x")
    assert (folder / "disk.img").stat().st_size == 96 * MIB


@pytest.mark.parametrize("controller", ["nvme", "scsi", "ahci"])
def test_a_disk_comes_grows_and_goes(machine: tuple[Guest, Control, Path], controller: str) -> None:
    """Linux is told of each: by an asynchronous event, a hot plug event, the port's link."""
    guest, control, _ = machine
    before = disks(guest)
    name = control.add(controller, "mem:32M")
    wait_for(guest, f"[ $(ls /sys/block | wc -l) -gt {len(before)} ]")
    [found] = disks(guest) - before
    wait_for(guest, f"[ $(cat /sys/block/{found}/size) = 65536 ] && [ -b /dev/{found} ]")
    ok(guest, WRITE_AND_COMPARE.format(found))
    if controller != "ahci":  # ATA has no word for it
        control.resize(name, 64 * MIB)
        wait_for(guest, f"[ $(cat /sys/block/{found}/size) = 131072 ]")
        ok(guest, f"dd if=/dev/{found} bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/x")
    control.remove(name)
    wait_for(guest, f"[ ! -e /sys/block/{found} ]")
    assert disks(guest) == before


@pytest.mark.parametrize(
    ("controller", "disk"),
    [("vda", "/dev/vda"), ("nvme", "/dev/nvme0n1"), ("scsi", "/dev/sd?"), ("ahci", "/dev/sd?")],
)
def test_a_guest_waits_for_a_controller_that_is_stopped(
    machine: tuple[Guest, Control, Path], controller: str, disk: str
) -> None:
    """Which of the two that SCSI knows is whose does not matter: both are read. What an earlier
    test did to a unit may be told only now, and is no error.
    """
    guest, control, _ = machine
    read = f"for d in {disk}; do dd if=$d of=/dev/null bs=4k count=1 iflag=direct || exit 1; done"
    ok(guest, "rm -f /tmp/status; dmesg -c >/dev/null")
    control.stop(controller)
    ok(guest, f"( ({read}); echo $? >/tmp/status ) >/dev/null 2>&1 &")
    ok(guest, "sleep 1; [ ! -e /tmp/status ]")
    control.cont(controller)
    wait_for(guest, "[ -s /tmp/status ]")
    errors = "dmesg | grep -iE 'error|timeout|timed|abort|reset' || true"
    assert ok(guest, f"cat /tmp/status; {errors}") == "0"


def test_what_the_tree_says_has_been_done(machine: tuple[Guest, Control, Path]) -> None:
    guest, control, _ = machine
    before = {each.id: each for each in control.tree().controllers}
    assert all(each.connected for each in before.values())
    ok(guest, "dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null")
    after = {each.id: each for each in control.tree().controllers}
    read = [each["nvme"].statistics["read-bytes"] for each in (before, after)]
    assert read[1] - read[0] >= 4 * MIB
