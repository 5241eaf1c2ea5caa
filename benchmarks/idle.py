"""
Who wakes up when nothing happens.

C{python -m benchmarks.idle} watches signals, reaps children, has one that
lives, and has nothing to do.  What is counted are its voluntary context
switches: a process that sleeps has one for each time that it wakes up.  One
that never sleeps has none either, but it uses the CPU.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Comparison, Row, module

#: Seconds until all that a start leaves to be done has been done.
SETTLE = 1


def _switches(pid: int) -> int:
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def _nanoseconds(pid: int) -> int:
    """
    The CPU time of all its threads: proc_pid_schedstat.
    """
    schedstats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in schedstats)


def _wakeups(process: subprocess.Popen[bytes], seconds: float) -> int:
    """
    How often a process wakes up.

    @raise RuntimeError: When it has none because it never sleeps, or has ended.
    """
    before, used = _switches(process.pid), _nanoseconds(process.pid)
    # This time is what is measured: what is counted is what happens in it.
    time.sleep(seconds)
    woken = _switches(process.pid) - before
    if process.poll() is not None:
        raise RuntimeError("it has ended")
    if not woken and _nanoseconds(process.pid) > used:
        raise RuntimeError("it has not slept")
    return woken


def measure(quick: bool) -> list[Comparison]:
    """
    Watch a process of its own.
    """
    seconds = 1 if quick else 10
    comparison = Comparison(f"wakeups in {seconds} idle seconds", "wakeups")
    with subprocess.Popen(module("idle"), stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        # It still does what comes after its start, and then nothing: time is what
        # is measured here, and there is no event to wait for.
        time.sleep(SETTLE)
        try:
            woken = _wakeups(process, seconds)
        finally:
            process.terminate()
    comparison.turns.append({"txsignalfd": [woken]})
    return [comparison]


def rows(wakeups: Comparison) -> Iterator[Row]:
    """
    There should be none.
    """
    yield Row(wakeups.name, wakeups.spread("txsignalfd"), 0)


def main() -> None:
    """
    Be idle, until SIGTERM.
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
