"""A PC on KVM. Where there is none, the tests say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivebay.guests.errors import GuestError
from drivebay.guests.tiny import tiny_kernel
from drivebay.hosts.cpu import CpuError
from drivebay.hosts.kvm.host import KvmHost
from drivebay.hosts.kvm.vm import Kvm
from drivebay.platform.engine import Engine
from tests.emulator.conftest import Machine, commands, seabios
from tests.fixtures import engine_without_threads as engine
from tests.kvm.tiny_linux import Start, TinyLinux

__all__ = ["commands", "engine", "kvm", "machine", "seabios"]


@pytest.fixture(scope="session")
def kvm() -> None:
    """There is a KVM that can be used."""
    try:
        Kvm().close()
    except CpuError as error:
        pytest.skip(f"NOT TESTED, as this machine has no KVM: {error}")


@pytest.fixture
def machine(kvm: None, engine: Engine, seabios: bytes) -> Iterator[Machine]:
    hosts: list[KvmHost] = []

    def cpu(pc: object) -> KvmHost:
        hosts.append(KvmHost(pc))
        return hosts[0]

    yield Machine(engine, seabios, cpu, wall_clock=True)
    hosts[0].close()


@pytest.fixture(scope="session")
def kernel() -> Path:
    """The tiny Linux, which takes minutes to compile."""
    try:
        return tiny_kernel()
    except GuestError as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture
def start(kvm: None, kernel: Path) -> Iterator[Start]:
    """Makes machines with it."""
    machines: list[TinyLinux] = []

    def make(**said: Any) -> TinyLinux:
        machine = TinyLinux(Engine(), kernel, **said)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()
        machine.engine.close()
