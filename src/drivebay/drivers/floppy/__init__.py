"""The guest's side of a floppy controller: ports, and DMA or the FIFO."""

from drivebay.drivers.floppy.controller import FloppyDriver, Result, Via
from drivebay.drivers.floppy.disk import FloppyDisk
from drivebay.drivers.floppy.errors import FloppyError, FloppyTimeout

__all__ = ["FloppyDisk", "FloppyDriver", "FloppyError", "FloppyTimeout", "Result", "Via"]
