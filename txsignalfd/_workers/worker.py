# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Worker}: a worker's side of the channel to its supervisor.
"""

from __future__ import annotations

import faulthandler
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._proc.reason import reasonOf
from txsignalfd._reload.reactorpatch import supplyListeners
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.sharing import inherit
from txsignalfd._reload.transaction import OneShotEvent
from txsignalfd._workers.channel import Channel, Message
from txsignalfd._workers.claims import Claims
from txsignalfd._workers.membership import Membership
from txsignalfd._workers.spare import generalModules

_log: Final = Logger("txsignalfd.workers.Worker")

#: The most changed files that the supervisor is told.
_MOST_PATHS: Final = 10

#: The most characters of a reason, and of its traceback.
_MOST_TEXT: Final = 8000

#: Seconds between two messages that say that the reactor is not stuck.
_BEAT: Final = 1.0


class Worker:
    """
    Does what the supervisor says, and tells it what has happened.
    """

    def __init__(self, place: Membership, reactor: Any) -> None:
        """
        Take the listening sockets of all ports from the supervisor, from now on.

        @param place: The worker's number, and its connection to the supervisor.
        @param reactor: The reactor, or C{None} until L{attach}.
        """
        end = socket.socket(fileno=place.descriptor)
        self._reactor = reactor
        self._channel = Channel(end, reactor, self._received, self._lost)
        self._claims = Claims(self._channel)
        self._mayServe = OneShotEvent()
        self._reloads: ReloadService
        self._stop: Callable[[float | None], object]
        self._rotate: Callable[[], object]
        self._report: Callable[[str], object]
        supplyListeners(self._claims.supply)
        inherit(list(place.inherited), list(place.names))

    def attach(self, reactor: Any) -> None:
        """
        Use a reactor, before L{run}.
        """
        self._reactor = self._channel.reactor = reactor

    def run(
        self,
        reloads: ReloadService,
        stop: Callable[[float | None], object],
        rotate: Callable[[], object],
        report: Callable[[str], object],
    ) -> None:
        """
        Run a service that has not started yet.

        @param reloads: The service.
        @param stop: Stops the process, when connections have drained for at most the
            given seconds, or the default of the service.
        @param rotate: Opens log files again that were moved.
        @param report: Logs a report for a requester.
        """
        self._reloads = reloads
        self._stop = stop
        self._rotate = rotate
        self._report = report
        # Its stacks are logged if it crashes, or if the supervisor aborts it.
        faulthandler.enable(2)
        reloads.beforeServing = self._started
        # The generation is that of the supervisor.
        reloads.logsEnd = False
        self._channel.start()

    def _started(self) -> Deferred[None]:
        self._claims.late = True
        (generation,) = self._reloads.generations

        def ended(_: object) -> None:
            self._channel.send(closed=generation.closed, limit=generation.limit)

        generation.retired.wait().addCallback(ended)
        self._channel.send(ready=True, modules=generalModules())
        self._beat()
        return self._mayServe.wait()

    def _beat(self) -> None:
        """
        Tell the supervisor that the reactor has made a turn.
        """
        self._tell(asked=False)
        self._reactor.callLater(_BEAT, self._beat)

    def _tell(self, asked: bool) -> None:
        generations = self._reloads.generations
        count = sum(len(each.resources.connections) for each in generations)
        self._channel.send(connections=count, asked=asked)

    def changed(self, paths: list[str]) -> None:
        """
        Tell the supervisor which files of the program have changed.
        """
        self._channel.send(changed=paths[:_MOST_PATHS])

    def waits(self, why: str) -> None:
        """
        Tell the supervisor what the start waits for: the reason if it takes too long.
        """
        self._channel.send(waits=why)

    def failed(self, failure: Failure, isShown: bool = False) -> None:
        """
        Tell the supervisor why the service cannot start.

        @param failure: The reason.
        @param isShown: Whether its traceback is written elsewhere.
        """
        traceback = "" if isShown else failure.getTraceback()[-_MOST_TEXT:]
        reason = reasonOf(failure.value)[:_MOST_TEXT]
        self._channel.send(failed=reason, traceback=traceback)

    @contextmanager
    def making(self, *reported: type[Exception]) -> Iterator[None]:
        """
        Tell the supervisor why the service cannot be made, and exit.

        @param reported: Exceptions that the caller reports.
        """
        try:
            yield
        except reported:
            raise
        except Exception:
            self.failed(Failure())
            raise SystemExit(1) from None

    def _received(self, message: Message) -> None:
        match message.fields:
            case {"do": "serve", **more}:
                self._claims.hasPeers = bool(more.get("hasPeers"))
                self._mayServe.fire()
            case {"do": "rotate"}:
                self._rotate()
            case {"do": "tell"}:
                self._tell(asked=True)
            case {"do": "report", "requester": str(requester)}:
                self._report(requester)
            case {"do": "suspend", "replaced": list(replaced)}:
                self._claims.replaced = replaced
                self._reloads.suspend()
                self._channel.send(suspended=True)
            case {"do": "end", "seconds": seconds, "replaced": True}:
                retired = self._reloads.retire(seconds)
                retired.addCallback(lambda _: self._stop(None))
            case {"do": "end", "seconds": seconds}:
                self._stop(seconds)

    def _lost(self) -> None:
        _log.error("the supervisor has ended: stopping")
        self._claims.shutDown()
        self._stop(None)
