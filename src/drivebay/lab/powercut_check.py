"""A shell command as a check of what a power cut may leave."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from typing import Final
from urllib.parse import quote

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.contract import Disk
from drivebay.disk.copying import copy
from drivebay.lab.powercut_disk import ImageDisk, open_image
from drivebay.lab.powercut_serving import Serving
from drivebay.suspend import run
from drivebay.testing.history import Image

__all__ = ["CheckError", "CommandCheck", "materialise"]

NOT_EXECUTABLE, NOT_FOUND = 126, 127
SAID: Final = 2000
"""Characters of what a command said that are kept, from the end."""


class CheckError(Exception):
    """The check itself cannot be made."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def materialise(image: Image, base: Disk, path: str) -> None:
    """Make `path` a sparse file of what is in `image`, over `base`. Raises any `DiskError`."""
    source = ImageDisk(image, base)
    with open(path, "xb") as file:
        file.truncate(source.byte_count)
    target = FileDisk(path, cache="unsafe", sector_size=source.sector_size)
    try:
        run(copy(source, target, lambda _: None, blank=True))
    finally:
        target.close()


class CommandCheck:
    """Runs the shell text `command` on each image: exit status 0 says that it is good.

    In it ``{image}`` is a sparse file that the command may change, ``{nbd}`` the URI of an NBD
    server of a copy-on-write layer over the image, and ``{said}`` a file of all that had been said
    until the power failed. It may take `timeout` seconds.

    Raises `CheckError` where no shell finds the command.
    """

    def __init__(self, command: str, timeout: float = 60.0) -> None:
        self.command, self.timeout = command, timeout
        folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
        self._environment = {**os.environ, "PATH": ":".join(folders)}

    def __call__(self, image: Image, base: Disk) -> str | None:
        """What is wrong with `image`, or None."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="drivebay-powercut-"))
            text = self.command
            if "{image}" in text:
                path = os.path.join(folder, "image")
                materialise(image, base, path)
                text = text.replace("{image}", shlex.quote(path))
            if "{said}" in text:
                path = os.path.join(folder, "said")
                with open(path, "wb") as file:
                    file.write(image.cut.history.said(image.cut.moment))
                text = text.replace("{said}", shlex.quote(path))
            if "{nbd}" in text:
                text = text.replace("{nbd}", shlex.quote(_nbd(stack, image, base)))
            return self._run(text, folder)

    def _run(self, text: str, folder: str) -> str | None:
        with subprocess.Popen(
            ["/bin/sh", "-c", text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=self.timeout)
            except subprocess.TimeoutExpired:
                return f"took more than {self.timeout:g} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        said = output.decode(errors="replace").replace(f"{folder}/", "").strip()[-SAID:]
        if process.returncode in (NOT_EXECUTABLE, NOT_FOUND):
            raise CheckError(f"the check cannot be run: {said}", "does it work in a shell?")
        return f"status {process.returncode}: {said}" if process.returncode else None


def _nbd(stack: ExitStack, image: Image, base: Disk) -> str:
    from drivebay.hosts.nbd.server import NbdServer

    disk = open_image(image, base)
    stack.callback(disk.close)
    serving = Serving(lambda engine, listener: NbdServer(disk, engine, listener))
    return f"nbd+unix:///?socket={quote(stack.enter_context(serving).path)}"
