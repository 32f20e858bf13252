"""virtio 1.2: split and packed rings, the block device, the MMIO transport.

A *device* (`block.BlockDevice`) and a *transport* (`mmio.MmioTransport`, or a host such as
vhost-user) know each other only through `drivebay.platform.virtio`: the transport says where a ring
is when the driver has set it up, and the device drives it.
"""
