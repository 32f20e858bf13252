"""The guest's side of an NVMe controller, through its registers and memory only::

driver = NvmeDriver(board.mmio, 0xFE000000, arena, poll=lambda: engine.turn(0))
disk = driver.namespace(1)
disk.write(8, data)
assert disk.read(8, 1) == data
"""

from drivebay.drivers.nvme.controller import NvmeDriver
from drivebay.drivers.nvme.errors import NvmeError, NvmeTimeout
from drivebay.drivers.nvme.namespace import NvmeNamespace
from drivebay.drivers.nvme.queue import QueuePair

__all__ = ["NvmeDriver", "NvmeError", "NvmeNamespace", "NvmeTimeout", "QueuePair"]
