"""
Services that listen on ports of every kind, and are reloaded.
"""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import CannotListenError

from tests.support.generations import (
    Client,
    Listening,
    NumberedFactory,
    connectTo,
    serving,
)
from tests.support.reactors import currentReactor, turn
from txsignalfd import ReloadService

#: Opens a port of a reactor for the generation with a number.
Listen = Callable[[Any, int], Any]


class PortFactory:
    """
    A factory of services that open some ports each.
    """

    def __init__(self, *listens: Listen) -> None:
        self.reactor = currentReactor()
        self.listens = list(listens)
        self.count = 0
        self.services: list[Listening] = []

    def __call__(self) -> Any:
        self.count += 1
        parent = MultiService()
        self.services = []
        for listen in self.listens:
            service = Listening(partial(listen, self.reactor, self.count))
            service.setServiceParent(parent)
            self.services.append(service)
        return parent

    @property
    def ports(self) -> list[Any]:
        """
        The ports of the newest generation.
        """
        return [service.port for service in self.services]

    @property
    def port(self) -> int:
        """
        The number of the first port, which is one of TCP.
        """
        number: int = self.ports[0].getHost().port
        return number

    async def connect(self) -> Client:
        """
        Connect to the first port.
        """
        return await connectTo(self.port)


@asynccontextmanager
async def running(
    *listens: Listen, **options: Any
) -> AsyncIterator[tuple[ReloadService, PortFactory]]:
    """
    Run a L{ReloadService} of services that open these ports, and stop it.

    @param options: See L{serving}.
    """
    async with serving(PortFactory(*listens), **options) as made:
        yield made
    await turn()


def tcp(reactor: Any, number: int) -> Any:
    """
    Listen on any TCP port.
    """
    return reactor.listenTCP(0, NumberedFactory(number), interface="127.0.0.1")


def unixAt(path: str, mode: int = 0o666, wantPID: int = 0) -> Listen:
    """
    Listen at a path.
    """
    return lambda reactor, number: reactor.listenUNIX(
        path, NumberedFactory(number), mode=mode, wantPID=wantPID
    )


async def numberAt(endpoint: Any) -> bytes:
    """
    Return the number of the generation that accepts there.
    """
    client = await connectProtocol(endpoint, Client())
    number: bytes = await client.line()
    await client.end()
    return number


@contextmanager
def descriptorsLeft(count: int) -> Iterator[None]:
    """
    Leave room for so many more descriptors only.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = (number for number in itertools.count() if number not in used)
    soft = next(itertools.islice(free, count, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def failingReloads(reloads: ReloadService) -> AsyncIterator[None]:
    """
    Reload with ever more descriptors left, until that succeeds.

    Yields after each reload that has failed.
    """
    for left in itertools.count():
        try:
            with descriptorsLeft(left):
                await reloads.reload()
        except (CannotListenError, OSError):
            await turn()
            yield
        else:
            return
