"""What SeaBIOS and Linux do that they may not, as strict mode sees it."""

from __future__ import annotations

import re

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SERVE = ["--nvme", "mem:32M", "--ahci", "mem:16M", "--ide", "mem:8M", "--strict", "all"]
WORK = """set -e
modprobe nvme; modprobe ahci; modprobe ata_piix
until [ $(cat /sys/block/*/size | grep -cE '^(65536|32768|16384)$') = 3 ]; do sleep .1; done
for size in 65536 32768 16384; do
	disk=/dev/$(basename $(dirname $(grep -lx $size /sys/block/*/size)))
	dd if=/dev/urandom of=$disk bs=64k count=32 oflag=direct conv=fsync
	dd if=$disk of=/dev/null bs=4k count=64 iflag=direct
done
"""


def test_linux(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        Backend(SERVE) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        said = guest.run(WORK, timeout=300)
        assert said.status == 0, said.output
    found = re.findall(r"drivebay: (\w+)\b.*\((\S+); ", capfd.readouterr().err)
    assert set(found) == {
        ("ahci", "started-without-drive"),  # so that it sees one come
        ("ahci", "receiving-ended-while-running"),  # SeaBIOS, by one write
    }
