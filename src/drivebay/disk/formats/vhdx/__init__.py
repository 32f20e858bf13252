"""VHDX images, fixed, dynamic and differencing, on any disk::

    create(disk, size)                                # dynamic, blocks of 2 MiB
    create(disk, size, block_size=32 << 20, sector_size=4096)
    create(disk, size, fixed=True)
    create(disk, size, parent=open_vhdx(other), parent_path="base.vhdx")
    image = open_vhdx(disk, read_only=False)          # a `Layer`, whose `parent` names its parent
    problems = check(disk)                            # of `drivebay.disk.formats.problem`

`disk` is any disk: a file of one sector will do, it is grown. All three raise `DiskOpenError`.
"""

from drivebay.disk.formats.vhdx.check import check
from drivebay.disk.formats.vhdx.create import create
from drivebay.disk.formats.vhdx.image import open_vhdx

__all__ = ["check", "create", "open_vhdx"]
