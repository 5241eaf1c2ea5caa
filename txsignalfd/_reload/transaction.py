# -*- test-case-name: tests.reload.test_transaction -*-
"""
One reload: who requested it, and what changes with it.

L{ReloadRequest} collects the requesters of a L{Reload}.  A L{Transaction} makes the
changes of its participants together with it, or none of them.

The user's code is called by L{resultOf}, L{attempt} and L{attemptLater} only:
whatever it raises, C{SystemExit} and C{asyncio.CancelledError} too, is a failure
like any other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone
from inspect import isawaitable
from time import monotonic
from typing import Any, Final, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.runs import toDeferred
from txsignalfd._kernel.callables import nameOf
from txsignalfd._proc.reason import reasonOf
from txsignalfd._proc.sender import describeWithCommand
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: How many requesters of one reload are named.
_MOST_NAMED: Final = 10

#: Seconds after which a reload that others wait for is reported.
_LONG: Final = 1.0


class OneShotEvent:
    """
    An event that happens once, and that any number of callers may wait for.
    """

    def __init__(self) -> None:
        self.fired: bool = False
        self._waiting: list[Deferred[None]] = []

    def fire(self) -> None:
        """
        Call back all waiting Deferreds.  A second call does nothing.
        """
        self.fired = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """
        @return: A Deferred that fires with the event, and can be cancelled.
        """
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        if self.fired:
            deferred.callback(None)
        else:
            self._waiting.append(deferred)
        return deferred


def resultOf(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """
    Call a function of the user, which may return any awaitable.

    @return: A Deferred that fires with the result, or fails with whatever was
        raised.
    """
    try:
        value = function(*args)
        return toDeferred(value) if isawaitable(value) else succeed(value)
    except BaseException:
        return fail()


def attempt(function: Callable[..., object], *args: Any) -> None:
    """
    Call a function after which the caller has to go on; log what it raises.
    """
    try:
        function(*args)
    except BaseException:
        _log.failure("{name} has failed", name=nameOf(function))


def attemptLater(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """
    Do the same for a function that may return any awaitable.

    @return: A Deferred that fires when it has ended, and does not fail.
    """
    return resultOf(function, *args).addErrback(
        lambda it: _log.failure("{name} has failed", it, name=nameOf(function))
    )


class Timer:
    """
    Calls a function after a time by the monotonic clock.

    The reactor's own clock is the time of day, which may be set forward.
    """

    def __init__(
        self, reactor: Any, seconds: float, function: Callable[[], object]
    ) -> None:
        """
        @param reactor: The reactor.
        @param seconds: The time.
        @param function: The function.
        """
        self._reactor = reactor
        self._function = function
        self._clock = reactor.seconds if isinstance(reactor, Clock) else monotonic
        #: When it calls the function, by that clock.
        self.due = self._clock() + seconds
        self._call: Any = reactor.callLater(seconds, self._check)

    def _check(self) -> None:
        left = self.due - self._clock()
        if left > 0:
            self._call = self._reactor.callLater(left, self._check)
        else:
            self._function()

    def cancel(self) -> None:
        """
        Do not call the function, if it was not called yet.
        """
        if self._call.active():
            self._call.cancel()


async def firesWithin(seconds: float, deferred: Deferred[Any], reactor: Any) -> bool:
    """
    Wait for a Deferred, whatever its result, but not for ever.

    @return: Whether it has fired.  A cancellation ends the wait too.
    """
    waiting: Deferred[bool] = Deferred()

    def end(hasFired: bool) -> None:
        if not waiting.called:
            waiting.callback(hasFired)

    timer = Timer(reactor, seconds, lambda: end(False))
    deferred.addBoth(lambda _: end(True))
    try:
        return await waiting
    except CancelledError:
        return False
    finally:
        timer.cancel()


class ReloadRequest:
    """
    The signals and the callers that request one reload.

    However many signals there are, the first L{_MOST_NAMED} different ones are
    recorded, and the others counted.
    """

    def __init__(self) -> None:
        #: The Deferreds of callers that wait for the reload.
        self.waiting: list[Deferred[None]] = []
        self._counts: Counter[str] = Counter()
        self._descriptions: dict[SigInfo, str] = {}
        self._more = 0

    @property
    def infos(self) -> list[SigInfo]:
        """
        The first different signals that request it.
        """
        return list(self._descriptions)

    def add(self, info: SigInfo) -> None:
        """
        Add a signal.

        Its sender is looked up now: it may have exited when the reload begins.
        """
        if info not in self._descriptions:
            if len(self._descriptions) == _MOST_NAMED:
                self._more += 1
                return
            text = describeWithCommand(info)
            self._descriptions[info] = text.replace(" claims ", ", which claims ", 1)
        self._counts[self._descriptions[info]] += 1

    def addText(self, text: str) -> None:
        """
        Add a requester that is described already.
        """
        self._counts[text] += 1

    def __bool__(self) -> bool:
        return bool(self.waiting or self._counts)

    def fail(self, failure: Failure) -> None:
        """
        Fail the Deferreds of the callers.
        """
        for deferred in self.takeWaiting():
            deferred.errback(failure)

    def takeWaiting(self) -> list[Deferred[None]]:
        """
        Return the Deferreds of the callers that were not returned before.
        """
        waiting, self.waiting = self.waiting, []
        return waiting

    def __str__(self) -> str:
        named = [
            text if count == 1 else f"{text} ({count} times)"
            for text, count in self._counts.items()
        ]
        if self._more:
            named.append(f"and {self._more} more")
        return "; ".join(named)


class Reload:
    """
    A reload, or the first start of a service.
    """

    def __init__(self, number: int, request: ReloadRequest) -> None:
        """
        @param number: The number of the new generation; that of the first is 1.
        @param request: The request for it.
        """
        self.number = number
        #: Whether it is the start of the first generation of this program.
        self.isStart: bool = False
        #: The first different signals that requested it.
        self.infos: list[SigInfo] = request.infos
        self._request = request
        self._isLongLogged = False
        #: Whether the generation serves, or has failed.
        self.isOver: bool = False
        #: The reason of a failure, else C{None}.
        self.failure: Failure | None = None
        #: The state after a failure, such as C{generation 1 serves on}.
        self.remains = ""
        self._began = monotonic()
        self._ended = 0.0

    @property
    def seconds(self) -> float:
        """
        The time until the generation served or failed, or until now.
        """
        return (self._ended if self.isOver else monotonic()) - self._began

    @property
    def requester(self) -> str:
        """
        The senders of the signals: pid, command and uid, as far as known.
        """
        return str(self._request) or "the program"

    def status(self) -> dict[str, Any]:
        """
        Describe the reload, which is over, for a program.
        """
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "outcome": self.outcome,
            "seconds": round(self.seconds, 6),
            "requester": self.requester,
        }

    @property
    def outcome(self) -> str:
        """
        The outcome in one line, as the log has it.
        """
        seconds = f"{self.seconds:.3f} s"
        if self.failure is None:
            return f"reloaded in {seconds}: generation {self.number} serves"
        return f"not reloaded, after {seconds}: {self.remains}: {self.reason}"

    @property
    def reason(self) -> str:
        """
        The reason of the failure in one line, as at the end of a traceback.
        """
        assert self.failure is not None, "the reload has failed"
        return reasonOf(self.failure.value)

    def logLong(self, request: ReloadRequest) -> None:
        """
        Log that this takes long, if it does, when another reload is requested.

        Only once; L{ReloadRequest} counts the further requests.
        """
        if not self._isLongLogged and self.seconds > _LONG and not self.isOver:
            self._isLongLogged = True
            _log.info(
                "generation {number} has been starting for {seconds:.0f} s; one more"
                " reload follows it, requested by {requester}",
                number=self.number,
                seconds=self.seconds,
                requester=request,
            )

    def end(self, failure: Failure | None = None) -> None:
        """
        Note that the generation serves, or why it has failed.
        """
        self._ended = monotonic()
        self.isOver = True
        self.failure = failure


class History:
    """
    The reloads of a service.

    @ivar succeeded: How many succeeded.
    @ivar failed: How many failed.
    @ivar seconds: How long those that succeeded and those that failed have taken.
    @ivar last: The last ones, the newest last.
    """

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.seconds = {"succeeded": 0.0, "failed": 0.0}
        self.last: deque[dict[str, Any]] = deque(maxlen=10)

    def passOn(self) -> dict[str, Any]:
        """
        Describe them for the program that replaces this one.
        """
        return {**vars(self), "last": list(self.last)}

    def adopt(self, passed: dict[str, Any]) -> None:
        """
        Continue with the result of L{passOn}.
        """
        self.last.extend(passed["last"])
        vars(self).update({**passed, "last": self.last})

    def add(self, reload: Reload) -> None:
        """
        Add a reload that is over.
        """
        succeeded = reload.failure is None
        self.succeeded += succeeded
        self.failed += not succeeded
        self.seconds["succeeded" if succeeded else "failed"] += reload.seconds
        self.last.append({"succeeded": succeeded, **reload.status()})


ReloadObserver: TypeAlias = Callable[[Reload], object]


#: Prepares a change, and returns two functions: commit and rollback.  Each of
#: the three may return a Deferred or another awaitable.
Prepare: TypeAlias = Callable[[], Any]


class Transaction:
    """
    The changes of all participants in one reload, by a two-phase commit.
    """

    def __init__(
        self, participants: list[Prepare], seconds: float, reactor: Any
    ) -> None:
        """
        @param participants: Prepare the changes, such as that of a certificate or a
            pool.
        @param seconds: How long to wait for each commit and rollback.
        @param reactor: The reactor.
        """
        self._participants = participants
        self._seconds = seconds
        self._reactor = reactor
        self._prepared: list[tuple[Callable[[], Any], Callable[[], Any]]] = []

    async def prepare(self) -> None:
        """
        Prepare each change; the first that fails ends this with its error.
        """
        for prepare in list(self._participants):
            prepared = await resultOf(prepare)
            try:
                commit, rollback = prepared
            except (TypeError, ValueError):
                raise TypeError(
                    f"{nameOf(prepare)} has returned {prepared!r},"
                    " and not two callables"
                ) from None
            self._prepared.append((commit, rollback))

    async def commit(self) -> None:
        """
        Make each change.  A failure is logged: the new service serves already.
        """
        for commit, _ in self._prepared:
            await self._do(commit)

    async def rollback(self) -> None:
        """
        Give up each prepared change, the last one first.
        """
        for _, rollback in reversed(self._prepared):
            await self._do(rollback)

    async def _do(self, step: Callable[[], Any]) -> None:
        if not await firesWithin(self._seconds, attemptLater(step), self._reactor):
            name = nameOf(step)
            _log.warn("{name} does not end: no longer waiting for it", name=name)
