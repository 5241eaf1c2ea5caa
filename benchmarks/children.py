"""
What an end costs: python benchmarks/children.py [--quick]

For 0 to 5,000 living children, in one interleaved run:

  - finding out whose end it was: CPU time from the SIGCHLD (when its handlers
    are called, and before it is read) to the call of that process's own
    C{reapProcess}, and what C{reapAllProcesses} takes for the same;
  - a whole end: CPU time of this process from the kill to C{processEnded}.

Pin it to one CPU (taskset -c 0), and have RLIMIT_NOFILE at 6,000 or more.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from signal import SIGCHLD, SIGKILL
from typing import Any

from twisted.internet import process
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater

from txsignalfd import ChildReaper, dispatcherFor

QUICK = "--quick" in sys.argv
LIVING = [0, 1, 10, 100] if QUICK else [0, 1, 10, 100, 1000, 5000]
ROUNDS = 5 if QUICK else 25

now = time.process_time_ns


class Ending(ProcessProtocol):
    """
    Keeps when its process has ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[int] = Deferred()

    def processEnded(self, reason: object) -> None:
        """
        Both pipes, of which there are none, and the process have ended.
        """
        self.ended.callback(now())


def start(reactor: Any) -> Ending:
    """
    A child that sleeps.
    """
    protocol = Ending()
    command = ["sleep", "10000"]
    reactor.spawnProcess(protocol, command[0], command, os.environ, childFDs={})
    return protocol


def kill(protocol: Ending) -> None:
    """
    Kill a child, and return when it has ended.
    """
    os.kill(protocol.transport.pid, SIGKILL)
    os.waitid(os.P_PID, protocol.transport.pid, os.WEXITED | os.WNOWAIT)


def called(protocol: Ending, times: list[int]) -> None:
    """
    Note when its process is asked to look for its end.
    """
    reap = protocol.transport.reapProcess

    def reapProcess() -> None:
        times.append(now())
        reap()

    protocol.transport.reapProcess = reapProcess


async def whole(reactor: Any) -> float:
    """
    Microseconds of CPU time from a kill to C{processEnded}.
    """
    protocol = start(reactor)
    await deferLater(reactor, 0.01)
    kill(protocol)
    before = now()
    return (await protocol.ended - before) / 1000


async def found(reactor: Any, descriptor: Any) -> tuple[float, float]:
    """
    Microseconds to the call of C{reapProcess}, ours: from the handler of
    SIGCHLD on, and from before the signalfd is read.  One end has been read
    just before, so that neither way has to find its code in memory.
    """
    first, second = await pair(reactor)
    kill(first)
    descriptor.doRead()
    times: list[int] = []
    called(second, times)
    kill(second)
    before = now()
    handled.clear()
    descriptor.doRead()
    await second.ended
    return (times[0] - handled[0]) / 1000, (times[0] - before) / 1000


async def foundByTwisted(reactor: Any, dispatcher: Any) -> float:
    """
    Microseconds that C{reapAllProcesses} takes to the call of C{reapProcess}
    of the one that has ended, which is the last as it was started last.
    """
    first, second = await pair(reactor)
    with dispatcher.hold(SIGCHLD):
        kill(first)
        process.reapAllProcesses()
        times: list[int] = []
        called(second, times)
        kill(second)
        before = now()
        process.reapAllProcesses()
        await second.ended
    return (times[0] - before) / 1000


async def pair(reactor: Any) -> tuple[Ending, Ending]:
    """
    Two children, and time for what their start has left to do.
    """
    started = start(reactor), start(reactor)
    await deferLater(reactor, 0.01)
    return started


#: When the handler of SIGCHLD was called.
handled: list[int] = []


def row(*cells: object) -> None:
    """
    Print a line of the table.
    """
    print("".join(f"{cell!s:>24}" for cell in cells), flush=True)


def spread(values: list[float]) -> str:
    """
    The median, and between what the middle half is.
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


async def main(reactor: Any) -> None:
    """
    Measure, and print.
    """
    dispatcher = dispatcherFor(reactor)
    # Handlers run in the order in which they were added.
    dispatcher.addHandler(SIGCHLD, lambda info: handled.append(now()))
    ChildReaper(dispatcher)
    descriptor = dispatcher._backend._descriptor
    living: list[Ending] = []
    print("microseconds of CPU time: median (middle half)")
    row("living", "found", "read and found", "reapAllProcesses", "whole end")
    for count in LIVING:
        while len(living) < count:
            living.append(start(reactor))
        await whole(reactor)
        ours, theirs, wholes = [], [], []
        for _ in range(ROUNDS):
            ours.append(await found(reactor, descriptor))
            theirs.append(await foundByTwisted(reactor, dispatcher))
            wholes.append(await whole(reactor))
        alone, withRead = ([each[n] for each in ours] for n in (0, 1))
        row(count, *map(spread, (alone, withRead, theirs, wholes)))
    for protocol in living:
        os.kill(protocol.transport.pid, SIGKILL)
    for protocol in living:
        await protocol.ended
    await dispatcher.close()


if __name__ == "__main__":
    reactor = EPollReactor()
    reactor.callWhenRunning(
        lambda: (
            Deferred.fromCoroutine(main(reactor))
            .addErrback(lambda failure: failure.printTraceback())
            .addBoth(lambda _: reactor.stop())
        )
    )
    reactor.run(installSignalHandlers=False)
