"""
L{ExitWatch}: a set of children, told when they end.
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


@pytest.fixture(params=["pidfd", "without", "full", "no epoll"])
def ends(request: pytest.FixtureRequest) -> Iterator[ExitWatch]:
    """
    With a pidfd for each, and with none for one reason or another.
    """

    def refused(*_: Any) -> Any:
        raise OSError(24, "refused")

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without":
            patch.setattr(os, "pidfd_open", refused)
        elif request.param == "no epoll":
            patch.setattr(select, "epoll", refused)
        elif request.param == "full":
            resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED, limits[1]))
        ends = ExitWatch()
        yield ends
        if request.param != "pidfd":
            assert not ends._pidfds
        ends.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def end(pid: int) -> None:
    """
    Kill a child, and leave it lying.
    """
    os.kill(pid, SIGKILL)
    untilZombie(pid)


@pytest.mark.parametrize("exclusive", [True, False])
def test_eachIsToldOnceWhenItHasEnded(ends: ExitWatch, exclusive: bool) -> None:
    """
    The others are not, and what was discarded is not.
    """
    with foreign(*SLEEP) as one, foreign(*SLEEP) as two, foreign(*SLEEP) as three:
        for pid in (one, two, three):
            ends.add(pid, exclusive)
        assert list(ends.ended()) == []
        ends.discard(three)
        end(three)
        end(two)
        assert list(ends.ended()) == [two]
        assert list(ends.ended()) == []
        end(one)
        assert list(ends.ended()) == [one]


@pytest.mark.parametrize("exclusive", [True, False])
def test_oneThatHasEndedAlreadyIsTold(ends: ExitWatch, exclusive: bool) -> None:
    """
    Also where another ended one stands before it, and when it is added twice.
    """
    with foreign(*SLEEP) as lying, foreign(*SLEEP) as pid:
        end(lying)
        end(pid)
        ends.add(pid, exclusive)
        ends.add(pid, exclusive)
        assert list(ends.ended()) == [pid]


@pytest.mark.parametrize("exclusive", [True, False])
def test_oneThatWasWaitedForIsTold(ends: ExitWatch, exclusive: bool) -> None:
    """
    At once if that was to be expected, and otherwise in time.
    """
    with ExitStack() as stack:
        with foreign(*SLEEP) as pid:
            ends.add(pid, exclusive)
            living = [stack.enter_context(foreign(*SLEEP)) for _ in range(3)]
            for each in living:
                ends.add(each, exclusive=True)
        told: list[int] = []
        for _ in range(5 if exclusive else 1):
            told += ends.ended()
        assert told == [pid]


def test_whoIsToldMayDiscardTheRest(ends: ExitWatch) -> None:
    """
    Or close it all.
    """
    with foreign(*SLEEP) as one, foreign(*SLEEP) as two:
        for pid in (one, two):
            ends.add(pid, exclusive=False)
            end(pid)
        for _ in ends.ended():
            ends.close()
        assert list(ends.ended()) == []


def test_oneIsToldAgainUntilItsStatusIsGone(ends: ExitWatch) -> None:
    """
    Which whoever was told could not have yet.
    """
    with foreign(*SLEEP) as pid:
        ends.add(pid, exclusive=True)
        assert list(ends.ended()) == []
        end(pid)
        for _ in range(2):
            assert list(ends.ended()) == [pid]
            ends.reportAgain(pid)
    assert list(ends.ended()) == [pid]
    with pytest.raises(ChildProcessError):
        ends.reportAgain(pid)
    assert list(ends.ended()) == []


def test_peekLeavesTheStatus() -> None:
    """
    To whoever waits.
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


def test_lowNumbersAreLeftToOthers() -> None:
    """
    To select(2), which has no other.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip(f"no more than {limits[1]} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    ends = ExitWatch()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        stack.callback(ends.close)
        pid = stack.enter_context(foreign(*SLEEP))
        low = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, low)
        while low < 1024 - RESERVED - 1:
            low = os.dup(low)
            stack.callback(os.close, low)
        ends.add(pid, exclusive=True)
        (fd,) = ends._pids
        assert fd == 1024
        assert not os.get_inheritable(fd)
        end(pid)
        assert list(ends.ended()) == [pid]
