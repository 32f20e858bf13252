"""VHD images, fixed, dynamic and differencing, on any disk of sectors of 512 bytes or more::

    create(disk, size)                                # dynamic
    create(disk, size, kind=DiskType.FIXED)
    create(disk, size, kind=DiskType.DIFFERENCING, parent=open_vhd(other), parent_path="base.vhd")
    image = open_vhd(disk, read_only=False)           # a `Layer`, whose `parent` names its parent
    problems = check(disk)                            # of `drivebay.disk.formats.problem`

`disk` is any disk: a file of one sector will do, it is grown. All three raise `DiskOpenError`.
The footer alone, for fixed images that are read elsewhere, is in `footer`.
"""

from drivebay.disk.formats.vhd.check import check
from drivebay.disk.formats.vhd.create import create
from drivebay.disk.formats.vhd.footer import DiskType
from drivebay.disk.formats.vhd.image import open_vhd

__all__ = ["DiskType", "check", "create", "open_vhd"]
