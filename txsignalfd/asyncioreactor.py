# -*- test-case-name: tests.test_reactors -*-
"""
The reactor C{signalfd-asyncio}: Twisted's reactor on an event loop of asyncio, with
L{ReactorSignals <txsignalfd.ReactorSignals>}.

Use it by C{twistd --reactor=signalfd-asyncio}, or in a program of your own before
anything imports C{twisted.internet.reactor}::

    from txsignalfd import asyncioreactor
    asyncioreactor.install(uvloop.new_event_loop())
"""

from __future__ import annotations

from asyncio import AbstractEventLoop

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor

from txsignalfd.reactorsignals import ReactorSignalsMixin


class SignalfdAsyncioReactor(ReactorSignalsMixin, AsyncioSelectorReactor):
    """
    Twisted's reactor for asyncio, with L{ReactorSignals <txsignalfd.ReactorSignals>}.
    """


def install(eventloop: AbstractEventLoop | None = None) -> None:
    """
    Make and install the reactor.

    @param eventloop: The event loop; by default the running one, or a new one of
        asyncio's policy.
    @raise ReactorAlreadyInstalledError: If there is a reactor.
    """
    installReactor(SignalfdAsyncioReactor(eventloop))
