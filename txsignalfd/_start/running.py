# -*- test-case-name: tests.start.test_running -*-
"""
L{run}: run a reactor with a service that can be reloaded, until it is stopped.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from math import inf
from typing import Any, TextIO

from twisted.internet.error import ReactorAlreadyRunning, ReactorNotRestartable
from twisted.logger import ILogObserver, globalLogBeginner, textFileLogObserver

from txsignalfd._children.orphans import isInit
from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._kernel.callables import nameOf
from txsignalfd._native.extension import lib
from txsignalfd._reload.generation import Resources
from txsignalfd._reload.sharing import recordingStartup, unshareInherited
from txsignalfd._twistd.actions import DEFAULTS, On
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.making import (
    WorkerSettings,
    becomeWorker,
    makeDaemon,
    makeSupervisor,
    makeWorker,
    parseCount,
)
from txsignalfd._twistd.notstarted import NotStarted, printNotStarted
from txsignalfd._twistd.settings import DRAIN, Settings, checkSettings
from txsignalfd._twistd.startup import startupSignals


def run(  # noqa: PLR0913
    makeService: Callable[[], Any],
    *,
    on: On = (),
    drain: float = DRAIN,
    stopTimeout: float = DRAIN,
    stopFirst: bool = False,
    metrics: str = "",
    workers: int | str | None = None,
    spareWorkers: int | None = None,
    log: TextIO | ILogObserver | None = None,
    reactor: Any = None,
) -> None:
    """
    Run a reactor and a service, as C{twistd signalfd} does, until it is stopped.

    Call it once, in the main thread, in place of C{reactor.run}.  SIGHUP reloads the
    service: C{makeService} is called again, and the new service starts beside the
    old one, on the same sockets.  SIGTERM, SIGINT and SIGQUIT stop it, SIGUSR1
    rotates the log, and SIGUSR2 logs a report.  systemd is notified.

    If a signal stops the reactor, C{SystemExit} is raised, so that C{finally} blocks
    and C{atexit} functions run, and then the process ends by that signal.  If the
    program itself stops the reactor, this function returns.  If the service cannot
    start, the reason is logged, and the process exits with status 1.

    @param makeService: Makes an C{IService}, or an awaitable of one.
    @param on: Actions that differ from the defaults: C{{"USR2": "rotate", SIGWINCH:
        function}}, or C{["USR2=rotate"]}.  A function receives the L{SigInfo}, and
        may return an awaitable.
    @param drain: Seconds that open connections have to drain at a reload.
    @param stopTimeout: Seconds that open connections have to drain at a stop.
    @param stopFirst: Whether a reload stops the old service before it makes the new
        one, for resources that two of them cannot share.
    @param metrics: An endpoint where metrics for Prometheus are served, such as
        C{"tcp:9101:interface=127.0.0.1"}.
    @param workers: Run the service in this number of fresh processes, or C{"auto"}: as
        many as there are CPUs.  Each of them runs this program again, so a reload
        loads changed code, and this process only supervises them.
    @param spareWorkers: The most spare workers, from the start; by default one for each
        worker, after the first reload.
    @param log: A text file or an observer to which Twisted logs from now on.  By
        default no log begins: if the program has not done that, Twisted shows only
        critical events, on stderr.
    @param reactor: The reactor; by default the global one.
    @raise ValueError: For an unknown signal or action, a wrong time, a wrong number of
        workers, or metrics that cannot be served.
    @raise SystemExit: When a signal has stopped the reactor, or the service could
        not start.
    @raise RuntimeError: In another thread than the main one, or while an asyncio
        event loop runs.
    @raise ReactorAlreadyRunning: While the reactor runs.
    @raise ReactorNotRestartable: After the reactor has stopped.
    """
    settings = checkSettings(on, drain, stopTimeout, stopFirst, metrics)
    spares = _checkSpares(spareWorkers, workers)
    reactor = checkReactor(reactor)
    factory = Factory(makeService)
    if workers is None:
        daemon = makeDaemon(factory, settings, foreground=True, reactor=reactor)
    elif (worker := becomeWorker(reactor)) is not None:
        from txsignalfd._workers.workerlog import observer

        # A log that the program has begun is read by lines.
        log = None if log is None else observer()
        daemon = makeWorker(worker, factory, settings, None, reactor)
    else:
        ofWorkers = WorkerSettings(parseCount("workers", workers), spares=spares)
        daemon = makeSupervisor(ofWorkers, settings, foreground=True, reactor=reactor)
        factory = Factory(lambda: None)
    runDaemon(daemon, factory, settings, log, reactor)


def _checkSpares(spares: int | None, workers: int | str | None) -> float:
    """
    Return the most spare workers.

    @raise ValueError: If that is no number, or there are no workers.
    """
    if spares is None:
        return inf
    if workers is None:
        raise ValueError("spareWorkers: only with workers")
    if not isinstance(spares, int) or spares < 0:
        raise ValueError(f"spareWorkers: expected a number, 0 or more, got {spares!r}")
    return spares


class Factory:
    """
    Calls a function that makes a service, the first time before the daemon starts.
    """

    def __init__(self, makeService: Callable[[], Any]) -> None:
        self._makeService = makeService
        self._made: list[Any] = []

    def __repr__(self) -> str:
        return nameOf(self._makeService)

    def __call__(self) -> Any:
        return self._made.pop() if self._made else self._makeService()

    def makeFirst(self) -> None:
        """
        Make the service that the next call returns.
        """
        self._made.append(self._makeService())


def checkReactor(reactor: Any) -> Any:
    """
    Return the reactor to run, after checking that it can run here and now.

    @param reactor: The reactor, or C{None} for the global one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "call this function in the main thread: others cannot handle signals"
        )
    if _loopRuns():
        raise RuntimeError(
            "an asyncio event loop runs already: install asyncioreactor, and call this"
            " function outside of the loop"
        )
    if reactor is None:
        from twisted.internet import reactor
    if reactor.running:
        raise ReactorAlreadyRunning("the reactor runs already")
    # Private, but Twisted itself says so only when the service has started.
    if getattr(reactor, "_startedBefore", False):
        raise ReactorNotRestartable("the reactor has run before, and cannot run again")
    return reactor


def _loopRuns() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def runDaemon(
    daemon: Daemon,
    factory: Factory,
    settings: Settings,
    log: TextIO | ILogObserver | None,
    reactor: Any,
) -> None:
    """
    Run a reactor with a daemon.

    @raise SystemExit: If a signal has stopped it, or the service could not start.
    """
    if log is not None:
        observer: Any = log if callable(log) else textFileLogObserver(log)
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    daemon.debug = sys.flags.dev_mode
    daemon.advice = "use on={{'{name}': 'leave'}}"
    startupSignals.defer({**DEFAULTS, **settings.on})
    try:
        # As under twistd, a signal ends a start that hangs here.
        daemon.reloads.startup = startup = Resources()
        with daemon.starting(), recordingStartup(reactor, startup):
            factory.makeFirst()
        daemon.privilegedStartService()
        daemon.startService()
    except BaseException as error:
        dispatcherFor(reactor).close()
        startupSignals.giveUp()
        unshareInherited()
        if not isinstance(error, NotStarted):
            raise
        printNotStarted(error, "")
        raise SystemExit(1) from (error if daemon.debug else None)
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    reactor.run()
    if daemon.failed:
        raise SystemExit(1)
    # Private, and what twistd uses.
    if (signo := getattr(reactor, "_exitSignal", None)) is not None:
        lib.txs_exit_by(signo)
        # The first process of a pid namespace exits with this status.
        raise SystemExit(0 if isInit() else 128 + signo)
    startupSignals.restore()
