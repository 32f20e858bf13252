"""`python -m drivebay.guests.fetch`: have all that stock guests need in the cache."""

from __future__ import annotations

import sys

from drivebay.guests.cache import cache_dir
from drivebay.guests.errors import GuestError
from drivebay.guests.initramfs import EXTRA_TOOLS
from drivebay.guests.linux import LinuxGuest
from drivebay.guests.uml import UmlGuest


def fetch() -> None:
    """Fetch and build everything, saying each step on standard error; may raise GuestError."""
    LinuxGuest(progress=say).command()
    LinuxGuest(tools=tuple(EXTRA_TOOLS), progress=say)
    UmlGuest(progress=say)


def say(line: str) -> None:
    """Print a step."""
    sys.stderr.write(f"guests: {line}\n")
    sys.stderr.flush()


def main() -> int:
    """Run `fetch`; return the exit status."""
    try:
        fetch()
    except GuestError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(f"ready in {cache_dir()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
