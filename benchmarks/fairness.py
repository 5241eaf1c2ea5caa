"""
Measure how late a delayed call is during a flood of signals.

C{python -m benchmarks.fairness WAY SECONDS} makes one C{callLater(0.01)} after
the other, counts signals, and prints how late each call was in milliseconds,
and the number of signals.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from signal import SIGRTMIN
from typing import Any

from benchmarks.measuring import (
    ROOT,
    Comparison,
    Row,
    floor,
    module,
    onOneCPU,
    percentile99,
    quartiles,
    single,
)

#: Signals a second.
RATE = 50_000

DELAY = 0.01

WAYS = ("txsignalfd", "Twisted")


def _run(way: str, rate: int, seconds: float) -> tuple[list[float], int]:
    with onOneCPU():
        process = subprocess.Popen(
            module("fairness", way, seconds),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert process.stdout is not None
    process.stdout.readline()
    if rate:
        count = str(int(rate * seconds))
        subprocess.run(
            [floor(), "send", str(process.pid), count, str(rate)], check=True
        )
    late, received = json.loads(process.stdout.readline())
    process.communicate()
    return late, received


def measure(quick: bool) -> list[Comparison]:
    """
    Measure with the sender on the other CPU.
    """
    turns, seconds = (1, 0.5) if quick else (3, 3)
    late = Comparison(f"delay of callLater({DELAY})", "ms late")
    share = Comparison(f"handled of {RATE:,} signals a second", "percent")
    for _ in range(turns):
        received: dict[str, list[float]] = {}

        def run(
            way: str, rate: int, received: dict[str, list[float]] = received
        ) -> list[float]:
            samples, count = _run(way, rate, seconds)
            if rate:
                received[way] = [100 * count / int(rate * seconds)]
            return samples

        ways: dict[str, Callable[[], list[float]]] = {
            "no signals": partial(run, WAYS[0], 0)
        }
        ways.update({way: partial(run, way, RATE) for way in WAYS})
        late.turn(ways)
        share.turns.append(dict(received))
    return [late, share]


def rows(late: Comparison, share: Comparison) -> Iterator[Row]:
    """
    Yield the delays, and the share of the signals that was handled.
    """
    for way in late.turns[0]:
        samples = late.samples(way)
        yield Row(f"{late.name}, {late.unit}: {way}", quartiles(samples))
        what = f"{late.name}, {late.unit}, 99th percentile: {way}"
        yield Row(what, single(percentile99(samples)))
    for way in WAYS:
        yield Row(f"{share.name}, {share.unit}: {way}", share.spread(way))


def main(way: str, seconds: float) -> None:
    """
    Measure the delays in this process.
    """
    from twisted.internet.epollreactor import EPollReactor

    reactor: Any = EPollReactor()
    late: list[float] = []
    received = 0
    end = 0.0

    def handler(*_: object) -> None:
        nonlocal received
        received += 1

    def called(due: float) -> None:
        now = time.monotonic()
        late.append((now - due) * 1000)
        if now < end:
            reactor.callLater(DELAY, called, now + DELAY)
        else:
            # By then every queued signal is read, unless it was lost.
            reactor.callLater(0.5, finish)

    def finish() -> None:
        # A sender that was stopped may still send signals, which can kill this
        # process after its reactor has stopped.
        print(json.dumps([late, received]), flush=True)
        reactor.stop()

    def begin() -> None:
        nonlocal end
        end = time.monotonic() + seconds
        called(time.monotonic())
        print("ready", flush=True)

    if way == "txsignalfd":
        from txsignalfd import dispatcherFor

        dispatcherFor(reactor).addHandler(SIGRTMIN, handler)
    else:
        signal.signal(SIGRTMIN, lambda *_: reactor.callFromThread(handler))
    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
