"""
Random sequences of calls of a dispatcher, on real signals, compared with a model.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections import deque
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from signal import SIGRTMIN, SIGUSR1
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger

from tests.support.daemons import caught
from tests.support.kernel import limitOfPendingSignals
from tests.support.reactors import newReactor
from tests.support.worlds import BACKEND, maskWhile
from txsignalfd import (
    DispatcherClosed,
    Overlap,
    Registration,
    SigInfo,
    SignalDispatcher,
)
from txsignalfd._dispatch import handlerlog, holds
from txsignalfd._dispatch.runs import LIMIT
from txsignalfd.lowlevel import sigqueue

REALTIME = [int(SIGRTMIN), int(SIGRTMIN) + 1]

signals = st.sampled_from([int(SIGUSR1), *REALTIME])
bursts = st.lists(signals, max_size=5)
limits = st.sampled_from([LIMIT, 1, 2])
severalSignals = st.lists(signals, min_size=1, max_size=2, unique=True)

TURNS_BEFORE_CLOSE = 6

#: The steps of a handler, besides recording the signal.
ACTIONS = ["nothing", "raise", "wait", "remove", "leave", "leave and wait"]

#: How the Deferred of a handler fires.
ENDS = ["callback", "errback", "cancel"]


@dataclass
class Expected:
    """
    The state of one registration, by the contract.
    """

    signo: int
    overlap: Overlap
    action: str
    limit: int
    calls: list[int] = field(default_factory=list)
    out: list[int] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    dropped: int = 0
    removed: bool = False
    advancing: bool = False


@dataclass
class ExpectedHold:
    """
    The state of a hold, by the contract.
    """

    signals: list[int]
    limit: int
    count: int = 0


class Model:
    """
    The contract, with pairs of a number and a value as signals.
    """

    def __init__(self) -> None:
        self.watched: set[int] = set()
        self.pending: list[tuple[int, int]] = []
        self.registrations: list[Expected] = []
        self.holds: list[ExpectedHold] = []
        self.deferred: list[tuple[int, int]] = []
        self.queue: deque[tuple[int, int]] = deque()
        self.receiving = False
        self.closing = False

    def send(self, signo: int, value: int) -> None:
        if (
            BACKEND == "handler"
            or signo in REALTIME
            or all(each != signo for each, _ in self.pending)
        ):
            self.pending.append((signo, value))

    def turn(self) -> None:
        if BACKEND == "signalfd":
            self.pending.sort(key=lambda each: each[0])
        self.queue.extend(self.pending)
        self.pending.clear()
        self.dispatch()

    def dispatch(self) -> None:
        if self.receiving:
            return
        self.receiving = True
        while self.queue:
            signo, value = self.queue.popleft()
            registrations = [
                each
                for each in self.registrations
                if each.signo == signo and not each.removed
            ]
            if holds := self.holdsOf(signo):
                if any(hold.count >= hold.limit for hold in holds):
                    for each in registrations:
                        each.dropped += 1
                    continue
                self.deferred.append((signo, value))
                for hold in holds:
                    hold.count += 1
                continue
            for each in registrations:
                if not each.removed:
                    self.receive(each, value)
        self.receiving = False

    def holdsOf(self, signo: int) -> list[ExpectedHold]:
        return [hold for hold in self.holds if signo in hold.signals]

    def receive(self, each: Expected, value: int) -> None:
        if each.overlap is Overlap.DROP and each.out:
            each.dropped += 1
            return
        if each.overlap is Overlap.RESTART:
            each.out.clear()
        if each.overlap is Overlap.MERGE:
            each.waiting.clear()
        busy = each.out if each.overlap is Overlap.CONCURRENT else each.waiting
        if len(busy) >= each.limit:
            each.dropped += 1
            return
        each.waiting.append(value)
        self.advance(each)

    def advance(self, each: Expected) -> None:
        # It may be called by a handler that ends a hold and has not returned.
        if each.advancing:
            return
        each.advancing = True
        while (
            each.waiting
            and not self.holdsOf(each.signo)
            and not (each.out and each.overlap is not Overlap.CONCURRENT)
        ):
            value = each.waiting.popleft()
            each.calls.append(value)
            if each.action == "remove":
                self.remove(each)
            if each.action.startswith("leave"):
                self.leave()
            if each.action.endswith("wait"):
                each.out.append(value)
        each.advancing = False

    def remove(self, each: Expected) -> None:
        each.removed = True
        each.waiting.clear()

    def leave(self) -> None:
        if not self.holds:
            return
        left = self.holds.pop()
        for signo in left.signals:
            for each in self.registrations:
                if each.signo == signo:
                    self.advance(each)
        released = [each for each in self.deferred if not self.holdsOf(each[0])]
        self.deferred = [each for each in self.deferred if self.holdsOf(each[0])]
        self.queue.extendleft(reversed(released))
        self.dispatch()

    def isIdle(self) -> bool:
        return not self.holds and not any(
            each.out or each.waiting for each in self.registrations
        )


class Sequences(RuleBasedStateMachine):
    """
    A dispatcher and its model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.reactor = self.stack.enter_context(newReactor("epoll"))
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.descriptors = sorted(os.listdir("/proc/self/fd"))
        self.value = 0
        if BACKEND == "handler":
            # Signals are received immediately while the reactor runs.
            self.reactor.startRunning(installSignalHandlers=False)
        self.begin()

    def begin(self) -> None:
        self.model = Model()
        self.dispatcher = SignalDispatcher(self.reactor)
        self.registrations: list[Registration] = []
        self.calls: list[list[int]] = []
        self.out: dict[tuple[int, int], Deferred[None]] = {}
        self.holds: list[AbstractContextManager[None]] = []
        self.order: dict[int, list[int]] = {}
        self.closed: Deferred[None] | None = None
        self.turns = 0

    def isOpen(self) -> bool:
        return self.closed is None

    def leaveLast(self) -> None:
        if self.holds:
            self.holds.pop().__exit__(None, None, None)

    @initialize(
        handlers=st.lists(
            st.tuples(
                signals, st.sampled_from(Overlap), st.sampled_from(ACTIONS), limits
            ),
            min_size=4,
            max_size=8,
        )
    )
    def addSome(self, handlers: list[tuple[int, Overlap, str, int]]) -> None:
        for handler in handlers:
            self.add(*handler)

    @precondition(isOpen)
    @rule(several=severalSignals, unwatch=st.booleans())
    def watch(self, several: list[int], unwatch: bool) -> None:
        if unwatch:
            self.dispatcher.unwatch(*several)
            self.model.turn()
            self.model.watched.difference_update(several)
        else:
            self.dispatcher.watch(*several)
            self.model.watched.update(several)

    @precondition(lambda self: self.isOpen() and len(self.registrations) < 8)
    @rule(
        signo=signals,
        overlap=st.sampled_from(Overlap),
        action=st.sampled_from(ACTIONS),
        limit=limits,
    )
    def add(self, signo: int, overlap: Overlap, action: str, limit: int) -> None:
        index = len(self.registrations)

        def handler(info: SigInfo) -> Deferred[None] | None:
            value = info.int
            self.calls[index].append(value)
            self.order.setdefault(value, []).append(index)
            if action == "raise":
                raise RuntimeError("the test raises this")
            if action == "remove":
                self.registrations[index].remove()
            if action.startswith("leave"):
                self.leaveLast()
            if not action.endswith("wait"):
                return None
            deferred: Deferred[None] = Deferred()
            self.out[index, value] = deferred
            return deferred

        self.calls.append([])
        self.registrations.append(
            self.dispatcher.addHandler(signo, handler, overlap, limit)
        )
        self.model.registrations.append(Expected(signo, overlap, action, limit))
        self.model.watched.add(signo)

    @precondition(lambda self: self.registrations)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.registrations) - 1))
        self.registrations[index].remove()
        self.model.remove(self.model.registrations[index])
        self.check()

    @precondition(lambda self: self.isOpen() and len(self.holds) < 3)
    @rule(several=severalSignals, limit=limits)
    def enterHold(self, several: list[int], limit: int) -> None:
        hold = self.dispatcher.hold(*several, limit=limit)
        hold.__enter__()
        self.holds.append(hold)
        self.model.holds.append(ExpectedHold(sorted(several), limit))

    @precondition(lambda self: self.holds)
    @rule()
    def leaveHold(self) -> None:
        self.leaveLast()
        self.model.leave()

    @precondition(lambda self: self.isOpen() and self.model.watched)
    @rule(burst=bursts)
    def send(self, burst: list[int]) -> None:
        for signo in burst:
            if signo in self.model.watched:
                self.value += 1
                sigqueue(os.getpid(), signo, self.value)
                self.model.send(signo, self.value)

    @precondition(isOpen)
    @rule(before=bursts, several=severalSignals, within=st.lists(bursts, max_size=3))
    def sendAroundHold(
        self, before: list[int], several: list[int], within: list[list[int]]
    ) -> None:
        self.send(before)
        self.enterHold(several, LIMIT)
        for burst in within:
            self.turn()
            self.send(burst)

    @rule()
    def turn(self) -> None:
        self.turns += 1
        self.reactor.doIteration(0)
        self.model.turn()

    @precondition(lambda self: any(each.out for each in self.model.registrations))
    @rule(data=st.data(), end=st.sampled_from(ENDS))
    def fire(self, data: st.DataObject, end: str) -> None:
        out = [
            (index, value)
            for index, each in enumerate(self.model.registrations)
            for value in each.out
        ]
        index, value = data.draw(st.sampled_from(out))
        deferred = self.out[index, value]
        if end == "callback":
            deferred.callback(None)
        elif end == "errback":
            deferred.errback(RuntimeError("the test raises this"))
        else:
            deferred.cancel()
        expected = self.model.registrations[index]
        expected.out.remove(value)
        self.model.advance(expected)

    # Not too early: little can happen after it.
    @precondition(lambda self: self.isOpen() and self.turns > TURNS_BEFORE_CLOSE)
    @rule()
    def close(self) -> None:
        self.closed = self.dispatcher.close()
        self.model.turn()
        self.model.watched.clear()
        with pytest.raises(DispatcherClosed):
            self.dispatcher.watch(SIGUSR1)

    @precondition(lambda self: self.closed is not None and self.closed.called)
    @rule()
    def beginAgain(self) -> None:
        self.begin()

    @invariant()
    def check(self) -> None:
        expected = self.model.registrations
        assert self.calls == [each.calls for each in expected]
        for mine, each in zip(self.registrations, expected, strict=True):
            assert mine.handled == len(each.calls)
            assert mine.waiting == len(each.waiting)
            assert mine.dropped == each.dropped
        if self.closed is None:
            assert self.dispatcher.watching == self.model.watched
        else:
            assert self.closed.called == self.model.isIdle()

    @invariant()
    def checkOrder(self) -> None:
        for indexes in self.order.values():
            # Handlers that are never busy are called immediately, in order.
            immediate = [
                index
                for index in indexes
                if not self.model.registrations[index].action.endswith("wait")
            ]
            assert immediate == sorted(immediate)

    @invariant()
    def checkAcquired(self) -> None:
        if self.closed is not None and self.closed.called:
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == self.mask
            assert sorted(os.listdir("/proc/self/fd")) == self.descriptors
        else:
            watching = self.dispatcher.watching
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            # While it closes, signals stay pending in the kernel.
            open_ = self.closed is None
            assert blocked == (maskWhile(watching) if open_ else watching)
            assert watching <= caught(os.getpid())

    def teardown(self) -> None:
        while self.holds:
            self.leaveLast()
        closed = self.dispatcher.close()
        # A Deferred that fires may start a call for a queued signal.
        while self.out:
            self.out.popitem()[1].cancel()
        assert closed.called
        self.stack.close()


def test_anySequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In any sequence of calls and signals, each handler receives what the contract
    says, and everything is released.
    """
    # Twisted's log would store thousands of failures until it starts, which makes
    # every later test slower.
    nowhere = Logger(observer=cast(ILogObserver, lambda event: None))
    for module in (handlerlog, holds):
        monkeypatch.setattr(module, "_log", nowhere)
    # Hypothesis reports an error of sigqueue, or a signal without its value, as
    # FlakyStrategyDefinition: neither happens again when it repeats the example.
    _, limit = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    with limitOfPendingSignals(limit):
        run_state_machine_as_test(
            Sequences,
            settings=settings(
                # They take three times as long while coverage is measured.
                max_examples=300 if sys.gettrace() is None else 100,
                stateful_step_count=50,
                derandomize=True,
            ),
        )
