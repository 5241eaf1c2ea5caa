# -*- test-case-name: tests.workers.test_watching -*-
"""
L{Watch}: find files that change, for C{--watch}.

The files are compared with their state of half a second before.  For 1,000 files that
takes about 2 ms.  Many files are read in several turns of the reactor.

A new program may fail in a module that the running one has not loaded, or because a
file is missing.  So when a change was reported and the old program serves on, all
Python files beside the loaded modules count, and those in packages below them.

Rejected: inotify(7).  It exists on Linux only, needs a watch for each directory, and
does not follow a symbolic link that a deployment changes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator

from txsignalfd._twistd.plugins import FileState, LoadedCode, logicalDirectory, stateOf

#: Seconds between two checks of the files.
INTERVAL: Final = 0.5

#: The directories of installed packages, which are not edited.
_INSTALLED: Final = {"site-packages", "dist-packages"}


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
        self._cooperator = Cooperator(scheduler=partial(reactor.callLater, 0))
        self._code = LoadedCode()
        #: Whether a change was reported.
        self._hasReported = False
        self._pending: set[str] = set()
        #: Where new workers start: a deployment may change a symbolic link in it.
        self._directory = logicalDirectory()
        self._states = {path: self._stateOf(path) for path in self._watched()}

    def start(self) -> None:
        """
        Check the files periodically.
        """
        self._reactor.callLater(INTERVAL, lambda: Deferred.fromCoroutine(self._check()))

    async def _check(self) -> None:
        self._code.addModules()
        before, self._states = self._states, await self._read()
        found = set(self._code.changes())
        found |= dict(before.items() ^ self._states.items()).keys()
        if found:
            found -= _written(found)
        if found:
            self._pending |= found
        elif self._pending:
            pending, self._pending = self._pending, set()
            if not self._hasReported:
                self._hasReported = True
                self._states = await self._read()
            self._changed(sorted(pending))
        self.start()

    async def _read(self) -> dict[str, FileState | None]:
        states: dict[str, FileState | None] = {}

        def read() -> Iterator[None]:
            for path in self._watched():
                states[path] = self._stateOf(path)
                yield

        await self._cooperator.coiterate(read())
        return states

    def _stateOf(self, path: str) -> FileState | None:
        return _identityOf(path) if path == self._directory else stateOf(path)

    def _watched(self) -> Iterator[str]:
        yield self._directory
        for path in self._paths:
            yield from _filesBelow(path, set())
        if self._hasReported:
            directories = map(os.path.dirname, [*self._code.paths, *self._paths])
            for directory in sorted(set(directories)):
                if _INSTALLED.isdisjoint(directory.split(os.sep)):
                    yield from _programsIn(directory)


def _written(files: set[str]) -> set[str]:
    """
    Return those files that this process or the supervisor writes, such as their logs.

    Each reload would cause the next one.
    """
    links = []
    for pid in (os.getpid(), os.getppid()):
        # The supervisor may have another user, and other systems have no such files.
        with suppress(OSError):
            directory = f"/proc/{pid}/fd"
            links += [f"{directory}/{each}" for each in os.listdir(directory)]
    written = set()
    for link in links:
        with suppress(OSError):
            if os.lstat(link).st_mode & stat.S_IWUSR:
                written.add(os.readlink(link))
    return {each for each in files if os.path.realpath(each) in written}


def _filesBelow(path: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """
    Yield the files below a path, except hidden ones and compiled modules.

    @param seen: The directories that were visited: symbolic links may form a loop.
    """
    if not os.path.isdir(path):
        yield path
        return
    for directory, names, files in os.walk(path, followlinks=True):
        identity = _identityOf(directory)
        if identity in seen:
            names.clear()
            continue
        seen.add(identity)
        names[:] = filter(_isWatched, names)
        yield from (os.path.join(directory, each) for each in filter(_isWatched, files))


def _identityOf(directory: str) -> tuple[int, int]:
    with suppress(OSError):
        status = os.stat(directory)
        return status.st_dev, status.st_ino
    # It was just removed.
    return -1, -1


def _programsIn(directory: str) -> Iterator[str]:
    """
    Yield the Python files in a directory, and in the packages below it.
    """
    for entry in _entries(directory):
        if not _isWatched(entry.name):
            continue
        if entry.name.endswith(".py"):
            yield entry.path
        elif not entry.is_symlink() and os.path.exists(f"{entry.path}/__init__.py"):
            # Links to packages may form a loop.
            yield from _programsIn(entry.path)


def _entries(directory: str) -> Iterable[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(directory) as entries:
        return list(entries)
    return []


def _isWatched(name: str) -> bool:
    return not (name.startswith(".") or name == "__pycache__" or name.endswith("~"))
