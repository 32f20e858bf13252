"""Images: disks whose sectors lie in another disk, in a format of its own."""
