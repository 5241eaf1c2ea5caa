"""
What is done in a row leaves time to others.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.reactors import spin, turn
from txsignalfd import NotServing, ReloadService
from txsignalfd._reload.service import LONGEST, Pace


def done(clock: Clock, pace: Pace, took: float) -> Deferred[None]:
    """
    Do it, and want to do it again.
    """
    assert beginning(pace).called
    clock.advance(took)
    pace.end()
    return beginning(pace)


def beginning(pace: Pace) -> Deferred[None]:
    """
    Want to do it.
    """
    return Deferred.fromCoroutine(pace.begin())


@pytest.mark.parametrize(
    ("share", "took", "rest"),
    [(0.04, 0.002, 0.048), (0.5, 0.25, 0.25), (0.04, 0.5, LONGEST)],
)
def test_itRestsForManyTimesAsLong(share: float, took: float, rest: float) -> None:
    """
    Until others have had their part, but not for ever.
    """
    clock = Clock()
    clock.advance(100)
    again = done(clock, Pace(clock, share), took)
    clock.advance(rest - 0.001)
    assert not again.called
    clock.advance(0.002)
    assert again.called


def test_whoComesLaterWaitsForNothing() -> None:
    """
    Nor does the first, nor anybody where all the time may be taken.
    """
    clock = Clock()
    pace = Pace(clock, 0.04)
    clock.advance(1)
    assert not done(clock, pace, 0.002).called
    clock.advance(0.05)
    pace.end()
    clock.advance(5)
    assert beginning(pace).called
    assert done(clock, Pace(clock, 1), 5).called
    assert clock.getDelayedCalls() == []


def test_aClockThatIsSetBackHoldsUpNobody() -> None:
    """
    For longer than the longest rest.
    """
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


async def started(reactor: Any, clock: Clock) -> tuple[ReloadService, list[str]]:
    """
    A service that has been reloaded once, which took 0.02 seconds, and what
    begins and ends from then on.
    """
    story: list[str] = []
    reloads = ReloadService(Service, reactor=reactor)

    def prepare() -> Any:
        clock.advance(0.02)
        return int, int

    def told(what: str) -> Any:
        return lambda reload: story.append(f"{what} {reload.number}")

    reloads.addParticipant(prepare)
    reloads.share = 0.1
    reloads.privilegedStartService()
    reloads._pace._reactor = clock
    reloads.startService()
    await reloads.reload()
    await turn(reactor)
    reloads.addWatcher(told("before"), told("after"))
    return reloads, story


def test_reloadsInARowLeaveTimeToOthers() -> None:
    """
    Whatever is asked for meanwhile is one reload more.
    """

    async def main(reactor: Any) -> None:
        clock = Clock()
        reloads, story = await started(reactor, clock)
        asked = [reloads.reload() for _ in range(3)]
        # Nine times as long.
        clock.advance(0.17)
        await turn(reactor)
        assert story == []
        clock.advance(0.02)
        for deferred in asked:
            await deferred
        assert story == ["before 3", "after 3"]
        await reloads.stopService()

    spin(main)


def test_aStopDoesNotWaitForTheRest() -> None:
    """
    Who has asked for a reload is told that there is none.
    """

    async def main(reactor: Any) -> None:
        clock = Clock()
        reloads, story = await started(reactor, clock)
        asked = reloads.reload()
        assert clock.getDelayedCalls()
        await reloads.stopService()
        with pytest.raises(NotServing):
            await asked
        assert story == []
        assert not clock.getDelayedCalls()

    spin(main)
