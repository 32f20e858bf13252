"""Fault rules: which commands are meant, and what becomes of them. No controller is known here.

What a controller has (its commands, the names of its statuses and fields) is a `Vocabulary`; a
module of `drivebay.lab.dialects` shows its commands as `Subject`s, and an adapter such as
`drivebay.lab.nvme` does what actions say.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.errors import DiskError
    from drivebay.disk.filters.latency import Latency

__all__ = [
    "ACTIONS",
    "ACT_ON_ENABLE",
    "ENABLE",
    "FLUSH",
    "IO",
    "OPCODE",
    "READ",
    "WRITE",
    "Action",
    "Corrupt",
    "Delay",
    "Die",
    "Direction",
    "DiskFault",
    "Drop",
    "Duplicate",
    "Fail",
    "Hold",
    "Ignore",
    "LoseInterrupt",
    "Match",
    "Misdirect",
    "Patch",
    "Remove",
    "Rewrite",
    "Rule",
    "Skip",
    "Subject",
    "Tell",
    "Torn",
    "Vocabulary",
]

ACTIONS: Final = frozenset(
    {
        *("status", "error", "drop", "ignore", "skip", "delay", "hold", "corrupt", "torn"),
        *("misdirect", "rewrite", "patch", "duplicate", "lose-interrupt", "die", "remove"),
    }
)
"""The words for all that can become of a command."""
ENABLE: Final = "ENABLE"
"""No command, but the host's wish that the controller get ready. Only rules that name it match."""
IO, READ, WRITE, FLUSH = "IO", "READ", "WRITE", "FLUSH"
"""Groups that mean the same on every controller: what reaches the medium, and of that what reads
blocks, writes them, or makes them stable."""
OPCODE: Final = "OPCODE"
"""``OPCODE-0x9a`` is a command that has no name, where its number says all."""


class Direction(enum.Enum):
    """Where a command's data goes, as the host sees it."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Vocabulary:
    """What rules for one kind of controller may name, all in capitals as the spec has it."""

    groups: frozenset[str]
    """Sorts of commands, as ``IO``."""
    unnamed: frozenset[str]
    """What a command without a name is called by: ``ADMIN`` makes ``ADMIN-0x9a``."""
    commands: frozenset[str]
    statuses: frozenset[str]
    fields: frozenset[str]
    """Of commands, in small letters: what `Match` may ask for."""
    changes: frozenset[str] = frozenset()
    """Those that `Rewrite` may change."""
    results: frozenset[str] = frozenset()
    """Of completions: what `Rewrite` may change, too."""
    place: str = "queue"
    """What the queue of a command is called, where it is none."""
    controller: str = "controller"
    """What such a controller is called."""
    actions: frozenset[str] = frozenset()
    """What can become of its commands, by the words of the language."""
    addressed: bool = True
    """Commands name blocks."""
    retries: bool = False
    """A status can say whether to try again."""
    events: frozenset[str] = frozenset()
    """What the controller can tell its host unasked."""


@dataclass(frozen=True)
class Subject:
    """A command as rules see it."""

    controller: str
    command: str
    groups: frozenset[str] = frozenset()
    """What else it is called: a sort of commands, or another name."""
    queue: int = 0
    nsid: int = 0
    lba: int | None = None
    count: int = 0
    direction: Direction | None = None
    value: Callable[[str], int] | None = None
    """Gives a field of it."""
    place: str = "queue"
    """What `queue` is."""

    @property
    def where(self) -> str:
        """What it is about: its queue, its blocks."""
        parts = []
        if self.command != ENABLE:
            parts.append(f"{self.place} {self.queue}")
        if self.nsid:
            parts.append(f"nsid {self.nsid}")
        if self.lba is not None:
            parts.append(f"lba {self.lba}+{self.count}")
        return " ".join(parts)

    def __str__(self) -> str:
        return f"{self.controller} {self.command} {self.where}".rstrip()


@dataclass(frozen=True)
class Match:
    """Which commands: all that is said must hold.

    `commands` are names and groups, none for all. `lba` meets a command that touches one of its
    blocks. `fields` are name, value and the mask of the bits that count. Of the commands that suit,
    from `after` seconds on since the rule was made, the `nth` is meant, or `every` so many-th, with
    `probability` by dice of `seed`, and at most `times` of them; 0 is for no such limit.
    """

    commands: frozenset[str] = frozenset()
    controller: str | None = None
    nsid: int | None = None
    lba: range | None = None
    direction: Direction | None = None
    queue: int | None = None
    fields: tuple[tuple[str, int, int], ...] = ()
    after: float = 0.0
    nth: int = 0
    every: int = 0
    times: int = 0
    probability: float = 1.0
    seed: int = 0

    def suits(self, subject: Subject) -> bool:
        """Whether a command is of those, but for time, number and chance."""
        if self.commands:
            if subject.command not in self.commands and not self.commands & subject.groups:
                return False
        elif subject.command == ENABLE:
            return False
        return (
            self.controller in (None, subject.controller)
            and self.nsid in (None, subject.nsid)
            and self.queue in (None, subject.queue)
            and self.direction in (None, subject.direction)
            and (self.lba is None or self._touches(self.lba, subject))
            and all(
                subject.value is not None and not (subject.value(name) ^ value) & mask
                for name, value, mask in self.fields
            )
        )

    @staticmethod
    def _touches(lba: range, subject: Subject) -> bool:
        if subject.lba is None:
            return False
        return subject.lba < lba.stop and lba.start < subject.lba + subject.count


# -- what becomes of a command ---------------------------------------------------------------------


@dataclass(frozen=True)
class Fail:
    """It ends with `status`, by its spec name; the host may `retry`. It does not act before that,
    unless `late`.
    """

    status: str
    retry: bool = False
    late: bool = False


@dataclass(frozen=True)
class DiskFault:
    """Its disk fails, as `make` says of the sector and the count that are wanted: the controller
    finds the status.
    """

    name: str
    make: Callable[[int, int], DiskError]


@dataclass(frozen=True)
class Skip:
    """It ends well, and has not acted: a write is lost, a flush makes nothing stable, and where
    data should be is what was there before.
    """


@dataclass(frozen=True)
class Torn:
    """Only the first `blocks` of what it writes reach the disk; by the dice if that is None."""

    blocks: int | None = None


@dataclass(frozen=True)
class Misdirect:
    """It reads or writes at a place so many blocks on."""

    blocks: int


@dataclass(frozen=True)
class Remove:
    """What it is for is taken away: as the control socket does that, before the next turn."""


@dataclass(frozen=True)
class Drop:
    """It acts, and nobody is told."""


@dataclass(frozen=True)
class Ignore:
    """It does not act, and nobody is told."""


@dataclass(frozen=True)
class Delay:
    """It acts later. `profile` makes what says how much, for a disk; None where there is none."""

    profile: Callable[[Disk], Latency]


@dataclass(frozen=True)
class Hold:
    """It acts when it is released."""


@dataclass(frozen=True)
class Corrupt:
    """Of its data, `bits` are wrong: what is read as it reaches the host, what is written as it
    lies on the disk.
    """

    bits: int = 1


@dataclass(frozen=True)
class Rewrite:
    """Fields have other values before it acts: `values`, or `steps` more than they had. A result
    is changed after it.
    """

    values: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """What the host gets has `data` at byte `at`: of what is identified, of a log page, of blocks.

    In a log page the place is that in the page, whatever part of it is asked for.
    """

    at: int
    data: bytes


@dataclass(frozen=True)
class Duplicate:
    """Its completion comes twice."""


@dataclass(frozen=True)
class LoseInterrupt:
    """Its completion comes without the interrupt."""


@dataclass(frozen=True)
class Die:
    """The controller says that it has failed for good, and does nothing more before a reset."""


@dataclass(frozen=True)
class Tell:
    """It acts, and before that the host is told of an `event` that has not happened."""

    event: str


Action = (
    Fail
    | Drop
    | Ignore
    | Delay
    | Hold
    | Corrupt
    | Rewrite
    | Patch
    | Duplicate
    | LoseInterrupt
    | Die
    | DiskFault
    | Skip
    | Torn
    | Misdirect
    | Remove
    | Tell
)
ACT_ON_ENABLE: Final = (Drop, Ignore, Delay, Hold, Die)
"""What can become of `ENABLE`: the controller is never ready, late, when released, or fails."""


@dataclass(frozen=True)
class Rule:
    """What becomes of which commands; `text` is the rule as somebody wrote it."""

    match: Match
    action: Action
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.match}: {self.action}"
