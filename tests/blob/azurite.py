"""Azurite, Microsoft's emulator of Azure Blob storage, from npm; fetched once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from drivebay.guests.cache import build_once

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = (  # everybody's: Azurite's documentation has it
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def _install(folder: Path) -> None:
    folder.mkdir()
    npm = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund"]
    subprocess.run([*npm, f"azurite@{VERSION}"], check=True, capture_output=True, timeout=250)


@contextmanager
def azurite() -> Iterator[str]:
    """The URL of a running Azurite, whose blobs are in its memory."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: Azurite is not tested")
    try:
        folder = build_once(f"azurite-{VERSION}", _install)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm cannot fetch Azurite, which is not tested: {error}")
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    options = ["--inMemoryPersistence", "--blobPort", "0", "--skipApiVersionCheck"]
    with subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = (re.search(r"listens on (http://\S+)", line) for line in process.stdout)
            yield next(match for match in found if match)[1]
        finally:
            process.terminate()


def make_container(url: str, name: str) -> None:
    """Create Container (REST), with a Shared Key signature."""
    path = f"/{ACCOUNT}/{name}"
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
    signed = f"PUT{chr(10) * 12}{headers}\n/{ACCOUNT}{path}\nrestype:container"
    digest = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
    request = urllib.request.Request(f"{url}{path}?restype=container", method="PUT")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", "2021-12-02")
    request.add_header("Authorization", f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
