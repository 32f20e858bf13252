"""What several commands take."""

from __future__ import annotations

from typing import Final

import click

__all__ = ["SPEC"]

SPEC: Final = click.Path(readable=False)
"""A disk's spec. Most are paths: so shells complete it, and nobody looks whether there is one."""
