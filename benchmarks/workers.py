"""
Measure workers: python benchmarks/workers.py [--quick] [--reloads COUNT]

Throughput: the answers of C{twisted.web} with two workers to those with one, which
take turns, by wrk(1); and how evenly the connections are distributed.

Reloads: the code changes before each, under the load of clients that open a
connection for each request and of clients that keep theirs, by TCP, TLS and a UNIX
socket.  It fails if a request is refused, reset or answered in part, or if a client
that opens connections meets old code after new code.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM

# The clients and the daemon of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.certificates import writeCertificate
from tests.support.clients import fetch, keeping, load, opening, tcp, tls, unix
from tests.support.daemons import RELOADED, TWISTD, Program, program, waitFor
from tests.support.freeports import freePort

QUICK = "--quick" in sys.argv
RELOADS = int(
    sys.argv[sys.argv.index("--reloads") + 1]
    if "--reloads" in sys.argv
    else (2 if QUICK else 100)
)
SECONDS = 0.3 if QUICK else 4
ROUNDS = 1 if QUICK else 6

TAC = """
from twisted.application.service import Application
from answers import makeService
application = Application("example")
makeService().setServiceParent(application)
"""

MODULE = """
from twisted.application.service import MultiService
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site
from txsignalfd import workerNumber

class Answer(Resource):
    isLeaf = True

    def render_GET(self, request):
        worker = b"%d" % workerNumber()
        return worker if request.path == b"/worker" else {text!r}

def makeService():
    whole = MultiService()
    for endpoint in {endpoints!r}:
        service(endpoint, Site(Answer())).setServiceParent(whole)
    return whole
"""


def deploy(directory: Path, text: bytes, *endpoints: str) -> None:
    """
    Write an application file, and the module with its code.
    """
    (directory / "app.tac").write_text(TAC)
    module = directory / "answers.new"
    module.write_text(MODULE.format(text=text, endpoints=endpoints))
    module.rename(directory / "answers.py")


@contextmanager
def running(directory: Path, workers: int) -> Iterator[Program]:
    """
    Run the application with workers.
    """
    environment = ["env", "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1"]
    options = ["--pidfile=", "signalfd", f"--workers={workers}", "-y", "app.tac"]
    with program(directory, *environment, TWISTD, "-n", *options) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        yield daemon
        daemon.kill(SIGTERM)
        daemon.wait()


def wrk(port: int, path: str = "/") -> float:
    """
    Return the answers in a second that wrk(1) gets by 16 connections.
    """
    command = ["wrk", "-t1", "-c16", f"-d{max(1, SECONDS)}s"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def throughput(directory: Path) -> None:
    """
    Measure one and two workers in turns, and print the ratios.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers, found in rates.items():
            port = freePort()
            # As wrk's answers of 1 kB.
            deploy(directory, b"x" * 1000, f"tcp:{port}:interface=127.0.0.1")
            with running(directory, workers):
                wrk(port)
                found.append(wrk(port))
    ratios = sorted(two / one for one, two in zip(*rates.values(), strict=True))
    one, two = map(statistics.median, rates.values())
    print(
        f"answers a second: {one:.0f} with one worker, {two:.0f} with two; ratio"
        f" {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def balance(directory: Path) -> None:
    """
    Print the parts of two workers in the connections of busy clients.
    """
    port = freePort()
    deploy(directory, b"text", f"tcp:{port}:interface=127.0.0.1")
    counts: Counter[bytes] = Counter()

    def request() -> None:
        counts[fetch(tcp(port), "/worker")] += 1

    with running(directory, 2), load(*[request] * 8) as answers:
        answers.waitForAnswers(10 if QUICK else 300)
    parts = [count / counts.total() for count in counts.values()]
    print(f"parts of the workers: {', '.join(f'{part:.2f}' for part in parts)}")


def reloads(directory: Path) -> None:
    """
    Reload changed code under load.
    """
    plain, secure = freePort(), freePort()
    certificate = directory / "localhost.pem"
    writeCertificate(certificate)
    path = directory / "socket"
    endpoints = [
        f"tcp:{plain}:interface=127.0.0.1",
        f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1",
        f"unix:{path}",
    ]
    deploy(directory, b"0000", *endpoints)
    ways = [tcp(plain), tls(tcp(secure), str(certificate)), unix(str(path))]
    seen: list[bytes] = []
    first: list[float] = []
    with running(directory, 2) as daemon:
        began = time.monotonic()
        with load(
            *map(opening, ways),
            *map(keeping, ways),
            lambda: seen.append(fetch(tcp(plain))),
        ) as answers:
            for number in range(1, RELOADS + 1):
                text = b"%04d" % number
                deploy(directory, text, *endpoints)
                signalled = time.monotonic()
                os.kill(daemon.pid, SIGHUP)
                waitFor(lambda: seen[-1] == text, "the new code answers")  # noqa: B023
                first.append(time.monotonic() - signalled)
                waitFor(
                    lambda: daemon.output().count(RELOADED) == number,  # noqa: B023
                    "a reload",
                )
        seconds = time.monotonic() - began
        assert seen == sorted(seen), "a client has met old code after new code"
    print(
        f"{RELOADS} reloads in {seconds:.0f} s: {sum(answers.answers)} answers, none"
        f" lost; the new code answered after {statistics.median(first):.2f} s"
    )


def main() -> None:
    """
    Run the parts that this machine can run.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        reloads(directory)
        balance(directory)
        if shutil.which("wrk"):
            throughput(directory)
        else:
            print("throughput: needs wrk(1)")


if __name__ == "__main__":
    main()
