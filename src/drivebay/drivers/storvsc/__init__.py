"""A guest's driver for StorVSP, and for as much of VMBus as it needs."""

from drivebay.drivers.storvsc.errors import ScsiError, StorVscError, VmbusError
from drivebay.drivers.storvsc.ring import GuestRing
from drivebay.drivers.storvsc.storvsc import Ended, StorVsc, StorVscChannel
from drivebay.drivers.storvsc.vmbus import VmbusDriver

__all__ = [
    "Ended",
    "GuestRing",
    "ScsiError",
    "StorVsc",
    "StorVscChannel",
    "StorVscError",
    "VmbusDriver",
    "VmbusError",
]
