"""The guest's side of an AHCI controller, through its registers and memory only::

driver = AhciDriver(board.mmio, 0xFEBF0000, arena, poll=lambda: engine.turn(0))
disk = driver.disk(0)
disk.write(8, data)
assert disk.read_queued([(8, 1), (64, 8)]) == ...
"""

from drivebay.drivers.ahci.controller import AhciDriver
from drivebay.drivers.ahci.disk import AhciCd, AhciDisk
from drivebay.drivers.ahci.errors import AhciError, AhciTimeout
from drivebay.drivers.ahci.port import AhciPort, Region

__all__ = ["AhciCd", "AhciDisk", "AhciDriver", "AhciError", "AhciPort", "AhciTimeout", "Region"]
