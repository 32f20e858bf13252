"""Stock guests: where a kernel, an initramfs, tools and QEMU come from, and how one is started."""
