"""A comparison as a run would leave it, with figures that nobody measured."""

from __future__ import annotations

from drivebay.lab.compare import CONTENDERS, JOBS, WRITES, Comparison, Costs, Row

PEER = "QEMU 11.1"


def made_up(where: str = "guest") -> Comparison:
    """All that can be there: every contender, QEMU's beside ours, a cache mode."""
    guest = where == "guest"
    rows = []
    for n, contender in enumerate(CONTENDERS):
        makers = ["drivebay", *([PEER] if guest and contender.peer else [])]
        for by in makers if contender.in_guest or not guest else []:
            for job in (*JOBS, *WRITES):
                accesses = 1000.0 / 4**n
                costs = Costs(
                    accesses, 4 * accesses, 0.0, 1.0, 1.0, min(job.depth, 1 + 31 * (n > 3))
                )
                samples = [100.0 * (n + 1) * job.depth, 110.0 * (n + 1) * job.depth]
                row = Row(contender.name, by, job.name, job.unit, job.size, samples, costs)
                row.server_us = 50.0 if guest and by == "drivebay" else None
                row.cache = "writeback" if job.write else ""
                rows.append(row)
    return Comparison(where, {"machine": "a <fast> one & quiet"}, ["Nothing was left out."], rows)
