# -*- test-case-name: tests.twistd.test_daemon -*-
"""
L{Daemon}: the service that C{twistd signalfd PLUGIN} runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from signal import SIGCHLD, SIGHUP, default_int_handler, getsignal
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from txsignalfd._children.orphans import isInit
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._dispatch.stopping import staysIgnored, stopReactor
from txsignalfd._kernel.callables import Named
from txsignalfd._kernel.descriptor import isTwisteds, warnOfHandler
from txsignalfd._native.names import CODES, signalName
from txsignalfd._proc.sender import describeWithCommand, hasTerminal, isFromLeader
from txsignalfd._reload.generation import FLUSH
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.stored import SocketStore
from txsignalfd._reload.transaction import History, Reload, Timer
from txsignalfd._twistd.actions import (
    DEFAULTS,
    KEPT_BY_SUPERVISOR,
    REPEAT,
    SUPERVISOR_DEFAULTS,
    Action,
    describeActions,
)
from txsignalfd._twistd.answers import Answers
from txsignalfd._twistd.commands import OwnChildren, RunCommand
from txsignalfd._twistd.logs import rotateLogs, unblockLog
from txsignalfd._twistd.notstarted import logNotStarted, starting
from txsignalfd._twistd.plugins import LoadedCode, logicalDirectory
from txsignalfd._twistd.report import report
from txsignalfd._twistd.startup import startupSignals
from txsignalfd._twistd.status import DaemonStatus
from txsignalfd._twistd.systemd import Notifier
from txsignalfd.service import SignalService
from txsignalfd.siginfo import SigInfo

if TYPE_CHECKING:
    from txsignalfd._workers.supervisor import Supervisor

_log: Final = Logger("txsignalfd.daemon.Daemon")

_SI_QUEUE: Final = CODES["SI_QUEUE"]

#: Seconds between two C{EXTEND_TIMEOUT_USEC} while connections drain.
EXTEND: Final = 5.0


class Daemon(Service):
    """
    Runs a L{ReloadService}, acts on signals, and notifies systemd.

    @cvar debug: Whether to show the traceback if the service cannot start.
    @cvar supervisor: The supervisor of the workers, if the service runs in these.
    @cvar upgrade: Replaces the program, if that is possible.
    @cvar isReady: Whether systemd knows already that the service has started.
    @cvar equip: Gives twistd's application what the first service, or the application
        file, has for it.
    @cvar metrics: Serves the metrics, if they are asked for.
    @cvar advice: How the user leaves a signal to the program.
    @ivar reloads: The service.
    @ivar answers: The answers to the txsignalfd command.
    @ivar notifier: Notifies systemd.
    @ivar failed: Whether its first generation could not start.
    """

    debug: bool = False
    advice: str = "use --on {name}=leave"
    supervisor: Supervisor | None = None
    upgrade: Callable[[SigInfo], None] | None = None
    isReady: bool = False
    equip: Callable[[Any], None] | None = None
    metrics: IService | None = None

    def __init__(
        self,
        reloads: ReloadService,
        actions: Mapping[int, Action],
        foreground: bool,
        notifier: Notifier,
        reactor: Any,
    ) -> None:
        """
        @param reloads: The service to run.
        @param actions: The actions that the user chose, by signal.  All other
            signals have the action that L{DEFAULTS} names.
        @param foreground: Whether the process may have a controlling terminal.
        @param notifier: Notifies systemd.
        @param reactor: The reactor.
        """
        self.reloads = reloads
        self._chosen = dict(actions)
        self._foreground = foreground
        self.notifier = notifier
        self._reactor = reactor
        self._actions: dict[int, Action] = {}
        self._signals: SignalService
        self._hadTerminal = False
        #: The signal that stops the daemon, or 0 if it stops for another
        #: reason; C{None} while it does not stop.
        self._stopSignal: int | None = None
        #: When it began to stop, by the monotonic clock, and whether signals that
        #: arrived since then may still be pending.
        self._stopBegan = 0.0
        self._catchingUp = True
        self._extending: Any = None
        #: Until the log says that the service does not stop.
        self._patience: Timer
        self._code: LoadedCode
        self.failed = False
        reloads.logsStart = False
        self.history = History()
        self.description = DaemonStatus(reloads, self.history, logicalDirectory())
        self.answers = Answers(reloads, self.description, self.updateStatus, reactor)
        self.answers.upgrade = self._upgrade
        reloads.addObserver(self._before, self._after)

    def setServiceParent(self, parent: Any) -> None:
        """
        Join twistd's application, to which the first service may give a log observer.
        """
        if self.equip is not None:
            self.equip(parent)
        super().setServiceParent(parent)

    def _effectiveActions(self) -> dict[int, Action]:
        known = DEFAULTS if self.supervisor is None else DEFAULTS | SUPERVISOR_DEFAULTS
        defaults = {
            signo: action for signo, action in known.items() if not staysIgnored(signo)
        }
        return {**defaults, **self._chosen}

    def _leaves(self, signo: int) -> bool:
        """
        Return whether this process does not watch a signal that it has an action for.
        """
        return (
            signo in self._actions
            and self._actions[signo].name == "leave"
            and (self.supervisor is None or signo in KEPT_BY_SUPERVISOR)
        )

    def privilegedStartService(self) -> None:
        """
        Watch the signals, and open the ports of the service.
        """
        super().privilegedStartService()
        unblockLog(self._reactor)
        self._actions = self._effectiveActions()
        self.description.actions = self._actions
        self._hadTerminal = self._foreground and hasTerminal()
        self._signals = SignalService(
            {
                signo: Named(
                    self._answering(signo, self._handler(signo)),
                    *self._explain(signo),
                )
                for signo in self._actions
                if not self._leaves(signo)
            },
            stopOn=(),
            reapChildren=not self._leaves(SIGCHLD),
            reactor=self._reactor,
        )
        if limit := self.notifier.stores:
            store = SocketStore(limit, self.notifier.store, self.notifier.discard)
            self.reloads.store = store
            if self.supervisor is not None:
                # Its workers have the ports of the service.
                self.supervisor.sockets.restore(store)
        startupSignals.block()
        for signo in DEFAULTS.keys() & self._actions.keys() - self._chosen.keys():
            self._warnIfReplaced(signo)
        self._signals.privilegedStartService()
        try:
            with self.starting():
                if self.metrics is not None:
                    # Before the reactor attributes ports to the service.
                    self.metrics.privilegedStartService()
                self.reloads.privilegedStartService()
        except BaseException:
            self._signals.stopService()
            raise

    def starting(self) -> AbstractContextManager[None]:
        """
        Log the reason, if the service cannot start, and raise L{NotStarted}.
        """
        return starting(self.debug, lambda: self.failed)

    def startService(self) -> None:
        """
        Start the service.
        """
        if not self._actions:
            # twist(1) does not call privilegedStartService.
            self.privilegedStartService()
        super().startService()
        self._signals.startService()
        if isInit() and not self._leaves(SIGCHLD):
            # The dispatcher closes the reaper: orphans may arrive until then.
            ChildReaper(dispatcherFor(self._reactor), subreaper=True)
        with self.starting():
            self.reloads.startService()
        self.notifier.startWatchdog()
        startupSignals.resend()

    def stopService(self) -> Deferred[None]:
        """
        Drain open connections, and stop the service.
        """
        super().stopService()
        self.description.isStopping = True
        if self._stopSignal is None:
            self._stopSignal, self._stopBegan = 0, monotonic()
        self.notifier.stopping()
        self._extend(self.reloads.stopTimeout + FLUSH)
        seconds = self.reloads.stopTimeout + 2 * FLUSH
        self._patience = Timer(self._reactor, seconds, self._logUnstopped)
        stopped = self.reloads.stopService()
        # That may have taken long.  What is pending is read in the next turn.
        self._reactor.callLater(0, self._reactor.callLater, 0, self._caughtUp)
        stopped.addBoth(self._stopped)
        return stopped

    def _caughtUp(self) -> None:
        self._catchingUp = False

    def _logUnstopped(self) -> None:
        _log.warn(
            "the service does not stop: still waiting for it, after --stop-timeout"
            " ({seconds:g} s); the same signal again stops the daemon at once",
            seconds=self.reloads.stopTimeout,
        )

    def _stopped(self, result: object) -> object:
        self._stopExtending()
        self._patience.cancel()
        self.notifier.close()
        if self.metrics is not None:
            self.metrics.stopService()
        self.answers.close()
        startupSignals.deferAgain()
        self._signals.stopService()
        return result

    def _stopExtending(self) -> None:
        if self._extending is not None and self._extending.active():
            self._extending.cancel()

    def _extend(self, seconds: float) -> None:
        # Only as long as connections may drain.  A service that does not stop
        # after that is ended by systemd's own timeout.
        self._stopExtending()
        if seconds > 0:
            self.notifier.extendTimeout(2 * EXTEND)
            left = seconds - EXTEND
            self._extending = self._reactor.callLater(EXTEND, self._extend, left)

    def _before(self, reload: Reload) -> None:
        if not reload.isStart:
            if self.supervisor is None:
                self._code.logChanges()
            if self.answers.waiting:
                self.answers.before()
            self.notifier.reloading()
            if self.reloads.stopFirst:
                self._extend(self.reloads.drain + FLUSH)

    def _after(self, reload: Reload) -> None:
        if reload.isStart:
            self._code = LoadedCode()
        else:
            self._code.addModules()
            self.history.add(reload)
            if self.answers.current:
                self.answers.after(reload)
        if self._stopSignal is None:
            self._stopExtending()
        if reload.failure is None:
            if reload.isStart:
                if self.supervisor is not None:
                    self.supervisor.sockets.started()
                _log.info(
                    "pid {pid} serves; {actions}",
                    pid=os.getpid(),
                    actions=describeActions(self._actions),
                )
            if not (reload.isStart and self.isReady):
                self.notifier.ready(f"generation {reload.number} serves")
        elif not reload.isStart:
            self.notifier.ready(f"not reloaded, {reload.remains}: {reload.reason}")
        elif self._stopSignal is None:
            # A daemon whose service did not start must exit.
            logNotStarted(reload.failure, self.debug)
            self.failed = True
            self._reactor.callLater(0, self._reactor.stop)

    def status(self) -> Deferred[dict[str, Any]]:
        """
        Describe the daemon for a program, in the reactor's thread.
        """
        dispatcher = dispatcherFor(self._reactor)
        return self.updateStatus().addCallback(lambda _: self.description(dispatcher))

    def exit(self) -> None:
        """
        Exit with status 1 if the service could not start.

        twistd itself exits with 0 when the reactor was stopped, or by a signal.
        """
        if self.failed:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _explain(self, signo: int) -> tuple[str, str]:
        name = signalName(signo).removeprefix("SIG")
        return f"action {self._actions[signo]}", self.advice.format(name=name)

    def _warnIfReplaced(self, signo: int) -> None:
        """
        Warn about a handler that the program installed while it was loaded.
        """
        handler = getsignal(signo)
        if (
            callable(handler)
            and handler is not default_int_handler
            and not isTwisteds(handler)
        ):
            warnOfHandler(signo, handler, *self._explain(signo))

    def _handler(self, signo: int) -> Callable[[SigInfo], Any]:
        action = self._actions[signo]
        if action.function is not None:
            return action.function
        if action.name == "run":
            own = None
            if signo == SIGCHLD:
                own = OwnChildren(dispatcherFor(self._reactor))
            return RunCommand(action.argument, self._reactor, own)
        if signo == SIGHUP and SIGHUP not in self._chosen and self._foreground:
            return self._hangup
        handlers: dict[str, Callable[[SigInfo], Any]] = {
            "reload": self.reloads.reload,
            "stop": self._stop,
            "quit": self._quit,
            "rotate": self._rotate,
            "upgrade": self._upgrade,
            "report": self._report,
            "ignore": self._ignore,
            "leave": self._signalWorkers,
            "add-worker": partial(self._resize, 1),
            "remove-worker": partial(self._resize, -1),
        }
        return handlers[action.name]

    def _answering(
        self, signo: int, handler: Callable[[SigInfo], Any]
    ) -> Callable[[SigInfo], Any]:
        """
        Return a handler that does the same, and answers the txsignalfd command.
        """
        action = self._actions[signo]
        if action.name in ("call", "run"):
            return handler  # the value is for the user's function or command

        def receive(info: SigInfo) -> Any:
            if info.code == _SI_QUEUE:
                return self.answers.receive(info, action, handler)
            return handler(info)

        return receive

    def _hangup(self, info: SigInfo) -> None:
        # When the terminal closes, SIGHUP comes from the kernel, or from the shell that
        # leads the session (bash sends it to all its jobs).
        closed = info.codeName == "SI_KERNEL" or (
            self._hadTerminal and isFromLeader(info) and not hasTerminal()
        )
        (self._stop if closed else self.reloads.reload)(info)

    def _stop(self, info: SigInfo) -> None:
        if self._stopSignal is None:
            # Read first: a signal that is sent REPEAT after the line is a new request.
            self._stopSignal, self._stopBegan = info.signo, monotonic()
            _log.info("{signal}: stopping", signal=describeWithCommand(info))
            self._stopReactor(info.signo)
        elif self._stopSignal in (0, info.signo) and self._isNewRequest(info):
            self._quit(info)
        else:
            _log.info("{signal}: already stopping", signal=describeWithCommand(info))

    def _isNewRequest(self, info: SigInfo) -> bool:
        # Other processes cannot forge this code: ^C was pressed again, or the shell
        # that has sent SIGHUP, because its terminal was closed, has ended since.
        if info.codeName == "SI_KERNEL":
            return info.signo != SIGHUP
        return not self._catchingUp and monotonic() - self._stopBegan >= REPEAT

    def _quit(self, info: SigInfo) -> None:
        _log.info("{signal}: stopping at once", signal=describeWithCommand(info))
        self.reloads.cut()
        if self._stopSignal is None:
            self._stopSignal = info.signo
            self._stopReactor(info.signo)

    def _stopReactor(self, signo: int) -> None:
        stopReactor(dispatcherFor(self._reactor), signo)

    def _rotate(self, info: SigInfo) -> list[str]:
        lines = rotateLogs()
        if self.supervisor is not None:
            self.supervisor.rotate()
        return lines

    def _upgrade(self, info: SigInfo) -> None:
        if self.upgrade is not None:
            self.upgrade(info)
            return
        outcome = "not upgraded: it has no supervisor (--workers); restart it"
        _log.error("{signal}: {it}", signal=describeWithCommand(info), it=outcome)
        self.answers.upgraded(outcome, succeeded=False)

    def _signalWorkers(self, info: SigInfo) -> None:
        assert self.supervisor is not None, "only that watches such a signal"
        self.supervisor.signal(info.signo)

    def _resize(self, change: int, info: SigInfo) -> None:
        # The terminal sends these signals to a background job.
        if self.supervisor is not None and info.codeName != "SI_KERNEL":
            self.supervisor.resize(change)

    def _report(self, info: SigInfo) -> Deferred[Any]:
        requester = describeWithCommand(info)
        if self.supervisor is not None:
            self.supervisor.report(requester)
        return self.updateStatus().addCallback(lambda _: self._reportFor(requester))

    def _reportFor(self, requester: str) -> None:
        text = report(dispatcherFor(self._reactor), self.reloads.describe())
        _log.info("{requester}\n{text}", requester=requester, text=text)

    def updateStatus(self) -> Deferred[Any]:
        """
        Ask the workers, if there are any, what they do.

        @return: A Deferred that fires when the answers are in the status.
        """
        return succeed(None) if self.supervisor is None else self.supervisor.ask()

    def _ignore(self, info: SigInfo) -> None:
        _log.debug("{signal}: ignored", signal=describeWithCommand(info))
