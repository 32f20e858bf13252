"""Whose turn it is: round robin, or weighted round robin with an urgent class (Base 2.0 3.4.4)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.wire import Bits, Register32

__all__ = ["ArbitrationFeature", "Priority", "one_round"]

NO_LIMIT = 7


class Priority(enum.IntEnum):
    """QPRIO of a submission queue."""

    URGENT = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


class ArbitrationFeature(Register32):
    """CDW11 of the Arbitration feature (section 5.27.1.1)."""

    HPW_z = Bits(31, 24)  # commands of the high priority class in a round
    MPW_z = Bits(23, 16)
    LPW_z = Bits(15, 8)
    AB = Bits(2, 0)  # 2^n commands of a queue at once; 7: as many as there are


def one_round(
    queues: Iterable[SubmissionQueue], feature: int, weighted: bool, most: int
) -> Iterator[tuple[SubmissionQueue, int]]:
    """Queues in the order of one round, and how many commands may be taken of each, up to `most`.

    The admin queue comes first, as the urgent class does where there is one. A class has its weight
    in each round, which its queues share by turns.
    """
    settings = ArbitrationFeature(feature)
    burst = most if settings.AB == NO_LIMIT else min(1 << settings.AB, most)
    serving = [queue for queue in queues if queue.serves]
    if not weighted:
        yield from ((queue, burst) for queue in serving)
        return
    yield from (
        (queue, most) for queue in serving if not queue.id or queue.priority == Priority.URGENT
    )
    weights = (settings.HPW_z + 1, settings.MPW_z + 1, settings.LPW_z + 1)
    for priority, weight in zip(
        (Priority.HIGH, Priority.MEDIUM, Priority.LOW), weights, strict=True
    ):
        ranked = [queue for queue in serving if queue.id and queue.priority == priority]
        left = weight
        while left > 0 and ranked:
            for queue in ranked:
                before = queue.head
                yield queue, min(burst, left)
                left -= max((queue.head - before) % queue.size, 1)
                if left <= 0:
                    break
            ranked = [queue for queue in ranked if queue.serves]
