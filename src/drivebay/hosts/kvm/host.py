"""Who works a board's CPUs on KVM, and how they meet its devices.

A CPU is a thread in KVM_RUN. What it comes out for, it does itself: it takes the board's lock,
makes the access and goes back in. The caller of `run` waits for what comes from outside (disks,
timers) and takes the engine's turns, under the same lock. So devices see one at a time, as they
must, and an access is not handed to another thread, which would take longer than the access.

KVM has the interrupt controllers and the timer: a board's own at the same ports are never asked.
"""

from __future__ import annotations

import math
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from drivebay.hosts.cpu import CpuError, End
from drivebay.hosts.kvm.abi import Exit, IoExit, MmioExit, MsrExit
from drivebay.hosts.kvm.exits import Exits, Where
from drivebay.hosts.kvm.interpreter import execute
from drivebay.hosts.kvm.paravirtual import HYPERCALL_PORT, MsrFault, Paravirtual, SignalMsi
from drivebay.hosts.kvm.report import EXIT_DETAIL, report, report_exit
from drivebay.hosts.kvm.vcpu import Vcpu, leaves_of
from drivebay.hosts.kvm.vm import Kvm, Vm
from drivebay.platform.board import Board
from drivebay.platform.ports import Hold

__all__ = ["KvmHost", "KvmMachine"]

LOOK_SECONDS: Final = 0.02
"""How often it is looked whether the guest has halted for good, and whether `until` holds."""
LOOKS: Final = 2
"""So often must all CPUs be found halted, as one may wake another meanwhile."""
SWITCH_SECONDS: Final = 1e-4
"""How long a thread may keep Python's lock from one that comes out of the guest."""
WIDTHS: Final = (1, 2, 4, 8)
ALL_ONES: Final = (1 << 32) - 1
OUT: Final = 1


class KvmMachine(Protocol):
    """What KVM needs of the machine around its CPUs, besides the board."""

    exit_status: int | None
    message: SignalMsi
    """Where its message-signalled interrupts go."""


class KvmHost:
    """`cpus` CPUs for `machine`, a `Board` that is a `KvmMachine`. The first starts at the reset
    vector. Raises `CpuError` without a KVM that can be used and has so many.
    """

    def __init__(self, machine: Any, cpus: int = 1, *, path: str = "/dev/kvm") -> None:
        self.board: Board = machine
        self._machine: KvmMachine = machine
        self.cpus = cpus
        self.exits = Exits()
        self.paravirtual: Paravirtual | None = None
        """What the guest finds besides the board; to be set before the first run."""
        self.start: Callable[[Vcpu], None] | None = None
        """Puts the first CPU where it shall start, after power on and each reset."""
        self._kvm = Kvm(path, cpus)
        self._vm: Vm | None = None
        self._vcpus: list[Vcpu] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        """The board's: whoever works it holds it."""
        self._events = select.poll()
        self._events.register(self.board.engine.fileno(), select.POLLIN)
        self._stopping = self._resetting = False
        self._failure: BaseException | None = None
        self._waiting_until = 0.0
        self._up: set[int] = set()
        """Interrupt lines that are held up."""
        self._held: dict[int, Hold] = {}
        self._go = [threading.Event() for _ in range(cpus)]
        """Set when a CPU that a device holds may look again."""
        self._halted: set[int] = set()
        self._looks = 0
        self._seen = 0
        self._handlers: dict[int, Callable[[Vcpu], Where]] = {
            Exit.IO: self._io,
            Exit.MMIO: self._mmio,
            Exit.X86_RDMSR: self._rdmsr,
            Exit.X86_WRMSR: self._wrmsr,
        }
        self.board.interrupt = self._set_line
        self._machine.message = self.signal_msi
        self.board.on_reset(self._reset)

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The CPUs; none before the first run."""
        return tuple(self._vcpus)

    def signal_msi(self, address: int, data: int) -> None:
        """A message-signalled interrupt."""
        if self._vm is not None:
            self._vm.signal_msi(address, data)

    def close(self) -> None:
        """The end of it: nothing is left."""
        self._power_off()
        self._kvm.close()

    # -- power -----------------------------------------------------------------------------------

    def _power_on(self) -> None:
        """A machine as from the factory, on the same memory: KVM has no other reset."""
        self._power_off()
        try:
            self._make()
        except BaseException as error:
            self._power_off()
            if isinstance(error, OSError):
                raise CpuError(f"KVM does not make this machine: {error.strerror}") from error
            raise

    def _make(self) -> None:
        own = None if self.paravirtual is None else self.paravirtual.cpuid()
        regions = self.board.memory.regions
        self._vm = Vm(self._kvm, regions, user_msrs=self.paravirtual is not None)
        leaves = leaves_of(self._kvm.supported_cpuid(), self.cpus, own)
        for number in range(self.cpus):
            self._vcpus.append(Vcpu(self._kvm, self._vm, number, leaves))
        for line in self._up:
            self._vm.set_line(line, True)
        if self.start is not None:
            self.start(self._vcpus[0])

    def _power_off(self) -> None:
        while self._vcpus:
            self._vcpus.pop().close()
        if self._vm is not None:
            self._vm.close()
            self._vm = None
        self._held.clear()
        self._resetting = False

    def _reset(self) -> None:
        """The board's, in the middle of an access: it is done when the CPUs are out."""
        self._resetting = True
        if self.paravirtual is not None:
            self.paravirtual.reset()

    def _set_line(self, number: int, level: bool) -> None:
        (self._up.add if level else self._up.discard)(number)
        if self._vm is not None:
            self._vm.set_line(number, level)

    # -- running ---------------------------------------------------------------------------------

    def run(self, timeout: float = 60.0, until: Callable[[], bool] | None = None) -> End:
        """Run until the machine has an exit status, the guest halts for good, `until` holds or
        `timeout` seconds have passed. It goes on there when called again.

        Raises `CpuError` where KVM can go no further, and what a device raises.
        """
        end = time.monotonic() + timeout
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            while True:
                if self._vm is None or self._resetting:
                    self._power_on()
                self._enter()
                over = self._work(end, until)
                self._leave()
                if over is not None:
                    return over
        finally:
            self._leave()
            sys.setswitchinterval(interval)

    def _enter(self) -> None:
        """The CPUs run."""
        self._stopping = False
        self._looks = 0
        for vcpu in self._vcpus:
            name = f"drivebay-vcpu-{vcpu.number}"
            thread = threading.Thread(target=self._run_vcpu, args=(vcpu,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _leave(self) -> None:
        """They do not."""
        self._stopping = True
        for vcpu in self._vcpus:
            self._go[vcpu.number].set()
            vcpu.kick()
        while self._threads:
            self._threads.pop().join()

    def _work(self, end: float, until: Callable[[], bool] | None) -> End | None:
        """The engine's turns, while the CPUs run; why that is over, None if to begin anew."""
        engine = self.board.engine
        look = 0.0
        while True:
            with self._lock:
                engine.turn(0)
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if self._machine.exit_status is not None:
                    return End.EXITED
                if self._resetting:
                    return None
                if until is not None and until():
                    return End.STOPPED
                now = engine.now
                if now >= end:
                    return End.TIMEOUT
                if now >= look:
                    look = now + LOOK_SECONDS
                    if self._look():
                        return End.HALTED
                self._waiting_until = min(end, look, engine.due)
            wait = max(self._waiting_until - now, 0)
            self._events.poll(math.ceil(1000 * wait))

    def _look(self) -> bool:
        """Whether the CPUs have been found halted for good; they are asked again."""
        quiet, self._seen = self._seen == self.exits.total, self.exits.total
        self._looks = self._looks + 1 if quiet and len(self._halted) == self.cpus else 0
        self._halted.clear()
        if self._looks == LOOKS:
            return True
        for vcpu in self._vcpus:
            vcpu.kick()
        return False

    def _wake(self) -> None:
        """The caller of `run` must look now."""
        self.board.engine.later(_nothing)

    # -- CPUs' threads ---------------------------------------------------------------------------

    def _run_vcpu(self, vcpu: Vcpu) -> None:
        vcpu.enter()
        try:
            while not self._stopping:
                if not self._held or not self._is_held(vcpu):
                    self._run_once(vcpu)
        except BaseException as failure:
            with self._lock:
                self._failure = self._failure or failure
                self._stopping = True
                self._wake()
        finally:
            vcpu.leave()

    def _run_once(self, vcpu: Vcpu) -> None:
        try:
            reason = vcpu.run()
        except OSError as error:
            raise CpuError(report(vcpu, self.board.memory, f"KVM: {error.strerror}")) from error
        if reason is None:
            self._kicked(vcpu)
            return
        began = time.perf_counter_ns()
        handler = self._handlers.get(reason)
        if handler is None:
            if reason == Exit.INTERNAL_ERROR and execute(vcpu, self.board.memory):
                return
            raise CpuError(report_exit(vcpu, self.board.memory, reason))
        with self._lock:
            where = handler(vcpu)
            self._attend()
            self.exits.add(where, time.perf_counter_ns() - began)

    def _kicked(self, vcpu: Vcpu) -> None:
        if vcpu.interruptible or self._vm is None:
            return
        if vcpu.halted_for_good():
            self._halted.add(vcpu.number)
        elif self._vm.interrupt_waits():
            vcpu.let_interrupts_in()

    def _is_held(self, vcpu: Vcpu) -> bool:
        """Whether a device keeps the CPU in its OUT: it has been waited for a while."""
        hold = self._held.get(vcpu.number)
        if hold is None:
            return False
        if not hold.done:
            self._go[vcpu.number].wait()
            self._go[vcpu.number].clear()
            return True
        del self._held[vcpu.number]
        return False

    def _attend(self) -> None:
        """What an access has left to be done."""
        engine = self.board.engine
        due = engine.due
        if due < math.inf:
            if due <= engine.now:
                engine.turn(0)
            elif due < self._waiting_until:
                self._wake()
        if self._resetting or self._machine.exit_status is not None:
            self._stopping = True
            self._wake()

    # -- exits -----------------------------------------------------------------------------------

    def _io(self, vcpu: Vcpu) -> Where:
        direction, size, port, count, offset = IoExit.unpack_from(vcpu.page, EXIT_DETAIL)
        ports = self.board.ports
        if count > 1:
            data = vcpu.page[offset : offset + size * count]
            if direction == OUT:
                ports.write_string(port, size, data)
            else:
                ports.read_string(port, size, data)
            return ("out" if direction == OUT else "in", port)
        items, at = vcpu.items[size], offset // size
        if direction == OUT:
            hold = ports.write(port, size, items[at])
            if hold is not None and not hold.done:
                self._hold(vcpu, hold)
            return ("out", port)
        if port == HYPERCALL_PORT and self.paravirtual is not None and size == 4:
            regs = vcpu.get_regs()
            status = self.paravirtual.hypercall(vcpu.number, regs.rcx, regs.rdx, regs.r8)
            items[at] = status & ALL_ONES
            return ("hypercall", regs.rcx & 0xFFFF)
        items[at] = ports.read(port, size)
        return ("in", port)

    def _hold(self, vcpu: Vcpu, hold: Hold) -> None:
        self._held[vcpu.number] = hold
        self._go[vcpu.number].clear()
        hold.then(self._go[vcpu.number].set)

    def _mmio(self, vcpu: Vcpu) -> Where:
        address, data, width, writes, _ = MmioExit.unpack_from(vcpu.page, EXIT_DETAIL)
        mmio = self.board.mmio
        place = address & ~0xFFF
        # An access over the end of RAM comes in odd pieces: bytes, to a device.
        pieces = [(0, width)] if width in WIDTHS else [(at, 1) for at in range(width)]
        if writes:
            for at, size in pieces:
                mmio.write(address + at, size, data >> 8 * at & (1 << 8 * size) - 1)
            return ("write", place)
        value = sum(mmio.read(address + at, size) << 8 * at for at, size in pieces)
        vcpu.page[EXIT_DETAIL + 8 : EXIT_DETAIL + 16] = value.to_bytes(8, "little")
        return ("read", place)

    def _rdmsr(self, vcpu: Vcpu) -> Where:
        index = MsrExit.unpack(vcpu.page, EXIT_DETAIL).index
        try:
            if self.paravirtual is None:
                raise MsrFault
            value = self.paravirtual.read_msr(vcpu.number, index)
        except MsrFault:
            vcpu.page[EXIT_DETAIL] = 1
        else:
            vcpu.page[EXIT_DETAIL] = 0
            vcpu.page[EXIT_DETAIL + 16 : EXIT_DETAIL + 24] = value.to_bytes(8, "little")
        return ("rdmsr", index)

    def _wrmsr(self, vcpu: Vcpu) -> Where:
        msr = MsrExit.unpack(vcpu.page, EXIT_DETAIL)
        try:
            if self.paravirtual is None:
                raise MsrFault
            self.paravirtual.write_msr(vcpu.number, msr.index, msr.data)
        except MsrFault:
            vcpu.page[EXIT_DETAIL] = 1
        else:
            vcpu.page[EXIT_DETAIL] = 0
        return ("wrmsr", msr.index)


def _nothing() -> None:
    pass
