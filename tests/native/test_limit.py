"""
Realtime signals when the queue of the kernel is full: RLIMIT_SIGPENDING.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGRTMIN, pthread_sigmask, raise_signal

from tests.support.descriptors import descriptorOf
from tests.support.handlers import Recorder, sender
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild, limitOfPendingSignals
from tests.support.reactors import untilLength
from tests.support.threads import busyThreads, otherThread
from tests.support.worlds import needsLinux
from txsignalfd import SignalDispatcher

pytestmark = needsLinux


@inReactor
async def test_acceptedSignalsAreReceivedOnceWithTheirSiginfo(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Also those that reach threads that were started before.
    """
    count, got = 3000, Recorder()
    with busyThreads(30), limitOfPendingSignals(50):
        dispatcher.addHandler(SIGRTMIN, got)
        with sender(SIGRTMIN, count) as process:
            await untilLength(got.infos, count)
    assert Counter(got.values) == Counter(range(count))
    assert {info.pid for info in got.infos} == {process.pid}


def test_signalThatCannotBeQueuedAgainIsDeferred() -> None:
    """
    Without a doorbell it is received with the next read.
    """

    def fillQueue() -> None:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))

    def pend() -> None:
        pthread_sigmask(SIG_BLOCK, [SIGRTMIN])
        raise_signal(SIGRTMIN)

    def received() -> list[int]:
        with otherThread() as call, descriptorOf(SIGRTMIN) as (descriptor, reads):
            call(pend)
            fillQueue()
            call(lambda: pthread_sigmask(SIG_UNBLOCK, [SIGRTMIN]))
            descriptor.drain()
            return [info.pid for info in reads.infos if info.pid == os.getpid()]

    assert len(inChild(received)) == 1
