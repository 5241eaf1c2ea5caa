# -*- test-case-name: tests.twistd.test_plugins -*-
"""
The plugins of twistd, as commands below C{twistd signalfd}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from operator import attrgetter
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

from txsignalfd._reload.generation import checkService

#: The command that this is itself.
OURSELVES = "signalfd"


def installedPlugins() -> dict[str, Any]:
    """
    @return: The C{IServiceMaker}s that twistd would offer, by their names.
    """
    makers = sorted(getPlugins(IServiceMaker), key=attrgetter("tapname"))
    return {maker.tapname: maker for maker in makers if maker.tapname != OURSELVES}


@contextmanager
def _workingIn(directory: str) -> Iterator[None]:
    """
    Be where the command line was written: twistd may have changed that since,
    for C{--rundir}.
    """
    try:
        now = os.getcwd()
    except FileNotFoundError:
        # It was removed, and there is no way back to it.  A deployment has
        # perhaps made another of its name.
        with suppress(FileNotFoundError):
            os.chdir(directory)
        now = directory
    if now == directory:
        yield
        return
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(now)


class PluginFactory:
    """
    Makes the service of a plugin, from its command line.
    """

    def __init__(self, maker: Any, options: Any, parseAgain: Callable[[], Any]) -> None:
        """
        Make the first service: as twistd, before it becomes a daemon.

        @param maker: The C{IServiceMaker}.
        @param options: Its command line.
        @param parseAgain: Parses that anew, so that files which it names are
            read again.
        """
        self._maker = maker
        self._parseAgain = parseAgain
        self._directory = os.getcwd()
        self._root = os.stat("/")
        self._first = checkService(maker.makeService(options), self)

    def __repr__(self) -> str:
        return f"the plugin {self._maker.tapname}"

    def __call__(self) -> Any:
        """
        The first service, and then others.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        with _workingIn(self._directory) if self._seesAll else nullcontext():
            return self._maker.makeService(self._parseAgain())

    @property
    def _seesAll(self) -> bool:
        """
        Whether paths lead where they did: not after twistd's C{--chroot}.
        """
        return os.path.samestat(os.stat("/"), self._root)
