"""The fault rules of a served controller: those of ``--fault``, and those that come later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from drivebay.lab.language import parse_rules

if TYPE_CHECKING:
    from drivebay.lab.nvme import NvmeFaults
    from drivebay.lab.rules import Rule, Vocabulary

__all__ = ["FaultDesk"]


class FaultDesk:
    """Has `rules` work, and others that are added. `begin` has somebody do what they say, who costs
    something: so only while there are rules.
    """

    def __init__(
        self, begin: Callable[[], NvmeFaults], vocabulary: Vocabulary, rules: Iterable[Rule] = ()
    ) -> None:
        self._begin, self._vocabulary = begin, vocabulary
        self._torment: NvmeFaults | None = None
        for rule in rules:
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        if self._torment is None:
            self._torment = self._begin()
        self._torment.faults.add(rule)

    def add(self, text: str) -> None:
        """Have another rule work, or those of ``@FILE``. Raises `DiskOpenError`."""
        for rule in parse_rules([text], self._vocabulary):
            self._add(rule)

    def rules(self) -> dict[str, int]:
        """The rules, and how often each has fired."""
        return {} if self._torment is None else self._torment.faults.fired()

    def release(self) -> int:
        """Let go the commands that are held; how many there were."""
        return 0 if self._torment is None else self._torment.faults.release()

    def clear(self) -> None:
        """No rule works any more."""
        if self._torment is not None:
            self._torment.close()
            self._torment = None
