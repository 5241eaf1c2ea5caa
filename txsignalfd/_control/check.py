# -*- test-case-name: tests.control.test_check -*-
"""
C{txsignalfd check}: make the service that a command line of twistd describes.

The options are parsed as twistd parses them, and the service or the application is
made and not started: no port is opened, and no pidfile or log is written.  What the
module of a plugin or a C{.tac} file does by itself when it is loaded is done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """
    Check a command line.

    @param arguments: The command line without C{twistd}.
    @return: The exit status: 0, or 1 with the reason on stderr.
    """
    from twisted.python.usage import UsageError

    try:
        what = _make(list(arguments))
    except (SystemExit, UsageError) as error:
        reason = str(error).strip().splitlines()
        if isinstance(error, SystemExit) and error.code in (0, None):
            return 0
        return _refuse(reason[-1] if reason else "wrong options")
    except Exception as error:
        message = " ".join(str(error).split())
        name = type(error).__name__
        return _refuse(f"{name}: {message}" if message else name)
    print(f"{what}: no error found; it was made, and not started")
    return 0


def _refuse(reason: str) -> int:
    print(f"txsignalfd check: {reason}", file=sys.stderr)
    return 1


def _make(arguments: list[str]) -> str:
    from twisted.python.usage import UsageError
    from twisted.scripts._twistd_unix import ServerOptions

    from txsignalfd._twistd.applications import applicationFile

    # A program runs from its directory, as twistd's does.
    sys.path.insert(0, os.getcwd())
    options: Any = ServerOptions()
    options.parseOptions(arguments)
    plugin = options.subCommand
    if plugin is not None:
        options.loadedPlugins[plugin].makeService(options.subOptions)
        return f"plugin {plugin}"
    application = applicationFile(options)
    if application is None:
        raise UsageError("expected a plugin, or -y with an application file")
    application.makeService(None)
    return application.tapname
