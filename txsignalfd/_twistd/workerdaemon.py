# -*- test-case-name: tests.workers.test_workers -*-
"""
L{WorkerDaemon}: the service that a worker of C{twistd signalfd --workers} runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
from time import monotonic
from typing import Any, Final

from twisted.logger import ILogObserver, Logger
from twisted.python.log import ILogObserver as ILegacyLogObserver

from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import Reload
from txsignalfd._twistd.actions import Action
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.logs import reopenLogs
from txsignalfd._twistd.systemd import Notifier
from txsignalfd._twistd.watching import Watch
from txsignalfd._workers.membership import workerNumber
from txsignalfd._workers.worker import Worker

#: The actions of a worker.  The supervisor has those of C{--on}.  A terminal sends
#: SIGINT, and C{pkill} anything else, to the workers too.
_ACTIONS: Final = {
    int(SIGHUP): Action("ignore"),
    int(SIGTERM): Action("stop"),
    int(SIGINT): Action("ignore"),
    int(SIGQUIT): Action("quit"),
    int(SIGUSR1): Action("ignore"),
    int(SIGUSR2): Action("report"),
}


_log: Final = Logger("txsignalfd.workers.WorkerDaemon")


def _hasObserver(application: Any) -> bool:
    kinds = (ILogObserver, ILegacyLogObserver)
    return any(application.getComponent(kind, None) is not None for kind in kinds)


class WorkerDaemon(Daemon):
    """
    Runs the service of one worker.
    """

    def __init__(
        self,
        worker: Worker,
        reloads: ReloadService,
        actions: Mapping[int, Action],
        reactor: Any,
    ) -> None:
        """
        @param worker: The connection to the supervisor.
        @param reloads: The service to run.
        @param actions: The actions that the user chose, by signal.  Those apply to
            the supervisor, except C{leave}.
        @param reactor: The reactor.
        """
        chosen = {
            signo: action for signo, action in actions.items() if action.name == "leave"
        }
        # systemd watches the supervisor.
        super().__init__(reloads, chosen, False, Notifier(reactor, {}), reactor)
        self._worker = worker
        worker.run(reloads, self._stopFor, reopenLogs, self._reportFor)
        #: Watches files for the supervisor, in worker 1.
        self.watch: Watch | None = None

    def setServiceParent(self, parent: Any) -> None:
        """
        Join twistd's application, whose log observer is not used.
        """
        super().setServiceParent(parent)
        if workerNumber() == 1 and self.equip is not None and _hasObserver(parent):
            _log.warn(
                "the log observer of the application is not used with --workers: the"
                " supervisor writes the log; --logger of twistd names its observer"
            )

    def _effectiveActions(self) -> dict[int, Action]:
        return _ACTIONS | self._chosen

    def _explain(self, signo: int) -> tuple[str, str]:
        receiver, advice = super()._explain(signo)
        if self._actions[signo].name == "ignore":
            receiver = "the supervisor handles it"
        return receiver, advice

    def starting(self) -> AbstractContextManager[None]:
        """
        Tell the supervisor why the service cannot start.
        """
        return self._worker.making() if self._stopSignal is None else nullcontext()

    def _after(self, reload: Reload) -> None:
        if reload.failure is not None and self._stopSignal is None:
            self._worker.failed(reload.failure)
            self.failed = True
            self._reactor.callLater(0, self._stopFor)
        elif self.watch is not None:
            self.watch.start()

    def _stopFor(self, seconds: float | None = None) -> None:
        """
        Stop, as after a signal.

        @param seconds: How long connections may stay open, at most.
        """
        if seconds is not None:
            self.reloads.stopTimeout = seconds
        if self._stopSignal is None:
            self._stopSignal, self._stopBegan = 0, monotonic()
            self._stopReactor(0)

    def _stopReactor(self, signo: int) -> None:
        if signo:
            super()._stopReactor(signo)
        else:
            self._reactor.stop()
