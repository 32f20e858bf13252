"""StorVSP: Hyper-V's synthetic SCSI controller, on a VMBus channel."""

from drivebay.controllers.storvsp.ide import build_ide
from drivebay.controllers.storvsp.storvsp import StorVsp

__all__ = ["StorVsp", "build_ide"]
