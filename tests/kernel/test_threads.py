"""
Other threads block realtime signals from the start.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from signal import SIGRTMIN, SIGUSR1
from typing import Any

import pytest

from tests.support.daemons import waitFor
from tests.support.descriptors import blockedSignals, descriptorOf, maskIn
from tests.support.handlers import Recorder, sender
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild
from tests.support.reactors import until, untilLength
from tests.support.threads import busyThreads, otherThread
from tests.support.worlds import needsLinux
from txsignalfd import SignalDescriptor, SignalDispatcher
from txsignalfd._kernel import threads as _threads
from txsignalfd._native.extension import lib

pytestmark = needsLinux


@pytest.mark.parametrize("backend", ["signalfd", "handler"])
@inReactor
async def test_watchBlocksRealtimeSignalsInOtherThreads(
    reactor: Any, backend: str
) -> None:
    """
    It does not interrupt them for standard signals, which have no order.
    """
    with busyThreads(20) as threads:
        dispatcher = SignalDispatcher(reactor, backend)
        dispatcher.watch(SIGUSR1, SIGRTMIN, SIGRTMIN + 1)
        for thread in threads:
            assert blockedSignals(thread.native_id) == {SIGRTMIN, SIGRTMIN + 1}
    await dispatcher.close()


@inReactor
async def test_firstSignalsAreInOrder(dispatcher: SignalDispatcher) -> None:
    """
    The kernel gives none of them to a busy thread.
    """
    count, got = 3000, Recorder()
    with busyThreads(50):
        dispatcher.addHandler(SIGRTMIN, got)
        with sender(SIGRTMIN, count):
            await untilLength(got.infos, count)
    assert got.values == list(range(count))


def test_threadsThatStartMeanwhileAreAskedToo(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A thread that has not been asked yet may start another one.
    """
    end = threading.Event()
    started: list[threading.Thread] = []
    real = _threads.blockedIn

    def blockedIn(thread: int) -> int:
        if not started:
            started.append(threading.Thread(target=end.wait, daemon=True))
            call(started[0].start)
        return real(thread)

    monkeypatch.setattr(_threads, "blockedIn", blockedIn)
    with otherThread() as call, descriptorOf(SIGRTMIN):
        assert blockedSignals(started[0].native_id) == {SIGRTMIN}
        end.set()
        started[0].join()


def test_threadsThatEndMeanwhileAreNoTrouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(thread: int) -> int:
        raise ProcessLookupError(thread)

    monkeypatch.setattr(_threads, "blockedIn", ended)
    with otherThread() as call, descriptorOf(SIGRTMIN):
        assert SIGRTMIN not in call(blockedSignals)


def test_lateAnswerHarmsNobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A thread that answers after the signal was released does not kill the process.
    """
    monkeypatch.setattr(_threads, "PATIENCE", 0.01)
    monkeypatch.setattr(_threads, "blockedIn", lambda thread: 0)

    def block(how: int) -> None:
        signal.pthread_sigmask(how, [SIGRTMIN])

    def story() -> tuple[int, int]:
        with otherThread() as call:
            call(lambda: block(signal.SIG_BLOCK))
            with descriptorOf(SIGRTMIN):
                before = lib.txs_unanswered(SIGRTMIN)
            call(lambda: block(signal.SIG_UNBLOCK))
            return before, lib.txs_unanswered(SIGRTMIN)

    assert inChild(story) == (1, 0)


def test_threadThatEndsWithoutAnAnswerIsForgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The disposition of the signal is restored.
    """
    monkeypatch.setattr(_threads, "PATIENCE", 0.01)
    monkeypatch.setattr(_threads, "blockedIn", lambda thread: 0)

    def story() -> bool:
        with otherThread() as call:
            task = Path("/proc/self/task", str(call(threading.get_native_id)))
            call(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [SIGRTMIN]))
            descriptor = SignalDescriptor([SIGRTMIN], print)
        waitFor(lambda: not task.exists(), "the thread has ended")
        descriptor.close()
        return SIGRTMIN in maskIn(Path("/proc/self/status"), "SigCgt")

    assert not inChild(story)


@inReactor
async def test_requestThatCannotBeSentChangesNothing(
    dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The thread blocks the signal when it gets the first one.
    """
    monkeypatch.setattr(_threads, "_TASKS", "/nowhere")
    got = Recorder()
    with otherThread() as call:
        dispatcher.addHandler(SIGRTMIN, got)
        assert SIGRTMIN not in call(blockedSignals)
        call(lambda: signal.raise_signal(SIGRTMIN))
        assert SIGRTMIN in call(blockedSignals)
        await until(lambda: got.infos)
