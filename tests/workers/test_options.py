"""
The options of C{twistd signalfd} for workers.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.python.usage import UsageError

from txsignalfd._twistd.arguments import watchedPaths
from txsignalfd._twistd.making import parseCount
from txsignalfd._twistd.workeroptions import becomeSupervisor, watchedBy
from txsignalfd.tap import Options


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--workers=0", "web"], "--workers: expected a number, 1 or more, or auto"),
        (["--workers=two", "web"], "--workers: expected a number, 1 or more, or auto"),
        (["--start-timeout=x", "web"], "--start-timeout: expected a number of seconds"),
        (["--max-memory=x", "web"], "--max-memory: expected a size such as 500M"),
        (["--spare-workers=x", "web"], "--spare-workers: expected a number, 0 or more"),
        (["--environment-file=", "web"], "--environment-file: expected the path of"),
        (["--watch-path=/none", "web"], "--watch-path: /none does not exist"),
        (["--workers=2"], "--workers: only with a command, such as web"),
        (["--workers=2", "web"], "--workers: only with twistd"),
        (["--start-timeout=2", "-y", "app.tac"], "only with --workers"),
        (["--max-age=0", "-y", "app.tac"], "--max-age: only with --workers"),
        (["--watch", "-y", "app.tac"], "--watch: only with --workers"),
    ],
)
def test_aWrongCommandLineIsExplained(arguments: list[str], error: str) -> None:
    """
    The error says what was expected.
    """
    with pytest.raises(UsageError, match=error):
        Options().parseOptions(arguments)


@pytest.mark.parametrize("text", ["auto", "3"])
def test_theNumberOfWorkersIsCalculated(text: str) -> None:
    """
    From the CPUs, or as it was given; each reload calculates it again.
    """
    assert parseCount("--workers", text)() >= 1


def test_chrootIsRefused() -> None:
    """
    A worker could not start in there.
    """
    twistd: dict[str, object] = {"nodaemon": True, "chroot": "/srv"}
    with pytest.raises(UsageError, match="not with --chroot"):
        becomeSupervisor(twistd)
    twistd = {"nodaemon": True, "chroot": None, "uid": 1000, "gid": 1000}
    becomeSupervisor(twistd)
    assert twistd["uid"] is twistd["gid"] is None


def test_pathsAreWatchedForACommandToo(tmp_path: Path) -> None:
    """
    Which has no application file.
    """
    file = tmp_path / "settings.json"
    file.touch()
    text = f"{tmp_path}{os.pathsep}{file}"
    options = Options()
    options["watch-path"] = watchedPaths("--watch-path", text)
    assert watchedBy(options) == [str(tmp_path), str(file)]
