"""What every stock guest can do, whatever machine it runs on."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self

from drivebay.guests.errors import GuestError
from drivebay.guests.session import OnOutput, Result, Session

BOOT_SECONDS = 90.0  # a busy machine may need many times the usual four


class Guest(abc.ABC):
    """A guest that runs shell commands one after the other, between `start` and `close`.

    Used with `with` it is started, and powered off at the end; after an error it is killed.
    """

    boot_timeout = BOOT_SECONDS

    def __init__(self) -> None:
        self._session: Session | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    @abc.abstractmethod
    def _launch(self) -> Session:
        """Start the process."""

    def _forget(self) -> None:  # noqa: B027  (most guests leave nothing behind)
        """Let go of what the ended process had."""

    @property
    def session(self) -> Session:
        """The running guest; GuestError before `start`."""
        if self._session is None:
            raise GuestError("the guest is not started")
        return self._session

    def start(self) -> None:
        """Start the guest and wait until it takes commands; GuestError if it does not."""
        try:
            self._session = self._launch()
            self._session.wait_ready(self.boot_timeout)
        except BaseException:
            self.kill()
            raise

    def run(
        self, script: str, *, timeout: float = 120.0, on_output: OnOutput | None = None
    ) -> Result:
        """Run the shell text `script` in the started guest; see Session.run."""
        return self.session.run(script, timeout=timeout, on_output=on_output)

    def run_once(
        self, script: str, *, timeout: float = 600.0, on_output: OnOutput | None = None
    ) -> Result:
        """Start the guest, run `script` in it, power it off, and return what became of it."""
        with self:
            return self.run(script, timeout=timeout, on_output=on_output)

    def close(self) -> None:
        """Power off, if started."""
        if self._session:
            self._session.close()
        self._forget()

    def kill(self) -> None:
        """End the guest at once, if started."""
        if self._session:
            self._session.kill()
        self._forget()
