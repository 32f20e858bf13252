"""The tiny kernel: what it shall have, and what is said when it cannot be made.

That it is made and boots is in tests/kvm, at night.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from drivebay.guests import tiny
from drivebay.guests.errors import GuestError

WANTED = "# Words.\nCONFIG_SMP=y\nCONFIG_NR_CPUS=8\n# CONFIG_RETPOLINE is not set\n"


def test_what_a_configuration_lacks() -> None:
    whole = "CONFIG_SMP=y\nCONFIG_NR_CPUS=8\nCONFIG_MORE=y\n# CONFIG_RETPOLINE is not set\n"
    assert tiny.missing(WANTED, whole) == []
    assert tiny.missing(WANTED, "CONFIG_SMP=y\nCONFIG_NR_CPUS=8\n") == []
    assert tiny.missing(WANTED, "CONFIG_SMP=m\nCONFIG_NR_CPUS=8\nCONFIG_RETPOLINE=y\n") == [
        "CONFIG_SMP=y",
        "# CONFIG_RETPOLINE is not set",
    ]


def test_the_configuration_names_each_option_once() -> None:
    lines = [line for line in tiny.CONFIG.read_text().splitlines() if "CONFIG_" in line]
    names = [line.removeprefix("# ").split("=")[0].split(" ")[0] for line in lines]
    assert all(name.startswith("CONFIG_") for name in names)
    assert len(set(names)) == len(names) > 60


def test_a_system_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in ("flex", "xz") else tool)
    monkeypatch.setattr(tiny, "HEADERS", {str(tmp_path / "gelf.h"): "libelf-dev"})
    with pytest.raises(GuestError) as caught:
        tiny.tiny_kernel()
    assert caught.value.hint == "apt-get install flex xz-utils libelf-dev"
    assert list(tmp_path.glob("tiny-*")) == []


def test_a_compiler_that_fails_is_quoted() -> None:
    with pytest.raises(GuestError) as caught:
        tiny._run(["sh", "-c", "seq 50 >&2; echo error: no such thing >&2; exit 2"])
    assert caught.value.message == "tiny kernel: sh failed"
    lines = caught.value.console.splitlines()
    assert (len(lines), lines[-1]) == (tiny.COMPLAINT_LINES, "error: no such thing")
