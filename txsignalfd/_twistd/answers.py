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
from txsignalfd._twistd.requests import REMEMBERED, Request, Requests, requestOf
from txsignalfd._twistd.status import DaemonStatus
from txsignalfd.siginfo import SigInfo

#: Seconds between two lines about connections that drain during a stop.
PROGRESS: Final = 0.2

#: The command that requests each action, where the names differ.
_COMMAND_OF: Final = {"report": "status", "quit": "stop"}


class Answers:
    """
    Sends the outcome of actions to their requesters.  Use it in the reactor's thread.
    """

    def __init__(
        self,
        reloads: ReloadService,
        status: DaemonStatus,
        updateStatus: Callable[[], Deferred[Any]],
        reactor: Any,
    ) -> None:
        """
        @param reloads: The service.
        @param status: Describes the daemon.
        @param updateStatus: Updates the status, and returns a Deferred that then
            fires.
        @param reactor: The reactor.
        """
        self._reloads = reloads
        self._status = status
        self._updateStatus = updateStatus
        self._reactor = reactor
        self._requests = Requests()
        #: How many requests for the status wait.
        self.statuses = 0
        #: Begins an upgrade.
        self.upgrade: Callable[[SigInfo], object]
        #: Requests for the next reload, for the one under way, and for the stop.
        self.waiting: list[Request] = []
        self.current: list[Request] = []
        self._stops: list[Request] = []
        self._upgrades: list[Request] = []
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
        request = requestOf(info)
        if request is None or not self._requests.acknowledge(request):
            return handler(info)
        if self._requests.remember(request):
            try:
                self._act(request, info, action, handler)
            except Exception as error:
                self._fail(request, reasonOf(error))
                raise
        return None

    def _act(
        self,
        request: Request,
        info: SigInfo,
        action: Action,
        handler: Callable[[SigInfo], Any],
    ) -> None:
        command = _COMMAND_OF.get(action.name, action.name)
        if (request.command, command) == ("upgrade", "reload"):
            # No signal has this action by default: the request comes by SIGHUP.
            command, handler = "upgrade", self.upgrade
        if request.command != command:
            wanted = "report" if request.command == "status" else request.command
            self._fail(request, f"{info.name}={action}, so it does not {wanted}")
        elif command == "status":
            self.statuses += 1
            answered = self._updateStatus()
            answered.addBoth(self._countStatus)
            answered.addCallback(lambda _: self._tellStatus(request))
            answered.addErrback(lambda it: self._fail(request, reasonOf(it.value)))
        elif command == "rotate":
            lines = handler(info)
            failed = any("not rotated" in line for line in lines)
            self._requests.answer(request, "; ".join(lines), not failed)
        elif self._count >= REMEMBERED:
            self._fail(request, f"{REMEMBERED} other requests wait: not accepted")
        elif command == "stop":
            self._stops.append(request)
            handler(info)
            self._showProgress()
        elif command == "upgrade":
            self._upgrades.append(request)
            handler(info)
        else:
            self.waiting.append(request)
            handler(info)
            if not self._reloads.running:
                self.refuse()

    def _countStatus(self, result: Any) -> Any:
        self.statuses -= 1
        return result

    def _tellStatus(self, request: Request) -> None:
        status = self._status(dispatcherFor(self._reactor))
        text = json.dumps(status, separators=(",", ":"))
        self._requests.answer(request, "", succeeded=True, data=text)

    @property
    def _count(self) -> int:
        return len(self.waiting) + len(self._stops) + len(self._upgrades)

    def upgraded(self, outcome: str, succeeded: bool) -> None:
        """
        Answer the requests for an upgrade.

        @param outcome: One line for the operator.
        @param succeeded: Whether the new program serves, and has reloaded.
        """
        self._answerAll(self._upgrades, outcome, succeeded)

    def _answerAll(self, requests: list[Request], text: str, succeeded: bool) -> None:
        while requests:
            self._requests.answer(requests.pop(0), text, succeeded)

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
        self.waiting = [Request(*each) for each in passed["reloads"]]
        self._upgrades = [Request(*each) for each in passed["upgrades"]]
        self._requests.adopt(passed["socket"], [*self.waiting, *self._upgrades])

    def _fail(self, request: Request, text: str) -> None:
        self._requests.answer(request, text, succeeded=False)

    def refuse(self) -> None:
        """
        Answer the requests for a reload that will not happen.
        """
        why = "not reloaded: the service is being stopped"
        self._answerAll(self.waiting, why, succeeded=False)

    def before(self) -> None:
        """
        A reload begins: it answers the requests that have arrived.
        """
        self.current, self.waiting = [*self.current, *self.waiting], []

    def after(self, reload: Reload) -> None:
        """
        Send the outcome of a reload to its requesters.
        """
        self._answerAll(self.current, reload.outcome, reload.failure is None)

    def _showProgress(self) -> None:
        if self._progress is not None and self._progress.active():
            return
        self._progress = self._reactor.callLater(PROGRESS, self._showProgress)
        count = sum(each["connections"] for each in self._status.generations())
        if count or self._hasShown:
            self._hasShown = True
            text = "1 connection drains" if count == 1 else f"{count} connections drain"
            for request in self._stops:
                self._requests.report(request, f"stopping: {text}")

    def close(self) -> None:
        """
        The service has stopped: the process is about to end.
        """
        self.refuse()
        if self._progress is not None and self._progress.active():
            self._progress.cancel()
        self._requests.close()
