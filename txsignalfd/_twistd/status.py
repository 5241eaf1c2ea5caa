# -*- test-case-name: tests.twistd.test_status -*-
"""
L{DaemonStatus}: the status of a daemon, for programs.

C{txsignalfd status} and the metrics show it; C{docs/txsignalfd.rst} documents the
JSON.  Long lists are cut, because an answer has to fit into one datagram.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import Any, Final

from txsignalfd._children.orphans import childProcesses
from txsignalfd._dispatch.description import WatchedSignal
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._native.names import signalName
from txsignalfd._proc.sender import commandOf
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import History
from txsignalfd._twistd.actions import Action
from txsignalfd._version import __version__

#: The most entries of a list.
MOST: Final = 100

#: The most characters of a text.
LONGEST: Final = 2000


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]}..."
    return value


class DaemonStatus:
    """
    Describes a daemon.  Use it in the reactor's thread.

    @ivar actions: The action of each signal.
    @ivar isStopping: Whether the daemon is being stopped.
    """

    def __init__(
        self, reloads: ReloadService, history: History, directory: str
    ) -> None:
        """
        @param reloads: The service.
        @param history: Its reloads.
        @param directory: The directory in which the command line was given.
        """
        self._reloads = reloads
        self._history = history
        self._directory = directory
        #: When it was made, by the monotonic clock.
        self.began = monotonic()
        self.actions: dict[int, Action] = {}
        self.isStopping = False

    def generations(self) -> list[dict[str, Any]]:
        """
        Describe each generation that has not stopped, the oldest first.
        """
        found = [generation.status() for generation in self._reloads.generations]
        return [
            {**each, "addresses": each["addresses"][:MOST]} for each in found[-MOST:]
        ]

    def __call__(self, dispatcher: SignalDispatcher) -> dict[str, Any]:
        """
        Describe the daemon.

        @param dispatcher: The dispatcher of its reactor.
        """
        children = _children()
        generations = self.generations()
        return {
            "pid": os.getpid(),
            "version": __version__,
            "command": [sys.executable, *sys.orig_argv[1:]],
            "directory": self._directory,
            "uptime": round(monotonic() - self.began, 3),
            "state": "stops" if self.isStopping else "serves",
            "generations": generations,
            "reloads": self._reloadsStatus(),
            "signals": self._signals(dispatcher),
            "childCount": None if children is None else len(children),
            "children": [
                {"pid": pid, "command": commandOf(pid)}
                for pid in sorted(children or ())[:MOST]
            ],
            "workers": [
                {"generation": each["number"], **worker}
                for each in generations
                for worker in each.pop("workers", [])[:MOST]
            ],
            "spareWorkers": [
                spare
                for each in generations
                for spare in each.pop("spareWorkers", [])[:MOST]
            ],
        }

    def _reloadsStatus(self) -> dict[str, Any]:
        history = self._history
        return {
            "succeeded": history.succeeded,
            "failed": history.failed,
            "seconds": {name: round(each, 6) for name, each in history.seconds.items()},
            "last": [
                {name: _cut(value) for name, value in each.items()}
                for each in history.last
            ],
        }

    def _signals(self, dispatcher: SignalDispatcher) -> list[dict[str, Any]]:
        watched = {each.signo: each for each in dispatcher.describe().watched}
        return [
            self._signal(signo, watched.get(signo))
            for signo in sorted(watched.keys() | self.actions.keys())
        ]

    def _signal(self, signo: int, watched: WatchedSignal | None) -> dict[str, Any]:
        action = self.actions.get(signo)
        handlers = watched.handlers if watched else ()
        # A signal goes to each of its handlers.
        counts = [each.handled + each.waiting + each.dropped for each in handlers]
        unhandled = watched.unhandled if watched else 0
        return {
            "name": signalName(signo),
            "action": None if action is None else _cut(str(action)),
            "received": max(counts, default=0) + unhandled,
            "handlers": [each._asdict() for each in handlers[:MOST]],
        }


def _children() -> set[int] | None:
    try:
        return childProcesses()
    except OSError:
        return None  # this system does not list them
