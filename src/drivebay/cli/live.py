"""Lines that change in place on a terminal, with rich or without; on paper, one after the other."""

from __future__ import annotations

import enum
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final, Protocol, Self

__all__ = ["Line", "Paper", "Style", "View", "plain", "view"]


class Style(enum.Enum):
    """What a piece of text is, which says how it looks."""

    PLAIN = ""
    NAME = "bold"
    DIM = "dim"
    OLD = "yellow"
    BAD = "bold red"


Line = Sequence[tuple[str, Style]]
"""Pieces of text, one behind the other."""

QUIT: Final = frozenset("qQ\x04\x1b")
"""Of the keys; Ctrl-D and Escape, too."""
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen, and no cursor; and back."""
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def plain(text: str) -> Line:
    """A line of one piece."""
    return [(text, Style.PLAIN)]


class View(Protocol):
    """Where lines are shown."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show these, and no others."""

    def wait(self, seconds: float) -> float | None:
        """Wait so long, or until a key is pressed; the seconds that have passed, or None if it was
        one that ends the view.
        """


class Paper(AbstractContextManager["Paper"]):
    """Prints lines; `sleep` is how it waits."""

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self._sleep = sleep

    def show(self, lines: Sequence[Line]) -> None:
        """Print them."""
        text = "".join(f"{_text(line)}\n" for line in lines)
        sys.stdout.write(text)
        sys.stdout.flush()

    def wait(self, seconds: float) -> float:
        """Nobody presses a key."""
        self._sleep(seconds)
        return seconds

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put away."""


@contextmanager
def view() -> Iterator[View]:
    """A view on this terminal, which is afterwards as it was."""
    with _keys() as pressed, _screen(pressed) as screen:
        yield screen


class _Keys:
    """The keys of a terminal that gives each at once."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def wait(self, seconds: float) -> float | None:
        """See `View`."""
        begun = time.monotonic()
        if self._file is None:
            time.sleep(seconds)
        elif select.select([self._file], [], [], seconds)[0]:
            pressed = os.read(self._file, 64).decode(errors="replace")
            if not pressed:  # it has hung up
                self._file = None
            elif QUIT & set(pressed):
                return None
        return max(time.monotonic() - begun, 1e-6)


@contextmanager
def _keys() -> Iterator[_Keys]:
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield _Keys(file)
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


class _Plain:
    """Writes each line over the last one of its place, in one go, so that nothing flickers."""

    def __init__(self, keys: _Keys) -> None:
        self.wait = keys.wait

    def __enter__(self) -> Self:
        sys.stdout.write(ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()

    def show(self, lines: Sequence[Line]) -> None:
        """Show as much as there is room for."""
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        shown = [_text(line)[:columns] for line in _fit(lines, rows)]
        body = f"{REST_OF_LINE}\r\n".join(shown)
        sys.stdout.write(f"{HOME}{body}{REST_OF_LINE}{REST_OF_SCREEN}")
        sys.stdout.flush()


class _Rich:
    """The same in colours."""

    def __init__(self, keys: _Keys) -> None:
        from rich.console import Console
        from rich.live import Live

        self.wait = keys.wait
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, lines: Sequence[Line]) -> None:
        """Show as much as there is room for."""
        from rich.text import Text

        fitting = _fit(lines, self._console.size.height)
        pieces = [Text.assemble(*((text, style.value) for text, style in line)) for line in fitting]
        text = Text("\n", no_wrap=True, overflow="crop").join(pieces)
        self._live.update(text, refresh=True)


def _screen(keys: _Keys) -> _Plain | _Rich:
    try:
        return _Rich(keys)
    except ImportError:
        return _Plain(keys)


def _text(line: Line) -> str:
    return "".join(text for text, _ in line)


def _fit(lines: Sequence[Line], rows: int) -> Sequence[Line]:
    """As many as there are rows, the last of which says how many are left out."""
    if len(lines) <= rows:
        return lines
    left_out = len(lines) - rows + 1
    return [*lines[: rows - 1], plain(f"... {left_out} lines more, in a taller window")]
