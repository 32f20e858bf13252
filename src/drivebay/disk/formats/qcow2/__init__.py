"""qcow2, versions 2 and 3 (QEMU's docs/interop/qcow2.txt): read and written.

For tools, all blocking:

* ``create(disk, size, *, cluster_size=65536, version=3, refcount_bits=16, backing="",
  backing_format="")`` puts an empty image into a disk, which it grows.
* ``check(disk, *, repair=False)`` compares refcounts and tables, and returns a `Check`: `leaks`,
  `corruptions`, `problems` in words, `repaired`, `clean`.
* ``Qcow2Disk(disk, read_only=False, snapshot="")`` opens an image; `Qcow2Disk.snapshots` lists what
  can be opened by name.

The disk that an image lies in is any disk; a file that QEMU made may end in the middle of a sector,
so it is opened by ``FileDisk(path, ragged=True)``. `drivebay.disk.formats.chain.open_image` puts an
image over its backing files.

`header` reads what the first cluster says, `mapping` where guest clusters are, `refcounts` who uses
which cluster, `image` reads, `disk` writes.
"""

from drivebay.disk.formats.qcow2.check import Check, check
from drivebay.disk.formats.qcow2.create import create
from drivebay.disk.formats.qcow2.disk import Qcow2Disk
from drivebay.disk.formats.qcow2.snapshots import Snapshot

__all__ = ["Check", "Qcow2Disk", "Snapshot", "check", "create"]
