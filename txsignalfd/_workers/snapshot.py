# -*- test-case-name: tests.workers.test_snapshot -*-
"""
L{Snapshot}: whether a new interpreter would load the same files as this one has.

It compares the files of all loaded modules and libraries, the directories of loaded
packages, the C{.pth} files, and which names of C{sys.path} could hide a loaded module.
For 600 modules that takes 3 ms.

A file may be replaced between its import and the moment when its state is read.  So a
file whose inode was changed since the interpreter has started counts as changed, and a
symbolic link in C{sys.path} is read before the first import, too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from stat import S_ISDIR
from typing import Any, Final

#: Nanoseconds that the clock of a file system may be late.
_LATE: Final = 20_000_000

#: The modules that an interpreter imports by itself, if there are such.
_AUTOMATIC: Final = ("sitecustomize", "usercustomize")


class Snapshot:
    """
    The files that this interpreter has loaded.
    """

    def __init__(self) -> None:
        """
        Begin, before anything is imported that could have changed.
        """
        self._began = 0
        self._path = list(sys.path)
        self._directories = _identities(self._path)
        self._names: set[str] = set()
        self._entries: list[list[str]] = []
        self._files: dict[str, tuple[int, ...]] = {}

    def take(self, began: int) -> None:
        """
        Read the state of everything that is loaded.

        @param began: When the interpreter was started, in nanoseconds since 1970.
        """
        self._began = began - _LATE
        self._names = {name.partition(".")[0] for name in sys.modules}
        self._names.update(_AUTOMATIC)
        self._entries = [self._entriesOf(each) for each in self._path]
        self._files = {path: _stateOf(path) for path in self._paths()}

    @property
    def isCurrent(self) -> bool:
        """
        Whether a new interpreter would load the same.
        """
        return (
            _identities(self._path) == self._directories
            and [self._entriesOf(each) for each in self._path] == self._entries
            and all(map(self._isUnchanged, self._files))
        )

    def _entriesOf(self, directory: str) -> list[str]:
        """
        Return the names in a directory that matter when an interpreter starts.
        """
        try:
            found = os.listdir(directory or os.curdir)
        except OSError:
            # It is not there, or an archive.
            return []
        return sorted(
            name
            for name in found
            if name.partition(".")[0] in self._names or name.endswith(".pth")
        )

    def _paths(self) -> set[str]:
        paths = {sys.executable, os.path.join(sys.prefix, "pyvenv.cfg"), *_libraries()}
        for directory, entries in zip(self._path, self._entries, strict=True):
            paths.update(
                os.path.join(directory, name)
                for name in entries
                if name.endswith(".pth")
            )
            if os.path.isfile(directory):
                paths.add(directory)
        for module in list(sys.modules.values()):
            paths.update(_pathsOf(module))
        return paths

    def _isUnchanged(self, path: str) -> bool:
        state = _stateOf(path)
        if state != self._files[path]:
            return False
        if not state:
            return True
        mode, changed = state[-2:]
        # A directory changes when something else is installed beside.
        return S_ISDIR(mode) or changed < self._began


def _pathsOf(module: Any) -> Iterator[str]:
    # An attribute of a lazy module would import it.
    with suppress(TypeError, AttributeError):
        attributes = object.__getattribute__(module, "__dict__")
        path = attributes.get("__file__")
        if isinstance(path, str):
            yield path
        for directory in attributes.get("__path__") or ():
            yield os.fspath(directory)


def _libraries() -> Iterator[str]:
    """
    Yield the files that are mapped into memory, such as those of libraries.
    """
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        yield from re.findall(r" (/.*)\n", maps.read())


def _identities(directories: list[str]) -> list[tuple[int, ...]]:
    return [_stateOf(each or os.curdir)[:2] for each in directories]


def _stateOf(path: str) -> tuple[int, ...]:
    """
    Return the state of a file, or an empty tuple if there is none.
    """
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_mode,
        found.st_ctime_ns,
    )
