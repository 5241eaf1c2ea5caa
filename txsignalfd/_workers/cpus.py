# -*- test-case-name: tests.workers.test_cgroup -*-
"""
L{usableCPUs}: how many workers can run at the same time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path


def usableCPUs(root: str = "") -> int:
    """
    Return the number of CPUs that the affinity and the cgroup's quota allow.

    @param root: The directory that stands for the root directory.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *_quotas(root)]))


def _quotas(root: str) -> list[int]:
    """
    Return the quotas of the cgroup and of those around it, in whole CPUs.
    """
    found = []
    with suppress(OSError, ValueError):
        text = Path(f"{root}/proc/self/cgroup").read_text("utf-8")
        (name,) = (line[3:] for line in text.splitlines() if line.startswith("0::"))
        top = Path(f"{root}/sys/fs/cgroup")
        cgroup = top / name.lstrip("/")
        around = [cgroup, *cgroup.parents]
        for directory in around[: around.index(top) + 1]:
            with suppress(OSError):
                quota, period = (directory / "cpu.max").read_text("ascii").split()
                if quota != "max":
                    found.append(ceil(int(quota) / int(period)))
    return found
