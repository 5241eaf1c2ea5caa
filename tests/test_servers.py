"""
Unchanged servers of other projects reload under load, and no request fails.

Dependency groups of pyproject.toml have them.  Each test prints what docs/servers.rst
has in its table.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.support.clients import Connect, Web, fetch, keeping, load, opening, tcp
from tests.support.daemons import RELOADED, Program, program, reload
from tests.support.documents import CHECKOUT, blocks
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort

#: The reloads of each server.
RELOADS = 3

#: Starts new processes for each reload.
WORKERS = ["--workers", "1"]


def _needs(package: str, group: str = "servers") -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_spec(package) is None,
        reason=f"needs {package}: pip install --group {group}",
    )


@contextmanager
def running(directory: Path, *command: str) -> Iterator[Program]:
    """
    Run a command in a directory, and wait until its service serves.
    """
    with program(directory, "env", "PYTHONPATH=.", *command) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        yield daemon


def twistd(directory: Path, *command: str) -> Any:
    """
    Run C{twistd -n signalfd} in a directory.
    """
    return running(directory, TWISTD, "-n", "signalfd", *command)


def supervised(directory: Path, *command: str) -> Any:
    """
    Run C{txsignalfd supervise} in a directory.
    """
    # The modules of the tests change faster than the cache notices.
    python = ["PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m"]
    return running(directory, "env", *python, "txsignalfd", "supervise", *command)


def reloadUnderLoad(
    name: str,
    way: str,
    daemon: Program,
    *clients: Callable[[], None],
) -> None:
    """
    Reload under load, stop by SIGTERM, and print the results.

    @param name: The distribution.
    @param way: How it was started.
    """
    with load(*clients) as results:
        for _ in range(RELOADS):
            reload(daemon)
            results.waitForAnswers(2)
    reloads = daemon.output().count(RELOADED)
    stop(daemon)
    answers = sum(results.answers)
    lost = sum(client.lost for client in clients if isinstance(client, Repeating))
    print(
        f"{name} {version(name)}: {way}: {answers} requests, "
        f"{lost} lost, {reloads} reloads, exit status 143"
    )


def stop(daemon: Program) -> None:
    """
    Stop a daemon, which must end by the signal, and must not have logged an error.
    """
    daemon.kill(SIGTERM)
    assert daemon.wait() == -SIGTERM
    assert "Traceback" not in daemon.output()


def webClients(port: int, path: str = "/") -> list[Callable[[], None]]:
    """
    One client with a new connection for each request, and one that keeps it.
    """
    return [opening(tcp(port), path), keeping(tcp(port), path)]


class WebSocket:
    """
    A WebSocket client for short messages: RFC 6455.
    """

    def __init__(self, connect: Connect, path: str) -> None:
        self._socket = connect()
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        assert self._file.readline().split()[1] == b"101"
        while self._file.readline() != b"\r\n":
            pass

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        assert len(text) < 126
        mask = bytes(4)
        self._socket.sendall(bytes([0x81, 0x80 | len(text)]) + mask + text)

    def receive(self) -> Any:
        kind, length = self._file.read(2)
        assert kind == 0x81
        if length == 126:
            length = int.from_bytes(self._file.read(2), "big")
        return json.loads(self._file.read(length))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@_needs("klein")
def test_klein(tmp_path: Path) -> None:
    """
    As the resource of C{twistd web}.  A slow response comes from the generation
    that received the request.
    """
    (tmp_path / "app.py").write_text(
        "from klein import Klein\n"
        "from twisted.internet import reactor, task\n"
        "\n"
        "def resource():\n"
        "    app = Klein()\n"
        "\n"
        "    @app.route('/')\n"
        "    def hello(request):\n"
        "        return b'hello'\n"
        "\n"
        "    @app.route('/slow')\n"
        "    async def slow(request):\n"
        "        await task.deferLater(reactor, 0.1)\n"
        "        return b'slow'\n"
        "\n"
        "    return app.resource()\n"
    )
    port = freePort()
    listen = f"--listen=tcp:{port}:interface=127.0.0.1"
    with twistd(tmp_path, "web", listen, "--class=app.resource") as daemon:
        with closing(Web(tcp(port))) as web:
            web.send("/slow")
            reload(daemon)
            assert web.receive() == b"slow"
        reloadUnderLoad("klein", "twistd signalfd web", daemon, *webClients(port))


@_needs("wormhole_mailbox_server")
def test_magicWormholeMailboxServer(tmp_path: Path) -> None:
    """
    With an open WebSocket and a database.
    """
    port = freePort()
    command = [
        "wormhole-mailbox",
        f"--port=tcp:{port}:interface=127.0.0.1",
        "--channel-db=relay.sqlite",
    ]
    with twistd(tmp_path, *command) as daemon:
        with closing(WebSocket(tcp(port), "/v1")) as client:
            assert client.receive()["type"] == "welcome"
            reload(daemon)
            client.send({"type": "ping", "ping": 7})
            while (answer := client.receive())["type"] == "ack":
                pass
            assert answer["pong"] == 7
        reloadUnderLoad(
            "magic-wormhole-mailbox-server",
            "twistd signalfd wormhole-mailbox",
            daemon,
            *webClients(port),
        )


@_needs("scrapyd")
def test_scrapyd(tmp_path: Path) -> None:
    """
    By its application file; its configuration is read again.
    """
    port = freePort()
    config = tmp_path / "scrapyd.conf"
    text = f"[scrapyd]\nhttp_port = {port}\nnode_name = old\n"
    config.write_text(text)
    with twistd(tmp_path, "-y", _fileOf("scrapyd", "txapp.py")) as daemon:
        config.write_text(text.replace("old", "new"))
        reload(daemon)
        with closing(Web(tcp(port))) as web:
            assert json.loads(web.get("/daemonstatus.json"))["node_name"] == "new"
        reloadUnderLoad("scrapyd", "twistd signalfd -y", daemon, *webClients(port))


@_needs("buildbot")
def test_buildbot(tmp_path: Path) -> None:
    """
    With C{--stop-first}, because two masters of one name share a database.
    """
    port = freePort()
    master = tmp_path / "master"
    script = str(Path(TWISTD).parent / "buildbot")
    _run(tmp_path, script, "create-master", "--no-logrotate", "master")
    config = (
        "from buildbot.plugins import schedulers, util, worker\n"
        "c = BuildmasterConfig = {}\n"
        f"c['protocols'] = {{'pb': {{'port': 'tcp:{freePort()}'}}}}\n"
        "c['schedulers'] = [schedulers.ForceScheduler('f', builderNames=['b'])]\n"
        "c['workers'] = [worker.Worker('one', 'password')]\n"
        "factory = util.BuildFactory()\n"
        "builder = util.BuilderConfig(name='b', workernames=['one'], factory=factory)\n"
        "c['builders'] = [builder]\n"
        f"c['www'] = {{'port': 'tcp:{port}:interface=127.0.0.1'}}\n"
        "c['buildbotNetUsageData'] = None\n"
        "c['title'] = 'old title'\n"
    )
    (master / "master.cfg").write_text(config)
    with twistd(master, "--stop-first", "-y", "buildbot.tac") as daemon:
        # The application has started, and opens its ports later.
        daemon.waitForOutput("BuildMaster is running")
        (master / "master.cfg").write_text(config.replace("old", "new"))
        reload(daemon)
        assert b"new title" in fetch(tcp(port), "/config")
        reloadUnderLoad(
            "buildbot",
            "twistd signalfd --stop-first -y",
            daemon,
            *webClients(port, "/api/v2/masters"),
        )


@_needs("carbon")
def test_carbon(tmp_path: Path) -> None:
    """
    In one process, whose cache all generations share: no reload drops a datapoint.
    """
    import whisper

    port, query, pickled = freePort(), freePort(), freePort()
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "carbon.conf").write_text(
        "[cache]\n"
        "LINE_RECEIVER_INTERFACE = 127.0.0.1\n"
        f"LINE_RECEIVER_PORT = {port}\n"
        f"PICKLE_RECEIVER_PORT = {pickled}\n"
        f"CACHE_QUERY_PORT = {query}\n"
        "MAX_CREATES_PER_MINUTE = inf\n"
        "CARBON_METRIC_INTERVAL = 0\n"
    )
    (conf / "storage-schemas.conf").write_text(
        "[all]\npattern = .*\nretentions = 1s:2d\n"
    )
    client = Carbon(tcp(port))
    root = [f"GRAPHITE_ROOT={tmp_path}", f"GRAPHITE_CONF_DIR={conf}"]
    command = ["carbon-cache", "--config=conf/carbon.conf"]
    with running(tmp_path, "env", *root, TWISTD, "-n", "signalfd", *command) as daemon:
        reloadUnderLoad(
            "carbon",
            "twistd signalfd carbon-cache",
            daemon,
            client,
        )
    file = str(tmp_path / "storage" / "whisper" / "load.wsp")
    end = client.first + client.count
    _, values = whisper.fetch(file, client.first - 1, end)
    stored = {int(value) for value in values if value is not None}
    print(f"carbon has stored {len(stored)} of {client.count} datapoints")
    # carbon drops what it has not written yet when it stops, and not before.
    assert stored == set(range(len(stored)))


class Carbon:
    """
    Sends a datapoint on a connection that it keeps, and one on a new connection.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._kept: Any = None
        self.count = 0
        self.first = int(time.time()) - 100_000

    def __call__(self) -> None:
        for connection in self._connections():
            connection.sendall(b"load %d %d\n" % (self.count, self.first + self.count))
            self.count += 1

    def _connections(self) -> Iterator[Any]:
        if self._kept is None or _isClosed(self._kept):
            self.close()
            self._kept = self._connect()
        yield self._kept
        with closing(self._connect()) as connection:
            yield connection
            # The server closes its end when it has received all.
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


@_needs("cowrie", "cowrie")
def test_cowrie(tmp_path: Path) -> None:
    """
    In new processes, because its configuration is read when it is imported.
    """
    ssh, telnet = freePort(), freePort()
    (tmp_path / "etc").mkdir()
    for directory in ("log/cowrie", "run", "lib/cowrie/downloads", "lib/cowrie/tty"):
        (tmp_path / "var" / directory).mkdir(parents=True)
    config = tmp_path / "etc" / "cowrie.cfg"
    text = (
        "[ssh]\n"
        f"listen_endpoints = tcp:{ssh}:interface=127.0.0.1\n"
        "version = SSH-2.0-old\n"
        "[telnet]\n"
        "enabled = true\n"
        f"listen_endpoints = tcp:{telnet}:interface=127.0.0.1\n"
    )
    config.write_text(text)
    # It refuses to run as root.
    other = ["unshare", "--user", "--map-user=1000"] if os.getuid() == 0 else []
    whole = [*other, TWISTD, "-n", "signalfd", *WORKERS, "cowrie"]
    with running(tmp_path, *whole) as daemon:
        config.write_text(text.replace("old", "new"))
        reload(daemon)
        with closing(tcp(ssh)()) as connection:
            assert connection.recv(100) == b"SSH-2.0-new\r\n"
        reloadUnderLoad(
            "cowrie",
            "twistd signalfd --workers 1 cowrie",
            daemon,
            greeted(tcp(ssh)),
            greeted(tcp(telnet)),
        )


def _isClosed(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable)


def greeted(connect: Connect) -> Callable[[], None]:
    """
    A client that opens a connection and waits for the server's greeting.
    """

    def request() -> None:
        with closing(connect()) as connection:
            assert connection.recv(100) != b""

    return request


@_needs("opencanary", "opencanary")
def test_openCanary(tmp_path: Path) -> None:
    """
    In new processes, because its configuration is read when it is imported.
    """
    port = freePort()
    config = tmp_path / "opencanary.conf"
    settings = {
        "device.node_id": "test",
        "device.listen_addr": "127.0.0.1",
        "http.enabled": True,
        "http.port": port,
        "http.banner": "old",
        "http.skin": "basicLogin",
        "logger": {
            "class": "PyLogger",
            "kwargs": {
                "formatters": {"plain": {"format": "%(message)s"}},
                "handlers": {
                    "file": {
                        "class": "logging.FileHandler",
                        "filename": "canary.log",
                    }
                },
            },
        },
    }
    config.write_text(json.dumps(settings))
    tac = str(Path(TWISTD).parent / "opencanary.tac")
    with twistd(tmp_path, *WORKERS, "-y", tac) as daemon:
        config.write_text(json.dumps({**settings, "http.banner": "new"}))
        reload(daemon)
        with closing(tcp(port)()) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            assert b"Server: new" in connection.makefile("rb").read()
        reloadUnderLoad(
            "opencanary",
            "twistd signalfd --workers 1 -y",
            daemon,
            *webClients(port, "/index.html"),
        )


@_needs("synapse", "synapse")
def test_synapse(tmp_path: Path) -> None:
    """
    In new processes that are never two, because they would share a database.
    """
    port = freePort()
    _run(
        tmp_path,
        *["-m", "synapse.app.homeserver", "--config-path=homeserver.yaml"],
        *["--generate-config", "--server-name=localhost", "--report-stats=no"],
    )
    config = tmp_path / "homeserver.yaml"
    text = config.read_text().replace("port: 8008", f"port: {port}")
    text = text.replace("- ::1", "")
    text += "\nallow_public_rooms_without_auth: true\n"
    text += "public_baseurl: http://old.example/\n"
    config.write_text(text)
    options = ["--stop-first", "--drain=5", "--"]
    with supervised(
        tmp_path, *options, "synapse_homeserver", "-c", config.name
    ) as daemon:
        config.write_text(text.replace("old", "new"))
        reload(daemon)
        known = fetch(tcp(port), "/.well-known/matrix/client")
        assert b"http://new.example/" in known
        reloadUnderLoad(
            "matrix-synapse",
            "txsignalfd supervise --stop-first",
            daemon,
            # It reads the database.
            *webClients(port, "/_matrix/client/v3/publicRooms"),
        )


@_needs("crossbar", "crossbar")
def test_crossbar(tmp_path: Path) -> None:
    """
    A reload loses the requests that are on their way, and refuses nobody.
    """
    port = freePort()
    node = tmp_path / ".crossbar"
    node.mkdir()
    endpoint = {"type": "tcp", "port": port, "interface": "127.0.0.1", "shared": True}
    for pages in ("old", "new"):
        (node / pages).mkdir()
        (node / pages / "index.html").write_text(pages)
    paths = {"/": {"type": "static", "directory": "old"}}
    transport = {"type": "web", "endpoint": endpoint, "paths": paths}
    router = {"type": "router", "transports": [transport]}
    text = json.dumps({"version": 2, "workers": [router]})
    (node / "config.json").write_text(text)
    command = [sys.executable, _documented("run_crossbar.py", tmp_path)]
    with running(tmp_path, *command) as daemon:
        (node / "config.json").write_text(text.replace("old", "new"))
        reload(daemon)
        daemon.waitForOutput("generation 1 has ended")
        assert fetch(tcp(port)) == b"new"
        clients = [Repeating(client) for client in webClients(port)]
        reloadUnderLoad("crossbar", "txsignalfd.run(workers=1)", daemon, *clients)
    # The port of a process that ends may accept once more.
    assert all(client.lost <= 2 * RELOADS for client in clients)


class Repeating:
    """
    A client that sends a request again, if the server has closed the connection.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self.lost = 0

    def __call__(self) -> None:
        try:
            self._request()
        except (ConnectionResetError, BrokenPipeError):
            self.lost += 1
            self.close()

    def close(self) -> None:
        if isinstance(self._request, keeping):
            self._request.close()


@_needs("daphne")
def test_daphne(tmp_path: Path) -> None:
    """
    Its application is loaded again.
    """
    port = freePort()
    application = tmp_path / "asgi.py"
    application.write_text(ASGI.format("old"))
    with supervised(
        tmp_path, "--", "daphne", f"-p{port}", "asgi:application"
    ) as daemon:
        application.write_text(ASGI.format("new"))
        reload(daemon)
        assert fetch(tcp(port)) == b"new"
        reloadUnderLoad("daphne", "txsignalfd supervise", daemon, *webClients(port))


#: An application of ASGI, and what it answers.
ASGI = """
async def application(scope, receive, send):
    headers = [(b"content-length", b"3")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"{}"}})
"""


def _documented(name: str, directory: Path) -> str:
    """
    Write a program of docs/servers.rst to a file, and return its name.
    """
    page = (CHECKOUT / "docs" / "servers.rst").read_text()
    (text,) = [block.text for block in blocks(page) if block.name == name]
    (directory / name).write_text(text)
    return name


def _fileOf(package: str, name: str) -> str:
    found = find_spec(package)
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / name)


def _run(directory: Path, *arguments: str) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
