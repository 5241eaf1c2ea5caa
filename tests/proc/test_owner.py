"""
Lock files whose process has ended.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.processes import foreign, untilZombie
from txsignalfd._proc.owner import hasEnded


@pytest.fixture
def lock(tmp_path: Path) -> str:
    """
    Return the path of a lock that was made long ago, as after a reboot.
    """
    path = tmp_path / "lock"
    path.touch()
    os.utime(path, (1, 1))
    return str(path)


def test_aLockOfThisPidHasNoOwner(lock: str) -> None:
    """
    It was made before this process had the pid.
    """
    assert hasEnded(os.getpid(), lock)


def test_aYoungerProcessIsNotTheOwner(lock: str) -> None:
    assert hasEnded(os.getppid(), lock)


def test_anOlderProcessMayBeTheOwner(lock: str) -> None:
    os.utime(lock)
    assert not hasEnded(os.getppid(), lock)


def test_aZombieIsNoOwner(lock: str) -> None:
    os.utime(lock)
    with foreign("true") as pid:
        untilZombie(pid)
        assert hasEnded(pid, lock)


@pytest.mark.parametrize("kind", ["no process", "no file"])
def test_theOwnerMayBeUnknown(kind: str, lock: str) -> None:
    if kind == "no file":
        os.unlink(lock)
    # A pid that no process can have.
    assert not hasEnded(2**22 + 1 if kind == "no process" else os.getppid(), lock)


def test_theProcOfAnotherNamespaceIsNotRead(
    lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    assert not hasEnded(os.getppid(), lock)
