"""
The programs that are compared: C{python -m benchmarks.peers NAME DEED}.

Each has two signals.  For SIGRTMIN it has a handler that answers with a byte
on stdout (DEED is C{echo}) or counts (C{count}), and for SIGRTMAX one that prints
the count.  It prints C{r} when it is ready, and runs until it is killed.  Each is
written as the documentation of its library shows.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Callable
from signal import SIGRTMAX, SIGRTMIN
from typing import Any

Handlers = dict[int, Callable[..., Any]]

#: In the order of the results.
PEERS: dict[str, Callable[[Handlers], None]] = {}


def peer(name: str) -> Callable[[Callable[[Handlers], None]], None]:
    """
    Decorate the function that handles signals by a library.
    """

    def add(run: Callable[[Handlers], None]) -> None:
        PEERS[name] = run

    return add


def ready() -> None:
    """
    Report that signals are received from now on.
    """
    os.write(1, b"r")


def _epollReactor() -> Any:
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor

    return reactor


@peer("txsignalfd")
def _(handlers: Handlers) -> None:
    reactor = _epollReactor()
    from txsignalfd import dispatcherFor

    for signo, handler in handlers.items():
        dispatcherFor(reactor).addHandler(signo, handler)
    reactor.callWhenRunning(ready)
    reactor.run()


@peer("Twisted")
def _(handlers: Handlers) -> None:
    reactor = _epollReactor()
    for signo, handler in handlers.items():
        signal.signal(
            signo, lambda *_, handler=handler: reactor.callFromThread(handler)
        )
    reactor.callWhenRunning(ready)
    reactor.run()


async def _onEventLoop(handlers: Handlers) -> None:
    import asyncio

    for signo, handler in handlers.items():
        asyncio.get_running_loop().add_signal_handler(signo, handler)
    ready()
    await asyncio.Event().wait()


@peer("asyncio")
def _(handlers: Handlers) -> None:
    import asyncio

    asyncio.run(_onEventLoop(handlers))


@peer("uvloop")
def _(handlers: Handlers) -> None:
    import uvloop

    uvloop.run(_onEventLoop(handlers))


@peer("trio")
def _(handlers: Handlers) -> None:
    import trio

    async def main() -> None:
        with trio.open_signal_receiver(*handlers) as signals:
            ready()
            async for signo in signals:
                handlers[signo]()

    trio.run(main)


@peer("PyPI signalfd")
def _(handlers: Handlers) -> None:
    import signalfd

    signalfd.sigprocmask(signalfd.SIG_BLOCK, handlers)
    fd = signalfd.signalfd(-1, handlers, 0)
    ready()
    while True:
        handlers[signalfd.read_siginfo(fd).ssi_signo]()


@peer("sigwaitinfo")
def _(handlers: Handlers) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    ready()
    while True:
        handlers[signal.sigwaitinfo(handlers).si_signo]()


@peer("os.read")
def _(handlers: Handlers) -> None:
    from txsignalfd.lowlevel import SIGINFO_SIZE, create_signalfd

    record = struct.Struct(f"=I{SIGINFO_SIZE - 4}x")
    fd = create_signalfd(handlers)
    ready()
    while True:
        for (signo,) in record.iter_unpack(os.read(fd, 64 * SIGINFO_SIZE)):
            handlers[signo]()


@peer("bare reader")
def _(handlers: Handlers) -> None:
    # The cost of the reactor itself, with the least that a descriptor can do.
    from txsignalfd.lowlevel import SFD_NONBLOCK, SIGINFO_SIZE, create_signalfd

    reactor = _epollReactor()
    record = struct.Struct(f"=I{SIGINFO_SIZE - 4}x")

    class Reader:
        fd = create_signalfd(handlers, SFD_NONBLOCK)

        def fileno(self) -> int:
            return self.fd

        def logPrefix(self) -> str:
            return "bare"

        def doRead(self) -> None:
            for (signo,) in record.iter_unpack(os.read(self.fd, 64 * SIGINFO_SIZE)):
                handlers[signo]()

        def connectionLost(self, reason: object) -> None:
            pass

    reactor.addReader(Reader())
    reactor.callWhenRunning(ready)
    reactor.run()


def _echo(*_: object) -> None:
    os.write(1, b"x")


_received = 0


def _count(*_: object) -> None:
    global _received
    _received += 1


def _report(*_: object) -> None:
    os.write(1, struct.pack("=q", _received))


if __name__ == "__main__":
    name, deed = sys.argv[1:]
    PEERS[name](
        {
            int(SIGRTMIN): {"echo": _echo, "count": _count}[deed],
            int(SIGRTMAX): _report,
        }
    )
