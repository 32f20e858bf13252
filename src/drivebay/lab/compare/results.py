"""What came out: figures, and what each I/O of them took; as JSON, too."""

from __future__ import annotations

import statistics
from typing import Final

import msgspec

from drivebay.lab.compare.jobs import CONTENDERS, JOBS, WRITES

__all__ = ["OURS", "Comparison", "Costs", "Row"]

OURS: Final = "drivebay"


class Costs(msgspec.Struct):
    """Of each I/O, on the average of a run in which that is counted, and nothing timed."""

    accesses: float
    """Register accesses, each of which a virtual machine is left for."""
    register_bytes: float
    """Bytes that went through registers."""
    kicks: float
    """Notifications by eventfd: the virtual machine is left, and goes on at once."""
    interrupts: float
    commands: float
    """Commands of the controller: a guest may cut an I/O in pieces, or put some together."""
    in_flight: int
    """The most that the controller had at once."""

    @property
    def exits(self) -> float:
        """How often a virtual machine is left for it, but for interrupts."""
        return self.accesses + self.kicks


class Row(msgspec.Struct):
    """One job on one controller; `by` is who made that."""

    contender: str
    by: str
    job: str
    unit: str
    size: int
    """Bytes of an I/O: a slow controller is given smaller ones."""
    samples: list[float]
    costs: Costs
    server_us: float | None = None
    """Microseconds of drivebay's own thread for each I/O, where there is one beside the guest."""
    cache: str = ""
    """The cache mode, of writes."""

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Between the largest and the smallest sample, as a part of the median."""
        return (max(self.samples) - min(self.samples)) / self.median

    @property
    def ours(self) -> bool:
        """Whether it is a controller of drivebay."""
        return self.by == OURS

    @property
    def us(self) -> float:
        """Microseconds from one end of an I/O to the next."""
        return self.size / self.median if self.unit == "MB/s" else 1e6 / self.median


class Comparison(msgspec.Struct):
    """All rows, with what they were taken on."""

    where: str
    """``guest`` or ``in-process``."""
    about: dict[str, str]
    notes: list[str]
    """What was left out, and why."""
    rows: list[Row]

    def to_json(self) -> bytes:
        """As an object, which `from_json` reads."""
        return msgspec.json.format(msgspec.json.encode(self))

    @staticmethod
    def from_json(data: bytes) -> Comparison:
        """What `to_json` gave. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
        return msgspec.json.decode(data, type=Comparison)

    def of_job(self, name: str, cache: str = "") -> list[Row]:
        """Its rows, from the oldest controller to the newest, ours first."""
        order = [each.name for each in CONTENDERS]
        rows = [row for row in self.rows if row.job == name and row.cache == cache]
        return sorted(rows, key=lambda row: (order.index(row.contender), not row.ours))

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """The jobs that were run, by name and cache mode."""
        found = dict.fromkeys((row.job, row.cache) for row in self.rows)
        order = [each.name for each in (*JOBS, *WRITES)]
        return sorted(found, key=lambda each: order.index(each[0]))

    def find(self, contender: str, by: str, job: str, cache: str = "") -> Row | None:
        """One row, if there is such."""
        wanted = (contender, by, job, cache)
        found = (r for r in self.rows if (r.contender, r.by, r.job, r.cache) == wanted)
        return next(found, None)

    @property
    def lanes(self) -> list[tuple[str, str]]:
        """Who took part, by contender and maker, from the oldest controller to the newest."""
        order = [each.name for each in CONTENDERS]
        found = dict.fromkeys((row.contender, row.by) for row in self.rows)
        return sorted(found, key=lambda each: (order.index(each[0]), each[1] != OURS))
