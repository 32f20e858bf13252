"""A few lines of assembler for RV64I: an instruction is a call, a label a name."""

from __future__ import annotations

from collections.abc import Callable

ZERO, RA, T0, T1, T2, S0, S1, A0, A1, A2, A3 = 0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13
SSTATUS, STVEC = 0x100, 0x105


def _bits(value: int, high: int, low: int) -> int:
    return value >> low & (1 << high - low + 1) - 1


def _i(opcode: int, funct: int, rd: int, rs: int, immediate: int) -> int:
    assert -2048 <= immediate < 4096
    return (immediate & 0xFFF) << 20 | rs << 15 | funct << 12 | rd << 7 | opcode


class Code:
    """Code for address `origin`."""

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._words: list[int | Callable[[int], int]] = []
        self._labels: dict[str, int] = {}

    @property
    def _here(self) -> int:
        return 4 * len(self._words)

    def label(self, name: str) -> None:
        self._labels[name] = self._here

    def assemble(self) -> bytes:
        words = (
            word if isinstance(word, int) else word(4 * number)
            for number, word in enumerate(self._words)
        )
        return b"".join(word.to_bytes(4, "little") for word in words)

    def _emit(self, word: int | Callable[[int], int]) -> None:
        self._words.append(word)

    def li(self, rd: int, value: int) -> None:
        """A number of 32 bits, sign extended."""
        upper = value + 0x800 >> 12
        self._emit((upper & 0xFFFFF) << 12 | rd << 7 | 0x37)  # lui
        self.addi(rd, rd, value - (upper << 12))

    def la(self, rd: int, offset: int) -> None:
        """The address `offset` bytes behind the code's beginning, wherever that is."""
        distance = offset - self._here
        upper = distance + 0x800 >> 12
        self._emit((upper & 0xFFFFF) << 12 | rd << 7 | 0x17)  # auipc
        self.addi(rd, rd, distance - (upper << 12))

    def addi(self, rd: int, rs: int, immediate: int) -> None:
        self._emit(_i(0x13, 0, rd, rs, immediate))

    def andi(self, rd: int, rs: int, immediate: int) -> None:
        self._emit(_i(0x13, 7, rd, rs, immediate))

    def slli(self, rd: int, rs: int, shift: int) -> None:
        self._emit(_i(0x13, 1, rd, rs, shift))

    def srli(self, rd: int, rs: int, shift: int) -> None:
        self._emit(_i(0x13, 5, rd, rs, shift))

    def add(self, rd: int, rs1: int, rs2: int) -> None:
        self._emit(rs2 << 20 | rs1 << 15 | rd << 7 | 0x33)

    def and_(self, rd: int, rs1: int, rs2: int) -> None:
        self._emit(rs2 << 20 | rs1 << 15 | 7 << 12 | rd << 7 | 0x33)

    def load(self, width: int, rd: int, rs: int, offset: int = 0) -> None:
        """Unsigned, but for 8 bytes."""
        self._emit(_i(0x03, {1: 4, 2: 5, 4: 6, 8: 3}[width], rd, rs, offset))

    def store(self, width: int, source: int, base: int, offset: int = 0) -> None:
        funct = {1: 0, 2: 1, 4: 2, 8: 3}[width]
        upper, lower = _bits(offset, 11, 5), _bits(offset, 4, 0)
        self._emit(upper << 25 | source << 20 | base << 15 | funct << 12 | lower << 7 | 0x23)

    def _branch(self, funct: int, rs1: int, rs2: int, label: str) -> None:
        def word(at: int) -> int:
            off = self._labels[label] - at
            return (
                _bits(off, 12, 12) << 31
                | _bits(off, 10, 5) << 25
                | rs2 << 20
                | rs1 << 15
                | funct << 12
                | _bits(off, 4, 1) << 8
                | _bits(off, 11, 11) << 7
                | 0x63
            )

        self._emit(word)

    def beq(self, rs1: int, rs2: int, label: str) -> None:
        self._branch(0, rs1, rs2, label)

    def bne(self, rs1: int, rs2: int, label: str) -> None:
        self._branch(1, rs1, rs2, label)

    def jal(self, rd: int, label: str) -> None:
        def word(at: int) -> int:
            off = self._labels[label] - at
            return (
                _bits(off, 20, 20) << 31
                | _bits(off, 10, 1) << 21
                | _bits(off, 11, 11) << 20
                | _bits(off, 19, 12) << 12
                | rd << 7
                | 0x6F
            )

        self._emit(word)

    def ret(self) -> None:
        self._emit(_i(0x67, 0, ZERO, RA, 0))

    def csrw(self, csr: int, rs: int) -> None:
        self._emit(_i(0x73, 1, ZERO, rs, csr))

    def csrs(self, csr: int, rs: int) -> None:
        self._emit(_i(0x73, 2, ZERO, rs, csr))

    def fence(self) -> None:
        self._emit(0x0FF0000F)

    def wfi(self) -> None:
        self._emit(0x10500073)

    def sret(self) -> None:
        self._emit(0x10200073)
