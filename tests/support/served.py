"""
A plugin of twistd for tests.

It reads a file at each reload: where to listen, what to answer, and how to fail.
"""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path
from typing import Any

from twisted.application.internet import StreamServerEndpointService, UDPServer
from twisted.application.service import MultiService, Service
from twisted.application.strports import service
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txsignalfd._reload import generation, generations
from txsignalfd._reload.service import ReloadService


def write(directory: Path, **options: Any) -> None:
    """
    Write the file of options.

    @param options: C{listen}: endpoints.  C{logging}: endpoints of services that only
        log that they cannot listen.  C{early}: ports of 127.0.0.1 that are
        opened when the service is made.  C{late}: endpoints that are opened after
        it has started.  C{udp}: hosts and ports that echo datagrams.  C{body}: the
        response.  C{make}, C{start} and C{stop}: how these fail.  C{exclusive}:
        only one generation can run.  C{idle}: seconds before an idle connection
        is closed at a stop.
    """
    # Replace it atomically: it may be read at any time.
    directory.joinpath("new").write_text(json.dumps(options))
    directory.joinpath("new").rename(directory / "options")


def note(info: Any) -> None:
    """
    A function for C{--on}.
    """
    Logger().info("noted {info}", info=info)


async def fall(info: Any) -> None:
    """
    A function for C{--on} that fails.
    """
    raise ValueError("it fell")


def caught(signo: int, frame: object) -> None:
    """
    A signal handler of the program.
    """
    _reactor().callFromThread(Logger().info, "the program has caught {n}", n=signo)


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


class Options(UsageOptions):
    def __init__(self) -> None:
        super().__init__()
        if not os.path.exists("parsing"):
            # Later the process may run as another user.
            Path("parsing").touch()
        try:
            self["options"] = json.loads(Path("options").read_text())
        except ValueError as error:
            raise UsageError(f"options: {error}") from error


class Failing(Service):
    """
    A service whose start and stop fail as the options say.
    """

    def __init__(self, start: str, stop: str) -> None:
        self._start = start
        self._stop = stop

    def startService(self) -> Any:
        super().startService()
        return _happen(self._start)

    def stopService(self) -> Any:
        super().stopService()
        return _happen(self._stop)


def _happen(how: str) -> Any:
    match how:
        case "raise":
            raise RuntimeError("it was told to raise")
        case "fail":
            return fail(RuntimeError("it was told to fail"))
        case "fail later":
            later: Deferred[None] = deferLater(_reactor(), 0.3)
            return later.addCallback(lambda _: _happen("raise"))
        case "slow":
            return deferLater(_reactor(), 0.3)
        case "exit":
            raise SystemExit(7)
        case "go":
            return _whenGo(Deferred())
        case "hang":
            return Deferred()
        case "catch":
            signal.signal(signal.SIGHUP, caught)
    return None


def _whenGo(there: Deferred[None]) -> Deferred[None]:
    if os.path.exists("go"):
        there.callback(None)
    else:
        _reactor().callLater(0.01, _whenGo, there)
    return there


class Late(Service):
    """
    A service that listens some time after it has started.
    """

    def __init__(self, endpoint: str, site: Site) -> None:
        self._service = service(endpoint, site)
        self._call: Any = None

    def startService(self) -> None:
        super().startService()
        self._call = _reactor().callLater(0.1, self._service.startService)

    def stopService(self) -> Any:
        super().stopService()
        if self._call.active():
            self._call.cancel()
            return None
        return self._service.stopService()


class Exclusive(Service):
    """
    A service with a lock, so that only one generation can run.
    """

    def startService(self) -> None:
        super().startService()
        os.mkdir("lock")

    def stopService(self) -> None:
        super().stopService()
        os.rmdir("lock")


class Answer(Resource):
    """
    Sends the body, and its second half as soon as a file exists.
    """

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def render_GET(self, request: Any) -> Any:
        while request.path == b"/hang":
            select.select([], [], [], 60)
        half = len(self._body) // 2
        request.setHeader(b"content-length", b"%d" % len(self._body))
        request.write(self._body[:half])
        self._finish(request, request.path.decode().strip("/"), self._body[half:])
        return NOT_DONE_YET

    def _finish(self, request: Any, file: str, rest: bytes) -> None:
        if file and not os.path.exists(file):
            _reactor().callLater(0.01, self._finish, request, file, rest)
        else:
            request.write(rest)
            request.finish()


class Echo(DatagramProtocol):
    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        assert self.transport is not None
        self.transport.write(datagram, addr)


def makeService(options: Options) -> MultiService:
    """
    Make the service, as twistd plugins do.
    """
    # The harder test: reloads without a pause between them.
    ReloadService.share = 1.0
    # Shorter, because a late port here listens after 0.1 s.
    generations.LATE = 0.5  # type: ignore[misc]
    chosen = options["options"]
    vars(generation)["IDLE"] = chosen.get("idle", generation.IDLE)
    whole = MultiService()
    body = chosen.get("body", "body " * 1000)
    for endpoint in chosen.get("listen", []):
        service(endpoint, Site(Answer(body.encode()))).setServiceParent(whole)
    for endpoint in chosen.get("logging", []):
        listening = serverFromString(_reactor(), endpoint)
        site = Site(Answer(body.encode()))
        StreamServerEndpointService(listening, site).setServiceParent(whole)
    for port in chosen.get("early", []):
        site = Site(Answer(body.encode()))
        _reactor().listenTCP(port, site, interface="127.0.0.1")
    for host, port in chosen.get("udp", []):
        UDPServer(port, Echo(), host).setServiceParent(whole)
    if chosen.get("make") in ("raise", "catch"):
        _happen(chosen["make"])
    while chosen.get("make") == "wait" and not os.path.exists("go"):
        select.select([], [], [], 0.005)
    for endpoint in chosen.get("late", []):
        Late(endpoint, Site(Answer(body.encode()))).setServiceParent(whole)
    if chosen.get("exclusive"):
        Exclusive().setServiceParent(whole)
    failing = Failing(chosen.get("start", ""), chosen.get("stop", ""))
    return _Started(whole, failing)


class _Started(MultiService):
    """
    Opens its ports, and then waits for the start of L{Failing}.
    """

    def __init__(self, ports: MultiService, failing: Failing) -> None:
        super().__init__()
        ports.setServiceParent(self)
        self._failing = failing

    def startService(self) -> Any:
        super().startService()
        return self._failing.startService()

    def stopService(self) -> Any:
        stopped = super().stopService()
        return stopped.addCallback(lambda _: self._failing.stopService())
