"""
C{dispatcher.describe()}: what the dispatcher and the process do.
"""

from __future__ import annotations

from signal import SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2

from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.reactors import turn
from tests.support.worlds import BACKEND, maskWhile, queue, send
from txsignalfd import Overlap, SignalDispatcher
from txsignalfd._dispatch.description import BackendDescription

RECORDER = "tests.support.handlers.Recorder"

#: The last line of a description.
RECEIVED = {
    "signalfd": "received by the backend signalfd",
    "handler": "received by the backend handler, 0 without a siginfo",
}[BACKEND]


@inReactor
async def test_handlersAndTheirCountsAreDescribed(dispatcher: SignalDispatcher) -> None:
    """
    A description has values and a text, and the state of the process.
    """
    assert dispatcher.describe().watched == ()
    busy, other = Recorder(busy=True), Recorder()
    dispatcher.addHandler(SIGRTMIN, busy)
    dispatcher.addHandler(SIGRTMIN, other, Overlap.DROP)
    dispatcher.watch(SIGUSR2)
    dispatcher.addHandler(SIGUSR1, other)
    with dispatcher.hold(SIGUSR1):
        queue(1, 2, 3)
        send(SIGUSR1, SIGUSR2)
        await turn()
        description = dispatcher.describe()
    held, unhandled, realtime = description.watched
    assert (held.signo, held.isHeld, held.deferred) == (SIGUSR1, True, 1)
    assert (unhandled.signo, unhandled.unhandled) == (SIGUSR2, 1)
    assert not unhandled.handlers
    first, second = realtime.handlers
    assert (first.handled, first.running, first.waiting) == (1, 1, 2)
    assert (second.handled, second.overlap, second.dropped) == (3, "DROP", 0)
    assert description.process
    main = description.process.main
    assert {SIGUSR1, SIGUSR2, SIGRTMIN} <= main.caught
    assert main.blocked == maskWhile([SIGUSR1, SIGUSR2, SIGRTMIN])
    assert description.backend == (BACKEND, 0)
    text = str(description)
    assert text.startswith(
        "SIGUSR1: held, 1 deferred\n"
        f"  {RECORDER} QUEUE: 0 handled, 0 running, 0 waiting, 0 dropped\n"
        "SIGUSR2: no handler, 1 received\n"
        "SIGRTMIN\n"
        f"  {RECORDER} QUEUE: 1 handled, 1 running, 2 waiting, 0 dropped\n"
        f"  {RECORDER} DROP: 3 handled, 0 running, 0 waiting, 0 dropped\n"
        "pid "
    )
    assert text.endswith(f"\n{RECEIVED}")
    if BACKEND == "signalfd":
        assert "blocked, then caught   SIGUSR1 SIGUSR2 SIGRTMIN\n" in text
    busy.busy = False
    busy.out[0].callback(None)


@inReactor
async def test_aSignalWithHandlersIsALineOfItsOwn(dispatcher: SignalDispatcher) -> None:
    dispatcher.addHandler(SIGHUP, Recorder())
    assert str(dispatcher.describe()).startswith("SIGHUP\n  ")


def test_signalsWithoutSiginfoAreShownWithEachBackend() -> None:
    lost = str(BackendDescription("signalfd", 2))
    assert lost == "received by the backend signalfd, 2 without a siginfo"
