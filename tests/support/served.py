"""
A plugin of twistd for tests.  Its file of options, which it reads anew each
time, says where it listens, what it answers and how it fails.
"""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import Any

from twisted.application.internet import UDPServer
from twisted.application.service import MultiService, Service
from twisted.application.strports import service
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txsignalfd._reload import generation
from txsignalfd._reload import generations as succession
from txsignalfd._reload.generation import Generation, Successor
from txsignalfd._reload.service import ReloadService


def write(directory: Path, **options: Any) -> None:
    """
    Write the file of options.

    Its keys: C{listen}, strings of endpoints; C{early}, ports of 127.0.0.1 where
    it listens when it is made; C{udp}, hosts and ports where datagrams come
    back; C{body}, an answer; C{make}, C{start} and C{stop}, how these go, if
    they do not go well; C{exclusive}, whether there can be one only; C{late},
    where it listens when it has started; C{idle}, how long an idle connection is
    kept for one more request when all stops; C{soon}, whether kept connections
    are told at once to end, and not when half of their time is over.
    """
    # In one piece: it is read at any time.
    directory.joinpath("new").write_text(json.dumps(options))
    directory.joinpath("new").rename(directory / "options")


def note(info: Any) -> None:
    """
    What C{--on} may call.
    """
    Logger().info("noted {info}", info=info)


async def fall(info: Any) -> None:
    """
    The same, and it fails.
    """
    raise ValueError("it fell")


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


class Options(UsageOptions):
    def __init__(self) -> None:
        super().__init__()
        if not os.path.exists("parsing"):
            # Later it may be another user's.
            Path("parsing").touch()
        try:
            self["options"] = json.loads(Path("options").read_text())
        except ValueError as error:
            raise UsageError(f"options: {error}") from error


class Failing(Service):
    """
    Starts and stops as it is told to.
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
        case "hang":
            return Deferred()
    return None


class Late(Service):
    """
    Listens some time after it was started.
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
    Has a lock, which one at a time can have.
    """

    def startService(self) -> None:
        super().startService()
        os.mkdir("lock")

    def stopService(self) -> None:
        super().stopService()
        os.rmdir("lock")


class Answer(Resource):
    """
    The body, the second half of it when a file is there.
    """

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def render_GET(self, request: Any) -> Any:
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
    What twistd calls.
    """
    # The harder test: reloads in a row without a rest.
    ReloadService.share = 1.0
    # The quicker one: a port that listens late does so after 0.1 s.
    succession.LATE = 0.5  # type: ignore[misc]
    chosen = options["options"]
    vars(generation)["IDLE"] = chosen.get("idle", generation.IDLE)
    if chosen.get("soon"):
        Generation.retire = _retireSoon  # type: ignore[method-assign]
    whole = MultiService()
    body = chosen.get("body", "body " * 1000)
    for endpoint in chosen.get("listen", []):
        service(endpoint, Site(Answer(body.encode()))).setServiceParent(whole)
    for port in chosen.get("early", []):
        site = Site(Answer(body.encode()))
        _reactor().listenTCP(port, site, interface="127.0.0.1")
    for host, port in chosen.get("udp", []):
        UDPServer(port, Echo(), host).setServiceParent(whole)
    if chosen.get("make") == "raise":
        _happen("raise")
    while chosen.get("make") == "wait" and not os.path.exists("go"):
        select.select([], [], [], 0.005)
    for endpoint in chosen.get("late", []):
        Late(endpoint, Site(Answer(body.encode()))).setServiceParent(whole)
    if chosen.get("exclusive"):
        Exclusive().setServiceParent(whole)
    failing = Failing(chosen.get("start", ""), chosen.get("stop", ""))
    return _Started(whole, failing)


_retire = Generation.retire


def _retireSoon(self: Generation, seconds: float, successor: Successor | None) -> None:
    _retire(self, seconds, successor)
    self._announceEnd()


class _Started(MultiService):
    """
    Starts after its ports are open, and waits for the other.
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
