# -*- test-case-name: tests.reload.test_inherited -*-
"""
Sockets that systemd has opened, for more than one generation.

An endpoint C{systemd:domain=INET:index=0} adopts descriptor 3, and closes it.
The next generation would find the number closed or, worse, in use for another
file, which it would close in turn.  So each endpoint gets a duplicate here, and
the descriptors themselves stay open as long as the process: sd_listen_fds(3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from twisted.internet.endpoints import _SystemdParser

#: Duplicates that were made before the first generation of a service, whose
#: options are parsed earlier.
unclaimed: Final[set[int]] = set()


class _Numbered(list[int]):
    """
    The descriptors by number; each access makes a duplicate.
    """

    def __init__(self, descriptors: list[int], duplicates: set[int]) -> None:
        super().__init__(descriptors)
        self._duplicates = duplicates

    def __getitem__(self, index: Any) -> Any:
        return _duplicate(super().__getitem__(index), self._duplicates)


class _Named(Mapping[str, int]):
    """
    The descriptors by name; each access makes a duplicate.
    """

    def __init__(self, descriptors: dict[str, int], duplicates: set[int]) -> None:
        self._descriptors = descriptors
        self._duplicates = duplicates

    def __getitem__(self, name: str) -> int:
        return _duplicate(self._descriptors[name], self._duplicates)

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptors)

    def __len__(self) -> int:
        return len(self._descriptors)


def _duplicate(fd: int, duplicates: set[int]) -> int:
    copy = os.dup(fd)
    duplicates.add(copy)
    return copy


class SharedInherited:
    """
    Replaces Twisted's C{ListenFDs} where C{systemd:} endpoints look.
    """

    def __init__(self, own: Any, duplicates: set[int]) -> None:
        """
        @param own: Twisted's C{ListenFDs}, with the descriptors themselves.
        @param duplicates: Where to record each duplicate.
        """
        self.own = own
        self._duplicates = duplicates

    def inheritedDescriptors(self) -> list[int]:
        """
        Return the descriptors by number.
        """
        return _Numbered(self.own.inheritedDescriptors(), self._duplicates)

    def inheritedNamedDescriptors(self) -> Mapping[str, int]:
        """
        Return the descriptors by name.
        """
        return _Named(self.own.inheritedNamedDescriptors(), self._duplicates)


def shareInherited(duplicates: set[int] = unclaimed) -> None:
    """
    Give a duplicate to each C{systemd:} endpoint that is made from now on.

    @param duplicates: Where to record it, until it is adopted.
    """
    _replace(SharedInherited(_own(), duplicates))


def unshareInherited() -> None:
    """
    Give the descriptor itself to the next endpoint, as Twisted does.
    """
    _replace(_own())


# The attribute is private to Twisted; the parser has no public way to replace it.


def _replace(descriptors: Any) -> None:
    _SystemdParser._sddaemon = descriptors  # noqa: SLF001


def _own() -> Any:
    present: Any = _SystemdParser._sddaemon  # noqa: SLF001
    return present.own if isinstance(present, SharedInherited) else present
