"""
Count the realtime signals of a burst that never reach the handler.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from signal import SIGRTMAX

from benchmarks.measuring import Comparison, Row, floor
from benchmarks.roundtrip import NAMES, OURS, start, stop
from txsignalfd.lowlevel import sigqueue

LIMITS = {OURS: 0}

#: A peer that has not answered within this many seconds is asked again: the
#: question is a signal too, and may be lost.
PATIENCE = 0.5


def _ask(process: subprocess.Popen[bytes]) -> int | None:
    assert process.stdout is not None
    sigqueue(process.pid, SIGRTMAX)
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        return None
    return int(struct.unpack("=q", os.read(process.stdout.fileno(), 8))[0])


def _lost(name: str, count: int) -> list[float]:
    process = start(name, "count")
    try:
        subprocess.run([floor(), "send", str(process.pid), str(count), "0"], check=True)
        answers: list[int | None] = [None]
        while answers[-1] is None or answers[-1] not in answers[:-1]:
            answers.append(_ask(process))
        assert answers[-1] is not None
        return [count - answers[-1]]
    finally:
        stop(process)


def measure(quick: bool) -> list[Comparison]:
    """
    Send each burst to a new process.
    """
    turns, count = (1, 1000) if quick else (5, 10_000)
    comparison = Comparison(f"lost of a burst of {count:,}", "signals")
    for _ in range(turns):
        comparison.turn({name: partial(_lost, name, count) for name in NAMES})
    return [comparison]


def rows(lost: Comparison) -> Iterator[Row]:
    """
    Yield the losses of each.
    """
    for name in NAMES:
        yield Row(f"{lost.name}: {name}", lost.spread(name), LIMITS.get(name))
