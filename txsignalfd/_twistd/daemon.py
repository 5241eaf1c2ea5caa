# -*- test-case-name: tests.twistd.test_daemon -*-
"""
L{Daemon}: what C{twistd signalfd PLUGIN} runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from signal import SIG_IGN, SIGHUP, getsignal
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txsignalfd._children.orphans import isInit
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._proc.sender import describeWithCommand, hasTerminal, isFromLeader
from txsignalfd._reload.generation import FLUSH
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import Reload
from txsignalfd._twistd.actions import DEFAULTS, Action, describeActions
from txsignalfd._twistd.commands import runCommand
from txsignalfd._twistd.logs import rotateLogs
from txsignalfd._twistd.report import report
from txsignalfd._twistd.startup import hangup
from txsignalfd._twistd.systemd import Notifier
from txsignalfd.service import SignalService, stopReactor
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.daemon.Daemon")

#: Seconds between two requests for more time, while connections end.
EXTEND: Final = 5.0


class Daemon(Service):
    """
    A service that can be made anew, the signals that tell it to, and systemd,
    which is told of it.
    """

    def __init__(
        self,
        reloads: ReloadService,
        actions: Mapping[int, Action],
        foreground: bool,
        notifier: Notifier,
        reactor: Any,
    ) -> None:
        """
        @param reloads: The service.
        @param actions: What the user wants signals to do; the others do what
            L{DEFAULTS} says.
        @param foreground: Whether there may be a terminal that closes.
        @param notifier: Tells systemd.
        @param reactor: The reactor.
        """
        self._reloads = reloads
        self._asked = dict(actions)
        self._foreground = foreground
        self._notifier = notifier
        self._reactor = reactor
        self._actions: dict[int, Action] = {}
        self._signals: SignalService
        self._hadTerminal = False
        #: The signal for which it stops, 0 for another reason.
        self._stopsFor: int | None = None
        self._extending: Any = None
        #: Whether the first generation could not start.
        self._failed = False
        reloads.addWatcher(self._before, self._after)

    def _chosenActions(self) -> dict[int, Action]:
        actions = {**DEFAULTS, **self._asked}
        if SIGHUP not in self._asked and getsignal(SIGHUP) is SIG_IGN:
            # As nohup(1) wants it.
            del actions[SIGHUP]
        return actions

    def privilegedStartService(self) -> None:
        """
        Watch the signals, and listen.
        """
        super().privilegedStartService()
        self._actions = self._chosenActions()
        self._hadTerminal = self._foreground and hasTerminal()
        self._signals = SignalService(
            {signo: self._handler(signo) for signo in self._actions},
            stopOn=(),
            reactor=self._reactor,
        )
        hangup.letGo()
        self._signals.privilegedStartService()
        try:
            self._reloads.privilegedStartService()
        except BaseException:
            self._signals.stopService()
            raise

    def startService(self) -> None:
        """
        Start the service.
        """
        if not self._actions:
            # twist does nothing with privileges.
            self.privilegedStartService()
        super().startService()
        self._signals.startService()
        if isInit():
            # Closed with its dispatcher: orphans may come until the end.
            ChildReaper(dispatcherFor(self._reactor), subreaper=True)
        self._reloads.startService()
        _log.info(
            "pid {pid} serves; {actions}",
            pid=os.getpid(),
            actions=describeActions(self._actions),
        )
        self._notifier.startWatchdog()
        hangup.send()

    def stopService(self) -> Deferred[None]:
        """
        Let open connections come to their end, and stop.
        """
        super().stopService()
        if self._stopsFor is None:
            self._stopsFor = 0
        self._notifier.stopping()
        self._extend(self._reloads.stopTimeout + FLUSH)
        stopped = self._reloads.stopService()
        stopped.addBoth(self._stopped)
        return stopped

    def _stopped(self, result: object) -> object:
        self._extendNoMore()
        self._notifier.stopWatchdog()
        self._notifier.close()
        hangup.holdAgain()
        self._signals.stopService()
        return result

    def _extendNoMore(self) -> None:
        if self._extending is not None and self._extending.active():
            self._extending.cancel()

    def _extend(self, seconds: float) -> None:
        # While connections may be open.  A service that does not come to its
        # end is what systemd's own timeout is for.
        self._extendNoMore()
        if seconds > 0:
            self._notifier.extendTimeout(2 * EXTEND)
            left = seconds - EXTEND
            self._extending = self._reactor.callLater(EXTEND, self._extend, left)

    def _before(self, reload: Reload) -> None:
        if reload.number > 1:
            self._notifier.reloading()
            if self._reloads.stopFirst:
                self._extend(self._reloads.drain + FLUSH)

    def _after(self, reload: Reload) -> None:
        if self._stopsFor is None:
            self._extendNoMore()
        if reload.failure is None:
            self._notifier.ready(f"generation {reload.number} serves")
        elif reload.number > 1:
            self._notifier.ready(f"not reloaded, {reload.remains}: {reload.reason}")
        elif self._stopsFor is None:
            # A daemon that does not serve is not to stay.
            self._failed = True
            self._reactor.callLater(0, self._reactor.stop)

    def exit(self) -> None:
        """
        Tell that the service could not start, by the exit status, when the
        process ends.  twistd knows none but 0 for a reactor that was stopped,
        or a signal.
        """
        if self._failed:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _handler(self, signo: int) -> Callable[[SigInfo], Any]:
        action = self._actions[signo]
        if action.function is not None:
            return action.function
        if action.name == "run":
            return partial(self._run, action.argument)
        if signo == SIGHUP and SIGHUP not in self._asked and self._foreground:
            return self._hangup
        does: dict[str, Callable[[SigInfo], Any]] = {
            "reload": self._reloads.reload,
            "stop": self._stop,
            "quit": self._quit,
            "rotate": self._rotate,
            "report": self._report,
            "ignore": self._ignore,
        }
        return does[action.name]

    def _hangup(self, info: SigInfo) -> None:
        # Who wants a reload is a process.  When the terminal closes the kernel
        # sends it, or the shell there, as bash to all its jobs.
        closed = info.codeName == "SI_KERNEL" or (
            self._hadTerminal and isFromLeader(info) and not hasTerminal()
        )
        (self._stop if closed else self._reloads.reload)(info)

    def _stop(self, info: SigInfo) -> None:
        if self._stopsFor is None:
            _log.info("{told}: stopping", told=describeWithCommand(info))
            self._stopsFor = info.signo
            stopReactor(dispatcherFor(self._reactor), info.signo)
        elif self._stopsFor in (0, info.signo):
            self._quit(info)
        else:
            _log.info("{told}: stopping already", told=describeWithCommand(info))

    def _quit(self, info: SigInfo) -> None:
        _log.info("{told}: stopping at once", told=describeWithCommand(info))
        self._reloads.cut()
        if self._stopsFor is None:
            self._stopsFor = info.signo
            stopReactor(dispatcherFor(self._reactor), info.signo)

    def _rotate(self, info: SigInfo) -> None:
        rotateLogs()

    def _report(self, info: SigInfo) -> None:
        text = report(dispatcherFor(self._reactor), self._reloads.describe())
        _log.info("{told}\n{text}", told=describeWithCommand(info), text=text)

    def _ignore(self, info: SigInfo) -> None:
        _log.debug("{told}: ignored", told=describeWithCommand(info))

    async def _run(self, command: str, info: SigInfo) -> None:
        _log.info(
            "{told}: running {command}",
            told=describeWithCommand(info),
            command=command,
        )
        await runCommand(command, self._reactor)
