# -*- test-case-name: tests.reload.test_inherited -*-
"""
Sockets that systemd has opened for us, for more than one generation.

An endpoint C{systemd:domain=INET:index=0} adopts the descriptor that it was
given, 3 for instance, and closes it.  The next generation would find it closed,
or, worse, another file under its number, which it would close in turn.  So each
endpoint is given a duplicate here, and the descriptors themselves stay open as
long as the process: see sd_listen_fds(3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from twisted.internet.endpoints import _SystemdParser

#: What was handed out before the first generation of a service was made: its
#: options are parsed earlier.
unclaimed: Final[set[int]] = set()


class _Numbered(list[int]):
    """
    Descriptors, of which each that is asked for is a duplicate.
    """

    def __init__(self, descriptors: list[int], handedOut: set[int]) -> None:
        super().__init__(descriptors)
        self._handedOut = handedOut

    def __getitem__(self, index: Any) -> Any:
        return _duplicate(super().__getitem__(index), self._handedOut)


class _Named(Mapping[str, int]):
    """
    The same by their names.
    """

    def __init__(self, descriptors: dict[str, int], handedOut: set[int]) -> None:
        self._descriptors = descriptors
        self._handedOut = handedOut

    def __getitem__(self, name: str) -> int:
        return _duplicate(self._descriptors[name], self._handedOut)

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptors)

    def __len__(self) -> int:
        return len(self._descriptors)


def _duplicate(fd: int, handedOut: set[int]) -> int:
    copy = os.dup(fd)
    handedOut.add(copy)
    return copy


class SharedInherited:
    """
    What C{systemd:} endpoints are made of, in the shape of C{ListenFDs}.
    """

    def __init__(self, own: Any, handedOut: set[int]) -> None:
        """
        @param own: Twisted's, with the descriptors themselves.
        @param handedOut: Where to put each duplicate.
        """
        self.own = own
        self._handedOut = handedOut

    def inheritedDescriptors(self) -> list[int]:
        """
        See C{ListenFDs}.
        """
        return _Numbered(self.own.inheritedDescriptors(), self._handedOut)

    def inheritedNamedDescriptors(self) -> Mapping[str, int]:
        """
        See C{ListenFDs}.
        """
        return _Named(self.own.inheritedNamedDescriptors(), self._handedOut)


def shareInherited(handedOut: set[int] = unclaimed) -> None:
    """
    Give each C{systemd:} endpoint that is made from now on a duplicate.

    @param handedOut: Where to put each, until it is adopted.
    """
    _replace(SharedInherited(_own(), handedOut))


def unshareInherited() -> None:
    """
    Give the next endpoint the descriptor itself, as Twisted does.
    """
    _replace(_own())


# Private, and there is no other way to what the parser gives its endpoints.


def _replace(descriptors: Any) -> None:
    _SystemdParser._sddaemon = descriptors  # noqa: SLF001


def _own() -> Any:
    present: Any = _SystemdParser._sddaemon  # noqa: SLF001
    return present.own if isinstance(present, SharedInherited) else present
