"""The qtest host: whoever speaks QEMU's qtest protocol is the CPU of the guest."""
