"""
Code that all benchmarks share: samples, ratios, one CPU or all, and the machine.
"""

from __future__ import annotations

import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: The directory from which C{python -m benchmarks} works.
ROOT = Path(__file__).parent.parent

PACKAGES = ("Twisted", "uvloop", "trio", "signalfd", "cffi")


def percentile99(samples: list[float]) -> float:
    """
    Return the 99th percentile.
    """
    return sorted(samples)[(len(samples) * 99 - 1) // 100]


@dataclass
class Comparison:
    """
    Samples of several contestants that take turns.

    @ivar turns: The samples of each contestant, for each turn.
    """

    name: str
    unit: str
    turns: list[dict[str, list[float]]] = field(default_factory=list)

    def turn(self, contestants: Mapping[str, Callable[[], list[float]]]) -> None:
        """
        Measure each contestant once, in random order.
        """
        names = random.sample(list(contestants), len(contestants))
        samples = {name: contestants[name]() for name in names}
        self.turns.append({name: samples[name] for name in sorted(samples)})

    def samples(self, name: str) -> list[float]:
        """
        Return all samples of a contestant.
        """
        return [sample for turn in self.turns for sample in turn[name]]

    def spread(self, name: str) -> tuple[float, float, float]:
        """
        Return the lower quartile, the median and the upper quartile of its samples.
        """
        return quartiles(self.samples(name))

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """
        Return the quartiles of the ratio of one contestant to another.

        They are compared turn by turn: whatever slows the machine down slows both.
        """
        return quartiles(
            [
                statistics.median(turn[name]) / statistics.median(turn[other])
                for turn in self.turns
            ]
        )


@dataclass
class Row:
    """
    A row of the table.

    @ivar what: What is compared with what.
    @ivar measured: The lower quartile, the median and the upper quartile.
    @ivar most: The target: the most that the median should be, or C{None}.
    """

    what: str
    measured: tuple[float, float, float]
    most: float | None = None


def single(value: float) -> tuple[float, float, float]:
    """
    Return the quartiles of a single value.
    """
    return value, value, value


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """
    Return the lower quartile, the median and the upper quartile.
    """
    if len(values) == 1:
        return single(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@contextmanager
def onOneCPU(wanted: bool = True) -> Iterator[None]:
    """
    Run this process, and the programs that it starts, on one CPU.
    """
    before = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def floor() -> str:
    """
    Compile the C program, and return its path.
    """
    directory = tempfile.TemporaryDirectory()
    _directories.append(directory)
    program = str(Path(directory.name) / "floor")
    source = str(Path(__file__).with_name("floor.c"))
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-o", program, source], check=True
    )
    return program


#: Removed at the end of the program, with the last reference.
_directories: list[tempfile.TemporaryDirectory[str]] = []


def module(name: str, *arguments: object) -> list[str]:
    """
    Return the command line that runs one of these modules as a program.
    """
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]


def output(command: list[str]) -> str:
    """
    Run a program, and return its output.
    """
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True
    ).stdout


def machine() -> dict[str, object]:
    """
    Describe the machine, without a name of the host or of a user.
    """
    try:
        cpu = next(
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
    except StopIteration:
        cpu = platform.machine()
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "hypervisor": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory in GiB": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        ),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "C library": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "signals that may be pending": resource.getrlimit(resource.RLIMIT_SIGPENDING)[
            0
        ],
        "load when it began": round(os.getloadavg()[0], 1),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
