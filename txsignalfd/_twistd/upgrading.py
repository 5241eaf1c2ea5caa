# -*- test-case-name: tests.workers.test_upgrading -*-
"""
L{Upgrade}: replace the program of a supervisor by execve(2), in the same process.

  1. A child tries whether the new program can start: L{tryProgram
     <txsignalfd._workers.trial.tryProgram>}.  If not, the old program goes on.
  2. The old program waits until no reload is under way and no handler of a signal runs.
     Signals that arrive from now on stay pending.
  3. It executes the new program, which takes over the living workers and the sockets as
     its first generation: L{Inheritance <txsignalfd._workers.inheritance.Inheritance>}.
  4. The new program reloads.  If that fails, the workers of the old one serve on.

The workers accept connections all the time.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import version
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txsignalfd._children.orphans import childProcesses
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._kernel.mask import foreignMask
from txsignalfd._proc.reason import RemoteError, reasonOf
from txsignalfd._reload.sharing import inherited
from txsignalfd._reload.transaction import Reload, ReloadRequest
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.logs import isSilent, silence, stderrInLog
from txsignalfd._twistd.output import flushAll
from txsignalfd._version import __version__
from txsignalfd._workers.command import Command
from txsignalfd._workers.inheritance import Inheritance
from txsignalfd._workers.supervisor import Supervisor
from txsignalfd._workers.trial import tryProgram
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.daemon.Daemon")

#: Seconds between two checks whether handlers of signals are still running.
_INTERVAL: Final = 0.02


def describeProgram() -> str:
    """
    Return the versions of the program.
    """
    return (
        f"Python {platform.python_version()}, Twisted {version('twisted')},"
        f" txsignalfd {__version__}"
    )


class Upgrade:
    """
    Replaces the program.  Use it in the reactor's thread.
    """

    def __init__(
        self,
        daemon: Daemon,
        supervisor: Supervisor,
        command: Command,
        seconds: float,
        reactor: Any,
    ) -> None:
        """
        @param daemon: The daemon.
        @param supervisor: The supervisor of its workers.
        @param command: The command of the program.
        @param seconds: How long the trial, and then the wait for handlers of signals,
            may take.
        @param reactor: The reactor.
        """
        self._daemon = daemon
        self._supervisor = supervisor
        self._command = command
        self._seconds = seconds
        self._reactor = reactor
        self._began = 0.0
        self._task: Deferred[None] | None = None
        #: Whether this program has replaced another one, and has not reloaded yet.
        self._isResumed = False
        reactor.addSystemEventTrigger("before", "shutdown", self.cancel)

    def request(self, info: SigInfo) -> None:
        """
        Begin an upgrade, unless one is under way.

        @param info: The signal that requests it.
        """
        requester = ReloadRequest()
        requester.add(info)
        if self._task is not None:
            _log.info("already upgrading: {requester}", requester=requester)
            return
        _log.info("upgrading: requested by {requester}", requester=requester)
        self._began = monotonic()
        self._task = Deferred.fromCoroutine(self._upgrade())
        self._task.addErrback(self._failed)

    def cancel(self) -> None:
        """
        Give up an upgrade that is under way: the service is being stopped.
        """
        if self._task is not None:
            self._task.cancel()

    def _failed(self, failure: Any) -> None:
        self._task = None
        error = failure.value
        if isinstance(error, CancelledError):
            error = RemoteError("the service is being stopped")
        seconds = monotonic() - self._began
        outcome = f"not upgraded, after {seconds:.3f} s: {reasonOf(error)}"
        text = f"{outcome}\n{getattr(error, 'traceback', '')}".rstrip()
        _log.critical("{text}", text=text)
        self._daemon.answers.upgraded(outcome, succeeded=False)

    async def _upgrade(self) -> None:
        if not self._daemon.reloads.running:
            raise CancelledError
        program = await tryProgram(
            self._command, self._inheritance(), self._seconds, self._reactor
        )
        await self._daemon.reloads.postpone()
        try:
            await self._becomeIdle()
            self._execute(program)
        finally:
            dispatcherFor(self._reactor)._resume()  # noqa: SLF001
            self._daemon.reloads.resume()

    async def _becomeIdle(self) -> None:
        """
        Wait until no signal and no exit of a worker is being handled.
        """
        dispatcher = dispatcherFor(self._reactor)
        deadline = monotonic() + self._seconds
        while not (self._isIdle and dispatcher._pause()):  # noqa: SLF001
            dispatcher._resume()  # noqa: SLF001
            if monotonic() > deadline:
                raise RemoteError(
                    f"a signal is still being handled after {self._seconds:g} s"
                    " (--start-timeout)"
                )
            await deferLater(self._reactor, _INTERVAL)

    @property
    def _isIdle(self) -> bool:
        return self._supervisor.isIdle and not self._daemon.answers.statuses

    def _inheritance(self) -> Inheritance:
        descriptors: list[int] = []
        daemon = self._daemon
        fields = {
            "mask": foreignMask(),
            "inherited": inherited(),
            "supervisor": self._supervisor.passOn(descriptors),
            "generation": daemon.reloads.number,
            "history": daemon.history.passOn(),
            "since": daemon.description.began,
            "answers": daemon.answers.passOn(descriptors),
            "held": daemon.reloads.postponed,
            "began": self._began,
            "children": self._otherChildren(),
            "isSilent": isSilent(),
        }
        return Inheritance(fields, [*descriptors, *inherited()[0]])

    def _otherChildren(self) -> list[int]:
        """
        Return the children that are no workers.
        """
        with suppress(OSError):
            return sorted(childProcesses() - self._supervisor.pids)
        return []  # this system does not list them

    def _execute(self, program: str) -> None:
        """
        Execute the program.

        @raise OSError: The system refuses.
        """
        self._supervisor.endStarting()
        found = self._inheritance()
        environment = self._command.ownEnvironment()
        if self._daemon.notifier.watchdogInterval is not None:
            # twistd may have daemonized, and then systemd has named its parent.
            environment["WATCHDOG_PID"] = str(os.getpid())
        _log.info("executing {program}", program=program)
        sys.stdout.flush()
        sys.stderr.flush()
        flushAll()
        with stderrInLog():
            found.execute(self._command, environment)

    def resume(self, found: Inheritance) -> None:
        """
        Take over the state of the previous program, and reload.  A trial ends here.
        """
        fields = found.fields
        self._began = fields["began"]
        self._supervisor.adopt(fields["supervisor"])
        daemon, reloads = self._daemon, self._daemon.reloads
        daemon.isReady = True
        daemon.history.adopt(fields["history"])
        daemon.description.began = fields["since"]
        daemon.answers.adopt(fields["answers"])
        reloads.first = fields["generation"]
        held = f"; {fields['held']}" if fields["held"] else ""
        reloads.request(f"the upgrade{held}")
        reloads.addObserver(lambda _: None, self._reloaded)
        self._isResumed = True
        if found.isTrial:
            found.endTrial(describeProgram())
        atexit.register(self._ended)
        if fields["isSilent"]:
            # Until here, it has led to the log.
            self._reactor.callWhenRunning(silence)
        self._reactor.callWhenRunning(found.release)
        self._reactor.callWhenRunning(self._reap, fields["children"])

    def _reloaded(self, reload: Reload) -> None:
        if reload.isStart or not self._isResumed:
            return
        self._isResumed = False
        succeeded = reload.failure is None
        seconds = monotonic() - self._began
        outcome = f"upgraded in {seconds:.3f} s: generation {reload.number} serves"
        if not succeeded:
            outcome = f"upgraded, but {reload.outcome}"
        _log.info("{outcome}", outcome=outcome)
        self._daemon.answers.upgraded(outcome, succeeded)

    def _ended(self) -> None:
        """
        Say which exception has ended this program, if that was before its reload.
        """
        error = getattr(sys, "last_value", None)
        if self._isResumed and error is not None:
            outcome = f"upgraded, but the daemon has ended: {reasonOf(error)}"
            self._daemon.answers.upgraded(outcome, succeeded=False)

    def _reap(self, pids: list[int]) -> None:
        """
        Reap other children of the previous program, which nothing else waits for.
        """
        reaper = ChildReaper(dispatcherFor(self._reactor))
        for pid in pids:
            reaper.whenExited(pid).addBoth(_wait, pid)


def _wait(_: object, pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
