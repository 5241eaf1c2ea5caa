# -*- test-case-name: tests.workers.test_limits -*-
"""
L{Limits}: when a worker is replaced although it has not ended.
"""

from __future__ import annotations

import random
import re
from math import inf
from pathlib import Path
from resource import getpagesize
from typing import Final, NamedTuple

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

#: How much of the age is random, so that workers do not reach it together.
_JITTER: Final = 0.1


class Limits(NamedTuple):
    """
    The limits of a worker.
    """

    #: Seconds without a turn of its reactor.
    timeout: float = inf
    #: Bytes of resident memory.
    memory: float = inf
    #: Seconds of life.
    age: float = inf

    @property
    def areSet(self) -> bool:
        """
        Whether there is any limit.
        """
        return any(limit < inf for limit in self)

    def ageOfOne(self) -> float:
        """
        Return the age limit of one worker: up to a tenth less or more.
        """
        return self.age * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311


def parseSize(text: str) -> int:
    """
    Parse a size in bytes, or with the unit K, M or G.

    @raise ValueError: If it is none.
    """
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or not int(match[1]):
        raise ValueError(f"expected a size such as 500M, got {text!r}")
    return int(match[1]) * _UNITS[match[2].upper()]


def memoryOf(pid: int) -> int:
    """
    Return the resident memory of a process in bytes, or 0 if it is not known.
    """
    try:
        fields = Path(f"/proc/{pid}/statm").read_text("ascii").split()
        return int(fields[1]) * getpagesize()
    except (OSError, IndexError):
        # It has ended, or this system has no such file.
        return 0
