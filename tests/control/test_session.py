"""One client's requests: some at once, bounded, each answered once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from drivebay.disk.errors import DiskOpenError, InvalidInput
from drivebay.hosts.control.messages import Code, Refused
from drivebay.hosts.control.session import MOST_AT_ONCE, Method, Session
from drivebay.platform.engine import Engine
from drivebay.suspend import Cancelled, Promise

from .support import Tape


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Word(msgspec.Struct, forbid_unknown_fields=True):
    word: str


class Bench:
    """A session with methods that end when the test says so."""

    def __init__(self) -> None:
        self.engine = Engine(workers=0)
        self.tape = Tape()
        self.waiting: list[Promise[Any]] = []
        self.given_up = 0
        known = {
            "echo": Method(_Word, lambda params: params.word),
            "wait": Method(_Nothing, lambda _: self._wait()),
            "refuse": Method(_Nothing, lambda _: self._raise(Refused("not now", "later"))),
            "open": Method(_Nothing, lambda _: self._raise(DiskOpenError("no file", "make one"))),
            "disk": Method(_Nothing, lambda _: self._raise(InvalidInput("too small"))),
            "bug": Method(_Nothing, lambda _: self._raise(ZeroDivisionError("ours"))),
        }
        self.session = Session(known, self.engine, self.tape)

    async def _wait(self) -> str:
        promise = Promise[str]()
        self.waiting.append(promise)
        try:
            return await promise
        except Cancelled:
            self.given_up += 1
            raise

    @staticmethod
    def _raise(error: Exception) -> None:
        raise error

    def say(self, *requests: tuple[Any, str, Any]) -> list[Any]:
        for ident, method, params in requests:
            request = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
            self.session.receive(json.dumps(request).encode() + b"\n")
        return self.answers()

    def answers(self) -> list[Any]:
        for _ in range(20):
            self.engine.turn(0)
        return self.tape.take()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.close()


def test_results_and_ids(bench: Bench) -> None:
    for ident in (1, "a", None):
        assert bench.say((ident, "echo", {"word": "x"})) == [
            {"jsonrpc": "2.0", "id": ident, "result": "x"}
        ]


def test_a_notification_is_done_and_not_answered(bench: Bench) -> None:
    """Section 4.1: not even with an error."""
    bench.session.receive(b'{"jsonrpc": "2.0", "method": "wait"}\n')
    bench.session.receive(b'{"jsonrpc": "2.0", "method": "bug"}\n')
    bench.session.receive(b'{"jsonrpc": "2.0", "method": "nonsense"}\n')
    [wait] = bench.waiting
    wait.give("done")
    assert bench.answers() == []


@pytest.mark.parametrize(
    ("method", "code", "message", "hint"),
    [
        ("refuse", Code.REFUSED, "not now", "later"),
        ("open", Code.REFUSED, "no file", "make one"),
        ("disk", Code.REFUSED, "too small", ""),
        ("bug", Code.INTERNAL_ERROR, "bug: ZeroDivisionError('ours')", "this is a bug of ours"),
        ("nonsense", Code.METHOD_NOT_FOUND, "there is no method nonsense", "ask for methods"),
    ],
)
def test_errors(bench: Bench, method: str, code: Code, message: str, hint: str) -> None:
    [answer] = bench.say((1, method, {}))
    assert answer["error"] == {"code": code, "message": message, "data": {"hint": hint}}


@pytest.mark.parametrize("params", [{}, {"word": 1}, {"word": "a", "more": 1}, ["a"], "a", None])
def test_parameters_are_checked(bench: Bench, params: Any) -> None:
    [answer] = bench.say((1, "echo", params))
    assert answer["error"]["code"] == Code.INVALID_PARAMS
    assert answer["error"]["data"]["hint"] == "its parameters: word"


def test_what_takes_long_keeps_nobody_waiting(bench: Bench) -> None:
    assert bench.say((1, "wait", {}), (2, "echo", {"word": "b"}), (3, "wait", {})) == [
        {"jsonrpc": "2.0", "id": 2, "result": "b"}
    ]
    first, second = bench.waiting
    second.give("second")
    assert [each["id"] for each in bench.answers()] == [3]
    first.fail(InvalidInput("broken"))
    [answer] = bench.answers()
    assert (answer["id"], answer["error"]["message"]) == (1, "broken")
    assert bench.session.at_rest


def test_so_many_are_under_way_and_the_rest_wait_in_the_socket(bench: Bench) -> None:
    bench.say(*((n, "wait", {}) for n in range(MOST_AT_ONCE + 3)))
    assert len(bench.waiting) == MOST_AT_ONCE
    assert not bench.tape.listening
    bench.waiting[0].give("x")
    assert [each["id"] for each in bench.answers()] == [0]
    assert len(bench.waiting) == MOST_AT_ONCE + 1
    for promise in bench.waiting:
        promise.give("x")
    bench.answers()
    for promise in bench.waiting:
        promise.give("x")
    bench.answers()
    assert bench.tape.listening
    assert bench.session.at_rest


def test_who_takes_no_answers_is_asked_nothing_more(bench: Bench) -> None:
    bench.tape.full = True
    assert len(bench.say(*((n, "echo", {"word": "w"}) for n in range(50)))) == 1
    assert not bench.tape.listening
    bench.tape.full = False
    bench.session.room()
    assert len(bench.answers()) == 49
    assert bench.tape.listening


def test_a_thousand_lines_at_once_leave_others_their_turn(bench: Bench) -> None:
    request = b'{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"word": "w"}}\n'
    turns = []
    bench.engine.later(lambda: turns.append(len(bench.tape.take())))
    bench.session.receive(request * 1000)
    bench.engine.turn(0)
    assert turns == [8]
    while not bench.tape.listening:
        bench.engine.turn(0)
    assert len(bench.tape.take()) == 992


def test_who_hangs_up_has_what_it_began_done_and_no_more(bench: Bench) -> None:
    bench.say(*((n, "wait", {}) for n in range(MOST_AT_ONCE + 3)))
    bench.session.hung_up()
    for promise in bench.waiting:
        promise.give("x")
    bench.answers()
    assert bench.session.at_rest
    assert len(bench.waiting) == MOST_AT_ONCE


def test_what_is_under_way_is_given_up_at_the_end(bench: Bench) -> None:
    bench.say((1, "wait", {}), (2, "wait", {}))
    bench.session.cancel()
    assert [each["error"]["message"] for each in bench.answers()] == ["wait: given up"] * 2
    assert bench.given_up == 2
    assert bench.session.at_rest
