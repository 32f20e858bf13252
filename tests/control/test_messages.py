"""Lines in, requests out; and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.hosts.control.messages import LONGEST, Code, Lines, parse, success

LINE = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"\r"))


@given(st.lists(LINE, max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    found: list[bytes | None] = []
    codec, before = Lines(), 0
    for cut in [*sorted(min(cut, len(whole)) for cut in cuts), len(whole)]:
        found += codec.receive(whole[before:cut])
        before = cut
    assert found == [line for line in lines if line and not line.isspace()]


@given(st.integers(LONGEST - 2, LONGEST + 2), st.integers(1, LONGEST))
def test_a_line_that_is_too_long_is_one_error_and_the_next_is_read(length: int, step: int) -> None:
    codec = Lines()
    found: list[bytes | None] = []
    data = b"x" * length + b"\nnext\n"
    for start in range(0, len(data), step):
        found += codec.receive(data[start : start + step])
    first, second = found
    assert first == (b"x" * length if length <= LONGEST else None)
    assert second == b"next"


def test_what_is_kept_of_an_endless_line_is_bounded() -> None:
    codec = Lines()
    for _ in range(100):
        assert list(codec.receive(b"[" * 65536)) == []
        assert len(codec._begun) <= LONGEST


HOSTILE: dict[str, tuple[bytes, Code, Any]] = {
    "an object of nothing": (b"{}", Code.INVALID_REQUEST, None),
    "a list: section 6's batches are not taken": (b"[]", Code.INVALID_REQUEST, None),
    "a number": (b"42", Code.INVALID_REQUEST, None),
    "a word": (b"help", Code.PARSE_ERROR, None),
    "half an object": (b'{"jsonrpc": "2.0"', Code.PARSE_ERROR, None),
    "two on a line": (b'{"jsonrpc":"2.0","method":"tree"}{}', Code.PARSE_ERROR, None),
    "no UTF-8": (b'{"jsonrpc": "2.0", "method": "\xff"}', Code.PARSE_ERROR, None),
    "zeroes": (b"\0\0\0", Code.PARSE_ERROR, None),
    "30000 brackets": (b"[" * 30000, Code.INVALID_REQUEST, None),
    "30000 brackets as parameters": (
        b'{"jsonrpc": "2.0", "method": "tree", "params": ' + b"[" * 30000,
        Code.PARSE_ERROR,
        None,
    ),
    "another version": (b'{"jsonrpc": "1.0", "method": "tree", "id": 5}', Code.INVALID_REQUEST, 5),
    "no version": (b'{"method": "tree", "id": "x"}', Code.INVALID_REQUEST, "x"),
    "no method": (b'{"jsonrpc": "2.0", "id": 6}', Code.INVALID_REQUEST, 6),
    "a method that is a number": (
        b'{"jsonrpc": "2.0", "method": 1, "id": 7}',
        Code.INVALID_REQUEST,
        7,
    ),
    "an id that is an object": (
        b'{"jsonrpc": "2.0", "method": "tree", "id": {}}',
        Code.INVALID_REQUEST,
        None,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_request_is_an_error_with_a_line(name: str) -> None:
    line, code, ident = HOSTILE[name]
    request, whose, wrong = parse(line)
    assert request is None
    assert wrong is not None
    assert (wrong.code, whose) == (code, ident)
    assert "\n" not in str(wrong)


@given(st.binary(max_size=60))
def test_any_line_is_a_request_or_an_error(line: bytes) -> None:
    request, _, wrong = parse(line)
    assert (request is None) == (wrong is not None)


def test_an_answer_is_a_line() -> None:
    line = success(3, {"text": "a\nb"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 3, "result": {"text": "a\nb"}}
