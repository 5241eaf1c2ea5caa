"""
Show where the time goes: C{python -m benchmarks.steps}.

A signal's way from the kernel to its handler is ended after each step.  The steps
take turns, with one signal in a read and with 64, and the time that each adds to the
one before is printed.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from signal import SIGRTMIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor

from benchmarks.measuring import onOneCPU
from txsignalfd import SignalDispatcher
from txsignalfd._kernel.descriptor import RECORDS_PER_READ
from txsignalfd.lowlevel import SIGINFO_SIZE, sigqueue
from txsignalfd.siginfo import SigInfo, read

SIGNAL = int(SIGRTMIN)
TURNS = 3000


def _handle(info: SigInfo) -> None:
    pass


def _steps(reactor: Any, dispatcher: SignalDispatcher) -> dict[str, Callable[[], Any]]:
    backend: Any = dispatcher._backend
    descriptor = backend._descriptor
    table, fd = dispatcher._table, descriptor.fileno()

    def handle() -> None:
        for info in read(fd):
            _handle(info)

    return {
        "read(2)": lambda: os.read(fd, RECORDS_PER_READ * SIGINFO_SIZE),
        "and make SigInfos": lambda: read(fd),
        "call the handler": handle,
        "and have a table of handlers": lambda: table.receive(read(fd)),
        "doRead": descriptor.doRead,
        "a turn of the reactor": lambda: reactor.doIteration(0),
    }


def main() -> None:
    """
    Measure, and print the results.
    """
    reactor: Any = EPollReactor()
    dispatcher = SignalDispatcher(reactor)
    dispatcher.addHandler(SIGNAL, _handle)
    steps = _steps(reactor, dispatcher)
    pid = os.getpid()
    print(f"{'nanoseconds a signal':32}{'1 a read':>16}{'64 a read':>16}")
    medians: dict[str, list[float]] = {name: [] for name in steps}
    for count in (1, RECORDS_PER_READ):
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(TURNS):
            for name in random.sample(list(steps), len(steps)):
                for value in range(count):
                    sigqueue(pid, SIGNAL, value)
                before = time.perf_counter_ns()
                steps[name]()
                times[name].append((time.perf_counter_ns() - before) / count)
        for name in steps:
            medians[name].append(statistics.median(times[name]))
    last = [0.0, 0.0]
    for name, middles in medians.items():
        cells = (
            f"{middle:8.0f} ({middle - before:+5.0f})"
            for middle, before in zip(middles, last, strict=True)
        )
        print(f"{name:32}" + "".join(f"{cell:>16}" for cell in cells))
        last = middles


if __name__ == "__main__":
    with onOneCPU():
        main()
