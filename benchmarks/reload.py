"""
Measure the cost of reloads: python benchmarks/reload.py [--quick] [MODE]

Without a mode: answers a second that clients of C{twistd signalfd web} get, with
and without reloads, in windows that take turns.  Half of the clients open a
connection for each request, half keep theirs open.  The clients are threads of this
process; the daemon is another process.

C{--ports}: how long a reload takes, with 1, 10 and 100 ports and no clients.

C{--latency}: how long an answer takes in the second after a SIGHUP, and in a second
without one.  Two clients send a request every few milliseconds, one of them on a new
connection each time.

C{--soak RELOADS}: reloads in a row under load, and the descriptors and the memory of
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

#: How many ports a daemon has.
PORTS = [1, 10, 20] if QUICK else [1, 10, 100]

#: How many reloads are measured for each.
RELOADS = 3 if QUICK else 40

#: Seconds from one request of a client to the next, for the latency.
PACE = 0.01

#: How many seconds with a reload, and how many without, for the latency.
SECOND_PAIRS = 2 if QUICK else 100

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
        self._rest = ""
        #: The seconds of each reload that the log had when it was read last.
        self.times: list[float] = []

    def reload(self, times: int = 1) -> None:
        """
        Reload it, and wait until it has reloaded.
        """
        for _ in range(times):
            wanted = len(self.times) + 1
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
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        took = [line.partition(RELOADED)[2] for line in lines if RELOADED in line]
        self.times += [float(seconds.split()[0]) for seconds in took]
        return len(self.times)


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
    # On a busy machine, the daemon may not have run at all.
    clients = len(answers.answers)
    waitFor(lambda: total(answers) > before + clients, "answers")
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


def ports(directory: Path) -> None:
    """
    Reload daemons with more and more ports.
    """
    print("a reload, in ms: median (middle half); the clock is that of its log")
    print(f"{'ports':8}{'time':24}CPU time")
    for count in PORTS:
        with ExitStack() as stack:
            command = [f"--listen=tcp:{freePort()}" for _ in range(count)]
            daemon = Daemon(stack.enter_context(serving(directory, "web", *command)))
            daemon.reload(3)
            del daemon.times[:]
            spent = []
            for _ in range(RELOADS):
                before = daemon.seconds()
                daemon.reload()
                spent.append((daemon.seconds() - before) * 1e3)
            took = [seconds * 1e3 for seconds in daemon.times]
            print(
                f"{count:<8}{spread(took, '.0f'):24}{spread(spent, '.1f')}", flush=True
            )


class Paced:
    """
    A client that sends a request at fixed times, whether or not it waited long for
    the answer before, and records how late each answer was.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._due = time.monotonic()
        #: When each request was due, and the seconds from then to its answer.
        self.answers: list[tuple[float, float]] = []

    def __call__(self) -> None:
        """
        Send the next request, and receive its answer.
        """
        self._due += PACE
        # A fixed pace, as of clients that do not wait for each other.
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._request()
        self.answers.append((self._due, time.monotonic() - self._due))

    def during(self, began: float) -> list[float]:
        """
        Return the milliseconds of the answers due in the second after that time.
        """
        return [late * 1e3 for due, late in self.answers if 0 <= due - began < 1]


def apart(pid: int) -> None:
    """
    Give a daemon one CPU, and its clients another, if there are two.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(pid, others[:1])
        os.sched_setaffinity(0, {first})


def latency(daemon: Daemon, answers: Load, clients: dict[str, Paced]) -> None:
    """
    Compare the second after each SIGHUP with a second without one.
    """
    began: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * SECOND_PAIRS):
        reloads = bool(number % 2)
        began[reloads].append(time.monotonic())
        if reloads:
            daemon.reload()
        # The second that is measured, and what of a reload is left to do after it.
        time.sleep(max(0.0, began[reloads][-1] + 1.2 - time.monotonic()))
    end = began[True][-1] + 1
    waitFor(
        lambda: (
            total(answers)  # reports requests that have failed
            and all(each.answers[-1][0] > end for each in clients.values())
        ),
        "the answers of the last second",
    )
    print(f"{total(answers)} answers; latency in ms, and with a reload to without")
    print(f"{'client':12}{'percentile':12}{'without':10}{'with':10}ratio")
    for name, client in clients.items():
        quiet, busy = (
            sorted(late for each in began[way] for late in client.during(each))
            for way in (False, True)
        )
        for percent in (50, 99, 99.9):
            without, during = (
                each[min(len(each) - 1, int(len(each) * percent / 100))]
                for each in (quiet, busy)
            )
            cells = f"{without:<10.2f}{during:<10.2f}{during / without:.2f}"
            print(f"{name:12}{percent:<12}{cells}")


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
        if "--ports" in sys.argv:
            ports(directory)
            return
        (directory / "index.html").write_text("text " * 200)
        command = [
            "--drain=4",
            "web",
            f"--listen=tcp:{port}:interface=127.0.0.1",
            f"--path={directory}",
            f"--logfile={directory / 'web.log'}",
        ]
        daemon = Daemon(stack.enter_context(serving(directory, *command)))
        sorts: dict[str, Callable[[], Any]] = {
            "new": lambda: opening(tcp(port)),
            "kept-alive": lambda: keeping(tcp(port)),
        }
        if "--latency" in sys.argv:
            apart(daemon.pid)
            paced = {name: Paced(make()) for name, make in sorts.items()}
            answers = stack.enter_context(load(*paced.values()))
            latency(daemon, answers, paced)
        else:
            clients = [make() for make in sorts.values() for _ in range(CLIENTS)]
            answers = stack.enter_context(load(*clients))
            (soak if SOAK else throughput)(daemon, answers)
        print(f"{total(answers)} answers, none failed")


if __name__ == "__main__":
    main()
