# -*- test-case-name: tests.twistd.test_plugins -*-
"""
The plugins of twistd, as subcommands of C{twistd signalfd}.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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


def _logicalDirectory() -> str:
    """
    Return the working directory as the shell names it, with symbolic links.

    Another release may be deployed by changing such a link.
    """
    logical = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(logical) and os.path.samefile(logical, os.curdir):
            return logical
    return os.getcwd()


def _openDirectory() -> int:
    # O_PATH needs no permission to read the directory.
    return os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)


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
        self._directory = _logicalDirectory()
        self._entered = os.stat(os.curdir)
        self._root = os.stat("/")
        self._first = checkService(maker.makeService(options), self)

    def __repr__(self) -> str:
        return f"the service of {self._maker.tapname}"

    def __call__(self) -> Any:
        """
        Return the first service, and a new service for each further call.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        if not self._seesAll:
            return self._maker.makeService(self._parseAgain())
        before = _openDirectory()
        try:
            isThere = os.path.samestat(os.fstat(before), self._entered)
            self._enter(isThere)
            try:
                return self._maker.makeService(self._parseAgain())
            finally:
                if not isThere:
                    os.fchdir(before)
        finally:
            os.close(before)

    def _enter(self, isThere: bool) -> None:
        """
        Enter the directory of the command, which may be another one by now.

        @param isThere: Whether the process still works in that directory, and
            not in that of C{--rundir}.
        """
        try:
            os.chdir(self._directory)
        except OSError:
            # It was removed, or C{--uid} may not enter it any more.  Absolute paths
            # can still be read.
            if not isThere:
                raise
        else:
            self._entered = os.stat(os.curdir)

    def prepare(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """
        Return to the present working directory if the reload fails.

        L{ReloadService.addParticipant} calls this before each reload.
        """
        before = _openDirectory()
        entered = self._entered

        def rollback() -> None:
            self._entered = entered
            os.fchdir(before)
            os.close(before)

        return partial(os.close, before), rollback

    @property
    def _seesAll(self) -> bool:
        """
        Whether the root directory is the same as before, without C{--chroot}.
        """
        return os.path.samestat(os.stat("/"), self._root)
