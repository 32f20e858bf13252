"""``drivebay demo``: a real guest on one of our disks, from mkfs to fsck."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import click

from drivebay.cli.backend import Backend
from drivebay.cli.terminal import print_json, progress, stream

__all__ = ["command"]

SIZE = "256M"
MEGABYTES = 64

SCRIPT = f"""
set -e
echo "# the guest's disk"
lsblk -o NAME,SIZE,PHY-SEC,LOG-SEC,DISC-GRAN,RO /dev/vda
echo "serial $(cat /sys/block/vda/serial), $(cat /sys/block/vda/queue/write_cache)"
echo "# mkfs.ext4 /dev/vda"
mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt
mount /dev/vda /mnt
echo "# write {MEGABYTES} MiB, then read them past the page cache"
dd if=/dev/urandom of=/tmp/noise bs=1M count=4 2>/dev/null
for n in $(seq {MEGABYTES // 4}); do cat /tmp/noise; done >/mnt/noise
sync
sum=$(md5sum </mnt/noise)
echo 3 >/proc/sys/vm/drop_caches
dd if=/mnt/noise of=/dev/null bs=1M iflag=direct 2>&1 | tail -n 1
[ "$(md5sum </mnt/noise)" = "$sum" ] && echo "md5 $sum: the same"
fstrim -v /mnt
umount /mnt
echo "# fsck.ext4 -f /dev/vda"
fsck.ext4 -f -n /dev/vda
"""


@click.command(name="demo")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(as_json: bool) -> int:
    """Boot a small Linux guest on a drivebay disk: make a file system, write, read, check.

    The first time it fetches a kernel, tools and QEMU from Debian; that takes about 20 seconds.
    """
    from drivebay.guests.linux import LinuxGuest

    guest = LinuxGuest(progress=progress)
    start = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix="drivebay-demo-", suffix=".img") as image:
        image.truncate(256 << 20)
        backend = Backend(["--virtio-blk", f"file:{image.name},serial=drivebay-demo"])
        with backend:
            socket = backend.controllers[0]["socket"]
            progress(f"serving {image.name} ({SIZE}) as a virtio disk on {socket}")
            guest.qemu_args = tuple(backend.qemu_arguments(guest.qemu.version))
            version = ".".join(map(str, guest.qemu.version))
            progress(f"booting Linux in QEMU {version}")
            result = guest.run_once(SCRIPT, on_output=None if as_json else stream)
    served = backend.statistics[0]
    outcome = {"status": result.status, "seconds": round(time.monotonic() - start, 1), **served}
    if as_json:
        print_json({**outcome, "output": result.output})
    else:
        _report(outcome, result.seconds)
    return result.status


def _report(outcome: dict[str, Any], script_seconds: float) -> None:
    moved = (outcome["read-bytes"] + outcome["write-bytes"]) / 1e6
    verdict = "all went well" if outcome["status"] == 0 else f"status {outcome['status']}"
    sys.stdout.write(
        f"\ndrivebay served {outcome['requests']} requests: {outcome['reads']} reads "
        f"({outcome['read-bytes'] / 1e6:.1f} MB), {outcome['writes']} writes "
        f"({outcome['write-bytes'] / 1e6:.1f} MB), {outcome['flushes']} flushes, "
        f"{outcome['errors']} errors.\n"
        f"{moved:.0f} MB in the {script_seconds:.1f} s from mkfs to fsck, "
        f"{outcome['seconds']:.1f} s with the boot: {verdict}.\n"
    )
