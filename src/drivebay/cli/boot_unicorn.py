"""``drivebay boot --host unicorn``: the CPU is in this process, without a virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig

if TYPE_CHECKING:
    from drivebay.cli.ide import IdeDrive
    from drivebay.disk.contract import Disk
    from drivebay.hosts.cpu import End
    from drivebay.machines.pc import Pc

__all__ = ["UnicornHost"]


class UnicornHost:
    """A `drivebay.cli.boot_pc.Host`."""

    wall_clock = False
    cpus = 1

    def attach(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> bool:
        """Nothing but what a PC has."""
        return False

    def accelerate(self, pc: Pc, drive: IdeDrive, disk: Disk) -> None:
        """It has its place, and no other."""

    def run(self, pc: Pc, timeout: float, until: Callable[[], bool]) -> End:
        """Run it. Raises `CliError`."""
        try:
            from drivebay.hosts.emulator.unicorn_cpu import CpuError, X86Cpu
        except ImportError as error:
            raise CliError(f"--host unicorn: {error}", "pip install 'drivebay[unicorn]'") from error
        try:
            return X86Cpu(pc).run(timeout, until)
        except CpuError as error:
            raise CliError(str(error), "--host qemu has a CPU that can do more") from error
