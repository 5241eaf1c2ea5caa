# -*- test-case-name: tests.test_reload -*-
"""
L{Starting}: which of the services of a reactor takes what is taken now.

Several may be starting at the same time, where their starts wait for something,
and other parts of the program go on meanwhile.  A coroutine carries along whose
it is, in its context (PEP 567).  A callback of a Deferred does not; then it is
the service that has listened at this address before, or else the only one.
Where there are several it is nobody's, for one must not close what is another's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from txsignalfd.listener import Listener
from txsignalfd.taken import Taken

#: What the running code starts.
_current: Final[ContextVar[Taken | None]] = ContextVar("_current", default=None)


class Sharer(Protocol):
    """
    Somebody whose ports are shared.
    """

    @property
    def taken(self) -> Taken:
        """
        What whoever listens now adds to.
        """

    @property
    def alone(self) -> bool:
        """
        Whether nobody else listens on this reactor.
        """

    def awaits(self, key: Hashable) -> bool:
        """
        Whether L{kept} has one for this address.
        """

    def kept(self, key: Hashable) -> Listener | None:
        """
        A listener at this address that is waited for.
        """

    def handOver(self, key: Hashable) -> None:
        """
        Somebody listens at this address from now on.
        """


class Starting:
    """
    Those whose services are being started.
    """

    def __init__(self) -> None:
        self._sharers: list[Sharer] = []

    @contextmanager
    def entered(self, sharer: Sharer) -> Iterator[None]:
        """
        What is taken within is that of a service's new generation.

        @param sharer: The service.
        """
        before = _current.get()
        _current.set(sharer.taken)
        self._sharers.append(sharer)
        try:
            yield
        finally:
            self._sharers.remove(sharer)
            _current.set(before)

    @property
    def isUnclear(self) -> bool:
        """
        Whether there are several.
        """
        return len(self._sharers) > 1

    def who(self, key: Hashable = None) -> Sharer | None:
        """
        Tell whose something is; C{None} where nobody can.

        @param key: The address at which it listens, if it does.
        """
        for sharer in self._sharers:
            if sharer.taken is _current.get():
                return sharer
        for sharer in self._sharers:
            if sharer.awaits(key):
                return sharer
        return None if self.isUnclear or not self._sharers else self._sharers[0]
