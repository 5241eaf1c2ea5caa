# -*- test-case-name: tests.twistd.test_plugins -*-
"""
The plugins of twistd, as subcommands of C{twistd signalfd}.
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

#: The plugin of this package, which cannot run itself.
_OWN_NAME = "signalfd"


def installedPlugins() -> dict[str, Any]:
    """
    Return the C{IServiceMaker} plugins that twistd offers, by name.
    """
    makers = sorted(getPlugins(IServiceMaker), key=attrgetter("tapname"))
    return {maker.tapname: maker for maker in makers if maker.tapname != _OWN_NAME}


def parseOptions(maker: Any, parent: Any, arguments: list[str]) -> Any:
    """
    Parse the options of a plugin.

    @param maker: The C{IServiceMaker}.
    @param parent: The options of C{twistd signalfd}.
    @param arguments: The part of the command line after the name of the plugin.
    @raise UsageError: If they are wrong.
    """
    options = maker.options()
    options.parent = parent
    options.parseOptions(arguments)
    return options


@contextmanager
def _workingIn(directory: str) -> Iterator[None]:
    """
    Work in the directory in which the command was given.

    twistd may have left it, for C{--rundir}.
    """
    try:
        current = os.getcwd()
    except FileNotFoundError:
        # The current directory was removed.  A deployment may have created
        # another one with the same name.
        with suppress(FileNotFoundError):
            os.chdir(directory)
        current = directory
    if current == directory:
        yield
        return
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(current)


class PluginFactory:
    """
    Makes the service of a plugin from its command line.
    """

    def __init__(self, maker: Any, options: Any, parseAgain: Callable[[], Any]) -> None:
        """
        Make the first service, as twistd does before it becomes a daemon.

        @param maker: The C{IServiceMaker}.
        @param options: The parsed options of the plugin.
        @param parseAgain: Parses the same command line again, so that the files
            that it names are read again.
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
        Return the first service, and a new service for each further call.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        with _workingIn(self._directory) if self._seesAll else nullcontext():
            return self._maker.makeService(self._parseAgain())

    @property
    def _seesAll(self) -> bool:
        """
        Whether the root directory is the same as before, without C{--chroot}.
        """
        return os.path.samestat(os.stat("/"), self._root)
