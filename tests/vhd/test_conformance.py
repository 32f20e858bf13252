"""The public suite over every form of VHD and VHDX image (hostile.md, section 5)."""

from __future__ import annotations

import pytest

from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Disk
from tests.vhd.support import FORMS, Chain

CHECKS = dict(checks())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_image_passes_and_is_whole_afterwards(form: str, check: Check) -> None:
    chains: list[Chain] = []

    def factory() -> Disk:
        chains.append(Chain(FORMS[form]))
        return chains[-1].open()

    check(factory)
    for chain in chains:
        assert not chain.damage()


@pytest.mark.parametrize("form", ["vhd-fixed", "vhd-dynamic", "vhdx-dynamic", "vhdx-differencing"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_read_only_image_passes(form: str, check: Check) -> None:
    check(lambda: Chain(FORMS[form]).open(read_only=True))


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.differencing])
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_differencing_image_alone_passes(form: str, check: Check) -> None:
    def factory() -> Disk:
        chain = Chain(FORMS[form])
        return chain.form.open(chain.store)

    check(factory)
