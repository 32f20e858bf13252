"""Disks made of layers, each of which may hold only some sectors."""
