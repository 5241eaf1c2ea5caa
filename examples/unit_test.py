"""
A unit test of a program that handles signals, without real signals.

    python -m unittest examples/unit_test.py
"""

from __future__ import annotations

from signal import SIGCHLD, SIGHUP, SIGTERM
from typing import Any
from unittest import TestCase, main

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from txsignalfd import Overlap, SigInfo, SignalDispatcher
from txsignalfd.testing import MemorySignals


class Server:
    """
    The program under test: it reloads on SIGHUP, and ends a minute after SIGTERM.
    """

    def __init__(self, reactor: Any, signals: SignalDispatcher) -> None:
        self.reactor = reactor
        self.reloads: list[str] = []
        self.ended = False
        signals.addHandler(SIGHUP, self.reload, Overlap.MERGE)
        signals.addHandler(SIGTERM, self.end)

    def reload(self, info: SigInfo) -> Deferred[None]:
        self.reloads.append(str(info))
        return deferLater(self.reactor, 1)

    async def end(self, info: SigInfo) -> None:
        await deferLater(self.reactor, 60)
        self.ended = True


class ServerTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.signals = MemorySignals(self.clock)
        self.addCleanup(self.signals.close)
        self.server = Server(self.clock, self.signals)

    def test_requestsDuringAReloadCauseOneMore(self) -> None:
        for pid in (1, 2, 3, 4):
            self.signals.deliver(SigInfo.make(SIGHUP, pid=pid, uid=1000))
        self.clock.advance(1)
        first, second = self.server.reloads
        self.assertEqual(first, "SIGHUP from pid 1 (uid 1000) by kill")
        self.assertEqual(second, "SIGHUP from pid 4 (uid 1000) by kill")

    def test_itEndsAMinuteAfterSIGTERM(self) -> None:
        self.signals.deliver(SigInfo.make(SIGTERM))
        self.clock.advance(59)
        self.assertFalse(self.server.ended)
        self.clock.advance(1)
        self.assertTrue(self.server.ended)

    def test_itDoesNotWatchSIGCHLD(self) -> None:
        self.assertEqual(self.signals.watching, {SIGHUP, SIGTERM})
        self.assertFalse(self.signals.handlersOf(SIGCHLD))


if __name__ == "__main__":
    main()
