# -*- test-case-name: tests.twistd.test_tap -*-
"""
Explain errors of the command line.

C{twistd}, C{signalfd} and its plugin each parse a part of the command line, and
know only their own options.  L{explain} looks for the part to which an unknown
option belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

#: The error of getopt for an unknown option.
_UNKNOWN_OPTION: Final = re.compile("option (--?(.+)) not recognized")

#: The error of Twisted for an unknown plugin.
_UNKNOWN_COMMAND: Final = re.compile("Unknown command: (.+)")


def nearest(name: str, names: Iterable[str]) -> str:
    """
    Return a suggestion for the end of an error: the known name that is most alike.

    @param name: The unknown name.
    @param names: The known names.
    @return: An empty string if no name is alike.
    """
    known = {each.lower(): each for each in names}
    found = get_close_matches(name.lower(), known, 1)
    return f"; did you mean {known[found[0]]}?" if found else ""


def _names(options: Any) -> list[str]:
    """
    Return the names of the options that an C{Options} object has.
    """
    return [*(name.rstrip("=") for name in options.longOpt), *options.shortOpt]


def explain(reason: str, options: Any, arguments: list[str], inPlugin: bool) -> str:
    """
    Return the reason of an error, with what the user has to change.

    @param reason: The error of C{twisted.python.usage}.
    @param options: The options of C{twistd signalfd}.
    @param arguments: Its command line.
    @param inPlugin: Whether the options of the plugin are wrong.
    """
    plugins = {name: parser for name, _, parser, _ in options.subCommands}
    if unknown := _UNKNOWN_COMMAND.fullmatch(reason):
        return reason + nearest(unknown[1], plugins)
    unknown = _UNKNOWN_OPTION.fullmatch(reason)
    if unknown is None:
        return reason
    option, name = unknown.groups()
    plugin = options.subCommand or next(filter(plugins.get, arguments), None)
    if options.parent is not None and name in _names(options.parent):
        reason = f"{option} belongs to twistd: it stands before signalfd"
    elif inPlugin and name in _names(options):
        reason = f"{option} belongs before {plugin}: it is an option of signalfd"
    elif plugin and not inPlugin and name in _names(plugins[plugin]()):
        reason = f"{option} belongs after {plugin}: it is an option of {plugin}"
    else:
        reason += nearest(name, _names(options.subOptions if inPlugin else options))
    return reason
