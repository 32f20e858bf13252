"""What tests of drivers, controllers and disks need, shipped for yours too."""

from drivebay.testing.memory import FlippingMemory, Watch
from drivebay.testing.puppet import Held, PuppetDisk
from drivebay.testing.recording import Call, RecordingDisk

__all__ = ["Call", "FlippingMemory", "Held", "PuppetDisk", "RecordingDisk", "Watch"]
