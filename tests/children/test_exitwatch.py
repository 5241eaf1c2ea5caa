"""
L{ExitWatch}: a set of children, reported when they have ended.
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Iterator
from contextlib import ExitStack
from signal import SIGKILL
from typing import Any

import pytest

from tests.support.processes import SLEEP, foreign, untilZombie
from txsignalfd._children.exitwatch import RESERVED, ExitWatch, peek


@pytest.fixture(params=["pidfds", "no pidfds", "few descriptors", "no epoll"])
def watch(request: pytest.FixtureRequest) -> Iterator[ExitWatch]:
    """
    Watch with pidfds, and without them for different reasons.
    """

    def refused(*_: Any) -> Any:
        raise OSError(24, "refused")

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no pidfds":
            patch.setattr(os, "pidfd_open", refused)
        elif request.param == "no epoll":
            patch.setattr(select, "epoll", refused)
        elif request.param == "few descriptors":
            resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED, limits[1]))
        watch = ExitWatch()
        yield watch
        if request.param != "pidfds":
            assert not watch._pidfds
        watch.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def end(pid: int) -> None:
    """
    Kill a child, and do not reap it.
    """
    os.kill(pid, SIGKILL)
    untilZombie(pid)


exclusively = pytest.mark.parametrize("exclusive", [True, False])


@exclusively
def test_eachChildIsReportedOnce(watch: ExitWatch, exclusive: bool) -> None:
    """
    Living and discarded children are not reported.
    """
    with foreign(*SLEEP) as one, foreign(*SLEEP) as two, foreign(*SLEEP) as three:
        for pid in (one, two, three):
            watch.add(pid, exclusive)
        assert list(watch.ended()) == []
        watch.discard(three)
        end(three)
        end(two)
        assert list(watch.ended()) == [two]
        assert list(watch.ended()) == []
        end(one)
        assert list(watch.ended()) == [one]


@exclusively
def test_childThatHasEndedBeforeIsReported(watch: ExitWatch, exclusive: bool) -> None:
    """
    A zombie in front of it does not hide it, and adding it twice is harmless.
    """
    with foreign(*SLEEP) as hiding, foreign(*SLEEP) as pid:
        end(hiding)
        end(pid)
        watch.add(pid, exclusive)
        watch.add(pid, exclusive)
        assert list(watch.ended()) == [pid]


@exclusively
def test_reapedChildIsReported(watch: ExitWatch, exclusive: bool) -> None:
    """
    It is reported immediately if it was expected to be reaped by other code,
    and otherwise after a few more ends.
    """
    with ExitStack() as stack:
        with foreign(*SLEEP) as pid:
            watch.add(pid, exclusive)
            for _ in range(3):
                watch.add(stack.enter_context(foreign(*SLEEP)), exclusive=True)
        reported: list[int] = []
        for _ in range(5 if exclusive else 1):
            reported += watch.ended()
        assert reported == [pid]


def test_watchMayBeClosedDuringIteration(watch: ExitWatch) -> None:
    """
    Children that were discarded since are not reported.
    """
    with foreign(*SLEEP) as one, foreign(*SLEEP) as two:
        for pid in (one, two):
            watch.add(pid, exclusive=False)
            end(pid)
        for _ in watch.ended():
            watch.close()
        assert list(watch.ended()) == []


def test_childIsReportedAgainUntilItIsReaped(watch: ExitWatch) -> None:
    """
    Its status may not be available at the first report.
    """
    with foreign(*SLEEP) as pid:
        watch.add(pid, exclusive=True)
        assert list(watch.ended()) == []
        end(pid)
        for _ in range(2):
            assert list(watch.ended()) == [pid]
            watch.reportAgain(pid)
    assert list(watch.ended()) == [pid]
    with pytest.raises(ChildProcessError):
        watch.reportAgain(pid)
    assert list(watch.ended()) == []


def test_peekDoesNotReap() -> None:
    """
    The status can be read repeatedly, until the child is reaped.
    """
    with foreign(*SLEEP) as pid:
        assert peek(pid) is None
        end(pid)
        for _ in range(2):
            info = peek(pid)
            assert info is not None
            assert (info.codeName, info.pid, info.status) == ("CLD_KILLED", pid, 9)
            assert info.uid == os.getuid()
    with pytest.raises(ChildProcessError):
        peek(pid)


def test_lowDescriptorsAreLeftToSelect() -> None:
    """
    A pidfd does not use one of the last numbers that select(2) accepts.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip(f"no more than {limits[1]} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    watch = ExitWatch()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        stack.callback(watch.close)
        pid = stack.enter_context(foreign(*SLEEP))
        low = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, low)
        while low < 1024 - RESERVED - 1:
            low = os.dup(low)
            stack.callback(os.close, low)
        watch.add(pid, exclusive=True)
        (fd,) = watch._pids
        assert fd == 1024
        assert not os.get_inheritable(fd)
        end(pid)
        assert list(watch.ended()) == [pid]
