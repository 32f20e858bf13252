"""What limits each controller, in words."""

from __future__ import annotations

from typing import Final

from drivebay.lab.compare.jobs import contender as named
from drivebay.lab.compare.results import OURS, Comparison, Row
from drivebay.lab.compare.svg import short

__all__ = ["DESIGN", "MANY", "ONE", "access_cost", "exits", "facts", "summary"]

ONE, MANY = "randread-4k-qd1", "randread-4k-qd32"
DESIGN: Final = {
    "ide-pio": "The CPU moves the data itself, through a port: every few bytes are an access.",
    "ide-dma": "The data goes by DMA. The command still goes through a dozen registers, and a "
    "drive works at one.",
    "int13": "The command is in memory, and one port write does it all. The CPU waits in it.",
    "ahci": "Commands are in memory, in 32 slots. Without NCQ the drive works at one of them.",
    "ahci-ncq": "The same slots, and the drive may work at all of them and tell of many at once.",
    "virtio-blk": "Commands and answers are in rings in memory. A notification says that there is "
    "something.",
    "nvme": "Queues in memory, and a doorbell for each: writes only, for which no CPU must wait.",
    "nvme-dbbuf": "The doorbells are in memory, too. One is rung when the controller no longer "
    "looks.",
}
"""What each has that those before it have not, or lacks."""


def exits(comparison: Comparison) -> str:
    """What accesses are called: in a virtual machine each of them ends in an exit."""
    return "exits" if comparison.where == "guest" else "accesses"


def _counted(comparison: Comparison, row: Row) -> str:
    count = short(row.costs.exits)
    one = "exit" if comparison.where == "guest" else "access"
    return f"{count} {one if count == '1' else exits(comparison)}"


def facts(comparison: Comparison, contender: str, by: str) -> str:
    """What limits a maker's, by its 4 KiB reads; empty where these were not run."""
    one, many = (comparison.find(contender, by, job) for job in (ONE, MANY))
    if one is None or many is None:
        return ""
    said = [f"{_counted(comparison, one)} a read"]
    if many.costs.in_flight > 1:
        said.append(f"{many.costs.in_flight} at once, with {_counted(comparison, many)} each")
    else:
        said.append("one at a time")
    if many.server_us is not None:
        said.append(f"drivebay's thread busy {min(many.server_us / many.us, 1):.0%} of the time")
    return ", ".join(said)


def access_cost(comparison: Comparison, by: str) -> tuple[float, float] | None:
    """What one more register access costs in microseconds, and what an I/O takes without any: the
    line through the controllers of one maker that need the most of them and the fewest.
    """
    rows = [row for row in comparison.of_job(ONE) if row.by == by and row.costs.accesses]
    if comparison.where != "guest" or len(rows) < 2:
        return None
    few, most = (choose(rows, key=lambda row: row.costs.accesses) for choose in (min, max))
    if most.costs.accesses < 4 * few.costs.accesses or most.us <= few.us:
        return None
    each = (most.us - few.us) / (most.costs.accesses - few.costs.accesses)
    return each, max(few.us - each * few.costs.accesses, 0)


def summary(comparison: Comparison) -> list[str]:
    """What all of it comes to: a few sentences."""
    said = []
    ours = [row for row in comparison.of_job(ONE) if row.by == OURS]
    if len(ours) > 1:
        first, last = ours[0], ours[-1]
        said.append(
            f"From {_label(first)} to {_label(last)}, a 4 KiB read of drivebay's goes from "
            f"{_counted(comparison, first)} to {short(last.costs.exits)}, and from "
            f"{short(first.median)} a second to {short(last.median)}."
        )
    for by in dict.fromkeys(row.by for row in comparison.rows):
        cost = access_cost(comparison, by)
        if cost is not None:
            where = "in a process of its own" if by == OURS else "in QEMU itself"
            said.append(f"An access to one of {by}'s, {where}, takes {short(cost[0])} us.")
    many = comparison.of_job(MANY)
    deep = dict.fromkeys(_label(row) for row in many if row.costs.in_flight > 1)
    if deep and any(row.costs.in_flight <= 1 for row in many):
        said.append(f"More than one request at a time: {'; '.join(deep)}.")
    return said


def _label(row: Row) -> str:
    return named(row.contender).label
