# -*- test-case-name: tests.workers.test_upgrade -*-
"""
L{AdoptedProcess}: a child that the previous program started, before execve(2).

To the kernel it is still a child of this process.  To Twisted it has to become one:
it is registered, so that it is reaped, and its pipes are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.process import (
    Process,
    ProcessReader,
    registerReapProcessHandler,
)


class AdoptedProcess(Process):
    """
    The process transport of such a child.
    """

    # Twisted offers no other way to a transport of a process that runs already than
    # a subclass that does not start one.
    def __init__(
        self, reactor: Any, protocol: Any, pid: int, pipes: Mapping[int, int]
    ) -> None:
        """
        @param reactor: The reactor.
        @param protocol: The C{IProcessProtocol}.
        @param pid: The child.
        @param pipes: The descriptors of its output, by the child's number.
        """
        self._reactor = reactor
        self.proto = protocol
        self.pid = pid
        self.pipes = {
            number: ProcessReader(reactor, self, number, descriptor)
            for number, descriptor in pipes.items()
        }
        protocol.makeConnection(self)
        # It may have ended meanwhile: then it is reaped now.
        registerReapProcessHandler(pid, self)


def pipesOf(transport: Any) -> dict[int, int]:
    """
    Return the open pipes of a process transport: the argument of L{AdoptedProcess}.
    """
    return {number: reader.fileno() for number, reader in transport.pipes.items()}
