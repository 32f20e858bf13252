"""One line on a CPU that cannot go on: why, where, at which instruction, with what in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.hosts.kvm.abi import (
    HAS_INSTRUCTION,
    SUBERROR_EMULATION,
    Exit,
    InternalError,
    Segment,
)
from drivebay.hosts.kvm.vcpu import Vcpu
from drivebay.platform.memory import GuestMemory

__all__ = ["EXIT_DETAIL", "report", "report_exit"]

EXIT_DETAIL: Final = 32
"""Where the part of the shared page begins that depends on the exit."""


def report(vcpu: Vcpu, memory: GuestMemory, why: str, code: bytes = b"") -> str:
    """The line. `code` is the instruction if KVM has said; else it is looked for."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    selector = Segment.unpack(sregs.cs).selector
    code = code or vcpu.code(memory, regs.rip)
    control = {name: getattr(sregs, name) for name in ("cr0", "cr2", "cr3", "cr4", "efer")}
    values = {**vars(regs), **control}
    rip = values.pop("rip")
    registers = " ".join(f"{name}={value:x}" for name, value in values.items())
    instruction = code.hex(" ") if code else "no code there"
    return f"CPU {vcpu.number} at {selector:04x}:{rip:08x}: {why} [{instruction}] {registers}"


def _shutdown(_vcpu: Vcpu) -> tuple[str, bytes]:
    return "a triple fault", b""


def _fail_entry(vcpu: Vcpu) -> tuple[str, bytes]:
    reason = vcpu.page[EXIT_DETAIL : EXIT_DETAIL + 8]
    return f"the processor refuses this state (reason {int.from_bytes(reason, 'little'):#x})", b""


def _internal(vcpu: Vcpu) -> tuple[str, bytes]:
    error = InternalError.unpack(vcpu.page, EXIT_DETAIL)
    if error.suberror != SUBERROR_EMULATION:
        return f"KVM has an internal error ({error.suberror})", b""
    said = error.ndata >= 3 and error.flags & HAS_INSTRUCTION
    return "KVM cannot emulate this", error.insn_bytes[: error.insn_size] if said else b""


_REASONS: Final[dict[int, Callable[[Vcpu], tuple[str, bytes]]]] = {
    Exit.SHUTDOWN: _shutdown,
    Exit.FAIL_ENTRY: _fail_entry,
    Exit.INTERNAL_ERROR: _internal,
}


def report_exit(vcpu: Vcpu, memory: GuestMemory, reason: int) -> str:
    """The line on an exit after which nothing goes on."""
    explain = _REASONS.get(reason)
    why, code = explain(vcpu) if explain else (f"KVM gives up (exit {reason})", b"")
    return report(vcpu, memory, why, code)
