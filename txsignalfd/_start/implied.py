# -*- test-case-name: tests.start.test_reloadable -*-
"""
L{ImpliedOptions}: the options of C{twistd signalfd PLUGIN} for C{twistd PLUGIN}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.python.usage import CompleteFiles, Completions

from txsignalfd.tap import Options


class ImpliedOptions(Options):
    """
    The options of a plugin that is run without C{signalfd} in the command line.
    """

    #: The command line has the name of the plugin already.
    compData = Completions(extraActions=[CompleteFiles(repeat=True)])

    def __init__(self, maker: Any, arguments: Sequence[str], command: str) -> None:
        """
        @param maker: The C{IServiceMaker}.
        @param arguments: The arguments of C{signalfd}.
        @param command: The beginning of the command line, for messages.
        """
        super().__init__()
        self.command = command
        self.plugins = {maker.tapname: maker}
        self._implied = [*arguments, maker.tapname]

    def getSynopsis(self) -> str:
        """
        Return the first line of the help.
        """
        assert self.parent is not None, "twistd has set it"
        return self.parent.getSynopsis()

    def parseOptions(self, options: list[str] | None = None) -> None:
        """
        Parse the command line of the plugin.
        """
        super().parseOptions([*self._implied, *(options or [])])
