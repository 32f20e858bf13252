"""One CPU: its registers, the page it shares with KVM, and the call that runs it."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Iterable
from typing import Final

from drivebay.hosts.kvm.abi import (
    IA32_TSC,
    SINGLE_STEP,
    CpuidEntry,
    CpuidHead,
    Exit,
    GuestDebug,
    Ioctl,
    Leaf1Ebx,
    MpState,
    Msrs,
    Regs,
    Segment,
    SignalMask,
    Sregs,
    Translation,
)
from drivebay.hosts.kvm.vm import Kvm, Vm
from drivebay.platform.memory import GuestMemory, GuestMemoryFault

__all__ = ["KICK", "Vcpu"]

KICK: Final = signal.SIGRTMIN
"""Brings a vCPU's thread out of KVM_RUN. It is blocked everywhere else, so it has no handler."""
EXIT_REASON: Final = 8  # offsets in the shared page
IF_FLAG: Final = 13
PAGE: Final = 4096
LONGEST_INSTRUCTION: Final = 15
TOPOLOGY: Final = (0x0B, 0x1F)
MOST_STEPS: Final = 4000
HYPERVISOR: Final = 0x4000_0000
HYPERVISOR_PRESENT: Final = 1 << 31


class Vcpu:
    """CPU `number` of a machine, as it is after power on: the first at its reset vector, the others
    waiting to be started. `leaves` is what its CPUID instruction answers.
    """

    def __init__(self, kvm: Kvm, vm: Vm, number: int, leaves: Iterable[CpuidEntry]) -> None:
        self.number = number
        self._vm = vm
        self.fd = fcntl.ioctl(vm.fd, Ioctl.CREATE_VCPU, number)
        try:
            self._set_cpuid(leaves)
            mask = SignalMask(8, ~(1 << KICK - 1) & (1 << 64) - 1)
            fcntl.ioctl(self.fd, Ioctl.SET_SIGNAL_MASK, mask.pack())
            self._shared = mmap.mmap(self.fd, kvm.run_size)
        except BaseException:
            os.close(self.fd)
            raise
        self.page = memoryview(self._shared)
        self.items = {1: self.page, 2: self.page.cast("H"), 4: self.page.cast("I")}
        """What is shared, in items of so many bytes."""
        self._words = self.items[4]
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._steps = 0
        """Instructions that it may still do one by one; 0 if it goes on as it likes."""
        self._was_open = False

    def close(self) -> None:
        """The end of it; no thread may be in it."""
        for view in self.items.values():
            view.release()
        self._shared.close()
        os.close(self.fd)

    def _set_cpuid(self, leaves: Iterable[CpuidEntry]) -> None:
        entries = [self._own(leaf) for leaf in leaves]
        call = bytearray(CpuidHead(len(entries)).pack() + b"".join(e.pack() for e in entries))
        fcntl.ioctl(self.fd, Ioctl.SET_CPUID2, call)

    def _own(self, leaf: CpuidEntry) -> CpuidEntry:
        """What is each CPU's own: the number of its local APIC."""
        own = CpuidEntry.unpack(leaf.pack())
        if leaf.function == 1:
            own.ebx = Leaf1Ebx(leaf.ebx).replace(InitialApicId=self.number)
        elif leaf.function in TOPOLOGY:
            own.edx = self.number
        return own

    # -- running ---------------------------------------------------------------------------------

    def enter(self) -> None:
        """This thread will run it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {KICK})
        with self._lock:
            self._thread = threading.get_ident()

    def leave(self) -> None:
        """And now no more."""
        with self._lock:
            self._thread = None

    def kick(self) -> None:
        """Bring it out of KVM_RUN, or out of the next one."""
        with self._lock:
            if self._thread is not None:
                signal.pthread_kill(self._thread, KICK)

    def run(self) -> int | None:
        """Execute the guest's instructions; why it came out, or None if it was kicked."""
        while True:
            try:
                fcntl.ioctl(self.fd, Ioctl.RUN)
            except InterruptedError:
                signal.sigtimedwait({KICK}, 0)
                return None
            except BlockingIOError:  # it waited to be started, and has been
                return None
            reason = self._words[EXIT_REASON >> 2]
            if reason != Exit.DEBUG:
                return reason
            self._stepped()

    def let_interrupts_in(self) -> None:
        """Go on in single steps until the guest has taken the interrupt that waits. A KVM that
        interprets code does a thousand instructions between two looks for interrupts, and so never
        looks where firmware that waits lets them in: for two or three instructions of a loop.
        """
        if not self._steps:
            self._steps, self._was_open = MOST_STEPS, False
            self._set_debug(SINGLE_STEP)

    def _stepped(self) -> None:
        is_open = self.interruptible
        self._steps -= 1
        # The timer's comes first, if it waits, too.
        taken = self._was_open and not is_open and not self._vm.interrupt_waits()
        if taken or not self._steps:
            self._steps = 0
            self._set_debug(0)
        self._was_open = is_open

    def _set_debug(self, control: int) -> None:
        fcntl.ioctl(self.fd, Ioctl.SET_GUEST_DEBUG, GuestDebug(control).pack())

    @property
    def interruptible(self) -> bool:
        """Whether interrupts were on when it came out."""
        return bool(self.page[IF_FLAG])

    def halted_for_good(self) -> bool:
        """Whether only another CPU or a reset can wake it."""
        state = fcntl.ioctl(self.fd, Ioctl.GET_MP_STATE, bytes(4))
        number = int.from_bytes(state, "little")
        if number == MpState.HALTED:
            return not self.interruptible
        return number == MpState.UNINITIALIZED

    # -- state -----------------------------------------------------------------------------------

    def get_regs(self) -> Regs:
        """The general registers."""
        return Regs.unpack(fcntl.ioctl(self.fd, Ioctl.GET_REGS, bytes(Regs.size)))

    def set_regs(self, regs: Regs) -> None:
        """Set them."""
        fcntl.ioctl(self.fd, Ioctl.SET_REGS, regs.pack())

    def get_sregs(self) -> Sregs:
        """Segments, tables and control registers."""
        return Sregs.unpack(fcntl.ioctl(self.fd, Ioctl.GET_SREGS, bytes(Sregs.size)))

    def set_sregs(self, sregs: Sregs) -> None:
        """Set them."""
        fcntl.ioctl(self.fd, Ioctl.SET_SREGS, sregs.pack())

    def tsc_khz(self) -> int:
        """How fast its time stamp counter is; 0 if KVM does not say."""
        return max(fcntl.ioctl(self.fd, Ioctl.GET_TSC_KHZ), 0)

    def tsc(self) -> int:
        """That counter. It waits until the CPU is out of KVM_RUN."""
        call = fcntl.ioctl(self.fd, Ioctl.GET_MSRS, Msrs(1, 0, IA32_TSC).pack())
        return Msrs.unpack(call).data

    def code(self, memory: GuestMemory, rip: int) -> bytes:
        """As much of the instruction there as is in RAM and on one page."""
        linear = Segment.unpack(self.get_sregs().cs).base + rip & (1 << 64) - 1
        call = fcntl.ioctl(self.fd, Ioctl.TRANSLATE, Translation(linear).pack())
        translation = Translation.unpack(call)
        if not translation.valid:
            return b""
        address = translation.physical_address
        for length in (min(LONGEST_INSTRUCTION, PAGE - address % PAGE), 1):
            try:
                return bytes(memory.view(address, length))
            except GuestMemoryFault:
                pass
        return b""


def leaves_of(
    supported: Iterable[CpuidEntry], cpus: int, hypervisor: Iterable[CpuidEntry] | None
) -> list[CpuidEntry]:
    """What CPUID says: what KVM supports, with `hypervisor` in place of KVM's own leaves."""
    own = None if hypervisor is None else list(hypervisor)
    kept = [leaf for leaf in supported if own is None or leaf.function & ~0xFF != HYPERVISOR]
    for leaf in kept:
        if leaf.function == 1:
            leaf.ebx = Leaf1Ebx(leaf.ebx).replace(LogicalProcessors=cpus)
            leaf.ecx |= HYPERVISOR_PRESENT
    return kept + (own or [])
