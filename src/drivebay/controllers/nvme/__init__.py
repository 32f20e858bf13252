"""NVMe 2.0: namespaces behind one PCI function, or several."""

from drivebay.controllers.nvme.controller import Controller
from drivebay.controllers.nvme.namespace import Namespace
from drivebay.controllers.nvme.nvme import NVME, Nvme
from drivebay.controllers.nvme.observer import Escort, Observer
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.subsystem import Subsystem

__all__ = [
    "NVME",
    "Controller",
    "Escort",
    "Namespace",
    "Nvme",
    "Observer",
    "Refused",
    "Status",
    "Subsystem",
]
