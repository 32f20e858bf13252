"""Registers out of sense data, in both formats; bytes by hand from SAT-4 section 12.2.7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.ata.passthrough.sense import Returned, error_of, failed, key_of, registers_of
from drivebay.scsi import sense as senses

DESCRIPTOR = bytes.fromhex(
    "72 01 00 1d 00 00 00 0e"  # recovered error, information available
    "09 0c 01 00 12 34 cc ff bb ee aa dd 40 50"
)
FIXED = bytes.fromhex("70 00 01 00 50 40 34 0a 80 ff ee dd 00 1d 00 00 00 00")


def test_the_descriptor_has_all_bytes() -> None:
    returned = registers_of(DESCRIPTOR)
    assert returned == Returned(0x50, 0, 0x40, 0x1234, (0xCCFF, 0xBBEE, 0xAADD))
    assert key_of(DESCRIPTOR) == (1, 0x00, 0x1D)


def test_it_may_come_after_others() -> None:
    information = bytes.fromhex("00 0a 80 00 00 00 00 00 00 00 12 34")
    both = DESCRIPTOR[:7] + bytes([0x1A]) + information + DESCRIPTOR[8:]
    assert registers_of(both) == registers_of(DESCRIPTOR)


def test_fixed_format_has_the_current_bytes() -> None:
    assert registers_of(FIXED) == Returned(0x50, 0, 0x40, 0x34, (0xFF, 0xEE, 0xDD))


@pytest.mark.parametrize("flag", [0x40, 0x20])
def test_fixed_format_tells_that_it_has_not_all(flag: int) -> None:
    returned = registers_of(FIXED[:8] + bytes([0x80 | flag]) + FIXED[9:])
    assert returned is not None
    assert not returned.whole


def test_a_failure_in_fixed_format() -> None:
    failed = bytes.fromhex("70 00 03 40 51 e0 01 0a 00 56 34 12 11 04 00 00 00 00")
    assert registers_of(failed) == Returned(0x51, 0x40, 0xE0, 1, (0x56, 0x34, 0x12))


def test_registers_where_linux_6_1_has_them() -> None:
    """IDENTIFY DEVICE that went well, a read past the end, and what a timeout would be."""
    identified = bytes.fromhex("70 00 0b 00 00 00 00 0a 00 58 00 01 00 00 00 00 00 00")
    assert registers_of(identified) == Returned(0x58, 0, 0, 1, None, False)
    assert not failed(2, identified, pio_in=True)
    assert failed(2, identified)
    refused = bytes.fromhex("70 00 0b 00 00 00 00 0a 04 41 e0 01 00 00 00 00 80 00")
    assert registers_of(refused) == Returned(0x41, 0x04, 0xE0, 1, None, False)
    assert failed(2, refused, pio_in=True)
    assert error_of(refused) == 0x04
    timeout = bytes.fromhex("70 00 0b 00 00 00 00 0a 00 50 00 01 00 00 00 00 00 00")
    assert failed(2, timeout, pio_in=True)


@pytest.mark.parametrize(
    "sense",
    [
        b"",
        b"\x72",
        DESCRIPTOR[:20],
        FIXED[:17],
        senses.INVALID_FIELD_IN_CDB.fixed(),
        senses.INVALID_FIELD_IN_CDB.descriptor(),
        senses.UNRECOVERED_READ_ERROR._replace(information=0x005000).fixed(),
        senses.UNRECOVERED_READ_ERROR._replace(information=7).descriptor(),
        senses.POWER_ON_OR_RESET.fixed(),
        bytes.fromhex("72 01 00 1d 00 00 00 ff 01 ff"),
    ],
)
def test_sense_of_another_kind_has_no_registers(sense: bytes) -> None:
    assert registers_of(sense) is None


def test_what_a_failure_without_registers_is() -> None:
    assert error_of(b"") == 0x04
    assert error_of(senses.INVALID_FIELD_IN_CDB.fixed()) == 0x04
    assert error_of(senses.UNRECOVERED_READ_ERROR.descriptor()) == 0x40
    assert error_of(senses.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE.fixed()) == 0x14


@given(st.binary(max_size=64))
def test_any_bytes_are_taken(sense: bytes) -> None:
    registers_of(sense)
    registers_of(b"\x72" + sense)
    registers_of(b"\x70" + sense)
    key_of(sense)
    error_of(sense)
