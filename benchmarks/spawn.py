"""
What starting a child costs while signals are watched, and without.

    python benchmarks/spawn.py [--rounds 400]

In one run and interleaved: each round starts a child of reactor.spawnProcess
with nothing watched, and one with five signals watched, in changing order, and
takes the time that the call takes.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater, react

from txsignalfd import dispatcherFor

SIGNALS = (SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2)


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


async def spawn() -> float:
    """
    Start a child, wait for its end, and tell how long the start took.
    """
    protocol = Ended()
    before = time.perf_counter()
    reactor.spawnProcess(protocol, "/bin/true", ["true"])  # type: ignore[attr-defined]
    taken = time.perf_counter() - before
    while not protocol.ended.called:
        reapAllProcesses()
        await deferLater(reactor, 0.0005)  # type: ignore[arg-type]
    return taken


async def main(rounds: int) -> None:
    """
    Measure, and print medians, spread and ratio.
    """
    dispatcher = dispatcherFor(reactor)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for watched in (False, True) if number % 2 else (True, False):
            # The same is done before each, so that caches are as warm.
            dispatcher.watch(*SIGNALS)
            if not watched:
                dispatcher.unwatch(*SIGNALS)
            times[watched].append(await spawn())
            dispatcher.unwatch(*SIGNALS)
    print(f"{platform.python_version()}, {os.cpu_count()} CPUs, {rounds} rounds")
    medians = {}
    for watched, name in ((False, "nothing watched"), (True, "five signals watched")):
        low, median, high = statistics.quantiles(times[watched], n=4)
        medians[watched] = median
        print(f"{name:22} {median * 1e6:6.0f} us ({low * 1e6:.0f} to {high * 1e6:.0f})")
    print(f"ratio                  {medians[True] / medians[False]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments.rounds)))
