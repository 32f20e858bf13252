"""What tests of drivers, controllers and disks need, shipped for yours too."""

from drivebay.testing.memory import FlippingMemory, Watch
from drivebay.testing.powercut import PowerCutDisk, State
from drivebay.testing.puppet import Held, PuppetDisk
from drivebay.testing.recording import Call, RecordingDisk
from drivebay.testing.vhost_user import FrontEnd, GuestRam, HungUp

__all__ = [
    "Call",
    "FlippingMemory",
    "FrontEnd",
    "GuestRam",
    "Held",
    "HungUp",
    "PowerCutDisk",
    "PuppetDisk",
    "RecordingDisk",
    "State",
    "Watch",
]
