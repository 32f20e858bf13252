"""How much memory a machine in this process gets."""

from __future__ import annotations

from typing import Final

from drivebay.cli.errors import CliError
from drivebay.disk.scanner import Scanner, SpecError
from drivebay.disk.spec import parse

__all__ = ["parse_memory"]

MIB: Final = 1 << 20
MOST: Final = 2048 * MIB


def parse_memory(option: str, text: str, most: int = MOST) -> int:
    """The bytes that `text` says, at most `most`.

    Raises `CliError`, which names the `option`, or `SpecError`.
    """
    scanner = Scanner(text, lambda _: parse("mem:1M"))
    size = scanner.size()
    if scanner.next:
        raise SpecError(text, scanner.position, "the end of the size")
    if not MIB <= size <= most or size % MIB:
        raise CliError(f"{option} {text}", f"1M to {most // MIB}M, in steps of 1M")
    return size
