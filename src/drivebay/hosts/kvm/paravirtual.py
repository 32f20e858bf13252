"""What a guest may find in its CPU that no board has: leaves of CPUID, MSRs, hypercalls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from drivebay.hosts.kvm.abi import CpuidEntry

__all__ = ["HYPERCALL_PORT", "MsrFault", "Paravirtual", "SignalMsi"]

HYPERCALL_PORT: Final = 0xE4
"""An IN of 32 bits here is a hypercall. IN, so that its status is in EAX without another call."""

SignalMsi = Callable[[int, int], None]
"""Sends a message-signalled interrupt: its address and its data."""


class MsrFault(Exception):
    """The guest has no such MSR, or may not write that to it: it gets a #GP."""


class Paravirtual(Protocol):
    """An interface of a hypervisor, as its guests know one.

    All of it is called by whoever works the board, one at a time. `vp` is the number of the vCPU.
    """

    def cpuid(self) -> Iterable[CpuidEntry]:
        """The leaves from 0x40000000 on, in place of KVM's."""

    def read_msr(self, vp: int, index: int) -> int:
        """RDMSR of what KVM does not know. Raises `MsrFault`."""

    def write_msr(self, vp: int, index: int, value: int) -> None:
        """WRMSR. Raises `MsrFault`."""

    def hypercall(self, vp: int, rcx: int, rdx: int, r8: int) -> int:
        """IN EAX from `HYPERCALL_PORT`: the guest's registers, and what it gets in EAX."""

    def reset(self) -> None:
        """The machine begins anew, and its vCPUs with it."""
