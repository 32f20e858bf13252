"""What drives say of how they are, set by name."""

from __future__ import annotations

import pytest

from drivebay.ata.smart import MAX_ATTRIBUTES, Smart
from drivebay.cli.health import ATA_PROFILES, NVME_PROFILES, NvmeHealth, SmartHealth
from drivebay.controllers.nvme import Nvme
from drivebay.hosts.control.messages import Refused
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory


@pytest.fixture
def nvme() -> NvmeHealth:
    engine = Engine(workers=0)
    return NvmeHealth(Nvme(GuestMemory(), engine).controller)


def test_nvme_profiles(nvme: NvmeHealth) -> None:
    """Each is whole: what another has left behind is gone."""
    fresh = nvme.values()
    found = {}
    for profile in NVME_PROFILES:
        nvme.set(profile)
        found[profile] = nvme.values()
    assert found["new"] == fresh
    for profile in reversed(NVME_PROFILES):
        nvme.set(profile)
        assert nvme.values() == found[profile]
    assert found["failing"]["available-spare"] < fresh["spare-threshold"]


def test_nvme_values(nvme: NvmeHealth) -> None:
    nvme.set("temperature=0x130,media-errors=7")
    assert (nvme.values()["temperature"], nvme.values()["media-errors"]) == (0x130, 7)
    nvme.set("temperature=85C")
    assert nvme.values()["temperature"] == 358


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "'' says no value", "new, worn, failing"),
        ("fine", "'fine' says no value", "NAME=VALUE"),
        ("warmth=1", "warmth is no part of health", "temperature, available-spare"),
        ("available-spare=101", "available-spare=101", "from 0 to 100"),
        ("available-spare=-1", "available-spare=-1", "from 0 to 100"),
        ("temperature=hot", "temperature=hot", "from 0 to 65535"),
        ("media-errors=1,unreliable=2", "unreliable=2", "from 0 to 1"),
    ],
)
def test_what_nvme_has_not(nvme: NvmeHealth, text: str, message: str, hint: str) -> None:
    """Then nothing is set."""
    before = nvme.values()
    with pytest.raises(Refused, match=message) as caught:
        nvme.set(text)
    assert hint in caught.value.hint
    assert nvme.values() == before


def test_smart_profiles() -> None:
    smart = Smart()
    health = SmartHealth(smart)
    found = {}
    for profile in ATA_PROFILES:
        health.set(profile)
        found[profile] = health.values()
        assert smart.failing == (profile == "failing")
    health.set("new")
    assert health.values() == found["new"]


def test_smart_attributes() -> None:
    smart = Smart()
    health = SmartHealth(smart)
    health.set("5=12,reallocated-sectors.value=60,temperature=31,231.value=7,231.threshold=10")
    health.set("reallocated-sectors.value=80")
    values = health.values()
    assert values["reallocated-sectors.raw"] == 12
    assert (values["reallocated-sectors.value"], values["reallocated-sectors.worst"]) == (80, 60)
    assert values["temperature.raw"] == 31
    assert values["ssd-life-left.value"] == 7
    assert smart.failing


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("reallocated-sectors", "says no value", "new, worn, failing"),
        ("0=1", "0 is no attribute", "from 1 to 255"),
        ("256=1", "256 is no attribute", "from 1 to 255"),
        ("wear=1", "wear is no attribute", "reallocated-sectors"),
        ("5.vaule=1", "no part vaule", "raw, value, worst, threshold"),
        ("5.value=254", "5.value=254", "from 0 to 253"),
        ("9=1,5=281474976710656", "5=281474976710656", "from 0 to"),
        (",".join(f"{n}=1" for n in range(200, 240)), f"more than {MAX_ATTRIBUTES}", ""),
    ],
)
def test_what_no_drive_has(text: str, message: str, hint: str) -> None:
    health = SmartHealth(Smart())
    before = health.values()
    with pytest.raises(Refused, match=message) as caught:
        health.set(text)
    assert hint in caught.value.hint
    assert health.values() == before
