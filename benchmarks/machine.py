"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sysconfig
from pathlib import Path

from benchmarks.run import timed

FLAGS = ("--enable-optimizations", "--with-lto", "--enable-shared", "--disable-gil")


def describe() -> dict[str, str]:
    """The machine and the Python, in words that name nobody."""
    return {
        "machine": machine(),
        "kernel": _numbers(platform.release()),
        "Python": f"{python()}, a turn of a small loop {loop_ns():.0f} ns",
        "drivebay": commit(),
        "load before": f"{busy():.1f}",
    }


def machine() -> str:
    """Its CPU and how many."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    cpus = os.cpu_count()
    kind = f"{cpus} vCPUs, {cpus}-core virtual machine" if " hypervisor" in text else f"{cpus} CPUs"
    return f"{kind}, {model[1].strip() if model else platform.machine()}"


def python() -> str:
    """The interpreter, and what it was configured with that decides its speed."""
    config = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    flags = [flag for flag in FLAGS if flag in config]
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{name} ({', '.join(flags) or 'configured with none of ' + ' '.join(FLAGS)})"


def loop_ns() -> float:
    """Nanoseconds of `total += n & 7` in a loop: the flags do not tell all, this does."""
    count = 200_000

    def loop() -> int:
        total = 0
        for n in range(count):
            total += n & 7
        return total

    return min(timed(loop) for _ in range(20)) / count * 1e9


def commit() -> str:
    """The revision measured, with a plus if it was changed since."""
    words = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def busy() -> float:
    """How many others want a CPU, about."""
    return os.getloadavg()[0]


def _numbers(release: str) -> str:
    found = re.match(r"[\d.]+\d", release)
    return found[0] if found else release
