"""
L{TwistedProcesses}: what is known of the processes of C{spawnProcess}.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from signal import SIGKILL
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.processes import SLEEP, Ending, ended, foreign, kill, spawn
from tests.support.reactors import newReactor, runReactor, spin, until
from txsignalfd import ChildReaper, SignalDispatcher


@inReactor
async def test_twistedsDictionary(dispatcher: SignalDispatcher) -> None:
    """
    The one private name of Twisted that is used means what we expect.
    """
    ChildReaper(dispatcher)
    processes = [spawn(*SLEEP) for _ in range(3)]
    assert list(process.reapProcessHandlers.items()) == [
        (each.transport.pid, each.transport) for each in processes
    ]
    kill(*processes)
    await ended(*processes)
    assert process.reapProcessHandlers == {}


@inReactor
async def test_processOfAnotherReactor(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Its end is reported in the thread of the other reactor.
    """
    threads: list[int] = []

    class Threaded(Ending):
        def processExited(self, reason: Any) -> None:
            threads.append(threading.get_ident())
            super().processExited(reason)

    async def other(otherReactor: Any) -> None:
        processes = [Threaded(), Threaded()]
        command = ["sleep", "0.1"]
        environment = os.environ
        otherReactor.spawnProcess(
            processes[0], "sleep", command, environment, childFDs={}
        )
        otherReactor.spawnProcess(
            processes[1], "sleep", command, environment, usePTY=True
        )
        await ended(*processes)
        assert {each.status for each in processes} == {(0, None)}
        assert threads == [threading.get_ident()] * 2

    ChildReaper(dispatcher)
    pool = ThreadPool(1, 1)
    pool.start()
    try:
        await deferToThreadPool(reactor, pool, spin, other)
    finally:
        pool.stop()


def test_processOfAReactorThatRunsLater() -> None:
    """
    Its end is reported when that reactor runs, and only once.
    """

    @inReactor
    async def main(dispatcher: SignalDispatcher) -> None:
        ChildReaper(dispatcher)
        kill(early)
        for _ in range(2):
            await ended(spawn("true"))
        assert not early.reasons

    with newReactor() as idle:
        early = spawn(*SLEEP)
        main()
        runReactor(idle, lambda _: ended(early))
    assert early.status == (None, SIGKILL)


def test_processOfAClosedReactor(logged: Logged) -> None:
    """
    The failure to call it is logged, and other ends are reported.
    """
    left: list[Ending] = []

    async def leave(reactor: Any) -> None:
        left.append(spawn(*SLEEP))

    @inReactor
    async def main(dispatcher: SignalDispatcher) -> None:
        ChildReaper(dispatcher)
        processes = [spawn(*SLEEP) for _ in range(10)]
        kill(*processes[:5], *left, *processes[5:])
        await ended(*processes)

    spin(leave)
    main()
    assert logged.failures
    left[0].transport.reapProcess()
    assert left[0].status == (None, SIGKILL)


class Changing(dict[int, Any]):
    """
    A dictionary to which a key is added during the first iteration.
    """

    key = 0
    changed = False

    def items(self) -> Any:
        items = super().items()
        if self.changed or not self:
            return items
        self.changed = True

        changing = self

        class Items:
            def __reversed__(self) -> Iterator[tuple[int, Any]]:
                iterator = reversed(items)
                changing[changing.key] = object()
                yield from iterator

        return Items()


def test_anotherThreadStartsAProcess(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A change of Twisted's dictionary during the iteration over it is harmless.
    """

    @inReactor
    async def main(dispatcher: SignalDispatcher) -> None:
        ChildReaper(dispatcher)
        processes = [spawn(*SLEEP) for _ in range(3)]
        kill(*processes)
        await ended(*processes)
        assert list(changing) == [changing.key]
        assert changing.changed

    changing = Changing()
    monkeypatch.setattr(process, "reapProcessHandlers", changing)
    with foreign(*SLEEP) as changing.key:
        main()


def test_processThatRaises(logged: Logged) -> None:
    """
    The exception is logged, and other ends are reported.
    """

    class Broken:
        def reapProcess(self) -> None:
            del process.reapProcessHandlers[pid]
            raise ZeroDivisionError

    @inReactor
    async def main(dispatcher: SignalDispatcher) -> None:
        ChildReaper(dispatcher)
        good = spawn(*SLEEP)
        process.reapProcessHandlers[pid] = Broken()  # type: ignore[assignment]
        os.kill(pid, SIGKILL)
        kill(good)
        await ended(good)
        await until(lambda: logged.failures)

    with foreign(*SLEEP) as pid:
        main()
    (failure,) = logged.failures
    assert failure.check(ZeroDivisionError)
