"""
Workers that hang or grow are replaced, and their number changes.
"""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path
from signal import SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU

import pytest

from tests.support.clients import Web, fetch, tcp
from tests.support.daemons import childrenOf, hasEnded, serving, waitFor
from tests.support.freeports import freePort, local
from tests.support.served import write
from txsignalfd._workers.limits import Limits, memoryOf, parseSize


def test_aWorkerThatHangsIsReplaced(tmp_path: Path) -> None:
    """
    The log has its stack.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], body="body")
    options = ["--workers=1", "--worker-timeout=1.5"]
    with serving(tmp_path, *options, "served") as daemon:
        with pytest.raises(ConnectionError):
            fetch(tcp(port), "/hang")
        daemon.waitForOutput("in render_GET")
        # A machine that is busy may have stopped an earlier one for as long.
        turns = (
            r"worker 1 \(pid (\d+)\) has made no turn for 1.5 s \(--worker-timeout\)"
        )
        hung = re.findall(turns, daemon.output())
        assert hung
        for pid in hung:
            daemon.waitForOutput(f"worker 1 (pid {pid}) was killed by SIGABRT")
        # The connection waits for the next worker.
        assert fetch(tcp(port)) == b"body"
        assert daemon.stop() == -SIGTERM


def test_aWorkerThatHangsEndsWithTheDaemon(tmp_path: Path) -> None:
    """
    If that is stopped at once.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)])
    options = ["--workers=1", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        (worker,) = childrenOf(daemon.pid)
        with closing(Web(tcp(port))) as web:
            web.send("/hang")
            daemon.kill(SIGQUIT)
            assert daemon.wait() == -SIGQUIT
        waitFor(lambda: hasEnded(worker), "the worker ends")


@pytest.mark.parametrize("limit", ["--max-memory=1M", "--max-age=0.5"])
def test_aWorkerThatReachesALimitIsReplaced(limit: str, tmp_path: Path) -> None:
    """
    One serves all the time.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], body="body")
    with serving(tmp_path, "--workers=1", limit, "served") as daemon:
        daemon.waitForOutput(f"has reached {limit.partition('=')[0]}: replacing it")
        found = re.search(r"worker 1 \(pid (\d+)\) has reached", daemon.output())
        assert found
        waitFor(lambda: hasEnded(int(found[1])), "it ends")
        assert fetch(tcp(port)) == b"body"
        assert daemon.stop() == -SIGTERM


def test_signalsAddAndRemoveWorkers(tmp_path: Path) -> None:
    """
    The last one stays.
    """
    write(tmp_path, listen=[f"tcp:{freePort()}:interface=127.0.0.1"])
    options = ["--workers=1", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        first = childrenOf(daemon.pid)
        daemon.kill(SIGTTIN)
        daemon.waitForOutput("worker 2 (pid ")
        daemon.waitForOutput(") serves\n")
        daemon.kill(SIGTTOU)
        waitFor(lambda: childrenOf(daemon.pid) == first, "the second one ends")
        daemon.kill(SIGTTOU)
        daemon.waitForOutput("workers: 1, now 1")
        assert childrenOf(daemon.pid) == first
        assert daemon.stop() == -SIGTERM


def test_aWorkerThatIsStoppedIsReplaced(tmp_path: Path) -> None:
    """
    By SIGTERM from another process than the supervisor.
    """
    write(tmp_path, listen=[local(freePort())])
    options = ["--workers=1", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        (worker,) = childrenOf(daemon.pid)
        os.kill(worker, SIGTERM)
        daemon.waitForOutput(f"worker 1 (pid {worker}) was killed by SIGTERM")
        assert daemon.stop() == -SIGTERM


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("500M", 500 << 20), ("1GiB", 1 << 30)]
)
def test_aSizeIsParsed(text: str, size: int) -> None:
    """
    In bytes, or with a unit.
    """
    assert parseSize(text) == size


@pytest.mark.parametrize("text", ["", "0", "M", "-1", "1.5G", "5T"])
def test_aWrongSizeIsExplained(text: str) -> None:
    """
    The error says what was expected.
    """
    with pytest.raises(ValueError, match="expected a size such as 500M"):
        parseSize(text)


def test_theMemoryOfAProcessIsMeasured() -> None:
    """
    The memory of a process that has ended is 0.
    """
    assert memoryOf(os.getpid()) > 1 << 20
    assert memoryOf(1 << 30) == 0


def test_workersDoNotReachAnAgeTogether() -> None:
    """
    Their limits differ by some percent.
    """
    ages = {Limits(age=100.0).ageOfOne() for _ in range(10)}
    assert len(ages) > 1
    assert all(90 <= age <= 110 for age in ages)
