"""A drive bay for virtual machines: storage controllers over any disk, in Python."""

__version__ = "0.1.0"
