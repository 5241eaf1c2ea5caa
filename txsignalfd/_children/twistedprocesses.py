# -*- test-case-name: tests.children.test_reaper -*-
"""
L{TwistedProcesses}: the processes that C{reactor.spawnProcess} has started.

Twisted keeps them in a dictionary.  A new entry of a dictionary is its last one,
behind all known entries.  So new processes are found from the end backwards, at
a cost that depends only on their number, and without a hook in Twisted.

Rejected: replacing Twisted's dictionary, or wrapping Twisted's functions (then
the order matters in which libraries come and go).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.internet import process
from twisted.logger import Logger

_log: Final = Logger("txsignalfd.children.ChildReaper")


def spawnedProcesses() -> dict[int, Any]:
    """
    Return Twisted's dictionary of its unreaped processes, by process id.

    It is not public, but Twisted offers no other list.  Only this function uses
    its name, and a test checks its contents.
    """
    return process.reapProcessHandlers


def _reactorOf(transport: Any) -> Any:
    """
    Return the reactor that has started a process.
    """
    # Process has the first attribute, PTYProcess the second.
    return getattr(transport, "_reactor", None) or getattr(transport, "reactor", None)


class TwistedProcesses:
    """
    Twisted's processes of all reactors, each reaped in its reactor's thread.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: The reactor in whose thread this object is used.
        """
        self._reactor = reactor
        #: The processes that L{findNew} has returned, until they are reaped.
        self._known: dict[int, Any] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in spawnedProcesses()

    def isKnown(self, pid: int) -> bool:
        """
        Return whether L{findNew} has returned this process id.
        """
        return pid in self._known

    def findNew(self) -> list[int]:
        """
        Return the process ids that are not known yet.  They are known from now on.
        """
        while True:
            try:
                new = list(self._untilKnown())
                break
            except RuntimeError:  # another thread has changed the dictionary
                continue
        self._known.update(new)
        return [pid for pid, _ in new]

    def _untilKnown(self) -> Iterator[tuple[int, Any]]:
        for pid, transport in reversed(spawnedProcesses().items()):
            if self._known.get(pid) is transport:
                return
            yield pid, transport

    def reap(self, pid: int) -> None:
        """
        Have the process with this id, if there is one, reap itself if it has ended.
        """
        transport = spawnedProcesses().get(pid)
        if transport is None:
            return
        reactor = _reactorOf(transport)
        try:
            if reactor is None or reactor is self._reactor:
                transport.reapProcess()
            else:
                reactor.callFromThread(self._reapInItsThread, pid, transport)
        except BaseException:
            _log.failure("process {pid} cannot be reaped", pid=pid)

    def _reapInItsThread(self, pid: int, transport: Any) -> None:
        # Its reactor may have reaped it already, when its pipes were closed.
        if pid in spawnedProcesses() and spawnedProcesses()[pid] is transport:
            transport.reapProcess()

    def isUnreaped(self, pid: int) -> bool:
        """
        Return whether a known process is not reaped yet.  Forget it if it is.
        """
        known = self._known.get(pid)
        if known is not None and spawnedProcesses().get(pid) is known:
            return True
        self._known.pop(pid, None)
        return False
