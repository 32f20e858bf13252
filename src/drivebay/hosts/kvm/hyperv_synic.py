"""The synthetic interrupt controller of one virtual processor (TLFS 11).

Messages come one at a time through a slot in the guest's memory, and wait here while it is taken.
Event flags are bits there that the guest clears. Both end in an interrupt of the local APIC.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from drivebay.hosts.kvm.hyperv_registers import Message, Msr, OverlayPage, SControl, Sint
from drivebay.hosts.kvm.paravirtual import MsrFault, SignalMsi
from drivebay.platform.memory import GuestMemory, GuestMemoryFault, barrier
from drivebay.platform.vmbus import PAGE

__all__ = ["VMBUS_SINT", "Synic", "page_of"]

VMBUS_SINT: Final = 2
"""The source that VMBus interrupts by, its messages and its events."""
VERSION: Final = 1
RESET_SINT: Final = Sint.of(MASKED=1)
FIRST_VECTOR: Final = 16
MSI_ADDRESS: Final = 0xFEE0_0000
DESTINATION: Final = 12
"""Where in an MSI's address the number of the local APIC is."""

SLOT: Final = VMBUS_SINT * Message.size
FLAGS_AT: Final = SLOT + 5
EVENTS: Final = VMBUS_SINT * 256
"""Where its event flags begin: 2048 bits for each source."""


def page_of(memory: GuestMemory, value: int) -> memoryview | None:
    """The page that a register names; None if it is not enabled. Raises `MsrFault` without RAM."""
    register = OverlayPage(value)
    if not register.ENABLE:
        return None
    try:
        return memory.view(register.PAGE * PAGE, PAGE)
    except GuestMemoryFault:
        raise MsrFault from None


class Synic:
    """That of the processor with local APIC `apic_id`."""

    def __init__(self, memory: GuestMemory, signal_msi: SignalMsi, apic_id: int) -> None:
        self._memory, self._signal_msi = memory, signal_msi
        self._address = MSI_ADDRESS | apic_id << DESTINATION
        self.reset()

    def reset(self) -> None:
        """As after power on."""
        self._scontrol = SControl(0)
        self._siefp = self._simp = 0
        self._sints = [RESET_SINT] * 16
        self._messages: memoryview | None = None
        self._events: memoryview | None = None
        self.waiting: deque[bytes] = deque()
        """Messages that the guest has not made room for yet."""

    # -- registers -------------------------------------------------------------------------------

    def read(self, index: int) -> int:
        """RDMSR. Raises `MsrFault`."""
        match index:
            case Msr.SCONTROL:
                return self._scontrol
            case Msr.SVERSION:
                return VERSION
            case Msr.SIEFP:
                return self._siefp
            case Msr.SIMP:
                return self._simp
            case Msr.EOM:
                return 0
        if Msr.SINT0 <= index <= Msr.SINT15:
            return self._sints[index - Msr.SINT0]
        raise MsrFault

    def write(self, index: int, value: int) -> None:
        """WRMSR; reserved bits keep what is written. Raises `MsrFault`."""
        match index:
            case Msr.SCONTROL:
                self._scontrol = SControl(value)
            case Msr.SIEFP:
                self._events, self._siefp = page_of(self._memory, value), value
            case Msr.SIMP:
                self._messages, self._simp = page_of(self._memory, value), value
            case Msr.EOM:
                pass  # the slot is looked at below
            case _ if Msr.SINT0 <= index <= Msr.SINT15:
                self._write_sint(index - Msr.SINT0, Sint(value))
            case _:
                raise MsrFault
        self._deliver()

    def _write_sint(self, number: int, sint: Sint) -> None:
        """What interrupts needs a vector that an APIC takes, and nobody but the guest to end it."""
        if not sint.MASKED and (sint.VECTOR < FIRST_VECTOR or sint.AUTO_EOI):
            raise MsrFault
        self._sints[number] = sint

    # -- messages and events ---------------------------------------------------------------------

    def post(self, payload: bytes) -> None:
        """Send a message of VMBus."""
        self.waiting.append(payload)
        self._deliver()

    def _deliver(self) -> None:
        """Put the next message into the slot, if that is free. `message_type` goes last."""
        page = self._messages
        if not self.waiting or page is None or not self._listens:
            return
        slot = page[SLOT : SLOT + Message.size]
        kind = slot[:4].cast("I")
        if kind[0]:
            page[FLAGS_AT] |= Message.PENDING
            barrier()  # the guest frees the slot, then looks whether more are pending
            if kind[0]:
                return
        payload = self.waiting.popleft()
        pending = Message.PENDING if self.waiting else 0
        filled = Message(0, len(payload), pending, 0, 0, payload).pack()
        slot[4:] = filled[4:]
        kind[0] = Message.VMBUS
        self._interrupt()

    def signal(self, flag: int) -> None:
        """Set an event flag. While the guest does not listen, there is nobody to tell."""
        page = self._events
        if page is None or not self._listens:
            return
        at, bit = EVENTS + (flag >> 3), 1 << (flag & 7)
        barrier()  # what the signal is about is there before the guest can have cleared the flag
        if not page[at] & bit:
            page[at] |= (
                bit  # a flag that the guest clears meanwhile is set again: it looks once more
            )
            self._interrupt()

    @property
    def _listens(self) -> bool:
        return self._scontrol.ENABLE and not self._sints[VMBUS_SINT].MASKED

    def _interrupt(self) -> None:
        sint = self._sints[VMBUS_SINT]
        if not sint.POLLING:
            self._signal_msi(self._address, sint.VECTOR)
