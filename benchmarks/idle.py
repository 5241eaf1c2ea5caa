"""
Count wakeups while nothing happens.

C{python -m benchmarks.idle} watches signals, reaps children, has a living child,
and has nothing to do.  Its voluntary context switches are counted: a process that
sleeps has one for each wakeup.  A process that never sleeps has none either, but
uses the CPU.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Comparison, Row, module

#: Seconds until everything that a start leaves to do is done.
WARM_UP = 1


def _switches(pid: int) -> int:
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def _nanoseconds(pid: int) -> int:
    """
    Return the CPU time of all its threads, from C{/proc/PID/task/TID/schedstat}.
    """
    schedstats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in schedstats)


def _wakeups(process: subprocess.Popen[bytes], seconds: float) -> int:
    """
    Return how often a process wakes up.

    @raise RuntimeError: When it has none because it never sleeps, or has ended.
    """
    before, used = _switches(process.pid), _nanoseconds(process.pid)
    # The wakeups during this time are counted.
    time.sleep(seconds)
    woken = _switches(process.pid) - before
    if process.poll() is not None:
        raise RuntimeError("it has ended")
    if not woken and _nanoseconds(process.pid) > used:
        raise RuntimeError("it has not slept")
    return woken


def measure(quick: bool) -> list[Comparison]:
    """
    Count the wakeups of another process.
    """
    seconds = 1 if quick else 10
    comparison = Comparison(f"wakeups in {seconds} idle seconds", "wakeups")
    with subprocess.Popen(module("idle"), stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        # No event says that a start has nothing left to do.
        time.sleep(WARM_UP)
        try:
            woken = _wakeups(process, seconds)
        finally:
            process.terminate()
    comparison.turns.append({"txsignalfd": [woken]})
    return [comparison]


def rows(wakeups: Comparison) -> Iterator[Row]:
    """
    Yield the number of wakeups.
    """
    yield Row(wakeups.name, wakeups.spread("txsignalfd"), 0)


def main() -> None:
    """
    Run a service that is idle, until SIGTERM.
    """
    from twisted.internet import reactor
    from twisted.internet.protocol import ProcessProtocol

    from txsignalfd import SignalService
    from txsignalfd._twistd.signallog import DEFAULT_SIGNALS

    runs: Any = reactor
    # SIGTERM stops it.
    handlers = dict.fromkeys(DEFAULT_SIGNALS, lambda info: None)
    service = SignalService(handlers)
    service.privilegedStartService()
    service.startService()
    runs.addSystemEventTrigger("before", "shutdown", service.stopService)
    runs.spawnProcess(ProcessProtocol(), "sleep", ["sleep", "1000"], os.environ)
    runs.addSystemEventTrigger("during", "shutdown", _killChildren)
    runs.callWhenRunning(print, "ready", flush=True)
    runs.run()


def _killChildren() -> None:
    from twisted.internet.process import reapProcessHandlers

    for child in list(reapProcessHandlers.values()):
        child.signalProcess("KILL")


if __name__ == "__main__":
    main()
