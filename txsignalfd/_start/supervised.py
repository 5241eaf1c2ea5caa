# -*- test-case-name: tests.start.test_supervised -*-
"""
L{runProgram}: run a program with a main function of its own in a worker.

Theory
======

The program is not changed, and installs and runs the reactor itself.  When it installs
one, L{_Start} shares the ports that are opened from then on.  When the reactor has run
all startup triggers, the worker begins to act on signals and on what the supervisor
says, with the code of any other worker: the program is a service that starts when its
first port listens, and that does nothing when it stops.

A worker that ends drains its connections, and stops the reactor then.  So the shutdown
triggers of the program do not close what open connections need.  If the program stops
the reactor itself, no connection drains, as without a supervisor.

Rejected: an import hook for C{twisted.internet.reactor} (programs that choose a reactor
do not import it); to install a reactor before the program does (it may want another
one); to replace C{reactor.run} (ports are opened before that).
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet import main
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

# Private, but it is what all of them inherit their options from.
from twisted.scripts._twistd_unix import ServerOptions

from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.generation import Resources
from txsignalfd._reload.sharing import recordingStartup
from txsignalfd._twistd.actions import DEFAULTS
from txsignalfd._twistd.making import makeWorker
from txsignalfd._twistd.settings import Settings
from txsignalfd._twistd.startup import startupSignals
from txsignalfd._twistd.workerdaemon import WorkerDaemon
from txsignalfd._workers.membership import Membership
from txsignalfd._workers.program import Program
from txsignalfd._workers.worker import Worker


def runProgram(
    place: Membership,
    program: Program,
    settings: Settings,
    watched: list[str] | None,
    readyAfter: float | None,
) -> None:
    """
    Run a program in this process, which is a worker, until it ends.

    @param place: The worker's number, and its connection to the supervisor.
    @param program: The program.
    @param settings: How the worker drains, and which signals the program handles.
    @param watched: The files to watch besides the loaded modules, or C{None} to watch
        none.
    @param readyAfter: Seconds after which a program has started that opens no port, or
        C{None} to wait for a port.
    """
    # It is a pipe to the supervisor's log.
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    worker = Worker(place, None)
    start = _Start(worker, settings, watched, readyAfter)
    # Every reactor is installed by this function.  It is public, and has no hook.
    main.installReactor = start.install
    startupSignals.defer({**DEFAULTS, **settings.on})
    _leavePidfile()
    worker.waits("its reactor does not run: the program has to stay in the foreground")
    try:
        program.run()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            # Python prints it, in all its lines.
            reason = RemoteError(" ".join(str(end.code).split()))
            worker.failed(Failure(reason), isShown=True)
        raise
    except Exception:
        # Python prints the traceback.
        worker.failed(Failure(), isShown=True)
        raise


def _leavePidfile() -> None:
    """
    Let a twistd have no pidfile by default: it would refuse to run beside another one.
    """
    for parameter in cast(list[list[Any]], ServerOptions.optParameters):
        if parameter[0] == "pidfile":
            parameter[2] = ""


class _Start:
    """
    Turns the reactor that a program installs into that of a worker.
    """

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        watched: list[str] | None,
        readyAfter: float | None,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._watched = watched
        self._readyAfter = readyAfter
        self._installReactor = main.installReactor
        #: Ends the recording of what is opened before the reactor runs.
        self._recording = ExitStack()

    def install(self, reactor: Any) -> None:
        """
        Install a reactor, and share the ports that are opened from now on.

        A program may replace a reactor that it has installed.
        """
        self._installReactor(reactor)
        self._recording.close()
        resources = Resources()
        self._recording.enter_context(recordingStartup(reactor, resources))
        self._worker.attach(reactor)
        # In the next turn, all startup triggers have run.
        reactor.addSystemEventTrigger(
            "after", "startup", reactor.callLater, 0, self._run, reactor, resources
        )

    def _run(self, reactor: Any, resources: Resources) -> None:
        self._recording.close()
        try:
            self._runDaemon(reactor, resources)
        except BaseException:
            self._worker.failed(Failure())
            reactor.stop()

    def _runDaemon(self, reactor: Any, resources: Resources) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the reactor has to run in the main thread")
        if not resources.ports:
            self._worker.waits(
                "the program has opened no port through its reactor: if it never does,"
                " --ready-after says when it serves"
            )
        if self._readyAfter is not None:
            reactor.callLater(self._readyAfter, resources.listening.fire)
        daemon = makeWorker(
            self._worker,
            lambda: ProgramService(resources, reactor),
            self._settings,
            self._watched,
            reactor,
            kind=ProgramDaemon,
        )
        daemon.reloads.startup = resources
        reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
        daemon.privilegedStartService()
        daemon.startService()


class ProgramService(Service):
    """
    A program, as the service of a worker.
    """

    def __init__(self, resources: Resources, reactor: Any) -> None:
        """
        @param resources: The ports of the program.
        @param reactor: The reactor.
        """
        self._resources = resources
        self._reactor = reactor

    def startService(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when the first port listens, and the ports that
            the program opens in the same turn.
        """
        super().startService()
        listening = self._resources.listening.wait()
        return listening.addCallback(lambda _: deferLater(self._reactor, 0))

    def stopService(self) -> None:
        """
        Leave the shutdown triggers of the program to the reactor, which stops next.
        """
        super().stopService()
        self._resources.triggers.leave()


class ProgramDaemon(WorkerDaemon):
    """
    Drains connections before it stops the reactor of a program.
    """

    def _stopReactor(self, signo: int) -> None:
        self.reloads.stopService().addBoth(self._drained)

    def _drained(self, result: object) -> None:
        # The program may have stopped it meanwhile.
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        """
        Stop with the reactor.
        """
        if self._stopSignal is None:
            # The program has stopped it.
            self.reloads.cut()
        return super().stopService()
