"""
Compare reloads of changed code: python benchmarks/codereload.py [--quick]

C{twistd signalfd --workers}, gunicorn, uvicorn, hypercorn, granian and nginx take
turns.  Each has two worker processes, and two clients that open a connection for
each request and two that keep theirs, all without pause.  The code is changed (for
nginx the directory of the static file), and SIGHUP is sent.

For each server it prints the requests that were lost, the seconds from the signal to
the first answer of the new code, and the 99th percentile of the latency in the second
after the signal, to that of the second before it.

It fails if C{twistd signalfd} loses a request.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from subprocess import TimeoutExpired
from typing import NamedTuple

# The clients and the daemon of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

import txsignalfd
from benchmarks.measuring import percentile99, quartiles
from tests.support.clients import Web, fetch, tcp
from tests.support.daemons import Program, waitFor
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort

QUICK = "--quick" in sys.argv

#: How often each server is started, and the reloads of each start.
ROUNDS = 1 if QUICK else 2
RELOADS = 1 if QUICK else 4

#: Clients of each kind.
CLIENTS = 2

#: Seconds before and after a signal.
SECOND = 0.3 if QUICK else 1.0

OURS = "twistd signalfd"

TAC = """
from twisted.application.service import Application
from answers import site

application = Application("example")
site.setServiceParent(application)
"""

SITE = """
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site

class Answer(Resource):
    isLeaf = True

    def render_GET(self, request):
        return {text!r}

site = service("tcp:{port}:interface=127.0.0.1", Site(Answer()))
"""

ASGI = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({{"type": "lifespan.startup.complete"}})
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    body = {text!r}
    headers = [(b"content-length", b"%d" % len(body))]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""

NGINX = """
daemon off;
worker_processes 2;
user root;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/{name};
    }}
}}
"""


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def deploySite(directory: Path, port: int, text: bytes) -> None:
    """
    Write the application of Twisted.
    """
    (directory / "app.tac").write_text(TAC)
    _replace(directory / "answers.py", SITE.format(port=port, text=text))


def deployASGI(directory: Path, port: int, text: bytes) -> None:
    """
    Write the application of the ASGI servers.
    """
    _replace(directory / "answers.py", ASGI.format(text=text))


def deployFiles(directory: Path, port: int, text: bytes) -> None:
    """
    Write the file of nginx, in a directory of its own.
    """
    name = text.decode()
    (directory / name).mkdir()
    (directory / name / "index.html").write_bytes(text)
    configuration = NGINX.format(port=port, directory=directory, name=name)
    _replace(directory / "nginx.conf", configuration)


class Server(NamedTuple):
    """
    A server to compare.
    """

    #: Its program, and the arguments with C{{port}} and C{{directory}}.
    command: str
    #: Writes the code that answers with a text.
    deploy: Callable[[Path, int, bytes], None]


SERVERS = {
    OURS: Server(f"{TWISTD} -n --pidfile= signalfd --workers=2 -y app.tac", deploySite),
    "gunicorn": Server(
        "gunicorn -k uvicorn.workers.UvicornWorker -w 2 -b 127.0.0.1:{port}"
        " answers:application",
        deployASGI,
    ),
    "uvicorn": Server(
        "uvicorn --workers 2 --port {port} --no-access-log answers:application",
        deployASGI,
    ),
    "hypercorn": Server(
        "hypercorn -w 2 -b 127.0.0.1:{port} answers:application", deployASGI
    ),
    "granian": Server(
        "granian --interface asgi --workers 2 --port {port} --no-ws"
        " answers:application",
        deployASGI,
    ),
    "nginx": Server("nginx -p {directory} -c nginx.conf", deployFiles),
}


class Client(threading.Thread):
    """
    A client that sends requests until the end, also after a failure.
    """

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._connect = tcp(port)
        self.keeps = keeps
        self._web: Web | None = None
        self.stopping = False
        #: The start, the seconds and the text of each answer.
        self.answers: list[tuple[float, float, bytes]] = []
        #: The time and the kind of each failure.
        self.failures: list[tuple[float, str]] = []

    def run(self) -> None:
        """
        Send requests.
        """
        while not self.stopping:
            began = time.monotonic()
            try:
                text = self._request()
            except (OSError, AssertionError, ValueError) as error:
                self.failures.append((time.monotonic(), type(error).__name__))
                self._close()
                continue
            self.answers.append((began, time.monotonic() - began, text))
        self._close()

    def _request(self) -> bytes:
        if self._web is None:
            self._web = Web(self._connect)
        text = self._web.get(last=not self.keeps)
        if not self.keeps or self._web.isOver:
            self._close()
        return text

    def _close(self) -> None:
        web, self._web = self._web, None
        if web is not None:
            web.close()


def startClients(port: int) -> list[Client]:
    """
    Start the clients of a server.
    """
    clients = [Client(port, keeps) for keeps in (False, True) * CLIENTS]
    for client in clients:
        client.start()
    return clients


def stop(clients: list[Client]) -> None:
    """
    Stop the clients.
    """
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join()


@dataclass
class Result:
    """
    The observations of the clients of one server.
    """

    answers: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    #: Seconds to the first answer of the new code, for each reload.
    first: list[float] = field(default_factory=list)
    #: Ratios of the latency, for each reload.
    ratios: list[float] = field(default_factory=list)
    #: Answers of the old code after the new one to a client that opens connections.
    back: int = 0


@contextmanager
def running(name: str, directory: Path, port: int) -> Iterator[Program]:
    """
    Run a server until it has stopped.
    """
    words = SERVERS[name].command.format(port=port, directory=directory).split()
    environment = ["env", "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1"]
    server = Program(directory, *environment, *words)
    try:
        waitFor(lambda: _answers(port) or server.process.poll() is not None, name)
        assert server.process.poll() is None, server.output()
        yield server
        server.kill(SIGTERM)
        with suppress(TimeoutExpired):
            server.process.wait(10)
    finally:
        # Workers of some servers outlive it.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, SIGKILL)
        server.process.wait()


def _answers(port: int) -> bool:
    try:
        fetch(tcp(port))
    except (OSError, AssertionError):
        return False
    return True


def measure(name: str, result: Result) -> None:
    """
    Start a server, and reload it under load.
    """
    port = freePort()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        SERVERS[name].deploy(directory, port, b"0000")
        with running(name, directory, port) as server:
            clients = startClients(port)
            # No event of these servers says that both workers serve.
            time.sleep(2)
            for number in range(1, RELOADS + 1):
                text = b"%04d" % number
                # The quiet second that the next one is compared with.
                time.sleep(SECOND)
                SERVERS[name].deploy(directory, port, text)
                signalled = time.monotonic()
                server.kill(SIGHUP)
                waitFor(lambda: _seen(clients, text), f"{name} reloads")  # noqa: B023
                # The second after the signal, and the time in which a server tidies up.
                time.sleep(max(SECOND, signalled + 3 * SECOND - time.monotonic()))
                _evaluate(clients, signalled, text, result)
            stop(clients)
            for client in clients:
                result.answers += len(client.answers)
                result.lost.update(kind for _, kind in client.failures)
                texts = [text for _, _, text in client.answers]
                if not client.keeps:
                    result.back += sum(map(bytes.__gt__, texts, texts[1:]))


def _seen(clients: list[Client], text: bytes) -> bool:
    return any(client.answers and client.answers[-1][2] == text for client in clients)


def _evaluate(
    clients: list[Client], signalled: float, text: bytes, result: Result
) -> None:
    answers = [each for client in clients for each in list(client.answers)]
    result.first.append(
        min(began + taken for began, taken, found in answers if found == text)
        - signalled
    )

    def latency(since: float) -> float:
        begun = [
            taken for began, taken, _ in answers if since <= began < since + SECOND
        ]
        # If no request began, each client waited for at least so long.
        return percentile99(begun or [SECOND])

    result.ratios.append(latency(signalled) / latency(signalled - SECOND))


def main() -> None:
    """
    Compare the servers that are installed.
    """
    for directory in txsignalfd.__path__:
        # As after an installation by pip.
        compileall.compile_dir(directory, quiet=1)
    os.environ["PATH"] = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    results = {}
    for name, server in SERVERS.items():
        if shutil.which(server.command.split()[0]):
            results[name] = Result()
        else:
            print(f"{name}: not installed")
    for _ in range(ROUNDS):
        for name, result in results.items():
            measure(name, result)
    print(f"{'server':18}{'lost':22}{'first answer (s)':20}{'p99 ratio':20}went back")
    for name, result in results.items():
        lost = f"{result.lost.total()} of {result.answers + result.lost.total()}"
        first, ratio = (
            "{1:.2f} ({0:.2f}-{2:.2f})".format(*quartiles(each))
            for each in (result.first, result.ratios)
        )
        print(f"{name:18}{lost:22}{first:20}{ratio:20}{result.back}")
        if result.lost:
            print("  " + ", ".join(f"{n} {what}" for what, n in result.lost.items()))
    assert not results[OURS].lost, "a request was lost"


if __name__ == "__main__":
    main()
