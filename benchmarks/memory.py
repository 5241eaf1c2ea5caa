"""
Measure the memory of what lives long: C{python -m benchmarks.memory [--quick]}.

Of each thing, many are made in this process, and then released, several times.  It
prints how many bytes one takes while it lives, how many of them Twisted takes alone,
and how many are left of each after its end.  These are the bytes that Python has
allocated (C{tracemalloc}), without those of the kernel.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from signal import SIGKILL, SIGRTMAX, SIGRTMIN
from typing import Any

from twisted.application.internet import TCPServer
from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater, react
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from txsignalfd import ChildReaper, ReloadService, dispatcherFor
from txsignalfd._twistd.signallog import DEFAULT_SIGNALS
from txsignalfd.lowlevel import sigqueue

QUICK = "--quick" in sys.argv

#: How often everything is made and released before, and while the bytes that are left
#: are counted.
WARM_UP, ROUNDS = (1, 2) if QUICK else (40, 20)

#: Seconds until everything that a release leaves to do is done.
SETTLED = 0.05

LOCALHOST = "127.0.0.1"

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

#: Makes that many things, and returns a function that releases them.
Make = Callable[[Any, int], Awaitable[Callable[[], Awaitable[None]]]]


def allocated() -> int:
    """
    Return the bytes that are allocated, without garbage.
    """
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def measure(reactor: Any, make: Make, count: int) -> tuple[float, float]:
    """
    Return the bytes of one while it lives, and those that are left of it.
    """
    # Those of the second half, so that what all of them share is not counted.  But
    # before anything is released: dictionaries keep their size.
    first = await make(reactor, count)
    begin = allocated()
    second = await make(reactor, count)
    each = (allocated() - begin) / count
    for release in (second, first):
        await release()
    for number in range(WARM_UP + ROUNDS):
        if number == WARM_UP:
            begin = allocated()
        await (await make(reactor, count))()
        await deferLater(reactor, SETTLED)
    return each, (allocated() - begin) / count / ROUNDS


async def until(reactor: Any, condition: Callable[[], object]) -> None:
    """
    Let the reactor run until a condition is true.
    """
    while not condition():
        await deferLater(reactor, 0.001)


async def queuedSignals(reactor: Any, count: int) -> Callable[[], Awaitable[None]]:
    """
    Queue signals for a handler that is busy.
    """
    dispatcher, busy = dispatcherFor(reactor), Deferred[None]()
    results = iter([busy])
    signo = next(n for n in range(SIGRTMIN, SIGRTMAX) if not dispatcher.handlersOf(n))
    registration = dispatcher.addHandler(signo, lambda info: next(results, None))
    for value in range(count + 1):
        sigqueue(os.getpid(), signo, value)
    await until(reactor, lambda: registration.waiting == count)

    async def release() -> None:
        busy.callback(None)
        assert registration.handled == count + 1
        registration.remove()

    return release


async def watchedSignals(reactor: Any, count: int) -> Callable[[], Awaitable[None]]:
    """
    Watch signals, with a handler each.
    """
    dispatcher = dispatcherFor(reactor)
    others = [n for n in DEFAULT_SIGNALS if n not in dispatcher.watching][:count]
    assert len(others) == count
    registrations = [dispatcher.addHandler(signo, _ignore) for signo in others]

    async def release() -> None:
        for registration in registrations:
            registration.remove()
        dispatcher.unwatch(*others)

    return release


def _ignore(info: object) -> None:
    pass


class Ending(ProcessProtocol):
    """
    Notes the end of its process.
    """

    ended = False

    def processEnded(self, reason: object) -> None:
        """
        Note it.
        """
        self.ended = True


async def children(reactor: Any, count: int) -> Callable[[], Awaitable[None]]:
    """
    Start children, and have one more end, at which a C{ChildReaper} finds them.
    """

    def start() -> Ending:
        protocol = Ending()
        command = ["sleep", "1000"]
        reactor.spawnProcess(protocol, command[0], command, os.environ, childFDs={})
        return protocol

    async def end(protocols: list[Ending]) -> None:
        for protocol in protocols:
            os.kill(protocol.transport.pid, SIGKILL)  # type: ignore[union-attr]
        while not all(protocol.ended for protocol in protocols):
            await deferLater(reactor, 0.001)
            reapAllProcesses()

    protocols = [start() for _ in range(count)]
    await end([start()])

    async def release() -> None:
        await end(protocols)

    return release


class Served:
    """
    A service with a port, whose clients are in this process.
    """

    def __init__(self, reactor: Any, factory: Any, reloads: bool) -> None:
        """
        @param reloads: Whether it can be reloaded.
        """
        self._reactor = reactor
        with socket.create_server((LOCALHOST, 0)) as probe:
            self._port = probe.getsockname()[1]

        def make() -> TCPServer:
            return TCPServer(self._port, factory, interface=LOCALHOST, reactor=reactor)

        self.service: Any = make()
        if reloads:
            self.service = ReloadService(make, drain=1000.0, reactor=reactor)
            self.service.share = 1.0  # no pause between reloads
            self.service.addObserver(_ignore, self._serves)
        self.service.startService()

    def _serves(self, reload: object) -> None:
        self._isServing = True

    async def connect(self) -> socket.socket:
        """
        Open a connection, and wait until it is accepted.
        """
        before = self._descriptors()
        client = socket.create_connection((LOCALHOST, self._port))
        await until(self._reactor, lambda: self._descriptors() > before)
        return client

    async def idle(self, reactor: Any, count: int) -> Callable[[], Awaitable[None]]:
        """
        Open HTTP connections that have had an answer.
        """
        before = self._living()
        clients = [await self.connect() for _ in range(count)]
        for client in clients:
            client.setblocking(False)
            client.sendall(REQUEST)
            await until(reactor, lambda: _received(client))  # noqa: B023
        return self._closing(clients, before)

    async def generations(
        self, reactor: Any, count: int
    ) -> Callable[[], Awaitable[None]]:
        """
        Reload while each generation has a connection, so that it drains.
        """
        before, clients = self._living(), []
        for _ in range(count):
            clients.append(await self.connect())
            self._isServing = False
            self.service.reload()
            await until(reactor, lambda: self._isServing)
        return self._closing(clients, before)

    def _descriptors(self) -> int:
        return len(self._reactor.getReaders())

    def _living(self) -> tuple[int, int]:
        return self._descriptors(), len(getattr(self.service, "generations", ()))

    def _closing(
        self, clients: list[socket.socket], before: tuple[int, int]
    ) -> Callable[[], Awaitable[None]]:
        async def release() -> None:
            for client in clients:
                client.close()
            await until(self._reactor, lambda: self._living() == before)

        return release


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(1000)
    except BlockingIOError:
        return b""


@contextmanager
def reaping(reactor: Any) -> Iterator[None]:
    """
    Have a C{ChildReaper}.
    """
    reaper = ChildReaper(dispatcherFor(reactor))
    try:
        yield
    finally:
        reaper.close()


async def main(reactor: Any) -> None:
    """
    Measure, and print the results.
    """
    few, many = (20, 200) if QUICK else (100, 10_000)
    page = Resource()
    page.putChild(b"", Data(b"page", "text/plain"))
    site, plain = Site(page), Factory.forProtocol(Protocol)
    alone, reloadable, drained = (
        Served(reactor, factory, reloads)
        for factory, reloads in ((site, False), (site, True), (plain, True))
    )
    none = (None, None)
    measured: dict[str, list[tuple[float, float] | tuple[None, None]]] = {
        "a queued signal": [await measure(reactor, queuedSignals, many), none],
        "a watched signal": [await measure(reactor, watchedSignals, 20), none],
    }
    theirs = await measure(reactor, children, few)
    with reaping(reactor):
        measured["a living child"] = [await measure(reactor, children, few), theirs]
    measured["an idle connection"] = [
        await measure(reactor, served.idle, few) for served in (reloadable, alone)
    ]
    measured["a generation that drains"] = [
        await measure(reactor, drained.generations, 20),
        none,
    ]
    print("bytes of one: while it lives, with Twisted alone, and left after its end")
    for name, ((each, left), (other, _)) in measured.items():
        shown = "" if other is None else f"{other:,.0f}"
        print(f"{name:28}{each:10,.0f}{shown:>10}{left:10.1f}")
    for served in (alone, reloadable, drained):
        await served.service.stopService()
    await dispatcherFor(reactor).close()


if __name__ == "__main__":
    tracemalloc.start()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
