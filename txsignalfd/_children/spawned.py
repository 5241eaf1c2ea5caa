# -*- test-case-name: tests.children.test_children -*-
"""
L{SpawnedProcesses}: the processes that C{reactor.spawnProcess} has started, as
Twisted keeps them.

A new entry of a dictionary is its last one, and the known ones come before: so
new ones are found from the end backwards, at the cost of their number, and
Twisted need not tell us.

Rejected: another dictionary in the place of Twisted's, or functions around its
functions (then the order in which libraries come and go matters).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.internet import process
from twisted.logger import Logger

_log: Final = Logger("txsignalfd.children.ChildReaper")


def spawnedProcesses() -> dict[int, Any]:
    """
    Twisted's dictionary of the processes that it has started, and has not
    reaped, by process id.

    It is not public, but there is nowhere else to learn which
    children are its own.  It is named here only, and a test sees that it is
    what is said here.
    """
    return process.reapProcessHandlers


def _reactorOf(transport: Any) -> Any:
    """
    The reactor that has started a process.
    """
    # Process has it by the one name, and PTYProcess by the other.
    return getattr(transport, "_reactor", None) or getattr(transport, "reactor", None)


class SpawnedProcesses:
    """
    Those of all reactors; each is told in the thread of its own.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: The reactor in whose thread this is used.
        """
        self._reactor = reactor
        #: Those that L{newest} has given, and that have not been told, by pid.
        self.known: dict[int, Any] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in spawnedProcesses()

    def newest(self) -> list[int]:
        """
        The process ids of those that were not met yet.
        """
        while True:
            try:
                new = list(self._untilKnown())
                break
            except RuntimeError:  # another thread's reactor has one more, or less
                continue
        self.known.update(new)
        return [pid for pid, _ in new]

    def _untilKnown(self) -> Iterator[tuple[int, Any]]:
        for pid, transport in reversed(spawnedProcesses().items()):
            if self.known.get(pid) is transport:
                return
            yield pid, transport

    def reap(self, pid: int) -> None:
        """
        Have a process ask for its own end, if there is one of this number.
        """
        transport = spawnedProcesses().get(pid)
        if transport is None:
            return
        reactor = _reactorOf(transport)
        try:
            if reactor is None or reactor is self._reactor:
                transport.reapProcess()
            else:
                reactor.callFromThread(self._reapThere, pid, transport)
        except BaseException:
            _log.failure("process {pid} cannot be reaped", pid=pid)

    def _reapThere(self, pid: int, transport: Any) -> None:
        # Its own reactor may have seen the end before, by its pipes.  It logs
        # what is raised.
        if pid in spawnedProcesses() and spawnedProcesses()[pid] is transport:
            transport.reapProcess()

    def remains(self, pid: int) -> bool:
        """
        Whether one that was met is there still.  If not it is met no more.
        """
        met = self.known.get(pid)
        if met is not None and spawnedProcesses().get(pid) is met:
            return True
        self.known.pop(pid, None)
        return False
