"""Whose turn it is: round robin, or weighted round robin with an urgent class (Base 2.0 3.4.4)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.wire import Bits, Register32

__all__ = ["ArbitrationFeature", "Priority", "Turns", "one_round"]

NO_LIMIT: Final = 7


class Priority(enum.IntEnum):
    """QPRIO of a submission queue."""

    URGENT = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


CLASSES: Final = (Priority.HIGH, Priority.MEDIUM, Priority.LOW)


class ArbitrationFeature(Register32):
    """CDW11 of the Arbitration feature (section 5.27.1.1)."""

    HPW_z = Bits(31, 24)  # commands of the high priority class in a round
    MPW_z = Bits(23, 16)
    LPW_z = Bits(15, 8)
    AB = Bits(2, 0)  # 2^n commands of a queue at once; 7: as many as there are


class Turns(NamedTuple):
    """How many commands are taken in a turn, and in a round of each class."""

    burst: int
    weights: tuple[int, int, int] | None
    """Of the high, medium and low classes; None for a plain round robin."""

    @classmethod
    def of(cls, feature: int, *, weighted: bool) -> Turns:
        """What the Arbitration feature says."""
        settings = ArbitrationFeature(feature)
        burst = 1 << 16 if settings.AB == NO_LIMIT else 1 << settings.AB
        weights = (settings.HPW_z + 1, settings.MPW_z + 1, settings.LPW_z + 1)
        return cls(burst, weights if weighted else None)


def one_round(
    queues: Sequence[SubmissionQueue], turns: Turns, most: int
) -> Iterator[tuple[SubmissionQueue, int]]:
    """Queues in the order of one round, and how many commands may be taken of each, up to `most`.

    The admin queue comes first, as the urgent class does where there is one. A class has its weight
    in each round, which its queues share by turns.
    """
    burst, weights = turns
    if weights is None:
        for queue in queues:
            if queue.serves:
                yield queue, burst
        return
    serving = [queue for queue in queues if queue.serves]
    yield from (
        (queue, most) for queue in serving if not queue.id or queue.priority == Priority.URGENT
    )
    for priority, weight in zip(CLASSES, weights, strict=True):
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
