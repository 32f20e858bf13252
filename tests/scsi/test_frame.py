"""Sectors of a CD, checked by what their codes are for."""

from __future__ import annotations

import pytest

from drivebay.scsi.dvd.frame import EDC_ECC, FRAME, HEADER, SYNC, USER_DATA, edc, frame
from drivebay.scsi.dvd.medium import LARGEST_CD
from tests.scsi.support import BLOCK, noise


def multiply(a: int, b: int) -> int:
    """In GF(2^8) with x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = a << 1 ^ (0x11D if a & 0x80 else 0), b >> 1
    return product


def is_code_word(word: list[int]) -> bool:
    """ECMA-130 annex A: H x V = 0."""
    plain = weighted = 0
    for byte in word:
        plain ^= byte
        weighted = multiply(weighted, 2) ^ byte
    return plain == weighted == 0


def p_words(sector: bytes) -> list[list[int]]:
    return [[sector[12 + 86 * row + column] for row in range(26)] for column in range(86)]


def q_words(sector: bytes) -> list[list[int]]:
    words = []
    for diagonal in range(26):
        for half in range(2):
            places = [(44 * step + 43 * diagonal) % 1118 for step in range(43)]
            places += [1118 + diagonal, 1144 + diagonal]
            words.append([sector[12 + 2 * place + half] for place in places])
    return words


@pytest.mark.parametrize("lba", [0, 16, 4500 - 150, LARGEST_CD - 1])
def test_a_sector(lba: int) -> None:
    data = noise(BLOCK, lba)
    sector = frame(lba, data)
    assert len(sector) == FRAME == sum(map(len, (SYNC, HEADER, USER_DATA, EDC_ECC)))
    assert sector[:12] == bytes.fromhex("00 ffffffffffffffffffff 00")
    times = {0: "000200", 16: "000216", 4350: "010000", LARGEST_CD - 1: "995974"}
    assert sector[12:16] == bytes.fromhex(times[lba]) + b"\x01"
    assert sector[16:2064] == data
    assert sector[2068:2076] == bytes(8)
    assert edc(sector[:2068]) == 0, "a CRC over data and CRC"
    assert all(map(is_code_word, p_words(sector)))
    assert all(map(is_code_word, q_words(sector)))


def test_a_changed_byte_is_noticed() -> None:
    sector = bytearray(frame(0, noise(BLOCK)))
    sector[100] ^= 1
    assert edc(sector[:2068]) != 0
    assert not all(map(is_code_word, p_words(bytes(sector))))


def test_the_polynomial_is_the_product_that_ecma_130_gives() -> None:
    def times(a: int, b: int) -> int:
        return 0 if not b else (a if b & 1 else 0) ^ times(a << 1, b >> 1)

    product = times(0b11000000000000101, 0b10000000000000111)
    assert product == 1 << 32 | int(f"{0xD8018001:032b}"[::-1], 2)
