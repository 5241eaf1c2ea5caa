# -*- test-case-name: tests.start.test_environment -*-
"""
C{TXSIGNALFD_TWISTD}: reload the plugin of a program that embeds twistd.

Theory
======

A program such as C{carbon-cache.py} makes the command line of twistd itself, and
C{signalfd} cannot be added to it.  But twistd looks for its plugins there too, and
imports the module of each: also ours, which installs L{Plugin} if the variable is
set.  twistd is then about to make the options of the plugin that it has found by
name.  L{Plugin} is an attribute of its C{ServerOptions} that notices this, and puts a
L{reloadable} plugin, and its options, in the place of both.

So nothing is changed in other programs, and in no process that is not a twistd with a
plugin.  twistd looks for no plugin if it runs an application file (C{-y}), and a
program may have a list of plugins of its own, as Tahoe-LAFS has: then the variable has
no effect.

Rejected: a C{.pth} file or C{sitecustomize} (would run in every Python process, and
belong to the environment and not to this package); a C{twistd} of our own in C{PATH}
(these programs import twistd); to execute the program again with other arguments (they
are not those of twistd); to replace C{getPlugins} (it is running when our module is
imported).
"""

from __future__ import annotations

import os
import shlex
from typing import Any, Final

from twisted.application.app import ServerOptions

from txsignalfd._start.reloadable import ReloadablePlugin

#: The environment variable: 1, or arguments of C{twistd signalfd}.
VARIABLE: Final = "TXSIGNALFD_TWISTD"


class Plugin:
    """
    The options of the plugin that twistd runs: its attribute C{subOptions}.
    """

    def __init__(self, value: str) -> None:
        """
        @param value: The value of the environment variable.
        """
        self._value = value

    def __get__(self, twistd: Any, owner: Any) -> Any:
        try:
            return vars(twistd)["subOptions"]
        except KeyError:
            raise AttributeError("subOptions") from None

    def __set__(self, twistd: Any, options: Any) -> None:
        plugins = getattr(twistd, "loadedPlugins", {})
        maker = plugins.get(twistd.subCommand)
        if maker is not None and maker.tapname != "signalfd":
            maker = plugins[twistd.subCommand] = self._reloadable(maker)
            options = maker.options()
        vars(twistd)["subOptions"] = options

    def _reloadable(self, maker: Any) -> ReloadablePlugin:
        try:
            arguments = [] if self._value == "1" else shlex.split(self._value)
        except ValueError as error:
            raise SystemExit(f"{VARIABLE}: {error}") from None
        prefix = f"{VARIABLE}={shlex.quote(self._value)} "
        return ReloadablePlugin(maker, {}, arguments, prefix)


def install() -> None:
    """
    Make the plugins of twistd reload, as the environment variable says.
    """
    # twistd itself has no class attribute of this name.
    ServerOptions.subOptions = Plugin(os.environ[VARIABLE])
