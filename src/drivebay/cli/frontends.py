"""What QEMU's arguments need besides those of each controller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Final

__all__ = ["SHARED_MEMORY", "bootable"]

SHARED_MEMORY = ("-object", "memory-backend-memfd,id=mem,size=1G,share=on")
"""Both protocols want guest memory that can be shared; add ``memory-backend=mem`` to -machine."""
FIRST_BOOT_INDEX: Final = 100
"""Below it is room for the devices that a user names besides."""


def bootable(arguments: Sequence[str]) -> list[str]:
    """The arguments of controllers, which firmware then tries in this order. Left to itself, OVMF
    may prefer its shell.
    """
    numbers, words = count(FIRST_BOOT_INDEX), list(arguments)
    for at, word in enumerate(arguments[:-1]):
        if word == "-device":
            words[at + 1] = _numbered(arguments[at + 1], next(numbers))
    return words


def _numbered(device: str, index: int) -> str:
    if device.startswith("{"):
        return json.dumps({**json.loads(device), "bootindex": index}, separators=(",", ":"))
    return f"{device},bootindex={index}"
