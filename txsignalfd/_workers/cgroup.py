# -*- test-case-name: tests.workers.test_cgroup -*-
"""
What the cgroup of this process allows: how many CPUs, and how much memory.

Other systems than Linux, or other cgroups than those of version 2, say nothing of it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path


def _directories(root: str) -> list[Path]:
    """
    Return the directories of the cgroup and of those around it, as far as known.
    """
    with suppress(OSError, ValueError):
        text = Path(f"{root}/proc/self/cgroup").read_text("utf-8")
        (name,) = (line[3:] for line in text.splitlines() if line.startswith("0::"))
        top = Path(f"{root}/sys/fs/cgroup")
        cgroup = top / name.lstrip("/")
        around = [cgroup, *cgroup.parents]
        return around[: around.index(top) + 1]
    return []


def usableCPUs(root: str = "") -> int:
    """
    Return the number of CPUs that the affinity and the cgroup's quota allow.

    @param root: The directory that stands for the root directory.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for directory in _directories(root):
        with suppress(OSError, ValueError):
            quota, period = (directory / "cpu.max").read_text("ascii").split()
            count = min(count, ceil(int(quota) / int(period)))
    return max(1, count)


class MemoryEvents:
    """
    Counts how often the kernel has killed a process of the cgroup for its memory.
    """

    def __init__(self, root: str = "") -> None:
        """
        @param root: The directory that stands for the root directory.
        """
        self._root = root
        self._count = self._read()

    def hasKilled(self) -> bool:
        """
        Whether it has killed one since the last call.
        """
        before, self._count = self._count, self._read()
        return self._count > before

    def _read(self) -> int:
        with suppress(OSError, LookupError, ValueError):
            events = (_directories(self._root)[0] / "memory.events").read_text("ascii")
            fields = dict(line.split() for line in events.splitlines())
            return int(fields["oom_kill"])
        return 0
