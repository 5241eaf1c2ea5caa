# -*- test-case-name: tests.workers.test_watching -*-
"""
L{Watch}: find files that change, for C{--watch}.

The files are compared with their state of half a second before.  For 1,000 files that
takes about 2 ms.

Rejected: inotify(7).  It exists on Linux only, needs a watch for each directory, and
does not follow a symbolic link that a deployment changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from txsignalfd._twistd.plugins import FileState, LoadedCode, stateOf

#: Seconds between two looks at the files.
INTERVAL: Final = 0.5


class Watch:
    """
    Reports changed files, when none has changed for a moment.
    """

    def __init__(
        self,
        paths: list[str],
        changed: Callable[[list[str]], object],
        reactor: Any,
    ) -> None:
        """
        @param paths: Files and directories to watch, besides the loaded modules.
        @param changed: Called with the paths of the files that have changed.
        @param reactor: The reactor.
        """
        self._paths = paths
        self._changed = changed
        self._reactor = reactor
        self._code = LoadedCode()
        self._states = self._read()
        self._pending: set[str] = set()

    def start(self) -> None:
        """
        Look at the files from time to time.
        """
        self._reactor.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        self._code.addModules()
        before, self._states = self._states, self._read()
        found = set(self._code.changes())
        found |= dict(before.items() ^ self._states.items()).keys()
        if found:
            self._pending |= found
        elif self._pending:
            pending, self._pending = self._pending, set()
            self._changed(sorted(pending))
        self.start()

    def _read(self) -> dict[str, FileState | None]:
        return {file: stateOf(file) for path in self._paths for file in _files(path)}


def _files(path: str) -> Iterator[str]:
    """
    Yield the files below a path, except hidden ones and compiled modules.
    """
    if not os.path.isdir(path):
        yield path
        return
    for directory, names, files in os.walk(path):
        names[:] = [each for each in names if _isWatched(each)]
        yield from (os.path.join(directory, each) for each in filter(_isWatched, files))


def _isWatched(name: str) -> bool:
    return not (name.startswith(".") or name == "__pycache__" or name.endswith("~"))
