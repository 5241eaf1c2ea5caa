# -*- test-case-name: tests.control.test_command -*-
"""
L{Answers}: act on the requests of the C{txsignalfd} command, and answer them.

The action of a signal is done as for every other sender, and its outcome goes to the
requester too.  A signal whose action is C{call} or C{run} is no request: its value
belongs to the user's function.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from txsignalfd._children.orphans import childProcesses
from txsignalfd._dispatch.dispatcher import dispatcherFor
from txsignalfd._native.names import signalName
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import Reload
from txsignalfd._twistd.actions import Action
from txsignalfd._twistd.requests import Requester, Requests, requesterOf
from txsignalfd._version import __version__
from txsignalfd.siginfo import SigInfo

#: Seconds between two lines about connections that drain during a stop.
PROGRESS: Final = 0.2

#: The command that requests each action, where the names differ.
_COMMAND_OF: Final = {"report": "status", "quit": "stop"}


class History:
    """
    The reloads of a service.

    @ivar succeeded: How many succeeded.
    @ivar failed: How many failed.
    @ivar last: The last ones, the newest last, as L{Reload.status} describes them.
    """

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.last: deque[dict[str, Any]] = deque(maxlen=10)


class Answers:
    """
    The outcome of the daemon's actions, for their requesters.  Use it in the
    reactor's thread.
    """

    def __init__(self, reloads: ReloadService, history: History, reactor: Any) -> None:
        """
        @param reloads: The service.
        @param history: Its reloads.
        @param reactor: The reactor.
        """
        self._reloads = reloads
        self._history = history
        self._reactor = reactor
        self._requests = Requests()
        self._began = monotonic()
        #: The action of each signal.
        self.actions: Mapping[int, Action] = {}
        #: Requests for the next reload, for the one that goes on, and for the stop.
        self.waiting: list[SigInfo] = []
        self.current: list[SigInfo] = []
        self._stops: list[SigInfo] = []
        self._progress: Any = None

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
        if requester is None or not self._requests.isAnswered(info):
            return handler(info)
        if not self._requests.isRepeated(requester):
            self._act(requester, info, action, handler)
        return None

    def _act(
        self,
        requester: Requester,
        info: SigInfo,
        action: Action,
        handler: Callable[[SigInfo], Any],
    ) -> None:
        command = _COMMAND_OF.get(action.name, action.name)
        if requester.command != command:
            text = f"{info.name}={action}, so it does not {requester.command}"
            self._requests.answer(info, text, succeeded=False)
        elif command == "status":
            text = json.dumps(self._status(), separators=(",", ":"))
            self._requests.answer(info, "", succeeded=True, data=text)
        elif command == "rotate":
            lines = handler(info)
            failed = any("not rotated" in line for line in lines)
            self._requests.answer(info, "; ".join(lines), not failed)
        elif command == "stop":
            self._stops.append(info)
            handler(info)
            self._showProgress()
        else:
            self.waiting.append(info)
            handler(info)
            if not self._reloads.running:
                self.refuse()

    def refuse(self) -> None:
        """
        Answer the requests for a reload that will not happen.
        """
        refused, self.waiting = self.waiting, []
        for info in refused:
            text = "not reloaded: the service is being stopped"
            self._requests.answer(info, text, succeeded=False)

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
        for info in requests:
            self._requests.answer(info, reload.outcome, reload.failure is None)

    def _showProgress(self) -> None:
        if self._progress is not None and self._progress.active():
            return
        self._progress = self._reactor.callLater(PROGRESS, self._showProgress)
        count = sum(each["connections"] for each in self._generations())
        text = "1 connection drains" if count == 1 else f"{count} connections drain"
        for info in self._stops:
            self._requests.report(info, f"stopping: {text}")

    def close(self) -> None:
        """
        The service has stopped: the process is about to end.
        """
        self.refuse()
        if self._progress is not None and self._progress.active():
            self._progress.cancel()
        self._requests.close()

    def _generations(self) -> list[dict[str, Any]]:
        return [generation.status() for generation in self._reloads.generations]

    def _status(self) -> dict[str, Any]:
        dispatcher = dispatcherFor(self._reactor)
        handled = {
            signo: sum(each.handled for each in dispatcher.handlersOf(signo))
            for signo in dispatcher.watching
        }
        return {
            "pid": os.getpid(),
            "version": __version__,
            "uptime": round(monotonic() - self._began, 3),
            "state": "stops" if self._stops else "serves",
            "generations": self._generations(),
            "reloads": {
                "succeeded": self._history.succeeded,
                "failed": self._history.failed,
                "last": list(self._history.last),
            },
            "signals": [
                {
                    "name": signalName(signo),
                    "action": str(action),
                    "handled": handled.get(signo, 0),
                }
                for signo, action in sorted(self.actions.items())
            ],
            "children": len(childProcesses()),
        }
