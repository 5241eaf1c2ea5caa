"""
Measure what a second worker brings: python benchmarks/scaling.py [--rounds COUNT]

Throughput: the answers of C{twisted.web} with two workers to those with one, by wrk(1),
and the same for two processes of twistd that share a socket.  They take turns.  Where
wrk(1) runs on the CPUs of the workers, these cannot have twice the answers: the most is
computed from the CPU times of a request, in a worker, in the supervisor and in wrk(1).
So a slow page is measured, too, for which wrk(1) takes little of the time.

Logs: the CPU time of a request with an access log in the log of the supervisor, to
that with one file for each worker, and to that of a single process with such a log.
"""

from __future__ import annotations

import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

# The daemons of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.daemons import childrenOf, program
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort

QUICK = "--quick" in sys.argv
SECONDS = 1
ROUNDS = (
    int(sys.argv[sys.argv.index("--rounds") + 1])
    if "--rounds" in sys.argv
    else (1 if QUICK else 20)
)

#: Shows a page of 1 kB, after about a millisecond if it is the slow one.
TAC = """
import socket
from twisted.application.service import Application, Service
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site

class Answer(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/slow":
            sum(range(40000))
        return b"x" * 1000

class Shared(Service):
    def startService(self):
        from twisted.internet import reactor
        reactor.adoptStreamPort({descriptor}, socket.AF_INET, Site(Answer()))

application = Application("example")
if {descriptor}:
    Shared().setServiceParent(application)
else:
    listening = service("tcp:{port}:interface=127.0.0.1", Site(Answer()))
    listening.setServiceParent(application)
"""


class Turn(NamedTuple):
    """
    The requests of wrk(1) in one turn of a contestant.
    """

    #: Answers in a second.
    rate: float
    #: Microseconds of CPU time for a request, in each process and in wrk(1).
    processes: list[float]
    client: float

    @property
    def cost(self) -> float:
        """
        The CPU time of a request in all processes.
        """
        return sum(self.processes)


class Contestant(NamedTuple):
    """
    Processes that serve at a port.
    """

    port: int
    pids: list[int]

    def turn(self, path: str, *options: str) -> Turn:
        """
        Request a page by 16 connections.

        @param options: Options of wrk(1).
        """
        before = list(map(_seconds, self.pids))
        clients = _clientSeconds()
        done = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{SECONDS}s", *options, self.url(path)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout)
        assert found, done.stdout
        count = int(found[1])
        if not count:  # the machine has stopped the server for the whole turn
            return self.turn(path, *options)
        after = list(map(_seconds, self.pids))
        spent = [now - then for now, then in zip(after, before, strict=True)]
        return Turn(
            count / float(found[2]),
            [each / count * 1e6 for each in spent],
            (_clientSeconds() - clients) / count * 1e6,
        )

    def url(self, path: str) -> str:
        """
        Return where a page is.
        """
        return f"http://127.0.0.1:{self.port}{path}"


def _seconds(pid: int) -> float:
    """
    Return the CPU time of a process, in all its threads.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in tasks) / 1e9


def _clientSeconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def takeTurns(
    contestants: dict[str, Contestant], path: str, *options: str
) -> dict[str, list[Turn]]:
    """
    Let each contestant have its turn, several times.  The first one does not count.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for _ in range(ROUNDS if QUICK else 1 + ROUNDS):
        for name, contestant in contestants.items():
            turns[name].append(contestant.turn(path, *options))
    return {name: each[-ROUNDS:] for name, each in turns.items()}


def ratio(numerators: list[float], denominators: list[float]) -> str:
    """
    Return the median of the ratios of turns, and their middle half.
    """
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


@contextmanager
def working(directory: Path, count: int) -> Iterator[Contestant]:
    """
    Run workers.  The first process is the supervisor.
    """
    port = freePort()
    (directory / "app.tac").write_text(TAC.format(port=port, descriptor=0))
    options = ["--pidfile=", "signalfd", f"--workers={count}", "-y", "app.tac"]
    with program(directory, TWISTD, "-n", *options) as running:
        running.waitForOutput(f"pid {running.pid} serves")
        yield Contestant(port, [running.pid, *childrenOf(running.pid)])
        running.stop()


@contextmanager
def sharing(directory: Path, count: int) -> Iterator[Contestant]:
    """
    Run processes of twistd that share a socket.
    """
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as shared:
        shared.setblocking(False)
        shared.set_inheritable(True)
        tac = TAC.format(port=0, descriptor=shared.fileno())
        (directory / "app.tac").write_text(tac)
        pids = []
        for _ in range(count):
            command = [TWISTD, "-n", "--pidfile=", "-y", "app.tac"]
            running = stack.enter_context(program(directory, *command))
            running.waitForOutput("Starting factory")
            pids.append(running.pid)
        yield Contestant(shared.getsockname()[1], pids)


#: The measured quantity, the path, and options of wrk(1).
LOADS = [
    ("a short page", "/"),
    ("a slow page", "/slow"),
    ("a new connection for each request", "/", "-H", "Connection: close"),
]


def throughput(directory: Path) -> None:
    """
    Measure one and two workers or processes in turns, and print the ratios.
    """
    with ExitStack() as stack:
        contestants = {}
        for name, run in (("worker", working), ("process", sharing)):
            for count in (1, 2):
                own = directory / f"{name}-{count}"
                own.mkdir()
                contestants[f"{name} {count}"] = stack.enter_context(run(own, count))
        for what, *how in LOADS:
            turns = takeTurns(contestants, *how)
            for name in ("worker", "process"):
                one, two = turns[f"{name} 1"], turns[f"{name} 2"]
                print(f"{what}, {name}: {_compared(one, two)}")
            print(f"{what}, CPU time of a request: {_shares(turns['worker 1'])}")


def _compared(one: list[Turn], two: list[Turn]) -> str:
    rates = [[each.rate for each in turns] for turns in (one, two)]
    costs = [[each.cost for each in turns] for turns in (one, two)]
    return (
        f"{statistics.median(rates[0]):.0f} answers a second; two:"
        f" {statistics.median(rates[1]):.0f}; answers of two to those of one:"
        f" {ratio(rates[1], rates[0])}, CPU time: {ratio(costs[1], costs[0])}"
    )


def _shares(turns: list[Turn]) -> str:
    supervisor = statistics.median(each.processes[0] for each in turns)
    worker = statistics.median(each.cost - each.processes[0] for each in turns)
    client = statistics.median(each.client for each in turns)
    most = 2 / (1 + (supervisor + client) / worker)
    return (
        f"{worker:.0f} µs in a worker, {supervisor:.1f} µs in the supervisor and"
        f" {client:.0f} µs in wrk: two CPUs allow {most:.2f}"
    )


#: Options of twistd signalfd, and of web, by what is measured.
LOGS = {
    "the supervisor's log": (["--workers=2"], []),
    "a file of each worker": (["--workers=2"], ["--logfile=access.log"]),
    "one process, its log": ([], []),
}


def logs(directory: Path) -> None:
    """
    Print the CPU time of a request, with access logs in several places.
    """
    with ExitStack() as stack:
        contestants = {}
        for name, (options, web) in LOGS.items():
            own = directory / name.replace(" ", "-")
            own.mkdir()
            (own / "index.html").write_bytes(b"x" * 1000)
            port = freePort()
            command = [TWISTD, "-n", "--pidfile=", "signalfd", *options, "web"]
            listen = f"--listen=tcp:{port}:interface=127.0.0.1"
            daemon = program(own, *command, listen, "--path=.", *web)
            running = stack.enter_context(daemon)
            running.waitForOutput(f"pid {running.pid} serves")
            pids = [running.pid, *childrenOf(running.pid)]
            contestants[name] = Contestant(port, pids)
        turns = takeTurns(contestants, "/index.html")
    ours = next(iter(turns.values()))
    for name, others in turns.items():
        cost = statistics.median(each.cost for each in others)
        rate = statistics.median(each.rate for each in others)
        costs = ratio([each.cost for each in ours], [each.cost for each in others])
        rates = ratio([each.rate for each in ours], [each.rate for each in others])
        print(
            f"{name}: a request takes {cost:.0f} µs of CPU time, {rate:.0f} answers a"
            f" second; the supervisor's log to this: CPU time {costs}, answers {rates}"
        )


def main() -> None:
    """
    Run both parts.
    """
    with tempfile.TemporaryDirectory() as name:
        throughput(Path(name))
        logs(Path(name))


if __name__ == "__main__":
    main()
