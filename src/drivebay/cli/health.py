"""What drives say of how they are, by names and numbers: ``available-spare=5``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from drivebay.ata.smart import MAX_ATTRIBUTES, NAMES, Attribute
from drivebay.hosts.control.messages import Refused

if TYPE_CHECKING:
    from drivebay.ata.smart import Smart
    from drivebay.controllers.nvme import Controller

__all__ = ["NvmeHealth", "SmartHealth"]

KELVIN: Final = 273
NVME_MOST: Final = {
    "temperature": 0xFFFF,
    "available-spare": 100,
    "spare-threshold": 100,
    "percentage-used": 255,
    "unreliable": 1,
    "only-readable": 1,
    "power-cycles": (1 << 128) - 1,
    "power-on-hours": (1 << 128) - 1,
    "unsafe-shutdowns": (1 << 128) - 1,
    "media-errors": (1 << 128) - 1,
}
"""The most that there is room for: NVMe Base 2.0 figure 207."""
NVME_PROFILES: Final = {
    "new": "temperature=38C,available-spare=100,percentage-used=0,unreliable=0,only-readable=0,"
    "power-cycles=1,power-on-hours=0,unsafe-shutdowns=0,media-errors=0",
    "worn": "temperature=61C,available-spare=24,percentage-used=93,unreliable=0,power-cycles=1480,"
    "power-on-hours=31200,unsafe-shutdowns=57,media-errors=3",
    "failing": "temperature=74C,available-spare=4,percentage-used=117,unreliable=1,"
    "power-cycles=2210,power-on-hours=43800,unsafe-shutdowns=96,media-errors=412",
}
ATA_MOST: Final = {"raw": (1 << 48) - 1, "value": 253, "worst": 253, "threshold": 253}
ATA_PROFILES: Final = {
    "new": ",".join(
        f"{name}.value=100,{name}.worst=100,{name}=0"
        for name in (
            *("read-error-rate", "reallocated-sectors", "power-on-hours", "power-cycles"),
            *("pending-sectors", "uncorrectable-sectors"),
        )
    ),
    "worn": "read-error-rate.value=74,reallocated-sectors=214,reallocated-sectors.value=62,"
    "power-on-hours=31200,power-on-hours.value=65,power-cycles=1480,pending-sectors=8,"
    "pending-sectors.value=98,uncorrectable-sectors=0",
    "failing": "read-error-rate.value=41,reallocated-sectors=1893,reallocated-sectors.value=6,"
    "power-on-hours=43800,power-on-hours.value=50,power-cycles=2210,pending-sectors=112,"
    "pending-sectors.value=80,uncorrectable-sectors=56,uncorrectable-sectors.value=87",
}


def _words(text: str, profiles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names and values in `text`, or in the profile that it names. Raises `Refused`."""
    for word in profiles.get(text, text).split(","):
        name, equals, value = word.partition("=")
        if not equals:
            known = ", ".join(profiles)
            raise Refused(f"{word[:80]!r} says no value", f"NAME=VALUE,..., or {known}")
        yield name, value


def _number(name: str, text: str, most: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise Refused(f"{name}={text[:80]}", f"a number from 0 to {most}")
    return number


class NvmeHealth:
    """The SMART log of a controller. `temperature` is in kelvin, and may be set as ``85C``."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def values(self) -> dict[str, int]:
        """As they are."""
        logs, counted = self._controller.logs, self._controller.statistics
        own = {name.replace("_", "-"): value for name, value in logs.health.save().items()}
        return {**own, "media-errors": counted.media_errors}

    def set(self, text: str) -> None:
        """Set some, and tell the host of warnings that it wants to hear of. Raises `Refused`."""
        wanted = {}
        for name, value in _words(text, NVME_PROFILES):
            most = NVME_MOST.get(name)
            if most is None:
                raise Refused(f"{name[:80]} is no part of health", ", ".join(NVME_MOST))
            celsius = name == "temperature" and value.endswith("C")
            number = _number(name, value.removesuffix("C") if celsius else value, most)
            wanted[name.replace("-", "_")] = number + KELVIN if celsius else number
        logs, counted = self._controller.logs, self._controller.statistics
        counted.media_errors = wanted.pop("media_errors", counted.media_errors)
        logs.health.restore({**logs.health.save(), **wanted})
        logs.health.changed()


class SmartHealth:
    """The SMART attributes of an ATA drive: ``NAME.PART``, of which the part may be left out for
    the raw value.
    """

    def __init__(self, smart: Smart) -> None:
        self._smart = smart

    def values(self) -> dict[str, int]:
        """As they are."""
        names = {number: name for name, number in NAMES.items()}
        return {
            f"{names.get(each.number, each.number)}.{part}": getattr(each, part)
            for each in self._smart.attributes
            for part in ATA_MOST
        }

    def set(self, text: str) -> None:
        """Set some. An attribute that the drive does not have it has from then on; the worst value
        follows. Raises `Refused`.
        """
        wanted = []
        for word, value in _words(text, ATA_PROFILES):
            name, _, part = word.partition(".")
            most = ATA_MOST.get(part or "raw")
            if most is None:
                raise Refused(f"{word[:80]}: no part {part[:80]}", ", ".join(ATA_MOST))
            number = NAMES.get(name) or (int(name) if name.isdecimal() and len(name) < 4 else 0)
            if not 0 < number < 256:
                known = ", ".join(NAMES)
                raise Refused(f"{name[:80]} is no attribute", f"a number from 1 to 255, or {known}")
            wanted.append((number, part or "raw", _number(word, value, most)))
        new = {number for number, _, _ in wanted} - {each.number for each in self._smart.attributes}
        if len(self._smart.attributes) + len(new) > MAX_ATTRIBUTES:
            raise Refused(f"more than {MAX_ATTRIBUTES} attributes")
        self._smart.attributes += [Attribute(number) for number in sorted(new)]
        for number, part, found in wanted:
            attribute = self._smart.attribute(number)
            setattr(attribute, part, found)
            if part == "value":
                attribute.worst = min(attribute.worst, found)
