# -*- test-case-name: tests.twistd.test_daemon -*-
"""
Make the daemon of a program that runs in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from txsignalfd._reload.service import ReloadService
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.settings import Settings
from txsignalfd._twistd.systemd import Notifier


def makeReloads(
    factory: Callable[[], Any], settings: Settings, reactor: Any
) -> ReloadService:
    """
    Make the service that reloads what a factory makes, in a program of one service.
    """
    reloads = ReloadService(
        factory,
        drain=settings.drain,
        stopTimeout=settings.stopTimeout,
        stopFirst=settings.stopFirst,
        reactor=reactor,
    )
    reloads.alone = True
    return reloads


def makeDaemon(
    factory: Callable[[], Any], settings: Settings, foreground: bool, reactor: Any
) -> Daemon:
    """
    Make a daemon for a program that runs no other service.

    @param factory: Makes the service; see L{ReloadService}.
    @param settings: How the daemon acts on signals, drains and stops.
    @param foreground: Whether the process may have a controlling terminal.
    @param reactor: The reactor.
    """
    reloads = makeReloads(factory, settings, reactor)
    daemon = Daemon(reloads, settings.on, foreground, Notifier(reactor), reactor)
    if settings.metrics:
        from txsignalfd._twistd.metrics import metricsService

        daemon.metrics = metricsService(settings.metrics, daemon.status)
    return daemon
