"""
Measure the start of a child, with and without watched signals.

C{python -m benchmarks.spawn ROUNDS} starts a child of C{reactor.spawnProcess}
with nothing watched, and one with five signals watched, in changing order, and
prints the microseconds of each call.
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

from benchmarks.measuring import Comparison, Row, module, onOneCPU, output
from txsignalfd import dispatcherFor

SIGNALS = (SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2)
WAYS = NOTHING, WATCHED = "nothing watched", "five signals watched"

#: How many rounds are one turn.
TOGETHER = 20


class Ended(ProcessProtocol):
    """
    Fires C{ended} when its child has ended.
    """

    def __init__(self) -> None:
        self.ended: Deferred[object] = Deferred()

    def processEnded(self, reason: object) -> None:
        """
        Fire C{ended}.
        """
        self.ended.callback(None)


async def spawn(reactor: Any) -> float:
    """
    Start a child, wait for its end, and return the duration of the start.
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
    Measure, and print the results.
    """
    dispatcher = dispatcherFor(reactor)
    turns = []
    for number in range(rounds):
        turn = {}
        for way in (NOTHING, WATCHED) if number % 2 else (WATCHED, NOTHING):
            # The same call before each start makes the caches equally warm.
            dispatcher.watch(*SIGNALS)
            if way == NOTHING:
                dispatcher.unwatch(*SIGNALS)
            turn[way] = await spawn(reactor)
            dispatcher.unwatch(*SIGNALS)
        turns.append(turn)
    print(json.dumps(turns))


def measure(quick: bool) -> list[Comparison]:
    """
    Measure in another process.
    """
    with onOneCPU():
        rounds = json.loads(output(module("spawn", 20 if quick else 600)))
    # One spawn alone varies by more than the difference that is measured.
    turns = [
        {way: [each[way] for each in rounds[start : start + TOGETHER]] for way in WAYS}
        for start in range(0, len(rounds), TOGETHER)
    ]
    return [Comparison("a spawn", "µs", turns)]


def rows(spawns: Comparison) -> Iterator[Row]:
    """
    Yield the ratio with watched signals to without.
    """
    ratio = spawns.ratio(WATCHED, NOTHING)
    yield Row(f"{spawns.name}: {WATCHED}, to {NOTHING}", ratio, 1.03)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, int(sys.argv[1]))))
