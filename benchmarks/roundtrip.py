"""
The round trip: sigqueue(3) in another process, the handler, one byte back.

The sender is a C program, which keeps its part of the time small.  Every program is
started several times, because the memory layout of one process changes its speed
by some percent.
"""

from __future__ import annotations

import array
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.measuring import (
    ROOT,
    Comparison,
    Row,
    floor,
    module,
    onOneCPU,
    percentile99,
    single,
)
from benchmarks.peers import PEERS

PINNED, FREE = "round trip, on one CPU", "round trip, on any CPU"

OURS = "txsignalfd"

#: Event loops, and then calls that block and can do nothing else.
LOOPS = ("Twisted", "asyncio", "uvloop", "trio")
BLOCKING = ("PyPI signalfd", "sigwaitinfo", "os.read")

#: The targets: the most that the ratio to each should be.
LIMITS = {
    "Twisted": 0.5,
    "asyncio": 0.6,
    "uvloop": 0.77,
    "trio": 0.3,
    "bare reader": 1.08,
}

#: Everything that is compared.
NAMES = [*PEERS, "C"]

#: How many samples at the start of each turn are not counted.
WARM_UP = 30


def start(name: str, deed: str) -> subprocess.Popen[bytes]:
    """
    Start a peer, and wait until it is ready.
    """
    command = [floor(), deed] if name == "C" else module("peers", name, deed)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        # asyncio logs each signal that it loses.
        stderr=subprocess.DEVNULL if deed == "count" else None,
        cwd=ROOT,
    )
    assert process.stdout is not None
    if os.read(process.stdout.fileno(), 1) != b"r":
        raise RuntimeError(f"{name} did not start")
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """
    Kill a peer.
    """
    process.kill()
    process.communicate()


def ping(process: subprocess.Popen[bytes], count: int) -> list[float]:
    """
    Return the durations of some round trips, in microseconds.
    """
    assert process.stdout is not None
    fd = process.stdout.fileno()
    times = array.array("q")
    times.frombytes(
        subprocess.run(
            [floor(), "ping", str(process.pid), str(fd), str(WARM_UP + count)],
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    return [time / 1000 for time in times[WARM_UP:]]


def measure(quick: bool) -> list[Comparison]:
    """
    Measure with sender and receiver on one CPU, and where the system places them.
    """
    starts, turns, count = (1, 2, 50) if quick else (8, 8, 40)
    return [_measure(starts, turns, count, name) for name in (PINNED, FREE)]


def _measure(starts: int, turns: int, count: int, name: str) -> Comparison:
    comparison = Comparison(name, "µs")
    for _ in range(starts):
        with ExitStack() as stack, onOneCPU(name == PINNED):
            pings = {}
            for peer in random.sample(NAMES, len(NAMES)):
                process = start(peer, "echo")
                stack.callback(stop, process)
                pings[peer] = partial(ping, process, count)
            for _ in range(turns):
                comparison.turn(pings)
    return comparison


def rows(*trips: Comparison) -> Iterator[Row]:
    """
    Yield the ratios of txsignalfd to every other.
    """
    for trip in trips:
        limits = LIMITS if trip.name == PINNED else {}
        for peer in [*LIMITS, *(name for name in NAMES if name not in LIMITS)]:
            if peer != OURS:
                ratio = trip.ratio(OURS, peer)
                yield Row(f"{trip.name}: to {peer}", ratio, limits.get(peer))
        for peer in (*LOOPS, *BLOCKING):
            ours, theirs = (percentile99(trip.samples(each)) for each in (OURS, peer))
            what = f"{trip.name}, 99th percentile: to {peer}"
            yield Row(what, single(ours / theirs), 1 if limits else None)
