"""
Measure workers: python benchmarks/workers.py [--quick] [--reloads COUNT]

Reloads: the code changes before each, under the load of clients that open a
connection for each request and of clients that keep theirs: by TCP, TLS and a UNIX
socket, by HTTP/2, and of a WebSocket that echoes (if autobahn is installed).  It fails
if a request is refused, reset or answered in part, or if a client that uses one
connection at a time meets old code after new code.

Crashes: a worker is killed every second.  It fails if a request fails at any other
time, or of more clients than there are.  Then the supervisor is killed, and the
seconds are printed until the port is free.

It also prints how evenly the connections are distributed, and runs
L{benchmarks.scaling}: the throughput of two workers to that of one, and the cost of
their log.
"""

from __future__ import annotations

import compileall
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from math import inf
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import Any

# The clients and the daemon of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

import txsignalfd
from benchmarks import scaling
from benchmarks.codereload import startClients, stop
from tests.support.certificates import writeCertificate
from tests.support.clients import Web, fetch, keeping, load, opening, tcp, tls, unix
from tests.support.daemons import RELOADED, Program, childrenOf, program, waitFor
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort
from tests.support.streams import HTTP2, Messages, tlsOfHTTP2

QUICK = "--quick" in sys.argv
RELOADS = int(
    sys.argv[sys.argv.index("--reloads") + 1]
    if "--reloads" in sys.argv
    else (2 if QUICK else 100)
)

#: How many workers are killed, and the seconds from one to the next.
KILLS = 2 if QUICK else 60
PAUSE = 1.0

#: Seconds after a kill in which a client may notice it.  A quick run judges no times.
NOTICED = inf if QUICK else 0.5

#: Connections that are kept, to see who accepts them.
KEPT = 40

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
    if {webSocket!r}:
        from autobahn.twisted import websocket

        class Echo(websocket.WebSocketServerProtocol):
            def onMessage(self, payload, isBinary):
                self.sendMessage({text!r}, isBinary)

        factory = websocket.WebSocketServerFactory()
        factory.protocol = Echo
        service({webSocket!r}, factory).setServiceParent(whole)
    return whole
"""


def deploy(directory: Path, text: bytes, *endpoints: str, webSocket: str = "") -> None:
    """
    Write an application file, and the module with its code.

    @param text: Its answer.
    @param endpoints: Where it listens for HTTP.
    @param webSocket: Where it listens for WebSockets, if at all.
    """
    (directory / "app.tac").write_text(TAC)
    module = directory / "answers.new"
    module.write_text(
        MODULE.format(text=text, endpoints=endpoints, webSocket=webSocket)
    )
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
        if daemon.process.poll() is None:
            daemon.kill(SIGTERM)
            daemon.wait()


def balance(directory: Path) -> None:
    """
    Print the parts of two workers in the requests of busy clients.
    """
    port = freePort()
    deploy(directory, b"text", f"tcp:{port}:interface=127.0.0.1")
    opened: Counter[bytes] = Counter()

    def request() -> None:
        opened[fetch(tcp(port), "/worker")] += 1

    with running(directory, 2), load(*[request] * 8) as answers:
        answers.waitForAnswers(10 if QUICK else 300)
        webs = [Web(tcp(port)) for _ in range(KEPT)]
        kept = Counter(web.get("/worker") for web in webs)
        for web in webs:
            web.close()
    for name, counts in (("opened", opened), ("kept", kept)):
        parts = [count / counts.total() for count in counts.values()]
        print(f"{name} connections: {', '.join(f'{part:.2f}' for part in parts)}")


class Places:
    """
    Where the application listens, and its clients.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        plain, secure, echo = (freePort() for _ in range(3))
        certificate = str(directory / "localhost.pem")
        writeCertificate(Path(certificate))
        path = str(directory / "socket")
        self._endpoints = [
            f"tcp:{plain}:interface=127.0.0.1",
            f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1",
            f"unix:{path}",
        ]
        ways = [tcp(plain), tls(tcp(secure), certificate), unix(path)]
        #: The answers of each client that uses one connection at a time.
        self.seen: dict[str, list[bytes]] = {"HTTP/1.1": []}
        self.clients: list[Any] = [
            *map(opening, ways),
            *map(keeping, ways),
            lambda: self.seen["HTTP/1.1"].append(fetch(tcp(plain))),
        ]
        streams = HTTP2(tlsOfHTTP2(tcp(secure), certificate))
        self.clients.append(streams)
        self.seen["HTTP/2"] = streams.texts
        self._webSocket = ""
        if find_spec("autobahn"):
            self._webSocket = f"tcp:{echo}:interface=127.0.0.1"
            messages = Messages(tcp(echo))
            self.clients.append(messages)
            self.seen["WebSocket"] = messages.texts
        else:
            print("WebSockets: needs autobahn")

    def deploy(self, text: bytes) -> None:
        """
        Write code that answers with a text.
        """
        deploy(self._directory, text, *self._endpoints, webSocket=self._webSocket)


def reloads(directory: Path) -> None:
    """
    Reload changed code under load.
    """
    places = Places(directory)
    places.deploy(b"0000")
    first: list[float] = []
    with running(directory, 2) as daemon:
        began = time.monotonic()
        with load(*places.clients) as answers:
            for number in range(1, RELOADS + 1):
                text = b"%04d" % number
                places.deploy(text)
                signalled = time.monotonic()
                os.kill(daemon.pid, SIGHUP)
                waitFor(
                    lambda: places.seen["HTTP/1.1"][-1] == text,  # noqa: B023
                    "the new code answers",
                )
                first.append(time.monotonic() - signalled)
                waitFor(
                    lambda: daemon.output().count(RELOADED) == number,  # noqa: B023
                    "a reload",
                )
        seconds = time.monotonic() - began
    for name, seen in places.seen.items():
        assert seen == sorted(seen), f"{name}: old code after new code"
        print(f"{name}: {len(seen)} answers of {len(set(seen))} versions, in order")
    print(
        f"{RELOADS} reloads in {seconds:.0f} s: {sum(answers.answers)} answers, none"
        f" lost; the new code answered after {statistics.median(first):.2f} s"
    )


def crashes(directory: Path) -> None:
    """
    Kill workers, and then the supervisor.
    """
    port = freePort()
    deploy(directory, b"text", f"tcp:{port}:interface=127.0.0.1")
    kills: list[float] = []
    with running(directory, 2) as daemon:
        clients = startClients(port)
        for number in range(KILLS):
            # About one kill a second; the clients go on.
            time.sleep(PAUSE)
            waitFor(lambda: len(childrenOf(daemon.pid)) > 1, "two workers")
            kills.append(time.monotonic())
            os.kill(childrenOf(daemon.pid)[number % 2], SIGKILL)
        # Requests that the last kill makes fail may still be under way.
        time.sleep(PAUSE)
        stop(clients)
        failures = [each for client in clients for each in client.failures]
        late = [
            kind
            for failed, kind in failures
            if not any(0 <= failed - killed < NOTICED for killed in kills)
        ]
        count = sum(len(client.answers) for client in clients)
        print(f"{KILLS} kills: {len(failures)} of {count} requests failed")
        assert not late, late
        assert len(failures) <= KILLS * len(clients), failures
        killed = time.monotonic()
        daemon.kill(SIGKILL)
        daemon.wait()
        waitFor(lambda: _isFree(port), "the port is free")
        print(f"the port is free {time.monotonic() - killed:.2f} s after a kill")


def _isFree(port: int) -> bool:
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
            free.listen()
        except OSError:
            return False
    return True


def main() -> None:
    """
    Run the parts that this machine can run.
    """
    for each in txsignalfd.__path__:
        # As after an installation by pip.
        compileall.compile_dir(each, quiet=1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        reloads(directory)
        balance(directory)
        crashes(directory)
        if shutil.which("wrk"):
            scaling.throughput(directory)
            scaling.logs(directory)
        else:
            print("throughput and logs: need wrk(1)")


if __name__ == "__main__":
    main()
