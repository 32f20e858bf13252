"""AHCI 1.3.1: SATA ports behind one PCI function."""

from drivebay.controllers.ahci.ahci import ICH9_AHCI, Ahci
from drivebay.controllers.ahci.hba import Hba
from drivebay.controllers.ahci.port import Port

__all__ = ["ICH9_AHCI", "Ahci", "Hba", "Port"]
