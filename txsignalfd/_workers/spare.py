# -*- test-case-name: tests.workers.test_spares -*-
"""
L{main}: wait in a fresh interpreter, before the program, until a worker is needed.

The supervisor starts this interpreter by the command line of a worker, except that
L{main} comes before the program.  It imports the modules of Twisted and of this package
that a worker has loaded, and waits for a number.  It runs the program then, in the same
process; or the whole command line again, by execve(2), if a new interpreter would load
anything else.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from signal import SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2
from typing import Any, Final

from txsignalfd._workers.snapshot import Snapshot

#: The packages whose modules are imported in advance.
_PACKAGES: Final = ("twisted", "txsignalfd")

#: An import of this module installs a reactor.
_REACTOR: Final = "twisted.internet.reactor"

#: Signals that a terminal or C{pkill} sends to the supervisor and its children.
_IGNORED: Final = (SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2)


def _isGeneral(name: str) -> bool:
    """
    Whether a module is the same for every program, and its import has no effect.
    """
    package, _, rest = name.partition(".")
    return (
        package in _PACKAGES
        and name != _REACTOR
        and not rest.startswith("plugins")
        and not rest.endswith("__main__")
    )


def generalModules() -> list[str]:
    """
    Return the loaded modules that may be imported in advance, in their order.

    A module that imports a reactor may not: the program chooses the reactor.
    """
    reactor = sys.modules.get(_REACTOR)
    return [
        name
        for name, module in list(sys.modules.items())
        if module is not None
        and _isGeneral(name)
        and not any(each is reactor for each in list(vars(module).values()))
    ]


def _importAll(names: Iterable[str]) -> None:
    """
    Import modules, as far as that is possible without a reactor.
    """
    # The collector would look for garbage all the time, and imports make little.
    gc.disable()
    sys.modules[_REACTOR] = None  # type: ignore[assignment]
    for name in filter(_isGeneral, names):
        # If the program needs it, the program will fail, too, and say why.
        with suppress(Exception):
            importlib.import_module(name)
    del sys.modules[_REACTOR]
    gc.collect()
    # No collection looks at these modules again.  At the end of a process, when Python
    # collects several times, that takes most of the time.
    gc.freeze()
    gc.enable()


def main() -> None:
    """
    Wait, and run the program of the command line.

    @raise SystemExit: The supervisor does not need this process any longer.
    """
    before = {signo: signal.signal(signo, signal.SIG_IGN) for signo in _IGNORED}
    snapshot = Snapshot()
    from txsignalfd._workers.membership import Membership, membership

    place: Any = membership()
    number = _wait(place, snapshot)
    for signo, handler in before.items():
        signal.signal(signo, handler)
    os.environ.update(Membership.variables(place._replace(number=number)))
    membership.cache_clear()
    _become(place, snapshot)


def _wait(place: Any, snapshot: Snapshot) -> int:
    """
    Import modules for the supervisor, until it sends the number of a worker.
    """
    from txsignalfd._workers.channel import Channel

    end = socket.socket(fileno=place.descriptor)
    channel = Channel(end, None, print, print)
    fields = _next(channel)
    _importAll(fields["prepare"])
    snapshot.take(fields["began"])
    channel.send(prepared=True)
    number: int = _next(channel)["begin"]
    channel.send(begun=True)
    end.detach()
    return number


def _next(channel: Any) -> dict[str, Any]:
    message = channel.wait()
    if message is None:
        raise SystemExit(0)
    fields: dict[str, Any] = message.fields
    return fields


def _become(place: Any, snapshot: Snapshot) -> None:
    from txsignalfd._workers.program import parseInterpreted

    # Without -c and its argument.
    first = len(sys.orig_argv) - len(sys.argv)
    command = [*sys.orig_argv[: first - 1], *sys.argv[1:]]
    program = parseInterpreted(sys.executable, sys.argv[1:])
    directories = program.directories(os.getcwd())
    if not snapshot.isCurrent or sys.path[: len(directories)] != directories:
        for descriptor in (place.descriptor, *place.inherited):
            os.set_inheritable(descriptor, True)
        os.execv(sys.executable, command)  # noqa: S606
    sys.orig_argv[:] = command
    importlib.invalidate_caches()
    time.tzset()
    program.execute()
