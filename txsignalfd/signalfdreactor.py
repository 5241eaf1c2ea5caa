# -*- test-case-name: tests.test_reactors -*-
"""
The reactor C{signalfd}: Twisted's best one for this system, with L{ReactorSignals
<txsignalfd.ReactorSignals>}.

Use it by C{twistd --reactor=signalfd}, also with C{trial} and C{twist}, or in a
program of your own before anything imports C{twisted.internet.reactor}::

    from txsignalfd import signalfdreactor
    signalfdreactor.install()
"""

from __future__ import annotations

from twisted.internet import default
from twisted.internet.main import installReactor
from twisted.internet.posixbase import PosixReactorBase
from twisted.python.reflect import namedAny

from txsignalfd.reactorsignals import ReactorSignalsMixin

#: The class of each reactor that Twisted chooses by default on some system.
_CLASSES = {
    "twisted.internet.epollreactor": "EPollReactor",
    "twisted.internet.pollreactor": "PollReactor",
    "twisted.internet.selectreactor": "SelectReactor",
}


def _best() -> type[PosixReactorBase]:
    """
    Return the class of the reactor that Twisted chooses by default on this system.
    """
    module = default.install.__module__
    found: type[PosixReactorBase] = namedAny(f"{module}.{_CLASSES[module]}")
    return found


class SignalfdReactor(ReactorSignalsMixin, _best()):  # type: ignore[misc]
    """
    Twisted's default reactor, with L{ReactorSignals <txsignalfd.ReactorSignals>}.
    """


def install() -> None:
    """
    Make and install the reactor.

    @raise ReactorAlreadyInstalledError: If there is a reactor.
    """
    installReactor(SignalfdReactor())
