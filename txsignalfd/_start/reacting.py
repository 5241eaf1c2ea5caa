# -*- test-case-name: tests.start.test_reacting -*-
"""
L{react}: run a main function that can be reloaded.

Each generation is a call of the main function.  The result of a call counts only
while no newer one serves: it ends the program, as in C{twisted.internet.task.react}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from inspect import isawaitable
from typing import Any, Final, NoReturn, TextIO

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.runs import toDeferred
from txsignalfd._kernel.callables import nameOf
from txsignalfd._reload.generation import State
from txsignalfd._start.running import Factory, checkReactor, runDaemon
from txsignalfd._twistd.actions import On
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.making import makeDaemon
from txsignalfd._twistd.settings import DRAIN, checkSettings

_log: Final = Logger("txsignalfd.react")


def react(  # noqa: PLR0913
    main: Callable[..., Any],
    argv: Iterable[object] = (),
    *,
    on: On = (),
    drain: float = DRAIN,
    stopTimeout: float = DRAIN,
    stopFirst: bool = False,
    metrics: str = "",
    log: TextIO | ILogObserver | None = None,
    reactor: Any = None,
) -> NoReturn:
    """
    Run a main function as C{twisted.internet.task.react} does, with L{run}'s reload.

    SIGHUP calls C{main} again beside the old call, on the same sockets.  When the new
    call waits for the first time, it serves.  Then the connections that the old call
    has accepted drain, and the Deferred that it returned is cancelled.  A stop drains
    and cancels too, and then the process ends by the signal.

    The process exits with 0 when the newest call has finished, and with 1 or the
    status of its C{SystemExit} when it has failed.  A call that fails before it waits
    for anything fails the reload, and the old call serves on.

    @param main: Called with the reactor and the arguments.  Returns a Deferred or a
        coroutine.
    @param argv: The arguments.
    @param on: See L{run}, as for the other parameters.
    @raise SystemExit: Always.
    """
    settings = checkSettings(on, drain, stopTimeout, stopFirst, metrics)
    reactor = checkReactor(reactor)
    calls = _Calls(partial(main, reactor, *argv), reactor)
    factory = Factory(calls.make)
    calls.daemon = makeDaemon(factory, settings, foreground=True, reactor=reactor)
    runDaemon(calls.daemon, factory, settings, log, reactor)
    raise SystemExit(calls.status)


class _Calls:
    """
    The calls of a main function.

    @ivar status: The exit status of the program, when it is over.
    """

    daemon: Daemon

    def __init__(self, main: Callable[[], Any], reactor: Any) -> None:
        self._main = main
        self._reactor = reactor
        self.status: Any = 0

    def make(self) -> _Call:
        """
        Call the function.

        It is called before its service starts, so that a signal can end a first call
        that hangs.
        """
        return _Call(self._main, self._ended)

    def _ended(self, call: _Call, result: object) -> None:
        isNewest = not call.isCancelled and not any(
            generation.service is call and generation.state is State.DRAINING
            for generation in self.daemon.reloads.generations
        )
        status: Any = 0
        if isinstance(result, Failure):
            if isinstance(result.value, SystemExit):
                status = result.value.code
            elif isNewest or not result.check(CancelledError, asyncio.CancelledError):
                _log.failure("main function encountered error", result)
                status = 1
        if isNewest:
            self.status = status
            # Later, because the call may be starting.
            self._reactor.callWhenRunning(self._reactor.callLater, 0, self._stop)

    def _stop(self) -> None:
        self.daemon.reloads.cut()
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            _log.debug("main has finished while the reactor stops")


class _Call(Service):
    """
    One call of a main function, which ends when this service stops.

    @ivar isCancelled: Whether the call was cancelled.
    """

    isCancelled: bool = False

    def __init__(
        self, main: Callable[[], Any], ended: Callable[[_Call, object], None]
    ) -> None:
        """
        Call the function, which runs until it waits for the first time.

        @param main: The function.
        @param ended: Called with the result, unless the function fails now.
        """
        awaitable = main()
        if not isawaitable(awaitable):
            raise TypeError(
                f"{nameOf(main)} has returned neither a Deferred nor a coroutine"
            )
        self._result = toDeferred(awaitable)
        if self._result.called and isinstance(self._result.result, Failure):
            failure = self._result.result
            self._result.addErrback(lambda _: None)
            failure.raiseException()
        self._result.addBoth(partial(ended, self))

    def stopService(self) -> Deferred[None]:
        """
        Cancel the call.

        @return: A Deferred that fires when it has ended.
        """
        super().stopService()
        self.isCancelled = True
        stopped: Deferred[None] = Deferred()
        self._result.cancel()
        self._result.addBoth(lambda _: stopped.callback(None))
        return stopped
