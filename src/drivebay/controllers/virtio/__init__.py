"""virtio 1.2: split and packed rings, the block device, the MMIO transport.

A *device* (`block.BlockDevice`) and a *transport* (`mmio.MmioTransport`, or a host such as
vhost-user) know each other only through `transport.Device` and `transport.Transport`; the transport
makes the queues and hands them over when the driver has set them up.
"""
