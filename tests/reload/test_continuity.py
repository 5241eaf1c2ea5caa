"""
A real daemon that reloads under load loses no connection and no request.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGSTOP, SIGTERM
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.clients import (
    Web,
    canConnect,
    echoing,
    fetch,
    keeping,
    load,
    opening,
    tcp,
    tls,
    unix,
)
from tests.support.daemons import RELOADED, reload, serving, waitFor
from tests.support.freeports import freePort, local, privilegedPort
from tests.support.served import write

#: The number of successive reloads.
RELOADS = int(os.environ.get("TXSIGNALFD_RELOADS", "30"))


def test_noConnectionIsLost(tmp_path: Path, certificate: Path) -> None:
    """
    By TCP, TLS, a UNIX socket and UDP, over IPv4 and IPv6; for clients that open
    many connections, and for those that keep one.
    """
    four, six, secure, udp4 = (freePort() for _ in range(4))
    udp6 = freePort(socket.AF_INET6, socket.SOCK_DGRAM)
    write(
        tmp_path,
        listen=[
            local(four),
            rf"tcp:{six}:interface=\:\:1",
            f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1",
            "unix:socket:mode=600",
        ],
        udp=[["127.0.0.1", udp4], ["::1", udp6]],
    )
    path = tmp_path / "socket"
    ways = [
        tcp(four),
        tcp(six, "::1"),
        tls(tcp(secure), str(certificate)),
        unix(str(path)),
    ]
    with serving(tmp_path, "served") as daemon:
        before = path.stat()
        with load(
            *map(opening, ways),
            *map(keeping, ways),
            echoing(udp4),
            echoing(udp6, "::1"),
        ):
            reload(daemon, RELOADS)
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        assert Path(f"{path}.lock").is_symlink()


@contextmanager
def webs(port: int, count: int) -> Iterator[list[Web]]:
    """
    Open HTTP connections.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Web(tcp(port)))) for _ in range(count)]


@pytest.mark.parametrize("signo", [SIGHUP, SIGTERM])
def test_pendingConnectionsAreServed(signo: int, tmp_path: Path, port: int) -> None:
    """
    When their port is closed by a reload or a stop.
    """
    write(tmp_path, listen=[local(port)])
    with serving(tmp_path, "served") as daemon, ExitStack() as stack:
        # Twisted accepts as many connections at a time as it did before: one.
        for _ in range(5):
            fetch(tcp(port))
        write(tmp_path, listen=[])
        daemon.kill(SIGSTOP)
        asked = stack.enter_context(webs(port, 40))
        for web in asked:
            web.send()
        daemon.kill(signo)
        daemon.kill(SIGCONT)
        for web in asked:
            web.receive()
        if signo == SIGHUP:
            waitFor(lambda: not canConnect(tcp(port)), "the port closes")
        else:
            assert daemon.wait() == -SIGTERM


def test_aStopAnswersRequestsOnOpenConnections(tmp_path: Path, port: int) -> None:
    """
    The answer tells the client that it is the last one.
    """
    write(tmp_path, listen=[local(port)], idle=60)
    with serving(tmp_path, "served") as daemon:
        with webs(port, 3) as (first, second, third):
            first.get()
            second.get()
            assert not second.isOver
            second.send("/go")
            daemon.kill(SIGTERM)
            daemon.waitForOutput("stopping")
            waitFor(lambda: not canConnect(tcp(port)), "the port closes")
            # The first connection is idle, the third has sent no request yet.
            for web in (first, third):
                web.get()
                assert web.isOver
                assert web.isClosed()
            (tmp_path / "go").touch()
            second.receive()
        assert daemon.wait() == -SIGTERM


@pytest.mark.parametrize("options", [[], ["--stop-first"]])
def test_idleConnectionsDelayNoStopAndNoReload(
    options: list[str], tmp_path: Path, port: int, certificate: Path
) -> None:
    """
    Their clients do not read, so that no TLS connection is closed by both sides.
    """
    secure = freePort()
    write(
        tmp_path,
        listen=[
            local(port),
            f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1",
            "unix:socket",
        ],
    )
    ways = [tcp(port), tls(tcp(secure), str(certificate)), unix(f"{tmp_path}/socket")]
    limits = ["--drain=1000", "--stop-timeout=1000"]
    with serving(tmp_path, *limits, *options, "served") as daemon, ExitStack() as stack:
        idle = [stack.enter_context(closing(Web(way))) for way in ways]
        for web in idle:
            web.get()
        if options:
            reload(daemon)
        else:
            assert daemon.stop() == -SIGTERM
        for web in idle:
            assert web.isClosed()


@pytest.mark.parametrize("isIdle", [True, False])
def test_aStopSendsGOAWAYOnHTTP2Connections(
    isIdle: bool, tmp_path: Path, port: int, certificate: Path
) -> None:
    """
    Idle connections are closed then, and busy ones after their time limit.
    """
    pytest.importorskip("h2", reason="needs h2, as HTTP/2 in Twisted does")
    from h2.connection import H2Connection
    from h2.events import ConnectionTerminated, DataReceived, StreamEnded

    context = ssl.create_default_context(cafile=certificate)
    context.set_alpn_protocols(["h2"])
    endpoint = f"ssl:{port}:privateKey={certificate}:interface=127.0.0.1"
    write(tmp_path, listen=[endpoint])
    limit = "--stop-timeout=1000" if isIdle else "--stop-timeout=1"
    with serving(tmp_path, limit, "served") as daemon, ExitStack() as stack:
        raw = stack.enter_context(tcp(port)())
        connection = context.wrap_socket(raw, server_hostname="localhost")
        stack.enter_context(connection)
        client = H2Connection()
        client.initiate_connection()
        asked = [(":method", "GET"), (":path", "/" if isIdle else "/never")]
        asked += [(":authority", "localhost"), (":scheme", "https")]
        client.send_headers(1, asked, end_stream=True)
        received: list[type] = []

        def receive() -> bool:
            connection.sendall(client.data_to_send())
            try:
                data = connection.recv(65536)
            except ConnectionResetError:
                # It was aborted; before Python 3.12.4 this is an ordinary end.
                return False
            received.extend(map(type, client.receive_data(data)))
            return data != b""

        while (StreamEnded if isIdle else DataReceived) not in received:
            assert receive()
        daemon.kill(SIGTERM)
        while receive():
            pass
        assert ConnectionTerminated in received
        assert daemon.wait() == -SIGTERM


@pytest.mark.parametrize("start", ["raise", "fail later"])
def test_aStartThatFailsAcceptsNoConnection(
    start: str, tmp_path: Path, port: int
) -> None:
    """
    A new generation accepts connections only when it has started.
    """
    chosen: dict[str, Any] = {"listen": [local(port)], "udp": [["127.0.0.1", port]]}
    write(tmp_path, **chosen, body="old")
    with serving(tmp_path, "--drain=5", "served") as daemon, ExitStack() as stack:
        with load(
            *[opening(tcp(port))] * 2, keeping(tcp(port)), echoing(port)
        ) as clients:
            write(tmp_path, **chosen, body="new", start=start)
            daemon.kill(SIGHUP)
            daemon.waitForOutput("] reloading: requested by")
            asked = stack.enter_context(webs(port, 20))
            for web in asked:
                web.send("/go")
            daemon.waitForOutput("not reloaded, after ")
            clients.waitForAnswers()
            (tmp_path / "go").touch()
            assert {web.receive() for web in asked} == {b"old"}
        assert fetch(tcp(port)) == b"old"
        assert "RuntimeError: it was told to" in daemon.output()
        write(tmp_path, **chosen, body="newer")
        reload(daemon)
        assert fetch(tcp(port)) == b"newer"


def test_openConnectionsAreServedByTheirGeneration(tmp_path: Path, port: int) -> None:
    """
    Ports that the new configuration lacks are closed at once; new ones are opened.
    """
    gone, new = freePort(), freePort()
    write(tmp_path, listen=[local(port), local(gone)], body="old")
    with serving(tmp_path, "served") as daemon:
        with webs(port, 1) as (stays,), webs(gone, 1) as (onGone,):
            for web in (stays, onGone):
                web.get()
                web.send("/go")
                # The first half of the answer shows that it was accepted.
                assert web.socket.recv(1, socket.MSG_PEEK)
            write(tmp_path, listen=[local(port), local(new)], body="new")
            reload(daemon)
            assert not canConnect(tcp(gone))
            assert fetch(tcp(new)) == fetch(tcp(port)) == b"new"
            assert "generation 1 has ended" not in daemon.output()
            (tmp_path / "go").touch()
            for web in (stays, onGone):
                assert web.receive() == b"old"
        daemon.waitForOutput("generation 1 has ended\n")


#: Passes sockets to a program as systemd does: sd_listen_fds(3).
ACTIVATE = """
import os, socket, sys

port, path, *command = sys.argv[1:]
first = socket.create_server(("127.0.0.1", int(port)))
second = socket.socket(socket.AF_UNIX)
second.bind(path)
second.listen()
os.dup2(first.fileno(), 103)
os.dup2(second.fileno(), 104)
os.dup2(103, 3)
os.dup2(104, 4)
os.closerange(5, 200)
os.environ.update(
    LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:local"
)
os.execvp(command[0], command)
"""


def test_socketsOfSystemdServeManyGenerations(tmp_path: Path, port: int) -> None:
    """
    By index and by name; no socket is lost, and no duplicate stays open.
    """
    path = str(tmp_path / "socket")
    endpoints = ["systemd:domain=INET:index=0", "systemd:domain=UNIX:name=local"]
    write(tmp_path, listen=endpoints)
    before = [sys.executable, "-c", ACTIVATE, str(port), path]
    with serving(tmp_path, "served", before=before) as daemon:
        for connect in (tcp(port), unix(path)):
            fetch(connect)
        descriptors = f"/proc/{daemon.pid}/fd"
        count = len(os.listdir(descriptors))
        with load(opening(tcp(port)), opening(unix(path))):
            reload(daemon, 10)
        write(tmp_path, listen=endpoints[1:])
        reload(daemon)
        fetch(unix(path))
        # It is systemd's, and stays open for later generations.
        assert canConnect(tcp(port))
        write(tmp_path, listen=endpoints)
        with closing(Web(tcp(port))) as web:
            web.send()
            reload(daemon)
            web.receive()
        waitFor(lambda: len(os.listdir(descriptors)) <= count, "none is left")
    assert os.path.exists(path)


def test_withStopFirstNewConnectionsWait(tmp_path: Path, port: int) -> None:
    """
    The new service is made when the old one has stopped.
    """
    chosen: dict[str, Any] = {"listen": [local(port)], "exclusive": True, "idle": 60}
    write(tmp_path, **chosen)
    with serving(tmp_path, "--stop-first", "served") as daemon:
        with load(opening(tcp(port)), opening(tcp(port))) as answers:
            reload(daemon, 3)
            # When the new service cannot start, the old one is started again.
            write(tmp_path, **chosen, start="fail later")
            daemon.kill(SIGHUP)
            daemon.waitForOutput("not reloaded, after ")
            answers.waitForAnswers()
            write(tmp_path, **chosen)
            reload(daemon)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"make": "raise"}, "RuntimeError: it was told to raise"),
        ({"listen": "taken"}, "CannotListenError: Couldn't listen on 127.0.0.1:"),
        ({"logging": "taken"}, "CannotListenError: Couldn't listen on 127.0.0.1:"),
        ({"start": "exit"}, "SystemExit: 7"),
        (None, "UsageError: options: Expecting value"),
    ],
)
def test_aReloadThatFailsLeavesTheOldOneServing(
    change: dict[str, Any] | None, why: str, tmp_path: Path, port: int
) -> None:
    """
    Nothing of the new service stays.  The log has the reason in one line, and the
    traceback below.
    """
    new = freePort()
    chosen: dict[str, Any] = {"listen": [local(port)], "body": "old"}
    write(tmp_path, **chosen)
    with ExitStack() as stack:
        busy = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        daemon = stack.enter_context(serving(tmp_path, "--drain=1", "served"))
        # From then on the reactor opens no descriptor.
        fetch(tcp(port))
        descriptors = f"/proc/{daemon.pid}/fd"
        count = len(os.listdir(descriptors))
        if change is None:
            (tmp_path / "options").write_text("no JSON")
        else:
            for key in {"listen", "logging"} & set(change):
                change = {key: [local(busy.getsockname()[1])]}
            listens = [local(port), local(new), *change.pop("listen", [])]
            write(tmp_path, listen=listens, body="new", **change)
        for number in range(3):
            daemon.kill(SIGHUP)
            waitFor(
                lambda: daemon.output().count("not reloaded") > number,  # noqa: B023
                daemon.output(),
            )
        assert fetch(tcp(port)) == b"old"
        assert not canConnect(tcp(new))
        waitFor(lambda: len(os.listdir(descriptors)) <= count, "none is left")
        (first, *_) = re.findall("not reloaded, .*\n.*\n", daemon.output())
        line, following = first.splitlines()
        assert re.match(
            rf"not reloaded, after \S+ s: generation 1 serves on: {why}", line
        )
        assert following.strip() == "Traceback (most recent call last):"
        write(tmp_path, **chosen)
        reload(daemon)


def test_aServiceMayListenLate(tmp_path: Path, port: int) -> None:
    """
    Long after its startService has returned, and also after the next reload.
    """
    write(tmp_path, late=[local(port)])
    with serving(tmp_path, "--drain=20", "served") as daemon:
        waitFor(lambda: canConnect(tcp(port)), "it listens")
        with load(opening(tcp(port)), keeping(tcp(port))) as answers:
            for count in (1, 2, 1):
                body = f"after {daemon.output().count(RELOADED)} reloads"
                write(tmp_path, late=[local(port)], body=body)
                reload(daemon, count)
                waitFor(lambda: fetch(tcp(port)) == body.encode(), body)  # noqa: B023
                # Older generations no longer accept there.
                for _ in range(20):
                    assert fetch(tcp(port)) == body.encode()
            answers.waitForAnswers()
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()


def test_aPluginMayListenWhenItsServiceIsMade(tmp_path: Path, port: int) -> None:
    """
    Outside of the service, whose stop does not close the port.
    """
    options = {"early": [port], "body": "old " * 100}
    write(tmp_path, **options)
    with serving(tmp_path, "served") as daemon:
        with load(opening(tcp(port)), keeping(tcp(port))):
            reload(daemon, 10)
            write(tmp_path, **{**options, "make": "raise"})
            daemon.kill(SIGHUP)
            daemon.waitForOutput("not reloaded")
        assert fetch(tcp(port)) == b"old " * 100
        write(tmp_path)
        reload(daemon)
        assert not canConnect(tcp(port))
        assert daemon.stop() == -SIGTERM
        assert "CannotListenError" not in daemon.output()


@pytest.mark.parametrize("options", [[], ["--stop-first"]])
def test_connectionsToALateServiceAreNotRefused(
    options: list[str], tmp_path: Path, port: int
) -> None:
    """
    Although connections of the old service are aborted at once.
    """
    write(tmp_path, late=[local(port)])
    with serving(tmp_path, "--drain=0", *options, "served") as daemon:
        waitFor(lambda: canConnect(tcp(port)), "it listens")
        with load(lambda: tcp(port)().close()):
            for number in range(3):
                write(tmp_path, late=[local(port)], body=f"{number}")
                reload(daemon)
                waitFor(lambda: fetch(tcp(port)) == b"%d" % number, "it listens")  # noqa: B023


def test_withStopFirstAServiceMayListenLate(tmp_path: Path, port: int) -> None:
    """
    New connections wait.  If the port is not opened again, they are refused after
    some time, until a later reload opens it.
    """
    write(tmp_path, late=[local(port)], exclusive=True, idle=60)
    # The port is closed after that time, and no answer may take longer.
    with serving(tmp_path, "--stop-first", "--drain=2", "served") as daemon:
        waitFor(lambda: canConnect(tcp(port)), "it listens")
        with load(opening(tcp(port)), opening(tcp(port))) as answers:
            reload(daemon, 3)
            answers.waitForAnswers()
        write(tmp_path, late=[], exclusive=True)
        reload(daemon)
        waitFor(lambda: not canConnect(tcp(port)), "it is closed")
        write(tmp_path, late=[local(port)], exclusive=True)
        reload(daemon)
        waitFor(lambda: canConnect(tcp(port)), "it listens again")
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()


@pytest.mark.skipif(os.getuid() != 0, reason="needs to be root, to give that up")
def test_privilegedPortsStayWithoutPrivileges() -> None:
    """
    So do UNIX sockets in a directory of root.  A new privileged port fails the
    reload.
    """
    port, another = privilegedPort(), 1
    with ExitStack() as stack:
        # Only root may enter the directory of pytest.
        directory = Path(stack.enter_context(TemporaryDirectory()))
        directory.chmod(0o777)
        paths = [directory / "socket", directory / "roots" / "socket"]
        paths[1].parent.mkdir(0o700)
        listens = [local(port), *(f"unix:{path}:mode=660" for path in paths)]
        write(directory, listen=listens)
        options = serving(directory, "served", twistd=["--uid=nobody"])
        daemon = stack.enter_context(options)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        uid = pwd.getpwnam("nobody").pw_uid
        assert f"Uid:\t{uid}\t{uid}\t{uid}" in status
        with load(opening(tcp(port)), *(opening(unix(str(path))) for path in paths)):
            reload(daemon, 5)
            write(directory, listen=[*listens, local(another)])
            daemon.kill(SIGHUP)
            daemon.waitForOutput("not reloaded, after")
        assert "ermission denied" in daemon.output()
        assert daemon.stop() == -SIGTERM
