"""
A burst: many realtime signals are queued, and then read and handled.

C{python -m benchmarks.burst WAY COUNT} makes a burst for each line that it
reads, and prints the nanoseconds for a signal.  The time begins when all are
queued, and ends with the last call of the handler.  The comparison of the two
backends includes the sending, because there the handler in C already runs.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from signal import SIGRTMIN
from typing import Any

from benchmarks.measuring import ROOT, Comparison, Row, floor, module, onOneCPU, output

SIGNAL = int(SIGRTMIN)

_handled = 0


def _plain(info: Any) -> None:
    global _handled
    _handled += 1


def _attributes(info: Any) -> None:
    global _handled
    info.signo, info.pid, info.value  # noqa: B018
    _handled += 1


def _fired(info: Any) -> Any:
    global _handled
    _handled += 1
    return _succeed(None)


async def _coroutine(info: Any) -> None:
    global _handled
    _handled += 1


def _succeed(result: object) -> Any:
    from twisted.internet.defer import Deferred

    deferred: Any = Deferred()
    deferred.callback(result)
    return deferred


def _failed(failure: Any) -> None:
    raise SystemExit(str(failure))


def _timeOf(reactor: Any, count: int, withSending: bool) -> float:
    """
    Queue the signals, run the reactor until they are handled, and return the
    nanoseconds of each.
    """
    global _handled
    from txsignalfd.lowlevel import sigqueue

    _handled = 0
    pid = os.getpid()
    before = time.perf_counter_ns()
    for value in range(count):
        sigqueue(pid, SIGNAL, value)
    if not withSending:
        before = time.perf_counter_ns()
    while _handled < count:
        reactor.doIteration(0)
    return (time.perf_counter_ns() - before) / count


def _ours(
    handler: Callable[[Any], Any],
    others: int = 0,
    watched: int = 0,
    backend: str | None = None,
) -> Callable[[Any], None]:
    """
    @param others: How many handlers of other signals there are.
    @param watched: How many other signals are watched.
    @param backend: See C{SignalDispatcher}.
    """

    def prepare(reactor: Any) -> None:
        from txsignalfd import SignalDispatcher
        from txsignalfd._twistd.signallog import DEFAULT_SIGNALS

        dispatcher = SignalDispatcher(reactor, backend)
        dispatcher.addHandler(SIGNAL, handler)
        rest = [signo for signo in DEFAULT_SIGNALS if signo != SIGNAL]
        for signo in rest[:others]:
            dispatcher.addHandler(signo, _plain)
        dispatcher.watch(*rest[:watched])

    return prepare


def _twisted(call: Callable[[Any], object]) -> Callable[[Any], None]:
    """
    Handle the same signals from the same descriptor with the least code by which
    Twisted reports a failure.
    """

    def prepare(reactor: Any) -> None:
        from txsignalfd import SignalDescriptor

        def receive(infos: list[Any]) -> None:
            for info in infos:
                call(info)

        reactor.addReader(SignalDescriptor([SIGNAL], receive))

    return prepare


def _fromCoroutine(info: Any) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(_coroutine(info))


WAYS: dict[str, Callable[[Any], None]] = {
    "a plain handler": _ours(_plain),
    "three attributes": _ours(_attributes),
    "a fired Deferred": _ours(_fired),
    "a fired Deferred, Twisted alone": _twisted(
        lambda info: _fired(info).addErrback(_failed)
    ),
    "a fired Deferred, no errback": _twisted(_fired),
    "a coroutine": _ours(_coroutine),
    "a coroutine, Twisted alone": _twisted(
        lambda info: _fromCoroutine(info).addErrback(_failed)
    ),
    "a coroutine, no errback": _twisted(_fromCoroutine),
    "20 handlers of others": _ours(_plain, others=20),
    "all signals watched": _ours(_plain, watched=64),
    "sent and handled, signalfd": _ours(_plain, backend="signalfd"),
    "sent and handled, handler": _ours(_plain, backend="handler"),
}

#: The ways whose time begins with the sending.
WITH_SENDING = {"sent and handled, signalfd", "sent and handled, handler"}


class Way:
    """
    A process that makes a burst on request.
    """

    def __init__(self, name: str, count: int) -> None:
        self._process = subprocess.Popen(
            module("burst", name, count),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def burst(self) -> list[float]:
        """
        Make a burst, and return the nanoseconds of each signal.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return [float(self._process.stdout.readline())]

    def stop(self) -> None:
        """
        Stop the process.
        """
        self._process.communicate()


def _burstInC(count: int) -> list[float]:
    return [int(output([floor(), "burst", str(count)]).split()[0]) / count]


def measure(quick: bool) -> list[Comparison]:
    """
    Measure all in turns, and start each several times.
    """
    starts, turns, count = (1, 1, 2000) if quick else (5, 10, 20_000)
    comparison = Comparison("a burst", "ns a signal")
    for _ in range(starts):
        with ExitStack() as stack, onOneCPU():
            bursts: dict[str, Callable[[], list[float]]] = {
                "C": lambda: _burstInC(count)
            }
            for name in random.sample(list(WAYS), len(WAYS)):
                way = Way(name, count)
                stack.callback(way.stop)
                bursts[name] = way.burst
            for burst in bursts.values():
                burst()  # not counted: it finds nothing in the caches
            for _ in range(turns):
                comparison.turn(bursts)
    return [comparison]


def rows(bursts: Comparison) -> Iterator[Row]:
    """
    Yield the ratio of each way to the one that it is compared with.
    """
    for way, other, most in (
        ("a plain handler", "C", 2.3),
        ("three attributes", "C", 2.9),
        ("a fired Deferred", "a fired Deferred, Twisted alone", 1.5),
        ("a fired Deferred", "a fired Deferred, no errback", 1.1),
        ("a coroutine", "a coroutine, Twisted alone", 2.0),
        ("a coroutine", "a coroutine, no errback", 1.2),
        ("all signals watched", "a plain handler", 1.1),
        ("20 handlers of others", "a plain handler", 1.1),
        ("sent and handled, handler", "sent and handled, signalfd", None),
    ):
        what = f"{bursts.name}, {way}: to {other.removeprefix(f'{way}, ')}"
        yield Row(what, bursts.ratio(way, other), most)


def main(way: str, count: int) -> None:
    """
    Make bursts in this process.
    """
    from twisted.internet.epollreactor import EPollReactor

    reactor = EPollReactor()
    WAYS[way](reactor)
    # The thread of the running reactor receives the signals.
    reactor.startRunning(installSignalHandlers=False)
    for _ in sys.stdin:
        print(_timeOf(reactor, count, way in WITH_SENDING), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
