"""PCI functions for virtual machines in other processes, over the vfio-user protocol.

The server's side of version 0.0 of the specification in QEMU's docs/interop/vfio-user.rst; names of
sections are of that.
"""
