"""unicorn as the CPU: real drivers, such as SeaBIOS', against a board in this process.

The only module that imports unicorn (GPL-2.0; ``pip install drivebay[unicorn]``). Guest RAM is the
board's own memory, mapped and not copied, so that DMA is seen by both; but unicorn keeps what it
has translated, so whoever changes code that has run calls `flush_code`.

unicorn executes instructions, and the rest is done here: it knows no interrupt line, and once
somebody listens for exceptions it does not know what `INT n` does. It works in slices of a counted
number of instructions: it may be stopped between two of them only, as unicorn 2.1 executes an
instruction again that it was stopped in. So runs are the same each time, as far as disks are.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from unicorn import (
    UC_ARCH_RISCV,
    UC_ARCH_X86,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_MODE_32,
    UC_MODE_RISCV64,
    UC_PROT_ALL,
    Uc,
    UcError,
    riscv_const,
)
from unicorn import x86_const as x86

from drivebay.hosts.cpu import CpuError, End
from drivebay.hosts.emulator.emulator import Emulator
from drivebay.platform.board import Board
from drivebay.platform.memory import GuestMemoryFault
from drivebay.wire import Bit, Bits, Register32, Register64

__all__ = ["CpuError", "End", "RiscvCpu", "X86Cpu", "X86Machine"]

FOUR_GIB: Final = 1 << 32
SLICE: Final = 20_000
"""Instructions that are executed before it is looked whether an interrupt or the end is due."""
SHORT, LENGTHS = 50, 61
HUNT, REST = 500, 1000
"""While an interrupt is kept waiting, so many of so many slices are short ones of all lengths."""
INSTRUCTION_NS, ACCESS_NS = 1, 1000
"""What an instruction and an access to a port take, in the machine's time."""
IDLE_SECONDS: Final = 0.001
MARK: Final = 0x5EED_0DD5_1CE5
STATE_BYTES: Final = 2048  # of unicorn's own, which has more


class _Cpu:
    """What CPUs of all kinds have in common: the board's memory, and a way to go on."""

    def __init__(self, board: Board, architecture: int, mode: int, pc: int, nowhere: int) -> None:
        self.emulator = Emulator(board)
        self._uc: Any = Uc(architecture, mode)  # its calls are not annotated
        self._pc, self._nowhere = pc, nowhere
        self._halted = False
        """The slice ended in an instruction that waits for interrupts."""
        self._stopped = False
        self._failure: BaseException | None = None
        self._buffers: list[object] = []  # what unicorn has pointers to
        self._map_memory(board)
        self._counter = self._find_counter(board.memory.regions[0].address)

    def _map_memory(self, board: Board) -> None:
        """RAM where it is, and one window of registers over each hole below 4 GiB."""
        free = 0
        try:
            for address, view in board.memory.regions:
                self._map_registers(free, address)
                buffer = (ctypes.c_char * len(view)).from_buffer(view)
                self._uc.mem_map_ptr(address, len(view), UC_PROT_ALL, ctypes.addressof(buffer))
                self._buffers.append(buffer)
                free = address + len(view)
            self._map_registers(free, FOUR_GIB)
        except (UcError, TypeError) as error:  # TypeError: it cannot be written
            raise CpuError(f"this memory cannot be mapped: {error}") from error

    def _map_registers(self, start: int, end: int) -> None:
        if start >= end:
            return
        emulator = self.emulator

        def read(_uc: Uc, offset: int, width: int, _data: object) -> int:
            try:
                return emulator.mmio_read(start + offset, width)
            except BaseException as failure:
                return self._fail(failure)

        def write(_uc: Uc, offset: int, width: int, value: int, _data: object) -> None:
            emulator.mmio_write(start + offset, width, value)

        self._uc.mmio_map(start, end - start, read, None, write, None)

    def _find_counter(self, address: int) -> ctypes.c_size_t:
        """Where unicorn counts the instructions of a slice: that it has come to the end is told by
        nothing else. It is the word before the one that holds the slice's length.
        """
        self._uc.emu_start(address, address, 0, MARK)  # ends before the first instruction,
        self.flush_code()  # which has become the end for ever
        state = ctypes.string_at(self._uc._uch, STATE_BYTES)
        at = state.find(MARK.to_bytes(8, "little"))
        if at < 8 or any(state[at - 8 : at]):
            raise CpuError("this version of unicorn is not known: it hides how a slice ended")
        return ctypes.c_size_t.from_address(self._uc._uch.value + at - 8)

    def read_register(self, register: int) -> int:
        """A register by unicorn's number for it."""
        value: int = self._uc.reg_read(register)
        return value

    def write_register(self, register: int, value: int) -> None:
        """Set one."""
        self._uc.reg_write(register, value)

    def flush_code(self) -> None:
        """Forget all translated code: some of it was changed, and not by the CPU itself."""
        self._uc.ctl_flush_tb()

    def where(self) -> str:
        """The program counter, for messages."""
        return f"{self.read_register(self._pc):#x}"

    def _execute(self) -> int:
        """A slice of work: how many instructions it had. Raises `CpuError`, and what a device
        raises.
        """
        self._stopped = False
        most = self._slice()
        try:
            self._uc.emu_start(self.read_register(self._pc), self._nowhere, 0, most)
        except UcError as error:
            raise CpuError(f"the CPU stopped at {self.where()}: {error}") from error
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        # An instruction is counted, and not executed, if there was one more than the slice has.
        executed = min(self._counter.value, most)
        self._halted = not self._stopped and self._counter.value <= most
        return executed

    def _slice(self) -> int:
        """How many instructions the next one has."""
        return SLICE

    def _fail(self, failure: BaseException) -> int:
        """Called in a callback that cannot give its value: unicorn must have one, and no exception
        may pass through it.
        """
        self._failure = failure
        self._stop()
        return 0

    def _stop(self) -> None:
        """Called in a callback: end the slice with this instruction."""
        self._stopped = True
        self._uc.emu_stop()


# -- x86 ------------------------------------------------------------------------------------------

HLT: Final = b"\xf4"
INS: Final = b"\x6d"
REP, ADDRESS_SIZE = 0xF3, 0x67
PREFIXES: Final = b"\xf3\x66\x67"
SEGMENTS: Final = tuple(
    getattr(x86, f"UC_X86_REG_{name}") for name in ("CS", "DS", "ES", "SS", "FS", "GS")
)
REAL_MODE: Final = 0x10  # CR0 with ET only
PAGING: Final = 1 << 31


class X86Machine(Protocol):
    """What an x86 CPU needs of the machine around it, besides the board."""

    exit_status: int | None
    interrupt_requested: bool

    def acknowledge(self) -> int:
        """The CPU takes the interrupt: its vector."""

    def elapse(self, nanoseconds: int) -> None:
        """The CPU has worked so long."""

    def sleep(self) -> bool:
        """The CPU waits for an interrupt; False if none will ever come."""


class Flags(Register32):
    """EFLAGS, as far as interrupts go (Intel SDM volume 1, section 3.4.3)."""

    DF = Bit(10)
    IF = Bit(9)
    TF = Bit(8)


class Gate(Register32):
    """The upper half of a gate (Intel SDM volume 3, section 6.11)."""

    OFFSET = Bits(31, 16)
    P = Bit(15)
    TYPE = Bits(12, 8)


INTERRUPT_GATE, TRAP_GATE = 14, 15


class X86Cpu(_Cpu):
    """An x86 CPU for `machine`, a `Board` that is an `X86Machine`. It starts at the reset vector.

    Interrupts are vectored in real mode and, for handlers of the same privilege, in 32-bit
    protected mode. Raises `CpuError` for memory that unicorn cannot map.
    """

    def __init__(self, machine: Any) -> None:
        board: Board = machine
        # A 32-bit CPU that is put into real mode: unicorn's 16-bit one cannot be stopped in
        # protected mode and go on.
        super().__init__(board, UC_ARCH_X86, UC_MODE_32, x86.UC_X86_REG_EIP, FOUR_GIB)
        self._machine: X86Machine = machine
        self._resetting = False
        self._accesses = 0
        self._kept = 0  # slices for which an interrupt was kept waiting
        add = self._uc.hook_add
        add(UC_HOOK_INSN, self._in, None, 1, 0, x86.UC_X86_INS_IN)
        add(UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)
        add(UC_HOOK_INTR, self._exception)
        board.on_reset(self._reset)
        self._power_on()

    @property
    def flags(self) -> Flags:
        """EFLAGS."""
        return Flags(self.read_register(x86.UC_X86_REG_EFLAGS))

    @property
    def protected(self) -> bool:
        """Whether it is in protected mode."""
        return bool(self.read_register(x86.UC_X86_REG_CR0) & 1)

    def where(self) -> str:
        """CS:EIP and the mode."""
        cs, eip = self.read_register(x86.UC_X86_REG_CS), self.read_register(x86.UC_X86_REG_EIP)
        mode = "protected" if self.protected else "real"
        return f"{cs:04x}:{eip:08x} in {mode} mode"

    def _reset(self) -> None:
        self._resetting = True

    def _power_on(self) -> None:
        """Real mode, at the reset vector."""
        self._resetting = False
        self.flush_code()
        self.write_register(x86.UC_X86_REG_CR0, REAL_MODE)
        for register in SEGMENTS:
            self.write_register(register, 0)
        self.write_register(x86.UC_X86_REG_CS, 0xF000)
        self.write_register(x86.UC_X86_REG_EIP, 0xFFF0)
        self.write_register(x86.UC_X86_REG_EFLAGS, 2)

    # -- callbacks -------------------------------------------------------------------------------

    def _in(self, _uc: Uc, port: int, width: int, _data: object) -> int:
        self._accesses += 1
        try:
            if width > 1 and (items := self._string_items()) > 1:
                return self._in_string(port, width, items)
            return self.emulator.io_read(port, width)
        except BaseException as failure:
            return self._fail(failure)

    def _string_items(self) -> int:
        """How many items are still to come if the IN under way is a REP INSW or REP INSD whose
        memory we can find; else 0.
        """
        code = self._code(0, 4)
        opcode = code.lstrip(PREFIXES)
        if opcode[:1] != INS or REP not in code[: -len(opcode)]:
            return 0
        get = self.read_register
        if self.flags.DF or get(x86.UC_X86_REG_CR0) & PAGING:
            return 0
        items = get(x86.UC_X86_REG_ECX)
        if self.protected or ADDRESS_SIZE in code[: -len(opcode)]:
            return items
        items &= 0xFFFF
        # A string that wraps around its segment is left to unicorn, an EDI with more bits too.
        return items if get(x86.UC_X86_REG_EDI) + 4 * items <= 1 << 16 else 0

    def _in_string(self, port: int, width: int, items: int) -> int:
        """unicorn asks for each item. All but the first, which it gets, go to memory at once, and
        the registers are set as if it now asked for the last.
        """
        get, put = self.read_register, self.write_register
        destination, length = get(x86.UC_X86_REG_EDI), items * width
        address = destination + (0 if self.protected else get(x86.UC_X86_REG_ES) << 4)
        try:
            ram = self.emulator.ram(address, length)
        except GuestMemoryFault:
            return self.emulator.io_read(port, width)
        data = self.emulator.io_read_string(port, width, items)
        ram[width:] = data[width:]
        self._uc.ctl_remove_cache(address, address + length)
        put(x86.UC_X86_REG_EDI, destination + length - width)
        put(x86.UC_X86_REG_ECX, get(x86.UC_X86_REG_ECX) - items + 1)
        return int.from_bytes(data[:width], "little")

    def _out(self, _uc: Uc, port: int, width: int, value: int, _data: object) -> None:
        self._accesses += 1
        self.emulator.io_write(port, width, value)
        machine = self._machine
        if (
            (machine.interrupt_requested and self.flags.IF)
            or self._resetting
            or machine.exit_status is not None
        ):
            self._stop()  # not in an IN: a string one would be executed again

    def _exception(self, _uc: Uc, vector: int, _data: object) -> None:
        """`INT n`, or an exception. EIP is where the handler shall return to."""
        self._enter(vector)

    # -- interrupts ------------------------------------------------------------------------------

    def _enter(self, vector: int) -> None:
        """Begin the handler of `vector`."""
        try:
            if self.protected:
                self._enter_protected(vector)
            else:
                self._enter_real(vector)
        except (GuestMemoryFault, UcError) as error:
            raise CpuError(f"interrupt {vector:#x} at {self.where()}: {error}") from error

    def _enter_real(self, vector: int) -> None:
        ram, get, put = self.emulator.ram, self.read_register, self.write_register
        flags = self.flags
        frame = get(x86.UC_X86_REG_EIP) & 0xFFFF, get(x86.UC_X86_REG_CS), flags & 0xFFFF
        sp = get(x86.UC_X86_REG_SP) - 6 & 0xFFFF
        base = get(x86.UC_X86_REG_SS) << 4
        for number, word in enumerate(frame):  # one by one, as the stack may wrap around
            ram(base + (sp + 2 * number & 0xFFFF), 2)[:] = word.to_bytes(2, "little")
        entry = bytes(ram(4 * vector, 4))
        put(x86.UC_X86_REG_SP, sp)
        put(x86.UC_X86_REG_EFLAGS, flags & ~(Flags.IF | Flags.TF))
        put(x86.UC_X86_REG_CS, int.from_bytes(entry[2:], "little"))
        put(x86.UC_X86_REG_EIP, int.from_bytes(entry[:2], "little"))

    def _enter_protected(self, vector: int) -> None:
        """A 32-bit gate to a handler of the same privilege; exceptions have no error code."""
        get, put = self.read_register, self.write_register
        _, base, limit, _ = self._uc.reg_read(x86.UC_X86_REG_IDTR)
        if 8 * vector + 7 > limit:
            raise CpuError(f"interrupt {vector:#x} at {self.where()}: the guest has no such gate")
        entry = bytes(self._uc.mem_read(base + 8 * vector, 8))
        low, gate = int.from_bytes(entry[:4], "little"), Gate(int.from_bytes(entry[4:], "little"))
        if not gate.P or gate.TYPE not in (INTERRUPT_GATE, TRAP_GATE):
            raise CpuError(f"interrupt {vector:#x} at {self.where()}: a gate of an unknown kind")
        flags = self.flags
        frame = get(x86.UC_X86_REG_EIP), get(x86.UC_X86_REG_CS), int(flags)
        esp = get(x86.UC_X86_REG_ESP) - 12
        self._uc.mem_write(esp, b"".join(word.to_bytes(4, "little") for word in frame))
        put(x86.UC_X86_REG_ESP, esp)
        if gate.TYPE == INTERRUPT_GATE:
            put(x86.UC_X86_REG_EFLAGS, flags & ~(Flags.IF | Flags.TF))
        put(x86.UC_X86_REG_CS, low >> 16)
        put(x86.UC_X86_REG_EIP, gate & Gate.OFFSET | low & 0xFFFF)

    # -- running ---------------------------------------------------------------------------------

    def _slice(self) -> int:
        """Firmware that waits lets interrupts in for two or three instructions of a loop (STI; NOP;
        CLI). Slices of one length may never end there.
        """
        if not self._machine.interrupt_requested or self.flags.IF:
            self._kept = 0
            return SLICE
        self._kept += 1
        return SHORT + self._kept % LENGTHS if self._kept % REST < HUNT else SLICE

    def run(self, timeout: float = 60.0, until: Callable[[], bool] | None = None) -> End:
        """Run until the machine has an exit status, the guest halts for good, `until` holds or
        `timeout` seconds have passed. It goes on there when called again.

        Raises `CpuError` where unicorn can go no further.
        """
        end = time.monotonic() + timeout
        machine = self._machine
        while machine.exit_status is None:
            if until is not None and until():
                return End.STOPPED
            if time.monotonic() >= end:
                return End.TIMEOUT
            if self._resetting:
                self._power_on()
            executed = self._execute()
            machine.elapse(executed * INSTRUCTION_NS + self._accesses * ACCESS_NS)
            self._accesses = 0
            if self._resetting or machine.exit_status is not None:
                continue
            while self._halted and not machine.interrupt_requested:
                if not self.flags.IF or not machine.sleep():
                    return End.HALTED
            if machine.interrupt_requested and self.flags.IF:
                self._pass_halt()
                self._enter(machine.acknowledge())
        return End.EXITED

    def _code(self, offset: int, length: int) -> bytes:
        """Code, counted from EIP; protected mode is taken to be flat."""
        address = self.read_register(x86.UC_X86_REG_EIP) + offset
        if not self.protected:
            address += self.read_register(x86.UC_X86_REG_CS) << 4
        try:
            return bytes(self._uc.mem_read(address & FOUR_GIB - 1, length))
        except UcError:
            return b""

    def _pass_halt(self) -> None:
        """STI delays interrupts by one instruction. Where that is HLT, it is what they wake."""
        if not self._halted and self._code(0, 1) == HLT:
            eip = self.read_register(x86.UC_X86_REG_EIP)
            self.write_register(x86.UC_X86_REG_EIP, eip + 1)


# -- RISC-V ---------------------------------------------------------------------------------------

EXTERNAL_INTERRUPT: Final = 1 << 63 | 9  # scause (privileged architecture 20211203, table 4.2)


class Sstatus(Register64):
    """The supervisor's status (privileged architecture, section 4.1.1)."""

    SPP = Bit(8)
    SPIE = Bit(5)
    SIE = Bit(1)


class RiscvCpu(_Cpu):
    """A 64-bit RISC-V hart for small drivers, in supervisor mode's clothes, starting at `entry`.

    While a line of the board is up and SIE is set it takes a supervisor external interrupt. There
    is no interrupt controller and no timer. Raises `CpuError` for memory that cannot be mapped.
    """

    def __init__(self, board: Board, entry: int) -> None:
        pc = riscv_const.UC_RISCV_REG_PC
        super().__init__(board, UC_ARCH_RISCV, UC_MODE_RISCV64, pc, (1 << 64) - 1)
        self._lines: set[int] = set()
        board.interrupt = self._line_changed
        self.write_register(pc, entry)

    def _line_changed(self, number: int, level: bool) -> None:
        (self._lines.add if level else self._lines.discard)(number)

    def run(self, until: Callable[[], bool], timeout: float = 60.0) -> End:
        """Run until `until` holds or `timeout` seconds have passed.

        Raises `CpuError` where unicorn can go no further.
        """
        end = time.monotonic() + timeout
        while not until():
            if time.monotonic() >= end:
                return End.TIMEOUT
            self._execute()
            self.emulator.poll(IDLE_SECONDS if self._halted and not self._lines else 0)
            status = Sstatus(self.read_register(riscv_const.UC_RISCV_REG_SSTATUS))
            if self._lines and status.SIE:
                self._trap(status)
        return End.STOPPED

    def _trap(self, status: Sstatus) -> None:
        get, put = self.read_register, self.write_register
        put(riscv_const.UC_RISCV_REG_SEPC, get(self._pc))
        put(riscv_const.UC_RISCV_REG_SCAUSE, EXTERNAL_INTERRUPT)
        put(riscv_const.UC_RISCV_REG_SSTATUS, status.replace(SIE=0, SPIE=1, SPP=1))
        put(self._pc, get(riscv_const.UC_RISCV_REG_STVEC) & ~3)
