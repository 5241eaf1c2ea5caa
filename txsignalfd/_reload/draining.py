# -*- test-case-name: tests.workers.test_workers -*-
"""
L{DrainingService}: a service that drains its connections itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred


class DrainingService(Service, ABC):
    """
    A service whose connections belong to other processes.

    L{txsignalfd._reload.generation.Generation} calls L{retire} in place of draining
    connections of its own, and stops the service when L{whenDrained} has fired.

    @ivar closed: How many connections were still open after their time limit.
    @ivar limit: That time limit, such as C{--drain (30 s)}.
    """

    closed = 0
    limit = ""

    @abstractmethod
    def retire(self, seconds: float, isReplaced: bool) -> None:
        """
        Stop accepting connections, and drain those that are open.

        Each call adds a time limit; the earliest one counts.

        @param seconds: The time limit for open connections.
        @param isReplaced: Whether another generation serves.
        """

    @abstractmethod
    def whenDrained(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when no connection is left after L{retire}.
        """

    @abstractmethod
    def cut(self) -> None:
        """
        Abort all connections.
        """

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """
        Describe the service for a program: C{connections}, C{addresses}, and
        anything else.
        """

    @abstractmethod
    def describe(self) -> list[str]:
        """
        Describe the processes of the service, in lines of a report.
        """
