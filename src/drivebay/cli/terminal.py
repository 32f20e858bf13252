"""What the commands write while they work."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["print_json", "progress", "stream"]


def print_json(value: Any) -> None:
    """One line of JSON on standard output, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def progress(step: str) -> None:
    """One line on standard error for a step that takes a while."""
    sys.stderr.write(f"drivebay: {step}\n")
    sys.stderr.flush()


def stream(output: bytes) -> None:
    """A guest's output, as it comes."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
