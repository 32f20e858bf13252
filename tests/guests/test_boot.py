"""Real guests: QEMU and User-Mode Linux start, run commands, and fail understandably."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivebay.guests.errors import GuestError
from drivebay.guests.guest import Guest
from drivebay.guests.initramfs import tools_for
from drivebay.guests.linux import LinuxGuest
from drivebay.guests.qemu import find_qemu
from drivebay.guests.uml import UmlGuest

pytestmark = pytest.mark.guest

GUESTS = [LinuxGuest, UmlGuest]
MAKE_AND_CHECK = (
    "set -e; mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt; echo hello >/mnt/file; umount /mnt;"
    "e2fsck -fn /dev/vda; mount /dev/vda /mnt; cat /mnt/file; umount /mnt"
)


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    start: Callable[[], Guest] = request.param
    guest = start()
    guest.start()
    yield guest
    guest.kill()


def test_commands_one_after_the_other(guest: Guest) -> None:
    first = guest.run("uname -s; false")
    assert (first.status, first.output) == (1, "Linux\n")
    assert guest.run("dd if=/dev/zero bs=1M count=2 2>/dev/null | wc -c").output == "2097152\n"
    assert guest.run(r"printf '\r\n\033\0'").output == "\r\n\033\0"
    assert guest.run("sleep 600 >/dev/null 2>&1 & echo started").output == "started\n"
    guest.close()
    assert guest.session.process.returncode == 0


def test_a_panic_is_told(guest: Guest) -> None:
    with pytest.raises(GuestError, match="panicked") as caught:
        guest.run("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")
    assert "Kernel panic" in caught.value.console


def test_a_guest_that_powers_itself_off_is_told(guest: Guest) -> None:
    with pytest.raises(GuestError, match="ended by itself"):
        guest.run("poweroff -f")


def test_a_command_that_hangs_ends_the_guest(guest: Guest) -> None:
    with pytest.raises(GuestError, match="did not answer in time"):
        guest.run("sleep 600", timeout=1)
    assert guest.session.process.returncode is not None


def test_a_virtio_disk_is_there_without_asking(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    drive = f"file={image},format=raw,if=none,id=d"
    shown: list[bytes] = []
    guest = LinuxGuest(qemu_args=("-drive", drive, "-device", "virtio-blk-pci,drive=d"))
    result = guest.run_once(MAKE_AND_CHECK, on_output=shown.append)
    assert result.status == 0
    assert result.output.endswith("hello\n")
    assert b"".join(shown).decode() == result.output


def test_uml_on_a_vhost_user_disk(tmp_path: Path) -> None:
    qemu = find_qemu()
    image, address = tmp_path / "image", tmp_path / "socket"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    export = f"vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={address}"
    server = subprocess.Popen(
        [
            *qemu.command("qemu-storage-daemon"),
            *("--blockdev", f"file,node-name=f,filename={image}", "--export", export),
        ],
        env={**os.environ, **qemu.environment},
    )
    try:
        for _ in range(200):
            if address.exists():
                break
            time.sleep(0.05)
        result = UmlGuest(disks=[address]).run_once(MAKE_AND_CHECK)
    finally:
        server.kill()
        server.wait()
    assert result.status == 0
    assert result.output.endswith("hello\n")


def test_fio_is_there_when_a_command_uses_it() -> None:
    command = "fio --version"
    result = LinuxGuest(tools=tools_for(command)).run_once(command)
    assert result.status == 0
    assert result.output.startswith("fio-3")


def test_the_machine_protocol_answers() -> None:
    with LinuxGuest() as guest:
        assert guest.qmp.execute("query-status")["running"] is True
        with pytest.raises(GuestError, match="QEMU refused"):
            guest.qmp.execute("device_del", id="nothing")


def test_a_bad_qemu_argument_is_told_as_qemu_says_it() -> None:
    with pytest.raises(GuestError, match="ended by itself") as caught:
        LinuxGuest(qemu_args=("-device", "no-such-device")).start()
    assert "no-such-device" in caught.value.console


def test_an_unknown_tool_is_told() -> None:
    with pytest.raises(GuestError, match="no guest tool is called 'hammer'"):
        LinuxGuest(tools=("hammer",)).command()


def test_a_shell_on_the_terminal() -> None:
    program = "from drivebay.guests.linux import LinuxGuest as G; raise SystemExit(G().interact())"
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    try:
        expect(terminal, "# ")
        os.write(terminal, b"echo $((6*7))\n")
        expect(terminal, "\n42\r")
        os.write(terminal, b"exit\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def expect(terminal: int, text: str) -> None:
    """Read from `terminal` until `text` has come."""
    seen, deadline = "", time.monotonic() + 90
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, f"no {text!r} in {seen!r}"
        seen += os.read(terminal, 4096).decode(errors="replace")
