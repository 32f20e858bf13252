"""A SCSI disk: SBC-3 and the parts of SPC-4 that disks have."""

from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["ScsiDisk"]
