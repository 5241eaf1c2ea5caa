"""
Realtime signals when the queue of the kernel is full: RLIMIT_SIGPENDING.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGRTMIN, pthread_sigmask, raise_signal

import pytest

from tests.support.descriptors import descriptorOf
from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild
from tests.support.reactors import untilLength
from tests.support.threads import busyThreads, otherThread
from tests.support.worlds import needsLinux
from txsignalfd import SignalDispatcher

pytestmark = needsLinux

#: Send values, each until it is accepted.
SENDER = """
import sys
from txsignalfd.lowlevel import sigqueue
for value in range(int(sys.argv[3])):
    while True:
        try:
            sigqueue(int(sys.argv[1]), int(sys.argv[2]), value)
            break
        except BlockingIOError:
            pass
"""


@contextmanager
def limitOfPendingSignals(limit: int) -> Iterator[None]:
    """
    Limit the queue, in which the signals of all processes of the user count.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


@pytest.mark.parametrize("attempt", range(3))
@inReactor
async def test_acceptedSignalsAreReceivedOnceWithTheirSiginfo(
    dispatcher: SignalDispatcher, attempt: int
) -> None:
    """
    Also those that reach threads that were started before.
    """
    count, got = 3000, Recorder()
    with busyThreads(30), limitOfPendingSignals(50):
        dispatcher.addHandler(SIGRTMIN, got)
        command = [sys.executable, "-c", SENDER, str(os.getpid()), str(int(SIGRTMIN))]
        with subprocess.Popen([*command, str(count)]) as sender:
            await untilLength(got.infos, count)
    assert Counter(got.values) == Counter(range(count))
    assert {info.pid for info in got.infos} == {sender.pid}


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
