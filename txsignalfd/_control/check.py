# -*- test-case-name: tests.control.test_check -*-
"""
C{txsignalfd check}: make the service that a command line of twistd describes.

The options are parsed as twistd parses them, and the service or the application is
made and not started.  No port is opened, also if the program opens it while it is
loaded, and no pidfile, log or disposition of a signal is touched.  Everything else
that the module of a plugin or a C{.tac} file does by itself is done.

The reason of a failure is the one that a reload would give.

A program of C{txsignalfd supervise} is found and compiled, and not run: only its own
start could show more.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, Final

from txsignalfd._control.output import Output


def main(arguments: Sequence[str]) -> int:
    """
    Check a command line.

    @param arguments: The command line without C{twistd}, after an optional
        C{--json}.
    @return: The exit status: 0, or 1 with the reason.
    @raise SystemExit: With status 0 if an option asks for help.
    """
    asJSON = list(arguments[:1]) == ["--json"]
    output = Output("check", asJSON, "txsignalfd check")
    exitStatus = output.end(*_check(list(arguments[asJSON:])))
    if any(_blocksExit(thread) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exitStatus)
    return exitStatus


#: The status with which argparse exits when it has printed what is wrong.
_USAGE: Final = 2


def _blocksExit(thread: threading.Thread) -> bool:
    """
    Return whether the interpreter would wait for a thread, of the service.
    """
    return not thread.daemon and thread is not threading.current_thread()


def _check(arguments: list[str]) -> tuple[int, str]:
    from txsignalfd._control.dryrun import openNoPorts
    from txsignalfd._proc.reason import reasonOf
    from txsignalfd._reload.sharing import assumeInherited, unshareInherited

    # A program runs from its directory, as twistd's does.
    sys.path.insert(0, os.getcwd())
    restore = openNoPorts()
    assumeInherited()
    try:
        if arguments[:1] == ["supervise"]:
            return _checkSupervise(arguments[1:])
        maker, own, metrics = _parse(arguments)
        # The outcome is all that is printed on stdout.
        with redirect_stdout(sys.stderr):
            _make(maker, own, metrics)
    except BaseException as error:  # a reload reports them, too
        if isinstance(error, SystemExit) and not error.code:
            raise
        return 1, reasonOf(error)
    finally:
        unshareInherited()
        restore()
    return 0, f"{maker.tapname}: no error found; it was made, and not started"


def _checkSupervise(arguments: list[str]) -> tuple[int, str]:
    from txsignalfd._control.supervise import check
    from txsignalfd._workers.program import CannotRun

    try:
        return 0, f"supervise: {check(arguments)}"
    except CannotRun as error:
        return 1, str(error)
    except SystemExit as end:
        if end.code != _USAGE:
            raise
        return 1, "the options of supervise are wrong"


def _parse(arguments: list[str]) -> tuple[Any, Any, str]:
    """
    Parse the command line.

    @return: The plugin or the application file, its options, and the endpoint of
        metrics, or an empty string.
    """
    from twisted.python.usage import UsageError

    from txsignalfd._control.dryrun import CheckedOptions
    from txsignalfd._twistd.applications import applicationFile
    from txsignalfd.tap import Options

    options: Any = CheckedOptions()
    options.parseOptions(arguments)
    inner = getattr(options, "subOptions", None)
    metrics = ""
    if isinstance(inner, Options) and inner.maker is not None:
        maker, own = inner.maker, getattr(inner, "subOptions", None)
        metrics = inner.settings.metrics
    elif options.subCommand is not None:
        maker, own = options.loadedPlugins[options.subCommand], inner
    else:
        maker, own = applicationFile(options), None
    if maker is None:
        raise UsageError("expected a plugin, or -y with an application file")
    return maker, own, metrics


def _make(maker: Any, own: Any, metrics: str) -> None:
    from twisted.internet.defer import Deferred

    from txsignalfd._twistd.metrics import metricsService
    from txsignalfd._twistd.plugins import PluginFactory

    PluginFactory(maker, own, lambda: own)
    if metrics:
        metricsService(metrics, Deferred)  # this checks the endpoint only
