"""Hyper-V under a guest in Python: its registers, hypercalls, messages and events.

KVM is not needed: Linux's own drivers are in test_linux_hyperv.
"""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.kvm import hyperv, hyperv_synic
from drivebay.hosts.kvm.hyperv_registers import (
    Hints,
    HvStatus,
    HypercallInput,
    Message,
    Msr,
    OverlayPage,
    Privileges,
    ReferenceTsc,
    Sint,
)
from drivebay.hosts.kvm.paravirtual import HYPERCALL_PORT, MsrFault
from drivebay.platform import vmbus_bus
from drivebay.platform import vmbus_messages as messages
from drivebay.platform.logs import RationedLog
from drivebay.platform.vmbus_messages import MessageType
from tests.disk.support import fill, noise

from .hyperv_guest import (
    OS_ID,
    PAGE,
    POST,
    RAM_SIZE,
    SIGNAL,
    SINT2,
    TSC_HZ,
    VECTOR,
    Guest,
    Processor,
)

VERSION_RESPONSE = int(MessageType.VERSION_RESPONSE)


@pytest.fixture(autouse=True)
def fresh_rations(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hyperv, vmbus_bus):
        monkeypatch.setattr(module, "guest_log", RationedLog(module.log))


def started(processors: int = 1, sub_channels: int = 0) -> Guest:
    guest = Guest(processors, sub_channels=sub_channels)
    guest.start()
    return guest


def boot(guest: Guest) -> Processor:
    return guest.processors[0]


def contact(target_vp: int = 0) -> bytes:
    return messages.InitiateContact(version=messages.IRON, target_vp=target_vp).pack()


def kinds(guest: Guest) -> list[int]:
    return [messages.Header.unpack(message).type for _, message in guest.came]


# -- CPUID and time ------------------------------------------------------------------------------


def test_leaves_that_linux_looks_at() -> None:
    """python-host.md section 4; linux-source-6.1, arch/x86/kernel/cpu/mshyperv.c."""
    leaves = {leaf.function: leaf for leaf in Guest(3).hyperv.cpuid()}
    first = leaves[0x40000000]
    assert struct.pack("<III", first.ebx, first.ecx, first.edx) == b"Microsoft Hv"
    assert first.eax == max(leaves) == 0x40000005
    assert leaves[0x40000001].eax.to_bytes(4, "little") == b"Hv#1"
    features = leaves[0x40000003]
    asked = Privileges(features.eax)
    assert (asked.HYPERCALL_MSRS, asked.VP_INDEX, asked.SYNIC_MSRS) == (True, True, True)
    assert features.ebx == 0b110000
    assert features.edx == 1 << 8
    assert Hints(leaves[0x40000004].eax).DEPRECATE_AUTO_EOI
    assert leaves[0x40000005].eax == 3


def test_the_reference_time_is_the_same_by_msr_and_by_page() -> None:
    guest = Guest(2)
    guest.tsc.count = 7 * TSC_HZ
    page = guest.arena.take(PAGE, PAGE)
    boot(guest).write(Msr.REFERENCE_TSC, page | 1)
    assert boot(guest).read(Msr.REFERENCE_TSC) == page | 1
    shown = ReferenceTsc.unpack(guest.memory.view(page, PAGE))
    assert shown.sequence
    by_page = (guest.tsc.count * shown.scale >> 64) + shown.offset
    assert by_page == boot(guest).read(Msr.TIME_REF_COUNT)
    assert abs(by_page - 70_000_000) <= 1, "100 ns units"
    guest.tsc.count = 1 << 70
    assert boot(guest).read(Msr.TIME_REF_COUNT) < 1 << 64
    assert boot(guest).read(Msr.TSC_FREQUENCY) == TSC_HZ
    assert boot(guest).read(Msr.APIC_FREQUENCY) == 1_000_000_000


# -- registers -----------------------------------------------------------------------------------


def test_registers_after_power_on() -> None:
    guest = Guest(2)
    for vp, processor in enumerate(guest.processors):
        assert processor.read(Msr.VP_INDEX) == vp
        assert processor.read(Msr.SVERSION) == 1
        for register in (Msr.GUEST_OS_ID, Msr.HYPERCALL, Msr.SCONTROL, Msr.SIMP, Msr.EOM):
            assert processor.read(register) == 0
        assert {processor.read(Msr.SINT0 + n) for n in range(16)} == {0x10000}


def test_each_processor_has_registers_of_its_own() -> None:
    guest = started(3)
    first, second, _ = guest.processors
    second.write(SINT2, 0x55)
    second.write(Msr.VP_ASSIST_PAGE, 0x5001)
    assert first.read(SINT2) == VECTOR
    assert second.read(SINT2) == 0x55
    assert first.read(Msr.VP_ASSIST_PAGE) == 0
    assert second.read(Msr.GUEST_OS_ID) == OS_ID


@pytest.mark.parametrize(
    "index",
    [
        0x40000003,
        0x40000010,
        0x40000070,
        0x40000085,
        0x4000008F,
        0x400000A0,
        0x400000B0,
        0xC0011029,
    ],
)
def test_what_is_no_register_is_a_fault(index: int) -> None:
    processor = boot(started())
    with pytest.raises(MsrFault):
        processor.read(index)
    for value in (0, 1, (1 << 64) - 1):
        with pytest.raises(MsrFault):
            processor.write(index, value)


@pytest.mark.parametrize(
    "index", [Msr.VP_INDEX, Msr.TIME_REF_COUNT, Msr.TSC_FREQUENCY, Msr.APIC_FREQUENCY, Msr.SVERSION]
)
def test_what_can_only_be_read(index: int) -> None:
    with pytest.raises(MsrFault):
        boot(started()).write(index, 0)


def test_a_source_that_interrupts_needs_a_vector_and_its_own_end() -> None:
    """TLFS 11.8.4: vectors below 16 are a #GP. Nobody ends interrupts for a guest here."""
    processor = boot(started())
    for refused in (0, 15, Sint.of(VECTOR=VECTOR, AUTO_EOI=1)):
        with pytest.raises(MsrFault):
            processor.write(SINT2, refused)
    assert processor.read(SINT2) == VECTOR
    processor.write(SINT2, Sint.of(MASKED=1))
    assert processor.read(SINT2) == 0x10000


def test_reserved_bits_keep_what_is_written_and_mean_nothing() -> None:
    guest = started()
    processor = boot(guest)
    for index, value in (
        (Msr.SCONTROL, ~0 & (1 << 64) - 1),
        (Msr.SIMP, processor.message_page | 0xFFF),
        (Msr.SIEFP, processor.event_page | 0xFFF),
        (SINT2, VECTOR | 0xFFFF_FFFF_FFF8_FF00),
    ):
        processor.write(index, value)
        assert processor.read(index) == value
    guest.bus.connect()
    assert not guest.stray


@pytest.mark.parametrize("index", [Msr.SIMP, Msr.SIEFP, Msr.REFERENCE_TSC, Msr.VP_ASSIST_PAGE])
@pytest.mark.parametrize("page", [RAM_SIZE, 1 << 32, 1 << 52, (1 << 64) - PAGE])
def test_a_page_that_is_not_there(index: int, page: int) -> None:
    """hostile.md 4.2: address in a hole, at the 2^32, 2^52 and 2^64 edges."""
    guest = started()
    processor = boot(guest)
    before = processor.read(index)
    with pytest.raises(MsrFault):
        processor.write(index, page | OverlayPage.ENABLE)
    assert processor.read(index) == before
    guest.bus.connect()
    processor.write(index, page)  # it does not matter while it is not enabled
    assert processor.read(index) == page


def test_the_hypercall_page() -> None:
    guest = Guest()
    processor = boot(guest)
    page = guest.arena.take(PAGE, PAGE)
    processor.write(Msr.HYPERCALL, page | 1)
    assert processor.read(Msr.HYPERCALL) == page, "not for a guest without a name"
    assert processor.call(SIGNAL, 0) == HvStatus.ACCESS_DENIED
    processor.write(Msr.GUEST_OS_ID, OS_ID)
    with pytest.raises(MsrFault):
        processor.write(Msr.HYPERCALL, RAM_SIZE | 1)
    processor.write(Msr.HYPERCALL, page | 1)
    code = bytes(guest.memory.view(page, 4))
    assert code == bytes([0xE5, HYPERCALL_PORT, 0xC3, 0]), "in eax, port; ret"
    assert processor.call(SIGNAL, 0) == HvStatus.INVALID_CONNECTION_ID
    processor.write(Msr.GUEST_OS_ID, 0)
    assert processor.call(SIGNAL, 0) == HvStatus.ACCESS_DENIED
    processor.write(Msr.GUEST_OS_ID, OS_ID)
    processor.write(Msr.HYPERCALL, page | 3)
    with pytest.raises(MsrFault):
        processor.write(Msr.HYPERCALL, 0)
    guest.hyperv.reset()
    processor.write(Msr.HYPERCALL, 0)


# -- hypercalls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [0, HypercallInput.FAST])
def test_every_hypercall_that_there_is_not(fast: int) -> None:
    processor = boot(started())
    for code in range(0x10000):
        if code not in (POST, SIGNAL & 0xFFFF):
            assert processor.call(code | fast, 0) == HvStatus.INVALID_HYPERCALL_CODE


@pytest.mark.parametrize("code", [POST, SIGNAL])
@pytest.mark.parametrize("bit", range(17, 64))
def test_reserved_bits_and_counts_of_simple_calls(code: int, bit: int) -> None:
    processor = boot(started())
    assert processor.call(code | 1 << bit, 0) == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.parametrize(
    "address", [1, 4, 0x1F08, 0x1FF8, RAM_SIZE, RAM_SIZE - 128, 1 << 32, (1 << 64) - 8]
)
def test_a_message_that_is_not_where_it_may_be(address: int) -> None:
    """TLFS 3.7: aligned to 8, on one page, in memory."""
    assert boot(started()).call(POST, address) == HvStatus.INVALID_ALIGNMENT


def test_messages_that_are_not_taken() -> None:
    guest = started()
    processor = boot(guest)
    assert processor.post(contact(), connection=2) == HvStatus.INVALID_CONNECTION_ID
    assert processor.post(contact(), connection=0xFFFFFFFF) == HvStatus.INVALID_CONNECTION_ID
    for kind in (0, 2, 0x80000001):
        assert processor.post(contact(), kind=kind) == HvStatus.INVALID_PARAMETER
    processor.post(contact())
    view = guest.memory.view(processor.input, 256)
    for size in (241, 0xFFFFFFFF):
        struct.pack_into("<I", view, 12, size)
        assert processor.call(POST, processor.input) == HvStatus.INVALID_PARAMETER
    assert processor.call(POST | HypercallInput.FAST, 0) == HvStatus.INVALID_HYPERCALL_INPUT
    guest.poll()
    assert kinds(guest) == [VERSION_RESPONSE]


def test_signals() -> None:
    guest = started()
    driver = guest.driver()
    connection = driver.channel.offer.connection_id
    processor = boot(guest)
    assert processor.call(SIGNAL, connection) == HvStatus.SUCCESS
    assert processor.call(SIGNAL, connection | 1 << 32) == HvStatus.INVALID_PORT_ID
    assert processor.call(SIGNAL, connection | 1 << 48) == HvStatus.INVALID_HYPERCALL_INPUT
    assert processor.call(SIGNAL, connection + 1) == HvStatus.INVALID_CONNECTION_ID
    slow = SIGNAL & 0xFFFF
    guest.memory.view(processor.input, 8)[:] = connection.to_bytes(8, "little")
    assert processor.call(slow, processor.input) == HvStatus.SUCCESS
    assert processor.call(slow, processor.input + 4) == HvStatus.INVALID_ALIGNMENT
    assert processor.call(slow, RAM_SIZE) == HvStatus.INVALID_ALIGNMENT
    driver.channel.close()
    assert processor.call(SIGNAL, connection) == HvStatus.INVALID_CONNECTION_ID


# -- messages ------------------------------------------------------------------------------------


def test_one_message_at_a_time() -> None:
    guest = started()
    processor = boot(guest)
    processor.frees_its_slot = False
    for _ in range(2):
        assert processor.post(contact()) == HvStatus.SUCCESS
    guest.poll()
    first = Message.unpack(processor.slot)
    assert (first.message_type, first.payload_size) == (
        Message.VMBUS,
        messages.VersionResponse.size,
    )
    assert first.flags == Message.PENDING
    assert processor.interrupts == 0
    processor.take_message()
    second = Message.unpack(processor.slot)
    assert (second.message_type, second.flags) == (Message.VMBUS, 0)
    assert processor.interrupts == 1
    processor.take_message()
    assert kinds(guest) == [VERSION_RESPONSE] * 2
    assert guest.processors[0].slot[:4] == bytes(4)


def test_a_slot_that_is_freed_without_a_word_is_found_by_the_next_message() -> None:
    guest = started()
    processor = boot(guest)
    for _ in range(2):
        processor.post(contact())
    processor.slot[:4] = bytes(4)
    processor.post(contact())
    assert Message.unpack(processor.slot).flags == Message.PENDING
    guest.poll()
    guest.poll()
    assert kinds(guest) == [VERSION_RESPONSE] * 2, "one was thrown away by the guest"


def test_a_slot_that_is_freed_as_pending_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest frees it, then looks whether more are pending: we set that, then look again."""
    guest = started()
    processor = boot(guest)
    processor.post(contact())

    def free() -> None:
        processor.slot[:4] = bytes(4)

    monkeypatch.setattr(hyperv_synic, "barrier", free)
    processor.post(contact())
    assert not guest.hyperv._synics[0].waiting
    assert Message.unpack(processor.slot).message_type == Message.VMBUS


def test_a_slot_that_is_never_freed_stops_the_guest_and_nobody_else() -> None:
    """hostile.md 4.5: bounded work and memory, whatever the guest does not read."""
    guest = started()
    processor = boot(guest)
    processor.frees_its_slot = False
    posted = 0
    while processor.post(contact()) == HvStatus.SUCCESS:
        posted += 1
    assert processor.post(contact()) == HvStatus.INSUFFICIENT_BUFFERS
    assert len(guest.hyperv._synics[0].waiting) == hyperv.MOST_WAITING
    assert posted == hyperv.MOST_WAITING + 1
    processor.frees_its_slot = True
    processor.interrupts = 1
    for _ in range(posted):
        guest.poll()
    assert len(guest.came) == posted
    guest.bus._came.clear()
    assert guest.driver().luns() == [0]


@pytest.mark.parametrize("missing", [Msr.SCONTROL, Msr.SIMP, SINT2])
def test_messages_wait_for_a_guest_that_does_not_listen(missing: int) -> None:
    guest = started()
    processor = boot(guest)
    before = processor.read(missing)
    processor.write(missing, 0x10000 if missing == SINT2 else 0)
    processor.post(contact())
    guest.poll()
    assert not guest.came
    processor.write(missing, before)
    guest.poll()
    assert kinds(guest) == [VERSION_RESPONSE]


def test_a_source_that_is_polled_does_not_interrupt() -> None:
    guest = started()
    processor = boot(guest)
    processor.write(SINT2, Sint.of(VECTOR=VECTOR, POLLING=1))
    processor.post(contact())
    assert processor.interrupts == 0
    processor.take_message()
    assert kinds(guest) == [VERSION_RESPONSE]


def test_messages_go_to_the_processor_that_made_contact() -> None:
    guest = started(3)
    guest.processors[2].post(contact(target_vp=1), connection=4)
    boot(guest).post(messages.Header(MessageType.REQUEST_OFFERS).pack())
    for _ in range(5):
        guest.poll()
    assert [vp for vp, _ in guest.came] == [1] * 3
    boot(guest).post(messages.Header(MessageType.UNLOAD).pack())
    guest.poll()
    assert guest.came[-1][0] == 1


def test_a_processor_that_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    guest = started(2)
    processor = boot(guest)
    for vp in (2, 255, 256, 0xFFFFFFFF):
        assert processor.post(contact(target_vp=vp)) == HvStatus.SUCCESS
    guest.poll()
    assert not guest.came
    assert not guest.stray
    assert caplog.messages == [
        f"hyperv: there is no processor {vp} to interrupt" for vp in (2, 255, 256, 0xFFFFFFFF)
    ]
    assert guest.driver().luns() == [0]


# -- a controller on it --------------------------------------------------------------------------


def test_a_driver_works_the_controller() -> None:
    disk = RamDisk(1 << 20)
    data = fill(disk)
    guest = Guest(disk=disk)
    guest.start()
    driver = guest.driver()
    assert guest.hyperv.bus.version == messages.IRON
    assert driver.read(8, 128) == data[8 * 512 :][: 128 * 512]
    driver.write(100, noise(65536, 5))
    assert driver.read(100, 128) == noise(65536, 5)
    driver.flush()
    assert not guest.stray
    driver.channel.close()
    guest.bus.unload()


def test_channels_interrupt_the_processor_they_were_opened_on() -> None:
    guest = started(4, sub_channels=3)
    driver = guest.driver(sub_channels=3, slots=4)
    for n, channel in enumerate(driver.channels):
        vp = len(driver.channels) - 1 - n
        modify = messages.ModifyChannel(channel_id=channel.offer.channel_id, target_vp=vp)
        assert guest.bus.ask(modify, messages.ModifyChannelResponse).status == 0
    guest.events.clear()
    cdb = bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0])
    for n, channel in enumerate(driver.channels):
        channel.ring.unmask()
        sent = driver.start(cdb, 1024, slot=n, channel=n)
        guest.poll()
        assert guest.events[-1] == (3 - n, channel.offer.channel_id)
        assert driver.finish([sent], channel=n)[0].status == 0


def test_an_event_is_told_once_until_the_guest_has_seen_it() -> None:
    guest = started()
    driver = guest.driver()
    processor = boot(guest)
    guest.poll()
    synic = guest.hyperv._synics[0]
    for _ in range(3):
        synic.signal(7)
        synic.signal(2047)
    assert processor.interrupts == 2
    assert (processor.flags[0], processor.flags[255]) == (0x80, 0x80)
    guest.poll()
    assert guest.events[-2:] == [(0, 7), (0, 2047)]
    processor.write(Msr.SIEFP, 0)
    synic.signal(7)
    assert processor.interrupts == 0
    assert processor.flags[0] == 0
    processor.write(Msr.SIEFP, processor.event_page | 1)
    assert driver.luns() == [0]


def test_an_interrupt_flag_page_that_is_the_message_page() -> None:
    """hostile.md 4.4: what the guest breaks is its own."""
    guest = started()
    processor = boot(guest)
    guest.driver()
    processor.frees_its_slot = False
    processor.write(Msr.SIEFP, processor.message_page | 1)
    for channel in range(1, 2048):
        guest.hyperv._synics[0].signal(channel)
    processor.post(contact())
    assert processor.slot[8:].tobytes() != bytes(248)
    processor.write(Msr.SIEFP, processor.event_page | 1)
    processor.slot[:] = bytes(256)
    processor.frees_its_slot = True
    processor.write(Msr.EOM, 0)
    guest.poll()
    guest.bus._came.clear()
    assert guest.driver().luns() == [0]


def test_a_reset_forgets_the_guest() -> None:
    guest = started(2)
    driver = guest.driver()
    driver.start(bytes(6))
    guest.hyperv.reset()
    canary = noise(PAGE, 9)
    for processor in guest.processors:
        guest.memory.view(processor.message_page, PAGE)[:] = canary
        guest.memory.view(processor.event_page, PAGE)[:] = canary
        processor.interrupts = 0
    for _ in range(10):
        guest.engine.turn(0)
    for processor in guest.processors:
        assert guest.memory.view(processor.message_page, PAGE) == canary
        assert guest.memory.view(processor.event_page, PAGE) == canary
        assert processor.interrupts == 0
        guest.memory.view(processor.message_page, PAGE)[:] = bytes(PAGE)
        guest.memory.view(processor.event_page, PAGE)[:] = bytes(PAGE)
    assert boot(guest).read(Msr.HYPERCALL) == boot(guest).read(SINT2) & 0xFF == 0
    guest.start()
    assert guest.driver().luns() == [0]


def test_random_registers_and_hypercalls() -> None:
    """hostile.md 4.1: a device that stays usable, without an exception that is not a #GP."""
    guest = started(2)
    source = random.Random(8)
    edges = [0, 1, 2, PAGE | 1, RAM_SIZE | 1, (1 << 64) - 1, VECTOR, 0x200F3, 0x10001, 0x10002]
    for _ in range(20_000):
        processor = source.choice(guest.processors)
        value = source.choice([*edges, source.getrandbits(64), source.randrange(RAM_SIZE) | 1])
        match source.randrange(4):
            case 0:
                with contextlib.suppress(MsrFault):
                    processor.write(0x40000000 + source.randrange(0x110), value)
            case 1:
                with contextlib.suppress(MsrFault):
                    assert 0 <= processor.read(0x40000000 + source.randrange(0x110)) < 1 << 64
            case 2:
                processor.call(source.choice([POST, SIGNAL, SIGNAL & 0xFFFF, value]), value)
            case 3:
                processor.post(source.randbytes(source.randrange(64)), source.randrange(6))
    guest.hyperv.reset()
    again = started(2)
    guest.memory.view(0, RAM_SIZE)[:] = bytes(RAM_SIZE)
    guest.came.clear()
    guest.bus._came.clear()
    guest.start()
    assert guest.driver().luns() == again.driver().luns() == [0]
