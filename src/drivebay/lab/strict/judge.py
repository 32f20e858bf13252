"""Sins of drivers: what a spec forbids and our controllers, as most real ones, put up with.

A rule has a name, a sentence and the section that it is from. Whoever judges a controller stands in
front of its registers and looks at each access before the controller has it; the controller's own
code knows nothing of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, Final, NamedTuple

from drivebay.platform.logs import RationedLog
from drivebay.platform.mmio import MmioRegion
from drivebay.platform.ports import Hold, PortRegion

__all__ = ["DriverSin", "Judge", "JudgedPorts", "Rule", "Sin", "Sins", "judged"]

log = logging.getLogger(__name__)

MOST: Final = 1000


class Rule(NamedTuple):
    """What a driver shall not do, and where that is written."""

    what: str
    spec: str


class Sin(NamedTuple):
    """A rule that was broken, on `controller`; `how` says by what."""

    controller: str
    name: str
    rule: Rule
    how: str

    def __str__(self) -> str:
        return f"{self.controller}: {self.how}: {self.rule.what} ({self.name}; {self.rule.spec})"


class DriverSin(Exception):
    """A sin, where sins are errors."""

    def __init__(self, sin: Sin) -> None:
        super().__init__(str(sin))
        self.sin = sin


class Sins:
    """Takes down sins, and logs them. With `errors` each raises `DriverSin` where it is done: the
    access does not reach the controller.
    """

    def __init__(self, *, errors: bool = False) -> None:
        self.errors = errors
        self.seen: list[Sin] = []
        """The first thousand."""
        self.counts: Counter[str] = Counter()
        """How often each rule was broken, by its name."""
        self._log = RationedLog(log)

    def commit(self, sin: Sin) -> None:
        """A driver has done it. Raises `DriverSin`."""
        self.counts[sin.name] += 1
        if len(self.seen) < MOST:
            self.seen.append(sin)
        self._log.warning("%s", sin)
        if self.errors:
            raise DriverSin(sin)


class Judge:
    """Judges the accesses to one block of registers. Subclasses have `RULES`, and say in `read` and
    `write` which are broken.
    """

    RULES: ClassVar[Mapping[str, Rule]] = {}

    def __init__(self, sins: Sins, name: str) -> None:
        self._sins, self._name = sins, name

    def sin(self, name: str, how: str) -> None:
        """The rule `name` is broken. Raises `DriverSin` where sins are errors."""
        self._sins.commit(Sin(self._name, name, self.RULES[name], how))

    def read(self, offset: int, width: int) -> None:
        """A register is about to be read."""

    def write(self, offset: int, width: int, value: int) -> None:
        """A register is about to be written."""


class _Mmio:
    def __init__(self, judge: Judge, region: MmioRegion) -> None:
        self._judge, self._region = judge, region
        self.size = region.size

    def mmio_read(self, offset: int, width: int) -> int:
        self._judge.read(offset, width)
        return self._region.mmio_read(offset, width)

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        self._judge.write(offset, width, value)
        self._region.mmio_write(offset, width, value)


class JudgedPorts(PortRegion):
    """`region` with `judge` in front of it."""

    def __init__(self, judge: Judge, region: PortRegion) -> None:
        self._judge, self._region = judge, region
        self.size, self.first = region.size, region.first

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        self._judge.read(offset, width)
        return self._region.port_read(offset, width)

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """OUT."""
        self._judge.write(offset, width, value)
        return self._region.port_write(offset, width, value)


def judged(judge: Judge, region: PortRegion | MmioRegion) -> PortRegion | MmioRegion:
    """`region` with `judge` in front of it: to be put in its place."""
    return JudgedPorts(judge, region) if isinstance(region, PortRegion) else _Mmio(judge, region)
