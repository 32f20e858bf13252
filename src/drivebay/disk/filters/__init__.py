"""Disks that change some operations of the disk under them."""
