"""The text of fault rules: ``COMMAND[+COMMAND]...[,CONDITION]...:ACTION``.

``read,lba=100-199,nth=3:status=unrecovered-read-error``. Names are the specs' own, in small or
capital letters, with ``-`` or ``_``. ``docs/faults.md`` is the reference. A TOML or JSON file has
an array ``fault`` of tables: ``command``, ``do``, and the conditions by name.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from drivebay.disk.described import load
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    IllegalBlock,
    IoError,
    Medium,
    MediumError,
    NoSpace,
    ReadOnly,
    ReservationConflict,
)
from drivebay.disk.kinds.filters import latency
from drivebay.disk.scanner import Node, Scanner, SpecError
from drivebay.lab.rules import (
    ACT_ON_ENABLE,
    ENABLE,
    Action,
    Corrupt,
    Delay,
    Die,
    Direction,
    DiskFault,
    Drop,
    Duplicate,
    Fail,
    Hold,
    Ignore,
    LoseInterrupt,
    Match,
    Misdirect,
    Patch,
    Remove,
    Rewrite,
    Rule,
    Skip,
    Tell,
    Torn,
    Vocabulary,
)

__all__ = ["load_rules", "parse_rule", "parse_rules", "spelled"]

ANY: Final = "any"
UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
MOST: Final = 1 << 64
MOST_BITS: Final = 4096
PLAIN: Final[dict[str, Action]] = {
    "drop": Drop(),
    "ignore": Ignore(),
    "skip": Skip(),
    "hold": Hold(),
    "duplicate": Duplicate(),
    "lose-interrupt": LoseInterrupt(),
    "die": Die(),
    "remove": Remove(),
}
ERRORS: Final[dict[str, Callable[[int, int], DiskError]]] = {
    "unrecovered-read": lambda sector, _: MediumError(Medium.UNRECOVERED_READ, sector),
    "write-fault": lambda sector, _: MediumError(Medium.WRITE_FAULT, sector),
    "io": lambda sector, count: IoError(errno.EIO, "fault rule"),
    "no-space": lambda sector, count: NoSpace(errno.ENOSPC, "fault rule"),
    "read-only": lambda sector, count: ReadOnly("fault rule"),
    "illegal-block": lambda sector, count: IllegalBlock(sector, count, sector),
    "reservation-conflict": lambda sector, count: ReservationConflict("fault rule"),
}
"""What a disk can raise."""


def parse_rule(text: str, vocabulary: Vocabulary) -> Rule:
    """The rule that `text` says. Raises `SpecError`."""
    return _Parser(text, vocabulary).rule()


def parse_rules(texts: Iterable[str], vocabulary: Vocabulary) -> list[Rule]:
    """The same of each text; ``@PATH`` stands for the rules in a file. Raises `DiskOpenError`."""
    rules: list[Rule] = []
    for text in texts:
        for where, rule in spelled(text):
            try:
                rules.append(parse_rule(rule, vocabulary))
            except SpecError as error:
                if not where:
                    raise
                raise DiskOpenError(f"{where}{error}", error.hint) from None
    return rules


def load_rules(path: str, vocabulary: Vocabulary) -> list[Rule]:
    """The rules in a TOML or JSON file. Raises `DiskOpenError`, which says which of them."""
    return parse_rules([f"@{path}"], vocabulary)


def spelled(text: str) -> list[tuple[str, str]]:
    """The rules that `text` says, itself or by ``@PATH``, each on a line, and before it whatever a
    message about it begins with. Raises `DiskOpenError` for a file that has none.
    """
    if not text.startswith("@"):
        return [("", text)]
    path = text[1:]
    described = load(path)
    tables = described.get("fault") if isinstance(described, dict) else None
    if not isinstance(tables, list) or not tables:
        raise DiskOpenError(f"{path}: there is no fault in it", "each is a table [[fault]]")
    rules = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: fault {number}"
        rules.append((f"{where}: ", _text(where, table)))
    return rules


def _text(where: str, table: Any) -> str:
    """The text that a table says."""
    if not isinstance(table, dict) or not isinstance(table.get("do"), str):
        raise DiskOpenError(f"{where}: there is no do", 'as in do = "status=write-fault"')
    conditions = [f",{key}={value}" for key, value in table.items() if key not in ("command", "do")]
    return f"{table.get('command', ANY)}{''.join(conditions)}:{table['do']}"


class _Parser:
    """Reads one rule from left to right."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._text, self._words = text, vocabulary
        self._scanner = Scanner(text, _no_disk)

    def rule(self) -> Rule:
        scanner = self._scanner
        match = Match(commands=self._commands())
        conditions: dict[str, Callable[[], Any]] = {
            "on": lambda: scanner.word("the name of a controller", stops=",:"),
            "direction": lambda: Direction(self._one_of([each.value for each in Direction])),
            self._words.place: lambda: self._number(0, 0xFFFF),
            "after": self._duration,
            "nth": lambda: self._number(1, MOST),
            "every": lambda: self._number(1, MOST),
            "times": lambda: self._number(1, MOST),
            "p": self._probability,
            "seed": lambda: self._number(0, MOST),
        }
        if self._words.addressed:
            conditions["lba"] = self._range
        if "nsid" in self._words.fields:
            conditions["nsid"] = lambda: self._number(0, 0xFFFFFFFF)
        aliases = {"on": "controller", "p": "probability", self._words.place: "queue"}
        found: set[str] = set()
        while scanner.take(","):
            start = scanner.position
            name = scanner.name()
            fields = self._words.fields - conditions.keys()
            if name not in fields | conditions.keys() or name in found:
                again = f"{name} only once" if name in found else None
                raise self._unknown(again or "a condition", name, fields | set(conditions), start)
            self._value_follows(f"a value for {name}")
            found.add(name)
            if name in fields:
                match = replace(match, fields=(*match.fields, (name, *self._masked())))
                continue
            match = replace(match, **{aliases.get(name, name): conditions[name]()})
        if not scanner.take(":"):
            raise scanner.error("',' and a condition, or ':' and what happens")
        start = scanner.position
        action = self._action()
        if scanner.next:
            raise scanner.error("the end of the rule")
        if ENABLE in match.commands and not isinstance(action, ACT_ON_ENABLE):
            raise scanner.error("drop, delay=, hold or die, for enable", start)
        return Rule(match, action, self._text)

    # -- commands --------------------------------------------------------------------------------

    def _commands(self) -> frozenset[str]:
        scanner, words = self._scanner, self._words
        found = set()
        while True:
            start = scanner.position
            name = scanner.name()
            if name.lower() == ANY:
                return frozenset()
            known = {each.lower() for each in words.groups | words.commands} | {ANY}
            group, _, number = name.upper().partition("-0X")
            if number and group in words.unnamed and _is_hex(number) and int(number, 16) < 256:
                found.add(f"{group}-{int(number, 16):#04x}")
            elif _plain(name) in words.groups | words.commands:
                found.add(_plain(name))
            else:
                raise self._unknown("a command", name, [each.replace("_", "-") for each in known],
                                    start)  # fmt: skip
            if not scanner.take("+"):
                return frozenset(found)

    # -- actions ---------------------------------------------------------------------------------

    def _action(self) -> Action:
        scanner = self._scanner
        start = scanner.position
        name = scanner.name()
        readers: dict[str, Callable[[], Action]] = {
            **{word: partial(_the, action) for word, action in PLAIN.items()},
            "status": self._status,
            "error": self._error,
            "delay": self._delay,
            "corrupt": self._corrupt,
            "torn": self._torn,
            "misdirect": self._misdirect,
            "rewrite": self._rewrite,
            "patch": self._patch,
            "event": self._event,
        }
        known = self._words.actions
        if name in readers and name not in known:
            hint = f"what can become of one: {', '.join(sorted(known))}"
            raise scanner.error(f"what there is for {self._words.controller} commands", start, hint)
        if name not in readers:
            raise self._unknown("what happens", name, known, start)
        return readers[name]()

    def _value_follows(self, what: str) -> None:
        if not self._scanner.take("="):
            raise self._scanner.error(f"'=' and {what}")

    def _status(self) -> Action:
        self._value_follows("a status")
        start = self._scanner.position
        name = self._scanner.name()
        if _plain(name) not in self._words.statuses:
            known = [each.lower().replace("_", "-") for each in self._words.statuses]
            raise self._unknown("a status", name, known, start)
        flags = ({"retry": False} if self._words.retries else {}) | {"late": False}
        while self._scanner.take(","):
            flags[self._one_of(list(flags))] = True
        return Fail(_plain(name), **flags)

    def _delay(self) -> Action:
        self._value_follows("a time or a profile")
        # A profile ends with the colon before its disk; here it ends the rule.
        scanner = Scanner(self._text + ":", _no_disk)
        scanner.position = self._scanner.position
        try:
            profile = latency(scanner)
        except SpecError as error:
            position = min(error.position, len(self._text))
            raise SpecError(self._text, position, error.expected, error.hint) from None
        self._scanner.position = min(scanner.position, len(self._text))
        return Delay(profile)

    def _error(self) -> Action:
        self._value_follows("an error of a disk")
        start = self._scanner.position
        name = self._scanner.name()
        if name not in ERRORS:
            raise self._unknown("an error of a disk", name, ERRORS, start)
        return DiskFault(name, ERRORS[name])

    def _event(self) -> Action:
        self._value_follows("an event")
        start = self._scanner.position
        name = self._scanner.name()
        if _plain(name) not in self._words.events:
            known = [each.lower().replace("_", "-") for each in self._words.events]
            raise self._unknown("an event", name, known, start)
        return Tell(_plain(name))

    def _torn(self) -> Action:
        return Torn(self._number(0, MOST)) if self._scanner.take("=") else Torn()

    def _misdirect(self) -> Action:
        self._value_follows("blocks, as in +8")
        sign = 1 if self._scanner.take("+") else -1 if self._scanner.take("-") else 0
        if not sign:
            raise self._scanner.error("'+' or '-' and a number of blocks")
        return Misdirect(sign * self._number(1, MOST))

    def _corrupt(self) -> Action:
        return Corrupt(self._number(1, MOST_BITS)) if self._scanner.take("=") else Corrupt()

    def _rewrite(self) -> Action:
        scanner = self._scanner
        values: dict[str, int] = {}
        steps: dict[str, int] = {}
        while scanner.take(","):
            start = scanner.position
            name = scanner.name()
            known = self._words.changes | self._words.results
            if name not in known or name in values or name in steps:
                raise self._unknown("a field", name, known, start)
            self._value_follows("a value")
            if scanner.take("+"):
                steps[name] = self._number(0, MOST)
            elif scanner.take("-"):
                steps[name] = -self._number(0, MOST)
            else:
                values[name] = self._number(0, MOST)
        if not values and not steps:
            raise scanner.error("',' and a field, as in rewrite,slba=+8")
        return Rewrite(values, steps)

    def _patch(self) -> Action:
        scanner = self._scanner
        found: dict[str, Any] = {}
        readers: dict[str, Callable[[], Any]] = {
            "at": lambda: self._number(0, 1 << 32),
            "hex": self._hex,
        }
        while scanner.take(","):
            name = self._one_of([each for each in readers if each not in found])
            self._value_follows("a value")
            found[name] = readers[name]()
        if len(found) < len(readers):
            raise scanner.error("both, as in patch,at=77,hex=01")
        return Patch(found["at"], found["hex"])

    # -- values ----------------------------------------------------------------------------------

    def _unknown(self, expected: str, name: str, known: Iterable[str], at: int) -> SpecError:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower().replace("_", "-"), names, 1)
        guess = f"did you mean {near[0]}? " if near else ""
        return self._scanner.error(expected, at, f"{guess}known: {', '.join(names)}")

    def _one_of(self, names: list[str]) -> str:
        start = self._scanner.position
        name = self._scanner.name()
        if name not in names:
            raise self._scanner.error(f"one of {', '.join(names)}", start)
        return name

    def _number(self, least: int, most: int) -> int:
        start = self._scanner.position
        digits = self._scanner.name()
        try:
            number = int(digits, 16 if digits[:2].lower() == "0x" else 10)
        except ValueError:
            number = -1
        if not digits.isascii() or not digits.isalnum() or not least <= number <= most:
            raise self._scanner.error(f"a number from {least} to {most}", start)
        return number

    def _masked(self) -> tuple[int, int]:
        """``5``, or ``5/0xFF``: a value and the bits of it that count."""
        value = self._number(0, MOST)
        return value, self._number(0, MOST) if self._scanner.take("/") else MOST - 1

    def _range(self) -> range:
        """``7``, ``100-199`` (both are meant) or ``100+8``."""
        scanner = self._scanner
        start = scanner.position
        digits = scanner.word("blocks, as in 100-199 or 100+8", stops=",:")
        first, sign, rest = digits.partition("+" if "+" in digits else "-")
        numbers = [first, rest] if sign else [first]
        if not all(each.isascii() and each.isdecimal() and len(each) < 20 for each in numbers):
            raise scanner.error("blocks, as in 100-199 or 100+8", start)
        begin = int(first)
        end = begin + int(rest) if sign == "+" else int(rest or first) + 1
        if end <= begin:
            raise scanner.error("at least a block", start)
        return range(begin, end)

    def _duration(self) -> float:
        scanner = self._scanner
        start = scanner.position
        word = scanner.word("a time, as in 500ms or 2s", stops=",:")
        number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = word[len(number) :] or "s"
        if not number.replace(".", "", 1).isdecimal() or not number.isascii() or unit not in UNITS:
            raise scanner.error("a time, as in 500ms or 2s", start)
        return float(number) * UNITS[unit]

    def _probability(self) -> float:
        scanner = self._scanner
        start = scanner.position
        word = scanner.word("a probability, as in 0.01", stops=",:")
        if not word.replace(".", "", 1).isdecimal() or not word.isascii() or float(word) > 1:
            raise scanner.error("a probability from 0 to 1, as in 0.01", start)
        return float(word)

    def _hex(self) -> bytes:
        start = self._scanner.position
        digits = self._scanner.name()
        if not digits or len(digits) % 2 or not _is_hex(digits):
            raise self._scanner.error("bytes in hex, two digits each", start)
        return bytes.fromhex(digits)


def _the(action: Action) -> Action:
    return action


def _no_disk(_scanner: Scanner) -> Node:
    raise AssertionError("no disk stands in a fault rule")


def _plain(name: str) -> str:
    return name.upper().replace("-", "_")


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)
