"""A few lines of assembler for boot sectors: bytes as the CPU takes them, and labels."""

from __future__ import annotations

BOOT = 0x7C00
SERIAL = 0x3F8


class Code:
    """16-bit code that is loaded at `origin`. Text is hexadecimal; ``{name}`` is a label's 16-bit
    address, ``<name>`` the 8-bit and ``(name)`` the 16-bit distance to it.
    """

    def __init__(self, origin: int = BOOT) -> None:
        self.origin = origin
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._fixes: list[tuple[int, str]] = []

    def __call__(self, text: str) -> Code:
        """Append code."""
        for word in text.split():
            if word[0] in "{<(":
                self._fixes.append((len(self._bytes), word))
                self._bytes += bytes(1 if word[0] == "<" else 2)
            else:
                self._bytes += bytes.fromhex(word)
        return self

    def label(self, name: str) -> Code:
        """Name this place."""
        self._labels[name] = self.origin + len(self._bytes)
        return self

    def data(self, name: str, content: bytes) -> Code:
        """Named bytes."""
        self.label(name)
        self._bytes += content
        return self

    def align(self, boundary: int) -> Code:
        """Go on at a multiple of `boundary`."""
        self._bytes += bytes(-len(self._bytes) % boundary)
        return self

    def assemble(self) -> bytes:
        """The bytes, with the labels' places in them."""
        for at, word in self._fixes:
            value = self._labels[word[1:-1]]
            width = 1 if word[0] == "<" else 2
            if word[0] != "{":
                value -= self.origin + at + width
            signed = word[0] != "{"
            self._bytes[at : at + width] = value.to_bytes(width, "little", signed=signed)
        return bytes(self._bytes)

    def sector(self) -> bytes:
        """A boot sector: 512 bytes that end in 55 AA."""
        code = self.assemble()
        assert len(code) <= 510, len(code)
        return code.ljust(510, b"\0") + b"\x55\xaa"


def begin() -> Code:
    """Segments zero, a stack below the code, the boot drive kept."""
    code = Code()
    code("31C0 8ED8 8EC0 8ED0 BC007C FC FB")  # xor ax,ax; ds = es = ss = ax; sp; cld; sti
    return code("8816 {drive}")  # mov [drive], dl


def say(code: Code, message: str) -> Code:
    """Print what is at label `message`, to its zero."""
    return code(f"BE {{{message}}} E8 (print)")  # mov si, message; call print


def end(code: Code, failed: str = "FAILED") -> Code:
    """Halt for good; the routines, and where the mistakes go."""
    code.label("halt")("FA F4 EB <halt>")  # cli; hlt; jmp halt
    code.label("failed")("BE {failure} E8 (print) EB <halt>")
    code.label("print")("BAF803")  # mov dx, 3F8h
    code.label("next")("AC 84C0 74 <printed> EE EB <next>")  # lodsb; test al,al; jz; out; jmp
    code.label("printed")("C3")
    code.data("drive", b"\0")
    return code.data("failure", failed.encode() + b"\0")


def packet(sectors: int, address: int, lba: int) -> bytes:
    """A disk address packet for INT 13h, AH=42h and 43h (EDD-3 section 2.3.1)."""
    return bytes((16, 0, sectors, 0)) + address.to_bytes(4, "little") + lba.to_bytes(8, "little")
