"""A PC with drives, and SeaBIOS to boot it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from drivebay.cli import boot_pc
from drivebay.controllers.ide import PiixIde
from drivebay.guests.errors import GuestError
from drivebay.hosts.cpu import End
from drivebay.hosts.emulator.unicorn_cpu import X86Cpu
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from tests.fixtures import engine_without_threads as engine

__all__ = ["engine"]  # fixtures


@pytest.fixture(scope="session")
def seabios() -> bytes:
    try:
        return Path(boot_pc.seabios()).read_bytes()
    except (GuestError, OSError) as error:
        pytest.skip(f"SeaBIOS cannot be had: {error}")


class Cpu(Protocol):
    """Who runs a machine."""

    def run(self, timeout: float, until: Callable[[], bool] | None = None) -> End: ...


class Machine:
    """A PC of which everything is kept that it says; `cpu` gives it one."""

    def __init__(
        self,
        engine: Engine,
        firmware: bytes,
        cpu: Callable[[Pc], Cpu] = X86Cpu,
        *,
        wall_clock: bool = False,
    ) -> None:
        self.serial, self.debug = bytearray(), bytearray()
        self.engine = engine
        self.pc = Pc(
            engine,
            32 << 20,
            firmware=firmware,
            serial=self.serial.extend,
            debug=self.debug.extend,
            wall_clock=wall_clock,
        )
        self.ide = PiixIde(self.pc.memory, (self.pc.line(14), self.pc.line(15)))
        self.pc.bus.plug(1, 1, self.ide)
        self.cpu = cpu(self.pc)

    def boot(self, timeout: float = 60.0) -> str:
        """Run until the guest halts for good; what it said on the serial port."""
        assert self.cpu.run(timeout) is End.HALTED, self.debug.decode()
        return self.serial.decode()


@pytest.fixture
def machine(engine: Engine, seabios: bytes) -> Machine:
    return Machine(engine, seabios)


@pytest.fixture
def commands(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The names of the commands that the drives have had."""
    caplog.set_level(logging.DEBUG, logger="drivebay.ata")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "drivebay.ata"
    ]
