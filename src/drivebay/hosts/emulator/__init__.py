"""A guest in this process: someone else's emulator, a test of a driver, or unicorn as the CPU."""

from drivebay.hosts.emulator.emulator import Emulator

__all__ = ["Emulator"]
