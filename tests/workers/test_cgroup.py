"""
The CPUs that the system allows, and how a worker has ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGKILL, SIGSEGV

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated

from tests.support.processes import runPython
from txsignalfd._workers.cgroup import MemoryEvents, usableCPUs
from txsignalfd._workers.ending import describeEnd

_CORE = 0o200


def cgroup(root: Path) -> Path:
    """
    Make the files of a cgroup, and return its directory.
    """
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/system.slice/web.service\n")
    directory = root / "sys/fs/cgroup/system.slice/web.service"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("own", "outer", "count"),
    [
        ("max 100000", "max 100000", 8),
        ("250000 100000", "max 100000", 3),
        ("max 100000", "50000 100000", 1),
        ("900000 100000", "400000 100000", 4),
    ],
)
def test_theQuotaLimitsTheCPUs(
    own: str, outer: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The quota of the cgroup, and of each cgroup around it.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    directory = cgroup(tmp_path)
    (directory / "cpu.max").write_text(own + "\n")
    (directory.parent / "cpu.max").write_text(outer + "\n")
    assert usableCPUs(str(tmp_path)) == count


def test_theAffinityLimitsTheCPUs() -> None:
    """
    As taskset(1) sets it.
    """
    first = min(os.sched_getaffinity(0))
    source = (
        f"import os; os.sched_setaffinity(0, [{first}])\n"
        "from txsignalfd._workers.cgroup import usableCPUs; print(usableCPUs())"
    )
    done = runPython("-c", source, check=True)
    assert done.stdout == "1\n"


def test_otherSystemsHaveANumberOfCPUs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without an affinity and without cgroups.
    """
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usableCPUs(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (ProcessDone(0), "has exited with status 0"),
        (ProcessTerminated(3, None, 3 << 8), "has exited with status 3"),
        (ProcessTerminated(None, SIGKILL, SIGKILL), "was killed by SIGKILL"),
        (
            ProcessTerminated(None, SIGSEGV, SIGSEGV | _CORE),
            "was killed by SIGSEGV, and dumped core",
        ),
    ],
)
def test_anEndIsDescribed(reason: object, text: str) -> None:
    """
    By the exit status, or the signal.
    """
    assert describeEnd(reason) == text


def test_anOutOfMemoryKillIsNamed(tmp_path: Path) -> None:
    """
    The cgroup counts them.
    """
    events = cgroup(tmp_path) / "memory.events"
    events.write_text("oom 1\noom_kill 1\n")
    counted = MemoryEvents(str(tmp_path))
    assert not counted.hasKilled()
    events.write_text("oom 2\noom_kill 2\n")
    reason = ProcessTerminated(None, SIGKILL, SIGKILL)
    assert describeEnd(reason, counted.hasKilled()).endswith("is out of memory")
    assert not counted.hasKilled()


def test_noCgroupCountsNothing(tmp_path: Path) -> None:
    """
    As on systems without cgroups.
    """
    assert not MemoryEvents(str(tmp_path)).hasKilled()
