# -*- test-case-name: tests.workers.test_workers -*-
"""
Make the daemon of a program: in one process, or of a supervisor and of its workers.

The modules of the supervisor, and those of a worker, are imported only there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.logger import Logger

from txsignalfd._reload.service import ReloadService
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.plugins import listed, logicalDirectory
from txsignalfd._twistd.settings import Settings
from txsignalfd._twistd.systemd import Notifier
from txsignalfd._workers.membership import membership, workerNumber

if TYPE_CHECKING:
    from txsignalfd._twistd.workerdaemon import WorkerDaemon
    from txsignalfd._workers.worker import Worker

_log: Final = Logger("txsignalfd.workers.Watch")

#: Seconds that a worker has to start, by default.
START: Final = 60.0


class WorkerSettings(NamedTuple):
    """
    How many workers there are, and when one of them is replaced.
    """

    #: Returns the number of workers.
    number: Callable[[], int]
    #: Seconds that a worker has to start.
    startTimeout: float = START
    #: Seconds without a turn of the reactor, bytes of memory, and seconds of life
    #: after which a worker is replaced.
    limits: Sequence[float] = (inf, inf, inf)
    #: Options of Python that the workers have, and this process does not.
    interpreter: Sequence[str] = ()
    #: The most spare workers.
    spares: float = 0
    #: The file with variables of the environment, or an empty string.
    environmentFile: str = ""


def parseCount(name: str, workers: int | str) -> Callable[[], int]:
    """
    Return a function that returns the number of workers.

    @param name: The name of the option or the argument.
    @param workers: A number, or C{auto}.
    @raise ValueError: If it is neither a positive number nor C{auto}.
    """
    if workers == "auto":
        from txsignalfd._workers.cgroup import usableCPUs

        return usableCPUs
    text = str(workers)
    if text.isdecimal() and int(text) > 0:
        return lambda: int(text)
    raise ValueError(f"{name}: expected a number, 1 or more, or auto, got {workers!r}")


def becomeWorker(reactor: Any) -> Worker | None:
    """
    Connect to the supervisor, which owns the listening sockets.

    @param reactor: The reactor.
    @return: The connection, or C{None} if this process is no worker.
    """
    place = membership()
    if place is None:
        return None
    from txsignalfd._workers.worker import Worker

    return Worker(place, reactor)


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


def makeSupervisor(
    workers: WorkerSettings, settings: Settings, foreground: bool, reactor: Any
) -> Daemon:
    """
    Make the daemon of a supervisor.

    @param workers: The settings of the workers.
    @param settings: How the daemon acts on signals, drains and stops.
    @param foreground: Whether the process may have a controlling terminal.
    @param reactor: The reactor.
    """
    from txsignalfd._twistd.textlog import write
    from txsignalfd._twistd.upgrading import Upgrade
    from txsignalfd._workers.command import Command
    from txsignalfd._workers.environmentfile import readEnvironment
    from txsignalfd._workers.inheritance import inheritance
    from txsignalfd._workers.limits import Limits
    from txsignalfd._workers.retrying import Retries
    from txsignalfd._workers.sockets import Sockets
    from txsignalfd._workers.spares import Spares
    from txsignalfd._workers.supervisor import Supervisor
    from txsignalfd._workers.workerset import Setup

    def changed(paths: list[str]) -> None:
        _log.info("{files} changed: reloading", files=listed(paths))
        # The outcome is logged.
        daemon.reloads.reload().addErrback(lambda _: None)

    sockets = Sockets(reactor)
    command = Command(logicalDirectory())
    name, *others = command.arguments
    ofWorkers = replace(command, arguments=[name, *workers.interpreter, *others])
    setup = Setup(
        ofWorkers,
        sockets,
        workers.startTimeout,
        settings.drain,
        Limits(*workers.limits),
        changed,
        reactor,
        Spares(workers.spares, ofWorkers, reactor),
        write,
    )
    variables: Callable[[], dict[str, str]] = dict
    if workers.environmentFile:
        path = os.path.join(command.directory, workers.environmentFile)
        variables = partial(readEnvironment, path)
    factory = Supervisor(workers.number, setup, variables)
    daemon = makeDaemon(factory, settings, foreground, reactor)
    daemon.reloads.addParticipant(factory.prepare)
    daemon.reloads.addParticipant(sockets.prepare)
    daemon.supervisor = factory
    Retries(daemon.reloads, lambda: factory.hasWorkers, reactor)
    daemon.notifier.isAlive = lambda: factory.isServing
    upgrade = Upgrade(daemon, factory, command, workers.startTimeout, reactor)
    daemon.upgrade = upgrade.request
    if (found := inheritance()) is not None:
        upgrade.resume(found)
    return daemon


def makeWorker(  # noqa: PLR0913
    worker: Worker,
    factory: Callable[[], Any],
    settings: Settings,
    watched: list[str] | None,
    reactor: Any,
    *,
    kind: type[WorkerDaemon] | None = None,
) -> WorkerDaemon:
    """
    Make the daemon of a worker.

    @param worker: The connection to the supervisor.
    @param factory: Makes the service.
    @param settings: How the daemon drains and stops.
    @param watched: The files to watch besides the loaded modules, or C{None} to watch
        none.
    @param reactor: The reactor.
    @param kind: The class of the daemon.
    """
    from txsignalfd._twistd.watching import Watch
    from txsignalfd._twistd.workerdaemon import WorkerDaemon

    reloads = makeReloads(factory, settings, reactor)
    daemon = (kind or WorkerDaemon)(worker, reloads, settings.on, reactor)
    if watched is not None and workerNumber() == 1:
        daemon.watch = Watch(watched, worker.changed, reactor)
    return daemon
