"""apt's complaints become one line with a hint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from drivebay.guests import debian
from drivebay.guests.errors import GuestError


@pytest.mark.parametrize(
    ("complaint", "hint"),
    [
        ("E: You don't have enough free space in /x.", "DRIVEBAY_CACHE"),
        ("Err:1 http://x Temporary failure resolving 'x'", "is the network up"),
        ("E: Unable to locate package nonsense", "DRIVEBAY_DEBIAN_MIRROR"),
    ],
)
def test_a_complaint_has_a_hint(complaint: str, hint: str) -> None:
    error = debian._apt_error("guest: fetching", [complaint])
    assert error.message == f"guest: fetching failed: {complaint.removeprefix('E: ')}"
    assert hint in error.hint


def test_a_system_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(GuestError, match="no apt-get"):
        debian.tree(debian.UML)


def test_too_little_space_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(GuestError, match=r"0 MB free, the uml packages need \d+"):
        debian.tree(debian.UML)


def test_a_mirror_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("apt-get") or not debian.KEYRING.exists():
        pytest.skip("needs apt and Debian's keys")
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path))
    monkeypatch.setenv("DRIVEBAY_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    with pytest.raises(GuestError, match="package lists failed") as caught:
        debian.tree(debian.UML)
    assert "is the network up" in caught.value.hint
