"""
Measure the exit of a child: C{python -m benchmarks.children [--quick] [--json]}.

For 0 to 5,000 living children, in one interleaved run:

  - finding the child that has exited: CPU time from the call of C{doRead} of the
    descriptor that reports SIGCHLD (the signalfd, or the pipe of Twisted's handler)
    to the call of that process's C{reapProcess}.  And the same without the reading:
    from the dispatch of SIGCHLD, or from C{reapAllProcesses};
  - a whole exit: CPU time of this process from the kill to C{processEnded}.

Pin it to one CPU (taskset -c 0), with RLIMIT_NOFILE at 6,000 or more.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCHLD, SIGKILL
from typing import Any

from twisted.internet import process
from twisted.internet._signals import _SIGCHLDWaker
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from benchmarks.measuring import Comparison, Row, module, onOneCPU, output
from txsignalfd import ChildReaper, SigInfo, SignalDescriptor, dispatcherFor

QUICK = "--quick" in sys.argv
JSON = "--json" in sys.argv
LIVING = [0, 1, 10, 100] if QUICK else [0, 1, 10, 100, 1000, 5000]
ROUNDS = 5 if QUICK else 25

FOUND, FOUND_BY_TWISTED = "found", "found, Twisted"
READ, READ_BY_TWISTED = "read and found", "read and found, Twisted"
WHOLE = "a whole end"
LIMITED = "an end, 1,000 living children"

now = time.process_time_ns


class Ending(ProcessProtocol):
    """
    Records when its process has ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[int] = Deferred()

    def processEnded(self, reason: object) -> None:
        """
        Record the end.
        """
        self.ended.callback(now())


def start(reactor: Any) -> Ending:
    """
    Start a child that sleeps.
    """
    protocol = Ending()
    command = ["sleep", "10000"]
    reactor.spawnProcess(protocol, command[0], command, os.environ, childFDs={})
    return protocol


def kill(protocol: Ending) -> None:
    """
    Kill a child, and wait until it has ended.
    """
    os.kill(protocol.transport.pid, SIGKILL)
    os.waitid(os.P_PID, protocol.transport.pid, os.WEXITED | os.WNOWAIT)


def called(protocol: Ending, times: list[int]) -> None:
    """
    Record when C{reapProcess} of a child is called.
    """
    reap = protocol.transport.reapProcess

    def reapProcess() -> None:
        times.append(now())
        reap()

    protocol.transport.reapProcess = reapProcess


async def whole(reactor: Any) -> float:
    """
    Return the microseconds of CPU time from a kill to C{processEnded}.
    """
    protocol = start(reactor)
    await deferLater(reactor, 0.01)
    kill(protocol)
    before = now()
    return (await protocol.ended - before) / 1000


async def found(reactor: Any, descriptor: Any) -> tuple[float, float]:
    """
    Return the microseconds from the dispatch of SIGCHLD, and from C{doRead}, to the
    call of C{reapProcess}.  Before each, one exit has been read, so that
    neither way has to find its code in memory.
    """
    dispatch = descriptor._receive

    def receive(infos: list[SigInfo]) -> None:
        read.append(now())
        dispatch(infos)

    descriptor._receive = receive
    _, reaped = await readAndFound(reactor, descriptor)
    fromDispatch = reaped - read[0]
    descriptor._receive = dispatch
    before, reaped = await readAndFound(reactor, descriptor)
    return fromDispatch / 1000, (reaped - before) / 1000


async def readAndFound(reactor: Any, descriptor: Any) -> tuple[int, int]:
    """
    Return when C{doRead} was called, and when it called C{reapProcess}.
    """
    first, second = await pair(reactor)
    kill(first)
    descriptor.doRead()
    times: list[int] = []
    called(second, times)
    kill(second)
    read.clear()
    before = now()
    descriptor.doRead()
    await second.ended
    return before, times[0]


async def foundByTwisted(reactor: Any, dispatcher: Any) -> tuple[float, float]:
    """
    Return the same with Twisted, for the child that was started last: from
    C{reapAllProcesses}, and from C{doRead}.
    """
    first, second = await pair(reactor)
    waker = _SIGCHLDWaker()
    with dispatcher.hold(SIGCHLD):
        kill(first)
        os.write(waker.o, b"x")  # as Python does when there is a signal
        waker.doRead()
        times: list[int] = []
        called(second, times)
        kill(second)
        os.write(waker.o, b"x")
        read.clear()
        before = now()
        waker.doRead()
        await second.ended
    waker.connectionLost(None)
    return (times[0] - read[0]) / 1000, (times[0] - before) / 1000


@contextmanager
def noted() -> Iterator[None]:
    """
    Record when C{reapAllProcesses} is called.
    """
    reapAll = process.reapAllProcesses

    def reapAllProcesses() -> None:
        read.append(now())
        reapAll()

    process.reapAllProcesses = reapAllProcesses
    try:
        yield
    finally:
        process.reapAllProcesses = reapAll


async def pair(reactor: Any) -> tuple[Ending, Ending]:
    """
    Start two children, and wait until their start has nothing left to do.
    """
    started = start(reactor), start(reactor)
    await deferLater(reactor, 0.01)
    return started


#: The time when SIGCHLD had been read.
read: list[int] = []


def row(*cells: object) -> None:
    """
    Print a row of the table.
    """
    print("".join(f"{cell!s:>25}" for cell in cells), flush=True)


def spread(values: list[float]) -> str:
    """
    Return the median and the range of the middle half.
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


async def main(reactor: Any) -> None:
    """
    Measure, and print the results.
    """
    dispatcher = dispatcherFor(reactor)
    ChildReaper(dispatcher)
    (descriptor,) = (
        each for each in reactor.getReaders() if isinstance(each, SignalDescriptor)
    )
    living: list[Ending] = []
    measured: dict[int, dict[str, list[float]]] = {}
    say = (lambda *cells: None) if JSON else row
    say("microseconds of CPU time: median (middle half)")
    say("living", "found", "Twisted", "read, found", "Twisted", "ratio", "whole end")
    for count in LIVING:
        while len(living) < count:
            living.append(start(reactor))
        await whole(reactor)
        ours, theirs, wholes = [], [], []
        for _ in range(ROUNDS):
            ours.append(await found(reactor, descriptor))
            with noted():
                theirs.append(await foundByTwisted(reactor, dispatcher))
            wholes.append(await whole(reactor))
        measured[count] = {
            FOUND: [each[0] for each in ours],
            FOUND_BY_TWISTED: [each[0] for each in theirs],
            READ: [each[1] for each in ours],
            READ_BY_TWISTED: [each[1] for each in theirs],
            WHOLE: wholes,
        }
        cells: list[str] = []
        for number in (0, 1):  # found, and read and found
            each = [[pair[number] for pair in pairs] for pairs in (ours, theirs)]
            cells += map(spread, each)
            ratio = statistics.median(each[1]) / statistics.median(each[0])
        say(count, *cells, f"{ratio:.1f}", spread(wholes))
    for protocol in living:
        os.kill(protocol.transport.pid, SIGKILL)
    for protocol in living:
        await protocol.ended
    await dispatcher.close()
    if JSON:
        print(json.dumps(measured))


def measure(quick: bool) -> list[Comparison]:
    """
    Measure in another process; C{quick} means fewer children and fewer times.
    """
    with onOneCPU():
        command = module("children", "--json", *["--quick"][: int(quick)])
        measured = json.loads(output(command))
    comparisons = []
    for living, samples in measured.items():
        name = f"an end, {int(living):,} living children"
        turns = [
            {way: [value] for way, value in zip(samples, values, strict=True)}
            for values in zip(*samples.values(), strict=True)
        ]
        comparisons.append(Comparison(name, "µs of CPU", turns))
    return comparisons


def rows(*ends: Comparison) -> Iterator[Row]:
    """
    Yield the ratios to Twisted.
    """
    for end in ends:
        most = 1 / 100 if end.name == LIMITED else None
        ratio = end.ratio(FOUND, FOUND_BY_TWISTED)
        yield Row(f"{end.name}: {FOUND}, to Twisted", ratio, most)
        ratio = end.ratio(READ, READ_BY_TWISTED)
        yield Row(f"{end.name}: {READ}, to Twisted", ratio, most)


if __name__ == "__main__":
    reactor = EPollReactor()
    reactor.callWhenRunning(
        lambda: (
            Deferred.fromCoroutine(main(reactor))
            .addErrback(Failure.printTraceback)
            .addBoth(lambda _: reactor.stop())
        )
    )
    reactor.run(installSignalHandlers=False)
