"""What a monitor can do with a function, step by step."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from drivebay.hosts.vfio_user.messages import (
    UNMAP_ALL,
    Command,
    DmaMap,
    Flags,
    Irq,
    IrqFlags,
    IrqSetFlags,
    MigrationState,
    Region,
    RegionAccess,
    SmallWrite,
    SparseArea,
    SparseMmap,
    WriteMulti,
)
from drivebay.platform.engine import Engine
from drivebay.platform.ports import Hold
from drivebay.testing import HungUp
from drivebay.testing.vfio_user import Monitor, RefusedByServer

from .support import (
    ADDRESS,
    BUG,
    COPY,
    HOLD,
    LENGTH,
    LINE,
    PAGE,
    REVERSE,
    VECTOR,
    Bay,
    eventfd,
    make_bay,
    signalled,
)

RAM = 1 << 32


def turn_around(monitor: Monitor, address: int, length: int) -> None:
    monitor.write(0, ADDRESS, 8, address)
    monitor.write(0, LENGTH, 8, length)
    monitor.write(0, COPY, 8, 1)


def refused(error: int) -> pytest.RaisesExc[RefusedByServer]:
    return pytest.RaisesExc(RefusedByServer, check=lambda refusal: refusal.error == error)


class TestInformation:
    def test_a_device_is_pci_and_can_be_reset(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            info = monitor.device_info()
            assert (info.flags, info.num_regions, info.num_irqs) == (3, 9, 5)

    def test_capabilities_are_agreed_on(self, bay: Bay) -> None:
        with bay.raw() as monitor:
            monitor.negotiate(write_multiple=True, twin_socket={"supported": True})
            assert monitor.capabilities == {
                "max_msg_fds": 16,
                "max_data_xfer_size": 65536,
                "max_dma_maps": 256,
                "write_multiple": True,
            }

    def test_regions_have_the_sizes_of_the_bars(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            sizes = [monitor.region_info(index)[0].size_ for index in range(5)]
            assert sizes == [64, 0, 16, 32, 8192]
            assert [monitor.region_info(index)[0].size_ for index in (6, 7, 8)] == [0, 256, 0]
            assert monitor.region_info(0)[0].flags == 3
            with refused(errno.EINVAL):
                monitor.region_info(9)

    def test_a_shared_region_comes_with_a_descriptor_and_its_areas(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            info, _, fds = monitor.region_info(5, room=32)
            assert (info.flags, info.cap_offset, info.argsz, fds) == (15, 0, 80, ())
            info, capability, (fd,) = monitor.region_info(5, room=info.argsz)
            assert (info.flags, info.cap_offset, info.size_) == (15, 32, 4 * PAGE)
            assert SparseMmap.unpack(capability) == SparseMmap(1, 1, 0, 2, 0)
            assert SparseArea.unpack(capability, 32) == SparseArea(3 * PAGE, PAGE)
            with mmap.mmap(fd, PAGE, offset=3 * PAGE) as mapped:
                mapped[8:12] = b"bell"
            os.close(fd)
            assert bytes(bay.function.shared.memory[3 * PAGE + 8 :][:4]) == b"bell"
            assert monitor.read_bytes(5, 3 * PAGE + 8, 4) == b"bell"

    def test_interrupts_are_what_the_function_has(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            counts = [monitor.irq_info(index).count for index in range(5)]
            assert counts == [1, 2, 4, 1, 1]
            flags = IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
            assert monitor.irq_info(Irq.INTX).flags == flags
            with refused(errno.EINVAL):
                monitor.irq_info(5)

    def test_what_we_do_not_know_is_refused_and_no_more(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            for command in (0, Command.DEVICE_GET_REGION_IO_FDS, 14, 19, 0xFFFF):
                with refused(errno.EOPNOTSUPP):
                    monitor.call(command)
            assert monitor.read(Region.CONFIG, 0, 2) == 0x1AF4


class TestRegions:
    def test_configuration_space_is_read_and_written(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.config(0x10, 4, 0xFFFFFFFF)
            assert monitor.read(Region.CONFIG, 0x10, 4) == 0xFFFFFFC0
            assert len(monitor.read_bytes(Region.CONFIG, 0, 256)) == 256
            assert monitor.read_bytes(Region.CONFIG, 1, 6) == bytes(bay.function.config[1:7])

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_registers_of_all_widths(self, bay: Bay, width: int) -> None:
        value = 0x1122334455667788 & (1 << 8 * width) - 1
        with bay.monitor() as monitor:
            monitor.write(0, ADDRESS, width, value)
            assert monitor.read(0, ADDRESS, width) == value

    def test_ports_are_never_wider_than_four_bytes(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.write(2, 0, 8, 0x1122334455667788)
            assert monitor.read(2, 0, 8) == 0x1122334455667788
            monitor.write_bytes(2, 1, b"12345")
        assert bay.function.ports.accesses == [
            *[(0, 4), (4, 4)] * 2,
            *[(1, 1), (2, 2), (4, 2)],
        ]

    def test_a_bar_without_anybody_reads_ones(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.write(3, 0, 4, 0)
            assert monitor.read(3, 0, 8) == (1 << 64) - 1

    @pytest.mark.parametrize(
        ("region", "offset", "count"),
        [(0, 64, 1), (0, 60, 8), (1, 0, 4), (6, 0, 4), (9, 0, 4), (7, 1 << 63, 4), (0, 0, 65535)],
    )
    def test_places_that_there_are_not(
        self, bay: Bay, region: int, offset: int, count: int
    ) -> None:
        with bay.monitor() as monitor:
            with refused(errno.EINVAL):
                monitor.read_bytes(region, offset, count)
            with refused(errno.EINVAL):
                monitor.write_bytes(region, offset, bytes(count))

    def test_an_access_of_no_bytes_does_nothing(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            assert monitor.read_bytes(0, 0, 0) == b""
            monitor.write_bytes(0, 0, b"")

    def test_posted_writes_are_done_before_what_comes_after(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            for value in range(100):
                monitor.write(0, LENGTH, 4, value, posted=True)
            assert monitor.read(0, LENGTH, 4) == 99

    def test_a_refused_posted_write_is_not_answered(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.write(1, 0, 4, 0, posted=True)
            assert monitor.read(0, 0, 4) == 0

    def test_many_small_writes_in_one_message(self, bay: Bay) -> None:
        writes = [SmallWrite(LENGTH, 0, 4, 7), SmallWrite(4, 2, 2, 0xABCD)]
        with bay.monitor() as monitor:
            payload = WriteMulti(2).pack() + b"".join(write.pack() for write in writes)
            answer = monitor.call(Command.REGION_WRITE_MULTI, payload)
            assert answer.payload == WriteMulti(2).pack()
            assert monitor.read(0, LENGTH, 4) == 7
            assert monitor.read(2, 4, 2) == 0xABCD

    def test_a_write_that_is_held_is_answered_when_it_completes(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            payload = RegionAccess(HOLD, 0, 8).pack() + bytes(8)
            monitor.send(_command(Command.REGION_WRITE, payload))
            bay.settle()
            monitor.send(_command(Command.REGION_READ, RegionAccess(0, 7, 4).pack()))
            bay.settle()
            assert not _has_answer(monitor)
            bay.function.hold.complete()
            assert monitor.receive().command == Command.REGION_WRITE
            assert monitor.receive().command == Command.REGION_READ

    def test_a_client_may_leave_while_its_write_is_held(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            payload = RegionAccess(HOLD, 0, 8).pack() + bytes(8)
            monitor.send(_command(Command.REGION_WRITE, payload))
            bay.settle()
            hold: Hold = bay.function.hold
        bay.until_free()
        with bay.monitor() as monitor:
            hold.complete()
            bay.settle()
            assert bay.server.connected
            assert monitor.read(7, 0, 2) == 0x1AF4

    def test_a_bug_fails_one_command(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            with refused(errno.EIO):
                monitor.write(0, BUG, 4, 0)
            assert monitor.read(7, 0, 2) == 0x1AF4


def _command(command: int, payload: bytes) -> bytes:
    from drivebay.hosts.vfio_user.codec import encode

    return encode(command, payload)


def _has_answer(monitor: Monitor) -> bool:
    try:
        return bool(monitor.socket.recv(1, 0x40 | 2))  # MSG_DONTWAIT, MSG_PEEK
    except BlockingIOError:
        return False


class TestMemory:
    def test_a_device_reaches_shared_memory(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.memory.view(RAM + 0x1000, 4)[:] = b"abcd"
            turn_around(monitor, RAM + 0x1000, 4)
            assert bytes(monitor.memory.view(RAM + 0x1000, 4)) == b"dcba"

    def test_what_is_not_mapped_is_a_fault(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            turn_around(monitor, 0x1000, 4)
            assert monitor.read(0, REVERSE, 4) == 0xBAD

    def test_regions_that_overlap_are_refused(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            for address, size in ((RAM, PAGE), (RAM - PAGE, 2 * PAGE), (RAM + PAGE, 1 << 30)):
                with refused(errno.EEXIST):
                    monitor.dma_map(address, size, shared=False)

    def test_so_many_regions_are_possible(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            for n in range(255):
                monitor.dma_map(n * PAGE, PAGE, shared=False)
            with refused(errno.ENOSPC):
                monitor.dma_map(255 * PAGE, PAGE, shared=False)

    def test_unmapped_memory_is_gone(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.dma_unmap(RAM, monitor.ram.region.length)
            turn_around(monitor, RAM, 4)
            assert monitor.read(0, REVERSE, 4) == 0xBAD
            with refused(errno.ENOENT):
                monitor.dma_unmap(RAM, monitor.ram.region.length)
            monitor.map_ram()
            monitor.dma_map(0, PAGE)
            monitor.dma_unmap(0, 0, UNMAP_ALL)
            assert not bay.memory.regions

    def test_unmapping_waits_for_who_uses_it(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            held = bay.memory.view(RAM, 512)
            turns = 0

            def poll() -> None:
                nonlocal turns, held
                bay.turn()
                turns += 1
                if turns == 20:
                    held.release()

            monitor._poll = poll
            monitor.dma_unmap(RAM, monitor.ram.region.length)
            assert turns >= 20

    def test_writes_to_a_rom_reach_nobody_and_fail_nothing(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            os.pwrite(monitor.ram.fd, b"rom!", 0)
            monitor.dma_map(0, PAGE, write=False)
            turn_around(monitor, 0, 4)
            assert monitor.read(0, REVERSE, 4) == 1
            assert os.pread(monitor.ram.fd, 4, 0) == b"rom!"

    def test_unshared_memory_is_had_by_messages(
        self, bay: Bay, caplog: pytest.LogCaptureFixture
    ) -> None:
        line = eventfd()
        with bay.in_thread(), Monitor(bay.path, shared=False) as monitor:
            monitor.device_info()
            monitor.wire(Irq.INTX, [line])
            monitor.memory.view(RAM + 0x1000, 300_000)[:] = bytes(range(250)) * 1200
            turn_around(monitor, RAM + 0x1000, 300_000)
            monitor.serve_until(lambda: bool(signalled(line)))
            assert monitor.dma_reads == monitor.dma_writes == 5
            expected = (bytes(range(250)) * 1200)[::-1]
            assert monitor.memory.view(RAM + 0x1000, 300_000) == expected
            assert monitor.read(0, REVERSE, 4) == 1
        told = [message for message in caplog.messages if "memory-backend-memfd" in message]
        assert len(told) == 1
        os.close(line)

    @pytest.mark.parametrize("written", [None, 0x400, 0x90000])
    def test_a_file_that_the_guest_does_not_write_to_is_told(
        self, bay: Bay, caplog: pytest.LogCaptureFixture, written: int | None
    ) -> None:
        with bay.monitor() as monitor:
            if written is not None:
                monitor.memory.view(RAM + written, 1)[:] = b"x"
            monitor.config(4, 2, 3)
            assert "share=on" not in caplog.text
            monitor.config(4, 2, 7)
            monitor.config(4, 2, 7)
        assert caplog.text.count("share=on") == (written is None)

    def test_commands_are_answered_while_a_device_waits_for_memory(self, bay: Bay) -> None:
        with bay.in_thread(), Monitor(bay.path, shared=False) as monitor:
            monitor.memory.view(RAM, 4)[:] = b"abcd"
            monitor.answers_dma = False  # as QEMU's lock would have it
            turn_around(monitor, RAM, 4)
            monitor.unmask()
            monitor.write(2, 0, 4, 0x1234)
            monitor.write(2, 4, 4, 0x5678)
            monitor.answers_dma = True
            waiting = [message for message in monitor.dma_waiting if not message.is_reply]
            for message in waiting:
                monitor.do_dma(message)
            assert monitor.read(2, 0, 8) == 0x5678_0000_1234
            monitor.serve_until(lambda: bytes(monitor.memory.view(RAM, 4)) == b"dcba")

    def test_a_client_that_never_gives_its_memory_is_let_go(self, bay: Bay) -> None:
        with bay.in_thread(), Monitor(bay.path, shared=False) as monitor:
            monitor.answers_dma = False
            turn_around(monitor, RAM, 4)
            assert monitor.read(7, 0, 2) == 0x1AF4  # that is answered all the same
            with pytest.raises(HungUp):
                monitor.receive()


class TestInterrupts:
    def test_intx_masks_itself_until_it_is_unmasked(self, bay: Bay) -> None:
        line = eventfd()
        with bay.monitor() as monitor:
            monitor.wire(Irq.INTX, [line])
            monitor.write(0, LINE, 4, 1)
            assert signalled(line) == 1
            monitor.write(0, LINE, 4, 0)
            monitor.write(0, LINE, 4, 1)
            assert signalled(line) == 0
            monitor.unmask()
            assert signalled(line) == 1
            monitor.write(0, LINE, 4, 0)
            monitor.unmask()
            assert signalled(line) == 0
        os.close(line)

    def test_a_line_that_is_up_already_is_told(self, bay: Bay) -> None:
        line = eventfd()
        with bay.monitor() as monitor:
            monitor.write(0, LINE, 4, 1)
            monitor.wire(Irq.INTX, [line])
            assert signalled(line) == 1
            monitor.set_irqs(IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.DATA_NONE, Irq.INTX, 0, 0)
            monitor.write(0, LINE, 4, 0)
            monitor.write(0, LINE, 4, 1)
            assert signalled(line) == 0
        os.close(line)

    def test_an_eventfd_may_unmask(self, bay: Bay) -> None:
        line, unmask = eventfd(), eventfd()
        with bay.monitor() as monitor:
            monitor.wire(Irq.INTX, [line])
            flags = IrqSetFlags.ACTION_UNMASK | IrqSetFlags.DATA_EVENTFD
            monitor.set_irqs(flags, Irq.INTX, 0, 1, fds=[unmask])
            monitor.write(0, LINE, 4, 1)
            for _ in range(3):
                assert signalled(line) == 1
                os.eventfd_write(unmask, 1)
                bay.settle()
        os.close(line)
        os.close(unmask)

    def test_interrupt_disable_keeps_it_from_the_client(self, bay: Bay) -> None:
        line = eventfd()
        with bay.monitor() as monitor:
            monitor.wire(Irq.INTX, [line])
            monitor.config(4, 2, 0x400)
            monitor.write(0, LINE, 4, 1)
            assert signalled(line) == 0
            monitor.config(4, 2, 0)
            assert signalled(line) == 1
        os.close(line)

    def test_vectors_have_eventfds_of_their_own(self, bay: Bay) -> None:
        vectors = [eventfd() for _ in range(4)]
        with bay.monitor() as monitor:
            monitor.wire(Irq.MSIX, vectors[:2])
            monitor.wire(Irq.MSIX, vectors[2:], start=2)
            monitor.write(0, VECTOR, 4, 2)
            assert [signalled(fd) for fd in vectors] == [0, 0, 1, 0]
        for fd in vectors:
            os.close(fd)

    def test_a_vector_that_nobody_hears_waits(self, bay: Bay) -> None:
        vector = eventfd()
        with bay.monitor() as monitor:
            monitor.write(0, VECTOR, 4, 3)
            assert monitor.read(4, bay.function.msix.pending_offset, 8) == 8
            monitor.wire(Irq.MSIX, [vector], start=3)
            assert signalled(vector) == 1
            assert monitor.read(4, bay.function.msix.pending_offset, 8) == 0
            monitor.set_irqs(IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.DATA_EVENTFD, 2, 3, 1)
            monitor.write(0, VECTOR, 4, 3)
            assert signalled(vector) == 0
        os.close(vector)

    def test_a_client_may_trigger_by_itself(self, bay: Bay) -> None:
        vectors = [eventfd() for _ in range(4)]
        with bay.monitor() as monitor:
            monitor.wire(Irq.MSIX, vectors)
            flags = IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.DATA_BOOL
            monitor.set_irqs(flags, Irq.MSIX, 1, 3, data=b"\1\0\1")
            assert [signalled(fd) for fd in vectors] == [0, 1, 0, 1]
        for fd in vectors:
            os.close(fd)

    def test_an_eventfd_that_is_full_does_not_block(self, bay: Bay) -> None:
        full = os.eventfd(0, os.EFD_CLOEXEC)
        os.eventfd_write(full, (1 << 64) - 2)
        with bay.monitor() as monitor:
            monitor.wire(Irq.MSIX, [full])
            monitor.write(0, VECTOR, 4, 0)
            assert monitor.read(7, 0, 2) == 0x1AF4
        os.close(full)


class TestResetAndMigration:
    def test_a_reset_is_the_functions(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.config(4, 2, 7)
            monitor.reset()
            assert monitor.read(7, 4, 2) == 0
            assert bay.function.resets == 1

    def test_the_function_is_reset_when_the_client_has_gone(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.config(4, 2, 7)
        bay.until_free()
        assert bay.function.resets == 1
        assert not bay.memory.regions
        bay.still_works()

    def test_a_function_moves_to_another_server(
        self, bay: Bay, engine: Engine, tmp_path: Path
    ) -> None:
        other = make_bay(engine, tmp_path)
        with bay.monitor() as monitor:
            monitor.write(0, LENGTH, 8, 4711)
            monitor.config(4, 2, 6)
            assert monitor.migration_state == MigrationState.RUNNING
            assert monitor.feature(1 << 16 | 1) == (1).to_bytes(8, "little")
            monitor.go(MigrationState.STOP_COPY)
            state = monitor.take_state(100)
        with other.monitor() as monitor:
            monitor.go(MigrationState.RESUMING)
            monitor.give_state(state, 77)
            monitor.go(MigrationState.RUNNING)
            assert monitor.read(0, LENGTH, 8) == 4711
            assert monitor.read(7, 4, 2) == 6
        other.server.close()
        other.function.shared.close()

    def test_a_state_of_another_device_is_an_error_until_a_reset(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            for state in (b"", b"rubbish", b"\x80", b"\x81\xa6config\xc4\x01\0"):
                monitor.go(MigrationState.RESUMING)
                monitor.give_state(state)
                with refused(errno.EINVAL):
                    monitor.go(MigrationState.RUNNING)
                assert monitor.migration_state == MigrationState.ERROR
                with refused(errno.EINVAL):
                    monitor.go(MigrationState.RUNNING)
                monitor.reset()
                assert monitor.migration_state == MigrationState.RUNNING

    @pytest.mark.parametrize("state", [0, 5, 6, 7, 8, 1 << 31])
    def test_states_that_there_are_not(self, bay: Bay, state: int) -> None:
        with bay.monitor() as monitor, refused(errno.EINVAL):
            monitor.go(state)

    @pytest.mark.parametrize("flags", [0, 1 << 16 | 3, 1 << 17 | 1, 1 << 16 | 6, 3 << 16 | 2])
    def test_features_that_there_are_not(self, bay: Bay, flags: int) -> None:
        with bay.monitor() as monitor, pytest.raises(RefusedByServer):
            monitor.feature(flags)

    def test_features_are_probed(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            monitor.feature(1 << 18 | 3 << 16 | 2)
            with refused(errno.ENOTTY):
                monitor.feature(1 << 18 | 1 << 16 | 6)

    def test_migration_data_out_of_its_time(self, bay: Bay) -> None:
        with bay.monitor() as monitor:
            with refused(errno.EINVAL):
                monitor.take_state()
            with refused(errno.EINVAL):
                monitor.give_state(b"x")


def test_a_message_with_no_reply_is_not_answered(bay: Bay) -> None:
    with bay.monitor() as monitor:
        monitor.tell(Command.DEVICE_RESET)
        region = DmaMap(DmaMap.size, 3, 0, 0, PAGE)
        monitor.tell(Command.DMA_MAP, region.pack())
        assert monitor.read(7, 0, 2) == 0x1AF4
        assert int(Flags.NO_REPLY) == 16
