"""The tools that a command needs are found in its text."""

from __future__ import annotations

import pytest

from drivebay.guests.initramfs import tools_for


@pytest.mark.parametrize(
    ("command", "tools"),
    [
        ("mkfs.ext4 /dev/vda", ()),
        ("fio --name=x", ("fio",)),
        ("for i in 1 2; do/bin/fio job;done", ("fio",)),
        ("ls portfolio", ()),
        ("nvme list; sg_inq /dev/sda && smartctl -a /dev/sda", ("smartctl", "nvme", "sg3-utils")),
        ("hdparm -I /dev/sda", ("hdparm",)),
        ("ls /dev/nvme0n1", ()),
    ],
)
def test_tools_for(command: str, tools: tuple[str, ...]) -> None:
    assert tools_for(command) == tools
