# -*- test-case-name: tests.test_descriptor -*-
"""
How many signals are read at a time, and how many can be pending.
"""

from __future__ import annotations

import resource
import sys
from typing import Final

from txsignalfd._native import lib
from txsignalfd._record import SIGINFO_SIZE

#: The most records that one read takes, so that a storm of signals leaves the
#: reactor its other descriptors.
RECORDS_PER_READ: Final = 64
READ_SIZE: Final = RECORDS_PER_READ * SIGINFO_SIZE


def mostReads() -> int:
    """
    How many reads all signals take that can be pending.
    """
    most = lib.TXS_KEPT
    if hasattr(resource, "RLIMIT_SIGPENDING"):  # only Linux has that limit
        most, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    if most == resource.RLIM_INFINITY:
        most = sys.maxsize
    return int(most + lib.TXS_NSIG) // RECORDS_PER_READ + 1
