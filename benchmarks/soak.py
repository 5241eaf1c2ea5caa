"""
Check that nothing grows: C{python -m benchmarks.soak}.

Ten million signals from another process, 100,000 rounds of watching and
unwatching, and 10,000 reloads of a service with a listening port and a connection,
a hundredth of each in turn.  It fails if this process has more descriptors or more
memory at the end than after its first minute or its first tenth, whichever is sooner
(a little more memory is allowed, which the allocator may retain).
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from signal import SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

from twisted.application.internet import TCPServer
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import cooperate, react

from benchmarks.measuring import floor
from txsignalfd import ReloadService, SignalDispatcher, dispatcherFor

LOCALHOST = "127.0.0.1"

#: How many parts the work is divided into.
PARTS = 100

#: How much memory the allocator may retain, in KiB.
TOLERATED = 512


@dataclass
class State:
    """
    The resources of this process.
    """

    seconds: float
    memory: int
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:6.0f} s, {self.memory:,} KiB,"
            f" {self.descriptors} descriptors, {self.threads} threads"
        )


def _state(began: float) -> State:
    # Cycles that the collector has not reached yet are no growth.
    gc.collect()
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return State(
        time.monotonic() - began,
        int(fields["VmRSS"].split()[0]),
        len(os.listdir("/proc/self/fd")),
        int(fields["Threads"]),
    )


class Load:
    """
    The load, a part at a time.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.dispatcher: SignalDispatcher = dispatcherFor(reactor)
        self._left = 0
        self._reloads: ReloadService | None = None
        self._port = _freePort()
        self._endpoint: Any = TCP4ClientEndpoint(reactor, LOCALHOST, self._port)
        self._all: Deferred[None] = Deferred()
        self.dispatcher.addHandler(SIGRTMIN, self._handle)

    def _handle(self, info: object) -> None:
        self._left -= 1
        if self._left == 0:
            self._all.callback(None)

    async def signals(self, count: int) -> None:
        """
        Receive that many signals from another process.
        """
        self._left, self._all = count, Deferred()
        sender = subprocess.Popen([floor(), "send", str(os.getpid()), str(count), "0"])
        await self._all
        sender.wait()

    async def watching(self, count: int) -> None:
        """
        Watch and unwatch a signal, with a handler that is added and removed.
        """

        def rounds() -> Any:
            for _ in range(count):
                registration = self.dispatcher.addHandler(SIGUSR1, _nothing)
                self.dispatcher.watch(SIGUSR1, SIGUSR2)
                registration.remove()
                self.dispatcher.unwatch(SIGUSR1, SIGUSR2)
                yield

        await cooperate(rounds()).whenDone()

    async def reloads(self, count: int) -> None:
        """
        Reload a service, and connect to the new generation.
        """
        if self._reloads is None:
            self._reloads = ReloadService(self._serving, reactor=self.reactor)
            self._reloads.share = 1.0  # no rest between them
            self._reloads.startService()
            await self._reloads.reload()
        for _ in range(count):
            await self._reloads.reload()
            client = await self._endpoint.connect(Factory.forProtocol(Client))
            await client.ended

    def _serving(self) -> TCPServer:
        return TCPServer(
            self._port,
            Factory.forProtocol(Greeting),
            interface=LOCALHOST,
            reactor=self.reactor,
        )

    async def close(self) -> None:
        """
        Stop everything.
        """
        if self._reloads is not None:
            await self._reloads.stopService()
        await self.dispatcher.close()


class Greeting(Protocol):
    """
    Writes a greeting, and closes.
    """

    def connectionMade(self) -> None:
        """
        Write the greeting, and close.
        """
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Client(Protocol):
    """
    Receives the greeting.
    """

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """
        Collect what is received.
        """
        self._received += data

    def connectionLost(self, reason: object = None) -> None:
        """
        Check that it was the greeting.
        """
        assert self._received == b"hello", self._received
        self.ended.callback(None)


def _freePort() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _nothing(info: object) -> None:
    pass


async def soak(reactor: Any, counts: dict[str, int]) -> None:
    """
    @param counts: The amount of each load.
    @raise SystemExit: If something has grown.
    """
    load = Load(reactor)
    loads: dict[str, Callable[[int], Awaitable[None]]] = {
        "signals": load.signals,
        "watching": load.watching,
        "reloads": load.reloads,
    }
    began = time.monotonic()
    first: State | None = None
    for part in range(1, PARTS + 1):
        for name, deed in loads.items():
            await deed(counts[name] // PARTS)
        state = _state(began)
        if first is None and (part == PARTS // 10 or state.seconds >= 60):
            first = state
        if part % (PARTS // 10) == 0:
            print(f"{part * 100 // PARTS:3} %: {state}", flush=True)
    await load.close()
    assert first is not None
    print(f"at first: {first}", f"at last:  {state}", sep="\n")
    if state.memory > first.memory + TOLERATED or state.descriptors > first.descriptors:
        sys.exit("it has grown")


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--signals", type=int, default=10_000_000)
    parser.add_argument("--watching", type=int, default=100_000)
    parser.add_argument("--reloads", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    options = parser.parse_args()
    counts = {
        "signals": options.signals,
        "watching": options.watching,
        "reloads": options.reloads,
    }
    if options.quick:
        counts = {name: count // 100 for name, count in counts.items()}
    react(lambda reactor: Deferred.fromCoroutine(soak(reactor, counts)))
