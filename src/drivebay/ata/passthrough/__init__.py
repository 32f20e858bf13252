"""A drive that is a real one: ATA commands of the guest for a device of the host, by SCSI's ATA
PASS-THROUGH::

    device = SgDevice("/dev/sg0")
    drive = PassthroughDrive(device, engine, identify(device), Policy.of("write"))

What the guest may do says a `Policy`; unless told otherwise it is to read.
"""

from drivebay.ata.passthrough.drive import MAX_TRANSFER, PassthroughDrive
from drivebay.ata.passthrough.identity import identify
from drivebay.ata.passthrough.policy import Category, Policy
from drivebay.ata.passthrough.recording import RecordedAnswers, Recorder
from drivebay.ata.passthrough.transport import Transport

__all__ = [
    "MAX_TRANSFER",
    "Category",
    "PassthroughDrive",
    "Policy",
    "RecordedAnswers",
    "Recorder",
    "Transport",
    "identify",
]
