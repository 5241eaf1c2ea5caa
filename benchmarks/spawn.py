"""
What starting a child costs while signals are watched, and without.

C{python -m benchmarks.spawn ROUNDS} starts a child of C{reactor.spawnProcess}
with nothing watched, and one with five signals watched, in changing order, and
prints how many microseconds each call has taken.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater, react

from benchmarks.measuring import Comparison, Row, module, output
from txsignalfd import dispatcherFor

SIGNALS = (SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2)
WAYS = NOTHING, WATCHED = "nothing watched", "five signals watched"

#: So many rounds are one turn.
TOGETHER = 20


class Ended(ProcessProtocol):
    """
    Tells when its child has ended.
    """

    def __init__(self) -> None:
        self.ended: Deferred[object] = Deferred()

    def processEnded(self, reason: object) -> None:
        """
        The child has ended.
        """
        self.ended.callback(None)


async def spawn(reactor: Any) -> float:
    """
    Start a child, wait for its end, and tell how long the start took.
    """
    protocol = Ended()
    before = time.perf_counter()
    reactor.spawnProcess(protocol, "/bin/true", ["true"])
    taken = time.perf_counter() - before
    while not protocol.ended.called:
        reapAllProcesses()
        await deferLater(reactor, 0.0005)
    return taken * 1e6


async def main(reactor: Any, rounds: int) -> None:
    """
    Measure, and print.
    """
    dispatcher = dispatcherFor(reactor)
    turns = []
    for number in range(rounds):
        turn = {}
        for way in (NOTHING, WATCHED) if number % 2 else (WATCHED, NOTHING):
            # The same is done before each, so that caches are as warm.
            dispatcher.watch(*SIGNALS)
            if way == NOTHING:
                dispatcher.unwatch(*SIGNALS)
            turn[way] = await spawn(reactor)
            dispatcher.unwatch(*SIGNALS)
        turns.append(turn)
    print(json.dumps(turns))


def measure(quick: bool) -> list[Comparison]:
    """
    In a process of its own.
    """
    rounds = json.loads(output(module("spawn", 20 if quick else 600)))
    # One alone differs by more than what is looked for.
    turns = [
        {way: [each[way] for each in rounds[start : start + TOGETHER]] for way in WAYS}
        for start in range(0, len(rounds), TOGETHER)
    ]
    return [Comparison("a spawn", "µs", turns)]


def rows(spawns: Comparison) -> Iterator[Row]:
    """
    With signals watched, to without.
    """
    ratio = spawns.ratio(WATCHED, NOTHING)
    yield Row(f"{spawns.name}: {WATCHED}, to {NOTHING}", ratio, 1.05)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, int(sys.argv[1]))))
