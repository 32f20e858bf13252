"""Rules at work: which of them meet a command. What they do to it is an adapter's business.

All chance is by dice of the rules, thrown in the order of commands: the same seeds and the same
commands give the same faults.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from drivebay.lab.rules import Delay, Rule, Subject
from drivebay.platform.logs import RationedLog
from drivebay.suspend import Promise

if TYPE_CHECKING:
    from drivebay.disk.filters.latency import Latency

__all__ = ["Faults", "Firing", "Live"]

log = logging.getLogger(__name__)

REMEMBERED: Final = 10_000


@dataclass(frozen=True)
class Firing:
    """A rule that met a command, `seconds` after it was made."""

    number: int
    seconds: float
    rule: Rule
    subject: Subject

    def __str__(self) -> str:
        return f"fault {self.number}: {self.subject}: {self.rule}"


@dataclass(eq=False)
class Live:
    """A rule, and how far it is."""

    rule: Rule
    since: float
    dice: random.Random
    seen: int = 0
    fired: int = 0
    held: list[Promise[None]] = field(default_factory=list)
    latencies: dict[Any, Latency] = field(default_factory=dict)
    """By disk."""
    gone: bool = False
    """It holds nothing any more."""

    def meets(self, subject: Subject, now: float) -> bool:
        """Whether it is this command's turn."""
        match = self.rule.match
        if not match.suits(subject) or now - self.since < match.after:
            return False
        if match.times and self.fired >= match.times:
            return False
        self.seen += 1
        if match.nth and self.seen != match.nth:
            return False
        if match.every and self.seen % match.every:
            return False
        if match.probability < 1 and self.dice.random() >= match.probability:
            return False
        self.fired += 1
        return True

    def seconds(self, disk: Any, sector: int, count: int) -> float:
        """How long a `Delay` says that an operation on `disk` takes; None where there is none."""
        assert isinstance(self.rule.action, Delay)
        if disk not in self.latencies:
            self.latencies[disk] = self.rule.action.profile(disk)
        return self.latencies[disk](sector, count)

    async def released(self) -> None:
        """Wait for `Faults.release`."""
        if self.gone:
            return
        promise = Promise[None]()
        self.held.append(promise)
        await promise


class Faults:
    """`rules` at work, in their order; `now` is a clock in seconds. `check` raises `ValueError` for
    one that cannot be.
    """

    def __init__(
        self,
        now: Callable[[], float],
        rules: Iterable[Rule] = (),
        check: Callable[[Rule], None] = lambda rule: None,
    ) -> None:
        self._now, self._check = now, check
        self._log = RationedLog(log)
        self._live: list[Live] = []
        self.firings: deque[Firing] = deque(maxlen=REMEMBERED)
        """The last of them. They are logged, too, not more of them at a time than can be read."""
        self._count = 0
        for rule in rules:
            self.add(rule)

    @property
    def rules(self) -> list[Rule]:
        """Those at work."""
        return [live.rule for live in self._live]

    def fired(self) -> dict[str, int]:
        """Those at work, and how often each has fired."""
        return {str(live.rule): live.fired for live in self._live}

    def add(self, rule: Rule) -> None:
        """Have a rule work from now on, behind the others. Raises `ValueError` if it cannot."""
        self._check(rule)
        self._live.append(Live(rule, self._now(), random.Random(rule.match.seed)))

    def remove(self, rule: Rule) -> None:
        """It works no more, and what it holds goes on. Raises `ValueError` if it does not work."""
        found = next((live for live in self._live if live.rule is rule), None)
        if found is None:
            raise ValueError(f"no such rule is at work: {rule}")
        found.gone = True
        self.release(rule)
        self._live.remove(found)

    def clear(self) -> None:
        """No rule works any more, and everything held goes on."""
        for live in self._live:
            live.gone = True
        self.release()
        self._live.clear()

    def release(self, rule: Rule | None = None) -> int:
        """Let what a rule, or any, holds go on; how many commands there were."""
        count = 0
        for live in self._live:
            if rule is None or live.rule is rule:
                held, live.held = live.held, []
                for promise in held:
                    count += not promise.abandoned
                    promise.give(None)
        return count

    def meet(self, subject: Subject) -> list[Live]:
        """The rules whose turn it is."""
        now = self._now()
        found = [live for live in self._live if live.meets(subject, now)]
        for live in found:
            self._count += 1
            firing = Firing(self._count, now - live.since, live.rule, subject)
            self.firings.append(firing)
            self._log.warning("%s", firing)
        return found
