"""What Hyper-V and its guests say to each other, declared: leaves, registers, hypercalls, pages.

Names and sections are those of the Hypervisor Top Level Functional Specification (TLFS).
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register32, Register64, Struct

__all__ = [
    "CallCode",
    "Features",
    "Hints",
    "HvStatus",
    "HypercallInput",
    "HypercallPage",
    "Message",
    "MorePrivileges",
    "Msr",
    "OverlayPage",
    "PostMessage",
    "Privileges",
    "ReferenceTsc",
    "SControl",
    "SignalEvent",
    "Sint",
]


class Privileges(Register32):
    """Leaf 0x40000003, EAX: which registers a guest may use (TLFS 2.4.4)."""

    FREQUENCY_MSRS = Bit(11)
    REFERENCE_TSC = Bit(9)
    VP_INDEX = Bit(6)
    HYPERCALL_MSRS = Bit(5)
    SYNIC_MSRS = Bit(2)
    TIME_REF_COUNT = Bit(1)


class MorePrivileges(Register32):
    """Leaf 0x40000003, EBX: which hypercalls."""

    SIGNAL_EVENTS = Bit(5)
    POST_MESSAGES = Bit(4)


class Features(Register32):
    """Leaf 0x40000003, EDX."""

    FREQUENCY_REGISTERS = Bit(8)


class Hints(Register32):
    """Leaf 0x40000004, EAX: what a guest had better do (TLFS 2.4.5)."""

    DEPRECATE_AUTO_EOI = Bit(9)
    RELAXED_TIMING = Bit(5)


class Msr(enum.IntEnum):
    """Synthetic registers (TLFS, appendix on MSRs)."""

    GUEST_OS_ID = 0x40000000
    HYPERCALL = 0x40000001
    VP_INDEX = 0x40000002
    TIME_REF_COUNT = 0x40000020
    REFERENCE_TSC = 0x40000021
    TSC_FREQUENCY = 0x40000022
    APIC_FREQUENCY = 0x40000023
    VP_ASSIST_PAGE = 0x40000073
    SCONTROL = 0x40000080
    SVERSION = 0x40000081
    SIEFP = 0x40000082
    SIMP = 0x40000083
    EOM = 0x40000084
    SINT0 = 0x40000090
    SINT15 = 0x4000009F


class OverlayPage(Register64):
    """A register that names a page: SIMP, SIEFP, REFERENCE_TSC, VP_ASSIST_PAGE."""

    PAGE = Bits(63, 12)
    ENABLE = Bit(0)


class HypercallPage(OverlayPage):
    """HYPERCALL (TLFS 3.13)."""

    PAGE = Bits(63, 12)
    LOCKED = Bit(1)
    ENABLE = Bit(0)


class SControl(Register64):
    """SCONTROL (TLFS 11.8.1)."""

    ENABLE = Bit(0)


class Sint(Register64):
    """SINT0 to SINT15: a source of interrupts (TLFS 11.8.4)."""

    POLLING = Bit(18)
    AUTO_EOI = Bit(17)
    MASKED = Bit(16)
    VECTOR = Bits(7, 0)


class CallCode(enum.IntEnum):
    """Hypercalls."""

    POST_MESSAGE = 0x5C
    SIGNAL_EVENT = 0x5D


class HvStatus(enum.IntEnum):
    """How a hypercall ended."""

    SUCCESS = 0
    INVALID_HYPERCALL_CODE = 2
    INVALID_HYPERCALL_INPUT = 3
    INVALID_ALIGNMENT = 4
    INVALID_PARAMETER = 5
    ACCESS_DENIED = 6
    INVALID_PORT_ID = 17
    INVALID_CONNECTION_ID = 18
    INSUFFICIENT_BUFFERS = 19


class HypercallInput(Register64):
    """The control word, RCX (TLFS 3.7)."""

    RESERVED_2 = Bits(63, 60)
    REP_START = Bits(59, 48)
    RESERVED_1 = Bits(47, 44)
    REP_COUNT = Bits(43, 32)
    RESERVED_0 = Bits(31, 27)
    VARIABLE_HEADER = Bits(26, 17)
    FAST = Bit(16)
    CODE = Bits(15, 0)


class SignalEvent(Register64):
    """The input of HvCallSignalEvent."""

    RESERVED = Bits(63, 48)
    FLAG_NUMBER = Bits(47, 32)
    CONNECTION = Bits(31, 0)


class PostMessage(Struct, size=256):
    """The input of HvCallPostMessage."""

    connection_id: U32
    reserved: U32
    message_type: U32
    payload_size: U32
    payload: Annotated[bytes, "240s"]


class Message(Struct, size=256):
    """A slot of the message page (TLFS 11.9); `message_type` is 0 while it is free."""

    message_type: U32
    payload_size: U8
    flags: U8
    reserved: U16
    sender: U64
    payload: Annotated[bytes, "240s"]

    VMBUS: ClassVar[int] = 1
    """A `message_type`."""
    PENDING: ClassVar[int] = 1
    """Of `flags`: more wait for the slot, and for a write to EOM."""


class ReferenceTsc(Struct, size=24):
    """The reference TSC page: 100 ns units are (TSC * scale >> 64) + offset (TLFS 12.7)."""

    sequence: U32
    reserved: U32
    scale: U64
    offset: U64
