"""A processor's messages and events against a guest that looks only when it is interrupted."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from drivebay.hosts.kvm.hyperv_registers import Message, Msr, Sint
from drivebay.hosts.kvm.hyperv_synic import Synic
from drivebay.platform.memory import GuestMemory

PAGE = 4096
SINT2 = Msr.SINT0 + 2
ON: dict[int, int] = {Msr.SCONTROL: 1, Msr.SIMP: PAGE | 1, Msr.SIEFP: 2 * PAGE | 1, SINT2: 0x50}
OFF: dict[int, int] = {Msr.SCONTROL: 0, Msr.SIMP: 0, Msr.SIEFP: 0, SINT2: Sint.of(MASKED=1)}


class Delivery(RuleBasedStateMachine):
    """All messages come, each once, in order; a flag that is set is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = GuestMemory.of_size(4 * PAGE)
        self.synic = Synic(self.memory, self.interrupt, 3)
        self.slot = self.memory.view(PAGE + 512, 256)
        self.flags = self.memory.view(2 * PAGE + 512, 256)
        self.on: set[int] = set(ON)
        for register, value in ON.items():
            self.synic.write(register, value)
        self.interrupts = 0
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.raised: set[int] = set()
        self.seen: set[int] = set()

    def interrupt(self, address: int, data: int) -> None:
        assert (address, data) == (0xFEE03000, 0x50)
        self.interrupts += 1

    # -- the host --------------------------------------------------------------------------------

    @rule(size=st.integers(4, 240))
    def post(self, size: int) -> None:
        self.sent.append(len(self.sent).to_bytes(4, "little").ljust(size, b"m"))
        self.synic.post(self.sent[-1])

    @rule(flag=st.integers(1, 2047))
    def signal(self, flag: int) -> None:
        self.synic.signal(flag)
        if {Msr.SCONTROL, Msr.SIEFP, SINT2} <= self.on:
            self.raised.add(flag)

    # -- the guest -------------------------------------------------------------------------------

    @rule(register=st.sampled_from(sorted(ON)))
    def switch_off(self, register: int) -> None:
        self.on.discard(register)
        self.synic.write(register, OFF[register])

    @rule(register=st.sampled_from(sorted(ON)))
    def switch_on(self, register: int) -> None:
        self.on.add(register)
        self.synic.write(register, ON[register])

    @precondition(lambda self: self.interrupts)
    @rule()
    def serve_interrupts(self) -> None:
        """What it frees it has taken; if more are pending it says so."""
        self.interrupts = 0
        for at, byte in enumerate(self.flags):
            self.seen |= {at * 8 + bit for bit in range(8) if byte >> bit & 1}
            self.flags[at] = 0
        message = Message.unpack(self.slot)
        if message.message_type:
            self.received.append(message.payload[: message.payload_size])
            self.slot[:4] = bytes(4)
            if self.slot[5] & Message.PENDING:
                self.synic.write(Msr.EOM, 0)

    def teardown(self) -> None:
        for register in ON:
            self.switch_on(register)
        while self.interrupts:
            self.serve_interrupts()
        assert self.received == self.sent
        assert self.seen == self.raised


Delivery.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestDelivery = Delivery.TestCase
