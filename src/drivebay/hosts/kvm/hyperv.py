"""Hyper-V, as much of it as VMBus needs: leaves of CPUID, synthetic MSRs, two hypercalls.

The pages that a guest names stay its own memory; what the specification calls overlays is written
into them once.
"""

from __future__ import annotations

import logging
import struct
from typing import Final, Protocol

from drivebay.hosts.kvm.abi import CpuidEntry
from drivebay.hosts.kvm.hyperv_registers import (
    CallCode,
    Features,
    Hints,
    HvStatus,
    HypercallInput,
    HypercallPage,
    Message,
    MorePrivileges,
    Msr,
    PostMessage,
    Privileges,
    ReferenceTsc,
    SignalEvent,
)
from drivebay.hosts.kvm.hyperv_synic import Synic, page_of
from drivebay.hosts.kvm.paravirtual import HYPERCALL_PORT, MsrFault, SignalMsi
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.vmbus import PAGE
from drivebay.platform.vmbus_bus import VmBus

__all__ = ["Hyperv", "Tsc"]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

HYPERCALL_CODE: Final = bytes([0xE5, HYPERCALL_PORT, 0xC3])
"""in eax, HYPERCALL_PORT; ret."""
LAST_LEAF: Final = 0x4000_0005
VENDOR: Final = b"Microsoft Hv"
INTERFACE: Final = int.from_bytes(b"Hv#1", "little")
BUILD: Final = 20348  # Windows Server 2022
VERSION: Final = 10 << 16
NEVER: Final = 0xFFFF_FFFF
"""Tries to take a spinlock before the hypervisor would like to know."""

TIME_UNITS: Final = 10_000_000
"""Of the reference time, a second."""
APIC_HZ: Final = 1_000_000_000
"""Of the timers of KVM's local APICs."""
VALID: Final = 1
"""A sequence of the reference TSC page that never changes: a TSC that does not, either."""
U64: Final = (1 << 64) - 1

CALLS: Final = frozenset(CallCode)
MESSAGE_CONNECTIONS: Final = (1, 4)
"""Where guests post messages of VMBus: from version 5.0 on, the first one to the second of them."""
MOST_WAITING: Final = 4096
"""Messages that a guest has not taken, before it may post no more."""


class Tsc(Protocol):
    """The processors' time stamp counters. They do not stop, and go alike."""

    @property
    def hz(self) -> int:
        """How often they count a second."""

    def now(self, vp: int) -> int:
        """That of a processor."""


class Hyperv:
    """The hypervisor under a guest of `processors`, and its VMBus.

    Processors are numbered as their local APICs are. Engine's thread only, as all devices.
    """

    def __init__(
        self,
        memory: GuestMemory,
        signal_msi: SignalMsi,
        *,
        processors: int,
        tsc: Tsc,
    ) -> None:
        self._memory, self._tsc = memory, tsc
        self._synics = [Synic(memory, signal_msi, vp) for vp in range(processors)]
        self._guest_os_id = self._reference_tsc = 0
        self._hypercall = HypercallPage(0)
        self._vp_assist = [0] * processors
        self.bus = VmBus(memory, self._send, self._interrupt)
        """What devices are offered on."""

    def reset(self) -> None:
        """The machine begins anew."""
        self._guest_os_id = self._reference_tsc = 0
        self._hypercall = HypercallPage(0)
        self._vp_assist = [0] * len(self._synics)
        self.bus.reset(lambda: None)
        for synic in self._synics:
            synic.reset()

    # -- CPUID -----------------------------------------------------------------------------------

    def cpuid(self) -> list[CpuidEntry]:
        """The leaves from 0x40000000 on (TLFS 2.4)."""
        ebx, ecx, edx = struct.unpack("<III", VENDOR)
        privileges = Privileges.of(
            FREQUENCY_MSRS=1,
            REFERENCE_TSC=1,
            VP_INDEX=1,
            HYPERCALL_MSRS=1,
            SYNIC_MSRS=1,
            TIME_REF_COUNT=1,
        )
        more = MorePrivileges.of(SIGNAL_EVENTS=1, POST_MESSAGES=1)
        features = Features.of(FREQUENCY_REGISTERS=1)
        hints = Hints.of(DEPRECATE_AUTO_EOI=1, RELAXED_TIMING=1)
        processors = len(self._synics)
        return [
            CpuidEntry(0x4000_0000, eax=LAST_LEAF, ebx=ebx, ecx=ecx, edx=edx),
            CpuidEntry(0x4000_0001, eax=INTERFACE),
            CpuidEntry(0x4000_0002, eax=BUILD, ebx=VERSION),
            CpuidEntry(0x4000_0003, eax=privileges, ebx=more, edx=features),
            CpuidEntry(0x4000_0004, eax=hints, ebx=NEVER),
            CpuidEntry(LAST_LEAF, eax=processors, ebx=processors),
        ]

    @property
    def _scale(self) -> int:
        """Units of the reference time that a count of the TSC is, in 2^-64."""
        return (TIME_UNITS << 64) // self._tsc.hz

    # -- MSRs ------------------------------------------------------------------------------------

    def read_msr(self, vp: int, index: int) -> int:
        """RDMSR. Raises `MsrFault`."""
        match index:
            case Msr.GUEST_OS_ID:
                return self._guest_os_id
            case Msr.HYPERCALL:
                return self._hypercall
            case Msr.VP_INDEX:
                return vp
            case Msr.TIME_REF_COUNT:
                return self._tsc.now(vp) * self._scale >> 64 & U64
            case Msr.REFERENCE_TSC:
                return self._reference_tsc
            case Msr.TSC_FREQUENCY:
                return self._tsc.hz
            case Msr.APIC_FREQUENCY:
                return APIC_HZ
            case Msr.VP_ASSIST_PAGE:
                return self._vp_assist[vp]
        return self._synics[vp].read(index)

    def write_msr(self, vp: int, index: int, value: int) -> None:
        """WRMSR. Raises `MsrFault`."""
        match index:
            case Msr.GUEST_OS_ID:
                self._guest_os_id = value
                if not value:
                    self._hypercall = self._hypercall.replace(ENABLE=0)
            case Msr.HYPERCALL:
                self._write_hypercall(HypercallPage(value))
            case Msr.REFERENCE_TSC:
                self._write_reference_tsc(value)
            case Msr.VP_ASSIST_PAGE:  # of what it is for, nothing is on offer
                page_of(self._memory, value)
                self._vp_assist[vp] = value
            case _:
                self._synics[vp].write(index, value)

    def _write_hypercall(self, value: HypercallPage) -> None:
        """Without a name the guest has no hypercalls (TLFS 3.13)."""
        if self._hypercall.LOCKED:
            raise MsrFault
        if not self._guest_os_id:
            value = value.replace(ENABLE=0)
        page = page_of(self._memory, value)
        if page is not None:
            page[: len(HYPERCALL_CODE)] = HYPERCALL_CODE
        self._hypercall = value

    def _write_reference_tsc(self, value: int) -> None:
        page = page_of(self._memory, value)
        if page is not None:
            filled = ReferenceTsc(VALID, 0, self._scale, 0).pack()
            page[4 : len(filled)] = filled[4:]
            page[:4].cast("I")[0] = VALID
        self._reference_tsc = value

    # -- hypercalls ------------------------------------------------------------------------------

    def hypercall(self, vp: int, rcx: int, rdx: int, r8: int) -> int:
        """A hypercall of 64-bit code (TLFS 3.7): what it finds in RAX."""
        control = HypercallInput(rcx)
        if not self._hypercall.ENABLE:
            return HvStatus.ACCESS_DENIED
        if control.CODE not in CALLS:
            return HvStatus.INVALID_HYPERCALL_CODE
        if control & ~(HypercallInput.CODE | HypercallInput.FAST):  # calls that repeat have them
            return HvStatus.INVALID_HYPERCALL_INPUT
        if control.CODE == CallCode.POST_MESSAGE:
            return self._post_message(control.FAST, rdx)
        return self._signal_event(control.FAST, rdx)

    def _input(self, address: int, size: int) -> bytes | None:
        """A call's input, copied once; None if it is where none may be (TLFS 3.7)."""
        if address % 8 or address % PAGE + size > PAGE:
            return None
        try:
            return bytes(self._memory.view(address, size))
        except GuestMemoryFault:
            return None

    def _post_message(self, fast: bool, address: int) -> HvStatus:
        if fast:
            return HvStatus.INVALID_HYPERCALL_INPUT
        data = self._input(address, PostMessage.size)
        if data is None:
            return HvStatus.INVALID_ALIGNMENT
        asked = PostMessage.unpack(data)
        if asked.payload_size > len(asked.payload) or asked.message_type != Message.VMBUS:
            return HvStatus.INVALID_PARAMETER
        if asked.connection_id not in MESSAGE_CONNECTIONS:
            return HvStatus.INVALID_CONNECTION_ID
        if sum(len(synic.waiting) for synic in self._synics) >= MOST_WAITING:
            return HvStatus.INSUFFICIENT_BUFFERS
        self.bus.message(asked.payload[: asked.payload_size])
        return HvStatus.SUCCESS

    def _signal_event(self, fast: bool, value: int) -> HvStatus:
        if not fast:
            data = self._input(value, SignalEvent.size)
            if data is None:
                return HvStatus.INVALID_ALIGNMENT
            value = int.from_bytes(data, "little")
        asked = SignalEvent(value)
        if asked.RESERVED:
            return HvStatus.INVALID_HYPERCALL_INPUT
        if asked.FLAG_NUMBER:  # ports of VMBus have one flag
            return HvStatus.INVALID_PORT_ID
        if not self.bus.signal(asked.CONNECTION):
            return HvStatus.INVALID_CONNECTION_ID
        return HvStatus.SUCCESS

    # -- VMBus -----------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        synic = self._synic(self.bus.target_vp)
        if synic is not None:
            synic.post(message)

    def _interrupt(self, channel_id: int, vp: int) -> None:
        synic = self._synic(vp)
        if synic is not None:
            synic.signal(channel_id)

    def _synic(self, vp: int) -> Synic | None:
        """That of a processor which the guest has named."""
        if vp < len(self._synics):
            return self._synics[vp]
        guest_log.warning("hyperv: there is no processor %d to interrupt", vp)
        return None
