"""``--ide``: who sits where, and what is refused."""

from __future__ import annotations

import pytest

from drivebay.cli.controllers import drives_on
from drivebay.cli.drives import open_drive
from drivebay.cli.errors import CliError, told
from drivebay.cli.ide import KIND, IdeDrive
from drivebay.cli.main import main

from .support import parse


def drives(*texts: str) -> list[IdeDrive]:
    return drives_on(parse(ide=texts), KIND)


def places(*texts: str) -> dict[str, tuple[int, int]]:
    return {drive.attachment.disk.text: drive.place for drive in drives(*texts)}


def test_drives_fill_the_places_in_order() -> None:
    assert list(places("mem:1M", "mem:2M", "mem:3M", "mem:4M").values()) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_a_drive_without_a_place_makes_room() -> None:
    """Whoever says where he wants to sit sits there, though he comes last."""
    assert places("mem:1M", "mem:2M,s", "mem:3M,1", "mem:4M,p,0") == {
        "mem:1M": (1, 1),
        "mem:2M": (1, 0),
        "mem:3M": (0, 1),
        "mem:4M": (0, 0),
    }


def test_every_option() -> None:
    (drive,) = drives("mem:4M,ro,s,1,dvd,serial=S 1,model=A ,, B,firmware=2.5,on-error=stop,id=cd")
    assert (drive.read_only, drive.dvd, drive.place) == (True, True, (1, 1))
    assert (drive.serial, drive.model, drive.firmware) == ("S 1", "A , B", "2.5")
    assert (drive.on_error, drive.name) == ("stop", "cd")


def test_names_are_qemus() -> None:
    assert [drive.name for drive in drives("mem:1M", "mem:1M,dvd,s")] == ["ide0-hd0", "ide1-cd0"]


def test_short_and_long_form_say_the_same() -> None:
    short = drives("mem:1M,s,model=M")
    long = drives_on(parse(controller=["ide,id=bus"], disk=["mem:1M,on=bus,s,model=M"]), KIND)
    assert [d.place for d in short] == [d.place for d in long]
    assert short[0].model == long[0].model == "M"


MISTAKES = {
    "five drives": (["mem:1M"] * 5, "5 IDE drives", "two drives each"),
    "two in one place": (["mem:1M,p,0", "mem:2M,p,0"], "primary unit 0 taken by", "p,1 or s,0"),
    "three on a channel": (["mem:1M,s"] * 3, "secondary unit 1 taken by", "p,0 or p,1"),
    "three of a unit": (["mem:1M,1"] * 3, "secondary unit 1 taken by", "p,0 or s,0"),
    "two channels": (["mem:1M,p,s"], "p and s", "one place"),
    "two units": (["mem:1M,0,1"], "0 and 1", "one place"),
    "a third unit": (["mem:1M,2"], "expected one of p, s, 0, 1, ro", None),
    "unknown option": (["mem:1M,colour=red"], "expected one of", None),
    "unknown policy": (["mem:1M,on-error=ignore"], "expected stop or report", None),
    "a policy without its value": (["mem:1M,on-error"], "a value for on-error", None),
    "long serial": (["mem:1M,serial=" + 21 * "x"], "too long", "20 characters"),
    "long model": (["mem:1M,model=" + 41 * "x"], "too long", "40 characters"),
    "long firmware": (["mem:1M,firmware=" + 9 * "x"], "too long", "8 characters"),
    "serial beyond ASCII": (["mem:1M,serial=\u00e4"], "not ASCII", "IDENTIFY"),
    "one id twice": (["mem:1M,id=a", "mem:1M,id=a"], "id a", "of its own"),
    "no disk": ([""], "it ends there, expected a disk", None),
}


@pytest.mark.parametrize(("texts", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_a_hint(texts: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(Exception) as caught:
        drives(*texts)
    known = told(caught.value)
    assert known is not None
    assert message in str(known)
    assert "\n" not in str(known)
    assert hint is None or hint in known.hint


def test_two_controllers() -> None:
    with pytest.raises(CliError, match="two ide controllers"):
        drives_on(parse(controller=["ide,id=a"], disk=["mem:1M,on=a"], ide=["mem:1M"]), KIND)


IMAGES = {
    "a DVD of half a block": ("mem:3K,dvd", "3072 bytes are no DVD"),
    "a disk beyond 48 bits": ("memdiff:mem:256P", "more than an ATA drive"),
}


@pytest.mark.parametrize(("text", "message"), IMAGES.values(), ids=IMAGES.keys())
def test_an_image_that_fits_no_drive(text: str, message: str) -> None:
    (drive,) = drives(text)
    with pytest.raises(CliError, match=message):
        open_drive(drive).close()


def test_a_dvd_is_read_only() -> None:
    (drive,) = drives("mem:4M,dvd")
    disk = open_drive(drive)
    assert disk.read_only
    disk.close()


@pytest.mark.parametrize("command", ["serve", "boot"])
def test_nobody_can_stop_the_machine_behind_a_socket(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--ide", "mem:1M,on-error=stop"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert "ide0-hd0: on-error=stop" in error
    assert "qtest" in hint
