# -*- test-case-name: tests.twistd.test_answers -*-
"""
L{Answers}: act on the requests of the C{txsignalfd} command, and answer them.

The action of a signal is done as for every other sender, and its outcome goes to the
requester too.  A signal whose action is C{call} or C{run} is no request: its value
belongs to the user's function.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._proc.reason import reasonOf
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import Reload
from txsignalfd._twistd.actions import Action
from txsignalfd._twistd.requests import REMEMBERED, Requester, Requests, requesterOf
from txsignalfd._twistd.status import DaemonStatus
from txsignalfd.siginfo import SigInfo

#: Seconds between two lines about connections that drain during a stop.
PROGRESS: Final = 0.2

#: The command that requests each action, where the names differ.
_COMMAND_OF: Final = {"report": "status", "quit": "stop"}


class Answers:
    """
    The outcome of the daemon's actions, for their requesters.  Use it in the
    reactor's thread.
    """

    def __init__(
        self,
        reloads: ReloadService,
        status: DaemonStatus,
        whenAnswered: Callable[[], Deferred[Any]],
        reactor: Any,
    ) -> None:
        """
        @param reloads: The service.
        @param status: Describes the daemon.
        @param whenAnswered: Fires when the status is up to date.
        @param reactor: The reactor.
        """
        self._reloads = reloads
        self._status = status
        self._whenAnswered = whenAnswered
        self._reactor = reactor
        self._requests = Requests()
        #: How many requests for the status wait.
        self.statuses = 0
        #: Requests an upgrade.
        self.upgrade: Callable[[SigInfo], object]
        #: Requests for the next reload, for the one that goes on, and for the stop.
        self.waiting: list[Requester] = []
        self.current: list[Requester] = []
        self._stops: list[Requester] = []
        self._upgrades: list[Requester] = []
        self._progress: Any = None
        self._hasShown = False

    def receive(
        self, info: SigInfo, action: Action, handler: Callable[[SigInfo], Any]
    ) -> Any:
        """
        Act on a signal that sigqueue(3) sent.

        A request is answered, unless it was received before.  Every other signal has
        its usual action, whatever its value is.

        @param info: The signal.
        @param action: Its action.
        @param handler: Does the action.
        @return: What the handler returns.
        """
        requester = requesterOf(info)
        if requester is None or not self._requests.isAnswered(requester):
            return handler(info)
        if not self._requests.isRepeated(requester):
            try:
                self._act(requester, info, action, handler)
            except Exception as error:
                self._fail(requester, reasonOf(error))
                raise
        return None

    def _act(
        self,
        requester: Requester,
        info: SigInfo,
        action: Action,
        handler: Callable[[SigInfo], Any],
    ) -> None:
        command = _COMMAND_OF.get(action.name, action.name)
        if (requester.command, command) == ("upgrade", "reload"):
            # No signal has this action by default: the request comes by SIGHUP.
            command, handler = "upgrade", self.upgrade
        if requester.command != command:
            wanted = "report" if requester.command == "status" else requester.command
            self._fail(requester, f"{info.name}={action}, so it does not {wanted}")
        elif command == "status":
            self.statuses += 1
            answered = self._whenAnswered()
            answered.addBoth(self._countStatus)
            answered.addCallback(lambda _: self._tellStatus(requester))
            answered.addErrback(lambda it: self._fail(requester, reasonOf(it.value)))
        elif command == "rotate":
            lines = handler(info)
            failed = any("not rotated" in line for line in lines)
            self._requests.answer(requester, "; ".join(lines), not failed)
        elif self._count >= REMEMBERED:
            self._fail(requester, f"{REMEMBERED} other requests wait: not accepted")
        elif command == "stop":
            self._stops.append(requester)
            handler(info)
            self._showProgress()
        elif command == "upgrade":
            self._upgrades.append(requester)
            handler(info)
        else:
            self.waiting.append(requester)
            handler(info)
            if not self._reloads.running:
                self.refuse()

    def _countStatus(self, result: Any) -> Any:
        self.statuses -= 1
        return result

    def _tellStatus(self, requester: Requester) -> None:
        status = self._status(dispatcherFor(self._reactor))
        text = json.dumps(status, separators=(",", ":"))
        self._requests.answer(requester, "", succeeded=True, data=text)

    @property
    def _count(self) -> int:
        return len(self.waiting) + len(self._stops) + len(self._upgrades)

    def upgraded(self, outcome: str, succeeded: bool) -> None:
        """
        Answer the requests for an upgrade.

        @param outcome: One line for the operator.
        @param succeeded: Whether the new program serves, and has reloaded.
        """
        upgrades, self._upgrades = self._upgrades, []
        for requester in upgrades:
            self._requests.answer(requester, outcome, succeeded)

    def passOn(self, descriptors: list[int]) -> dict[str, Any]:
        """
        Describe the requests for the program that replaces this one.

        @param descriptors: Where to add the descriptors that it needs.
        """
        return {
            "socket": self._requests.passOn(descriptors),
            "reloads": self.waiting,
            "upgrades": self._upgrades,
        }

    def adopt(self, passed: dict[str, Any]) -> None:
        """
        Continue with the result of L{passOn}.
        """
        self.waiting = [Requester(*each) for each in passed["reloads"]]
        self._upgrades = [Requester(*each) for each in passed["upgrades"]]
        self._requests.adopt(passed["socket"], [*self.waiting, *self._upgrades])

    def _fail(self, requester: Requester, text: str) -> None:
        self._requests.answer(requester, text, succeeded=False)

    def refuse(self) -> None:
        """
        Answer the requests for a reload that will not happen.
        """
        refused, self.waiting = self.waiting, []
        for requester in refused:
            self._fail(requester, "not reloaded: the service is being stopped")

    def before(self) -> None:
        """
        A reload begins: it answers the requests that have arrived.
        """
        self.current, self.waiting = [*self.current, *self.waiting], []

    def after(self, reload: Reload) -> None:
        """
        Send the outcome of a reload to its requesters.
        """
        requests, self.current = self.current, []
        for requester in requests:
            self._requests.answer(requester, reload.outcome, reload.failure is None)

    def _showProgress(self) -> None:
        if self._progress is not None and self._progress.active():
            return
        self._progress = self._reactor.callLater(PROGRESS, self._showProgress)
        count = sum(each["connections"] for each in self._status.generations())
        if count or self._hasShown:
            self._hasShown = True
            text = "1 connection drains" if count == 1 else f"{count} connections drain"
            for requester in self._stops:
                self._requests.report(requester, f"stopping: {text}")

    def close(self) -> None:
        """
        The service has stopped: the process is about to end.
        """
        self.refuse()
        if self._progress is not None and self._progress.active():
            self._progress.cancel()
        self._requests.close()
