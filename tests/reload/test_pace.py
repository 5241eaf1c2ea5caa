"""
L{Pace}: successive reloads leave time to clients.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.generations import start
from tests.support.inreactor import inReactor
from tests.support.reactors import turn
from txsignalfd import NotServing, ReloadService
from txsignalfd._reload.service import LONGEST, Pace


def act(clock: Clock, pace: Pace, seconds: float) -> Deferred[None]:
    """
    Act for some seconds, and begin to act again.
    """
    assert beginning(pace).called
    clock.advance(seconds)
    pace.end()
    return beginning(pace)


def beginning(pace: Pace) -> Deferred[None]:
    """
    Return a Deferred that fires when the action begins.
    """
    return Deferred.fromCoroutine(pace.begin())


@pytest.mark.parametrize(
    ("share", "took", "rest"),
    [(0.04, 0.002, 0.048), (0.5, 0.25, 0.25), (0.04, 0.5, LONGEST)],
)
def test_anActionRestsForAMultipleOfItsTime(
    share: float, took: float, rest: float
) -> None:
    """
    But for half a second at most.
    """
    clock = Clock()
    clock.advance(100)
    again = act(clock, Pace(clock, share), took)
    clock.advance(rest - 0.001)
    assert not again.called
    clock.advance(0.002)
    assert again.called


def test_anActionAfterTheRestBeginsImmediately() -> None:
    """
    So does the first one, and each one that may take all the time.
    """
    clock = Clock()
    pace = Pace(clock, 0.04)
    clock.advance(1)
    assert not act(clock, pace, 0.002).called
    clock.advance(0.05)
    pace.end()
    clock.advance(5)
    assert beginning(pace).called
    assert act(clock, Pace(clock, 1), 5).called
    assert clock.getDelayedCalls() == []


def test_aClockThatIsSetBackProlongsNoRest() -> None:
    clock = Clock()
    clock.advance(10000)
    pace = Pace(clock, 0.04)
    assert beginning(pace).called
    clock.advance(0.25)
    pace.end()
    clock.rightNow -= 5000
    again = beginning(pace)
    clock.advance(LONGEST)
    assert again.called


async def reloaded(reactor: Any, clock: Clock) -> tuple[ReloadService, list[str]]:
    """
    Make a service with a reload that took 0.02 seconds, and a list of what
    happens from then on.
    """
    story: list[str] = []
    reloads = ReloadService(Service, reactor=reactor)

    def prepare() -> Any:
        clock.advance(0.02)
        return int, int

    def noting(what: str) -> Any:
        return lambda reload: story.append(f"{what} {reload.number}")

    reloads.addParticipant(prepare)
    reloads.share = 0.1
    start(reloads)
    reloads._pace._reactor = clock
    await reloads.reload()
    await turn()
    reloads.addObserver(noting("before"), noting("after"))
    return reloads, story


@inReactor
async def test_reloadsRestNineTimesAsLongAsTheyTake(reactor: Any) -> None:
    """
    All calls during the rest are one more reload.
    """
    clock = Clock()
    reloads, story = await reloaded(reactor, clock)
    deferreds = [reloads.reload() for _ in range(3)]
    clock.advance(0.17)
    await turn()
    assert story == []
    clock.advance(0.02)
    for deferred in deferreds:
        await deferred
    assert story == ["before 3", "after 3"]
    await reloads.stopService()


@inReactor
async def test_aStopEndsTheRest(reactor: Any) -> None:
    """
    And refuses the reload that would have followed.
    """
    clock = Clock()
    reloads, story = await reloaded(reactor, clock)
    refused = reloads.reload()
    assert clock.getDelayedCalls()
    await reloads.stopService()
    with pytest.raises(NotServing):
        await refused
    assert story == []
    assert not clock.getDelayedCalls()
