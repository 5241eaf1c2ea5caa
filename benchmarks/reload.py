"""
Measure the cost of reloads: python benchmarks/reload.py [--quick] [--soak RELOADS]

Without C{--soak}: answers a second that clients of C{twistd signalfd web} get, with
and without reloads, in windows that take turns.  Half of the clients open a
connection for each request, half keep theirs open.  The clients are threads of this
process; the daemon is another process.

With C{--soak}: reloads in a row under load, and the descriptors and the memory of
the daemon.

It fails if any request is refused, reset or answered in part.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP
from typing import Any

# The clients and the daemon of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.clients import Load, keeping, load, opening, tcp
from tests.support.daemons import RELOADED, Program, serving, waitFor
from tests.support.freeports import freePort

QUICK = "--quick" in sys.argv
SOAK = int(sys.argv[sys.argv.index("--soak") + 1]) if "--soak" in sys.argv else 0

#: Of each kind.
CLIENTS = 2
SECONDS = 0.3 if QUICK else 1.5
ROUNDS = 2 if QUICK else 16


class Daemon:
    """
    A daemon and its log.
    """

    def __init__(self, running: Program) -> None:
        self.pid = running.pid
        self._log = running.stdout.open()
        #: How often it had reloaded when the log was read last.
        self.done = 0

    def reload(self, times: int = 1) -> None:
        """
        Reload it, and wait until it has reloaded.
        """
        for _ in range(times):
            wanted = self.done + 1
            os.kill(self.pid, SIGHUP)
            waitFor(lambda: self.read() >= wanted, "a reload")  # noqa: B023

    def seconds(self) -> float:
        """
        Return its CPU time, from C{/proc/PID/schedstat}.
        """
        with open(f"/proc/{self.pid}/schedstat", encoding="ascii") as schedstat:
            return int(schedstat.read().split()[0]) / 1e9

    def read(self) -> int:
        """
        Return how often it has reloaded.
        """
        self.done += self._log.read().count(RELOADED)
        return self.done


def total(answers: Load) -> int:
    """
    Return the number of answers so far.
    """
    assert answers.failures == [], answers.failures
    return sum(answers.answers)


def window(
    daemon: Daemon, answers: Load, interval: float | None
) -> tuple[float, float, int]:
    """
    @param interval: Seconds from one SIGHUP to the next, C{None} for none.
    @return: Answers in a second, and in a second of the daemon's CPU time, and how
        often it has reloaded.
    """
    # No event says that the last window has nothing left to do.
    time.sleep(0.2)
    reloads, before = daemon.read(), total(answers)
    began, spent = time.monotonic(), daemon.seconds()
    while (left := began + SECONDS - time.monotonic()) > 0:
        if interval is not None:
            os.kill(daemon.pid, SIGHUP)
        # The window, or the time between two signals.  Waiting for each reload would
        # take CPU time from the clients.
        time.sleep(left if interval is None else min(left, interval))
    seconds, spent = time.monotonic() - began, daemon.seconds() - spent
    count = total(answers) - before
    return count / seconds, count / spent, daemon.read() - reloads


#: Seconds from one SIGHUP to the next, and their name in the table.
INTERVALS = {
    1.0: "one a second",
    0.1: "ten a second",
    0.01: "a hundred a second",
}


def throughput(daemon: Daemon, answers: Load) -> None:
    """
    Measure windows with reloads, each between two without, and print the ratios.
    """
    rates: dict[float, list[list[float]]] = {each: [] for each in INTERVALS}
    reloads = dict.fromkeys(INTERVALS, 0)
    window(daemon, answers, None)
    before = window(daemon, answers, None)
    for number in range(ROUNDS * len(INTERVALS)):
        interval = list(INTERVALS)[number % len(INTERVALS)]
        during = window(daemon, answers, interval)
        after = window(daemon, answers, None)
        rates[interval].append(
            [
                2 * b / (a + c)
                for a, b, c in zip(before, during, after[:2], strict=False)
            ]
        )
        reloads[interval] += during[2]
        before = after
    print(f"{before[0]:.0f} answers a second without a reload; with some, to those")
    print("before and after: medians (middle half)")
    print(f"{'SIGHUPs':20}{'in a second':24}{'in one of CPU time':24}reloads a second")
    for interval, name in INTERVALS.items():
        ratios = "".join(
            f"{spread(list(each), '.3f'):24}"
            for each in zip(*rates[interval], strict=True)
        )
        rate = reloads[interval] / (SECONDS * ROUNDS)
        print(f"{name:20}{ratios}{rate:.1f}")


def spread(values: list[float], form: str) -> str:
    """
    Return the median and the range of the middle half.
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def resources(daemon: Daemon) -> str:
    """
    Return the daemon's descriptors and memory.
    """
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    count = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    return f"{count:4} descriptors, {lines['VmRSS'].split()[0]:>8} kB resident"


def soak(daemon: Daemon, answers: Load) -> None:
    """
    Reload, and print descriptors and memory from time to time.
    """
    began, step = time.monotonic(), max(1, SOAK // 20)
    for count in range(step, SOAK + 1, step):
        daemon.reload(step)
        seconds = time.monotonic() - began
        print(
            f"{count:7} reloads {seconds:7.1f} s {total(answers):9} answers"
            f" {resources(daemon)}",
            flush=True,
        )


def main() -> None:
    """
    Start the daemon and the clients.
    """
    port = freePort()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (directory / "index.html").write_text("text " * 200)
        command = [
            "--drain=4",
            "web",
            f"--listen=tcp:{port}:interface=127.0.0.1",
            f"--path={directory}",
            f"--logfile={directory / 'web.log'}",
        ]
        daemon = Daemon(stack.enter_context(serving(directory, *command)))
        sorts: list[Callable[[], Any]] = [
            lambda: opening(tcp(port)),
            lambda: keeping(tcp(port)),
        ]
        clients = [make() for make in sorts for _ in range(CLIENTS)]
        answers = stack.enter_context(load(*clients))
        (soak if SOAK else throughput)(daemon, answers)
        print(f"{total(answers)} answers, none failed")


if __name__ == "__main__":
    main()
