"""What a KVM that interprets kernel code does not know, and Linux does not start without.

Hardware never comes here: it executes them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import Final

from drivebay.hosts.kvm.abi import Ioctl, VcpuEvents
from drivebay.hosts.kvm.vcpu import Vcpu
from drivebay.platform.memory import GuestMemory

__all__ = ["execute"]

BREAKPOINT: Final = 3


def _breakpoint(vcpu: Vcpu) -> None:
    """INT3: an exception, behind the instruction."""
    call = fcntl.ioctl(vcpu.fd, Ioctl.GET_VCPU_EVENTS, bytes(VcpuEvents.size))
    events = VcpuEvents.unpack(call)
    events.exception_injected, events.exception_nr = 1, BREAKPOINT
    events.exception_has_error_code = events.flags = 0
    fcntl.ioctl(vcpu.fd, Ioctl.SET_VCPU_EVENTS, events.pack())


def _nothing(_vcpu: Vcpu) -> None:
    """What clears exceptions of an FPU that has none."""


_INSTRUCTIONS: Final[dict[bytes, Callable[[Vcpu], None]]] = {
    b"\xcc": _breakpoint,
    b"\xdb\xe2": _nothing,  # FNCLEX
    b"\x0f\x77": _nothing,  # EMMS
    b"\x9b": _nothing,  # FWAIT
}


def execute(vcpu: Vcpu, memory: GuestMemory) -> bool:
    """Execute the instruction that KVM has stopped at; False if it is not one of these."""
    regs = vcpu.get_regs()
    code = vcpu.code(memory, regs.rip)
    for instruction, act in _INSTRUCTIONS.items():
        if code.startswith(instruction):
            regs.rip += len(instruction)
            vcpu.set_regs(regs)
            act(vcpu)
            return True
    return False
