# -*- test-case-name: tests.twistd.test_changedcode -*-
"""
L{LoadedCode}: find modules whose files have changed since they were loaded.

A reload makes the service again, by the code that is loaded: it imports no module
again.  The log has to say so when there is other code in the files, or an operator
believes that the new code runs.

Every loaded module counts, also an installed package, because an application may be
one.  The standard library does not.  One stat(2) for each file takes about 2 ms for
1,000 files.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import ModuleType
from typing import Final, TypeAlias

from twisted.logger import Logger

_log: Final = Logger("txsignalfd.daemon.Daemon")

#: What is compared: the time of the last change, and the size.
_State: TypeAlias = tuple[int, int]

_STANDARD_LIBRARY: Final = os.path.join(sysconfig.get_path("stdlib"), "")
_INSTALLED: Final = tuple(
    os.path.join(sysconfig.get_path(name), "") for name in ("purelib", "platlib")
)


class LoadedCode:
    """
    The files of the modules that are loaded, as they were then.
    """

    def __init__(self) -> None:
        #: C{None} for a file that was reported to be gone.
        self._states: dict[str, _State | None] = {}
        self.addModules()

    def addModules(self) -> None:
        """
        Add the modules that were loaded since the last call.
        """
        for module in list(sys.modules.values()):
            path = _fileOf(module)
            if path is not None and path not in self._states:
                state = _stateOf(path)
                # A file that is not there is in an archive, for example.
                if state is not None:
                    self._states[path] = state

    def logChanges(self) -> None:
        """
        Log which files have changed since they were loaded, once for each change.
        """
        changed = []
        for path, known in self._states.items():
            state = _stateOf(path)
            if state != known:
                self._states[path] = state
                changed.append(path)
        if changed:
            _log.warn(
                "{files} changed since {they} loaded; a reload keeps the loaded code",
                files=_listed(sorted(changed)),
                they="it was" if len(changed) == 1 else "they were",
            )


def _listed(paths: list[str]) -> str:
    first, *others = paths
    if not others:
        return f"{first} has"
    return f"{first} and {len(others)} other file{'s' * (len(others) > 1)} have"


def _fileOf(module: object) -> str | None:
    """
    Return the file of a module, unless it belongs to the standard library.
    """
    # type(), because objects of C extensions pretend to be modules.
    if not issubclass(type(module), ModuleType):
        return None
    # An attribute of a lazy module would import it.
    path = object.__getattribute__(module, "__dict__").get("__file__")
    if not isinstance(path, str):
        return None
    path = os.path.abspath(path)
    isStandard = path.startswith(_STANDARD_LIBRARY) and not path.startswith(_INSTALLED)
    return None if isStandard else path


def _stateOf(path: str) -> _State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
