"""SeaBIOS' drivers of every controller boot from it on KVM, too. At night: a boot takes seconds."""

from __future__ import annotations

import pytest

from tests.emulator.test_seabios import test_dma_and_interrupts
from tests.emulator.test_seabios_drivers import (
    kind,
    test_a_disk_boots_reads_and_writes,
    test_a_dvd_boots,
    test_all_of_them_in_one_machine,
)

__all__ = [
    "kind",
    "test_a_disk_boots_reads_and_writes",
    "test_a_dvd_boots",
    "test_all_of_them_in_one_machine",
    "test_dma_and_interrupts",
]

pytestmark = pytest.mark.nightly
