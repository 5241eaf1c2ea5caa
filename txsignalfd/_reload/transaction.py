# -*- test-case-name: tests.reload.test_transaction -*-
"""
One reload: who requested it, who observes it, and what changes with it.

L{ReloadRequest} collects the requesters of a L{Reload}.  L{ReloadObservers} are
called before and after it.  A L{Transaction} makes the changes of its participants
together with it, or none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from inspect import isawaitable
from time import monotonic
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.runs import toDeferred
from txsignalfd._proc.sender import describeWithCommand
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: How many requesters of one reload are named.
_MOST_NAMED: Final = 10

#: Seconds after which a reload that others wait for is reported.
_LONG: Final = 1.0


class ReloadRequest:
    """
    The signals and the callers that request one reload.
    """

    def __init__(self) -> None:
        #: The Deferreds of callers that wait for the reload.
        self.waiting: list[Deferred[None]] = []
        self._counts: Counter[str] = Counter()
        self._descriptions: dict[SigInfo, str] = {}

    @property
    def infos(self) -> list[SigInfo]:
        """
        The different signals that request it.
        """
        return list(self._descriptions)

    def add(self, info: SigInfo) -> None:
        """
        Add a signal.

        Its sender is looked up now: it may have exited when the reload begins.
        """
        if info not in self._descriptions:
            self._descriptions[info] = describeWithCommand(info)
        self._counts[self._descriptions[info]] += 1

    def __bool__(self) -> bool:
        return bool(self.waiting or self._counts)

    def fail(self, failure: Failure) -> None:
        """
        Fail the Deferreds of the callers.
        """
        for deferred in self.waiting:
            deferred.errback(failure)

    def __str__(self) -> str:
        named = [
            text if count == 1 else f"{text} ({count} times)"
            for text, count in list(self._counts.items())[:_MOST_NAMED]
        ]
        if len(self._counts) > _MOST_NAMED:
            named.append(f"and {len(self._counts) - _MOST_NAMED} more")
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
        #: The different signals that requested it.
        self.infos: list[SigInfo] = request.infos
        self._request = request
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

    #: The former name of L{requester}.
    asker = requester

    @property
    def reason(self) -> str:
        """
        The reason of the failure in one line, as at the end of a traceback.
        """
        assert self.failure is not None, "the reload has failed"
        name = type(self.failure.value).__name__
        message = " ".join(self.failure.getErrorMessage().split())
        return f"{name}: {message}" if message else name

    def logLong(self, request: ReloadRequest) -> None:
        """
        Log that this takes long, if it does, when another reload is requested.
        """
        if not self.isOver and self.seconds > _LONG:
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


ReloadObserver: TypeAlias = Callable[[Reload], object]


class ReloadObservers:
    """
    Functions that are called before and after each reload.
    """

    def __init__(self) -> None:
        self._observers: list[tuple[ReloadObserver, ReloadObserver]] = []

    def add(self, before: ReloadObserver, after: ReloadObserver) -> None:
        """
        Add a pair of observers.
        """
        self._observers.append((before, after))

    def before(self, reload: Reload) -> None:
        """
        Call the observers before the generation is made.
        """
        for observer, _ in list(self._observers):
            self._call(observer, reload)

    def after(self, reload: Reload) -> None:
        """
        Call the observers when the generation serves or has failed.
        """
        for _, observer in list(self._observers):
            self._call(observer, reload)

    def _call(self, observer: ReloadObserver, reload: Reload) -> None:
        try:
            observer(reload)
        except Exception:
            _log.failure("the observer {observer!r} has failed", observer=observer)


#: Prepares a change, and returns two functions: commit and rollback.  Each of
#: the three may return a Deferred or another awaitable.
Prepare: TypeAlias = Callable[[], Any]


async def result(value: Any) -> Any:
    """
    Return a value, or the result of an awaitable.
    """
    return await toDeferred(value) if isawaitable(value) else value


class Transaction:
    """
    The changes of all participants in one reload, by a two-phase commit.
    """

    def __init__(self, participants: list[Prepare]) -> None:
        """
        @param participants: What changes together with the service, such as a
            certificate or a pool.
        """
        self._participants = participants
        self._prepared: list[tuple[Callable[[], Any], Callable[[], Any]]] = []

    async def prepare(self) -> None:
        """
        Prepare each change; the first that fails ends this with its error.
        """
        for prepare in list(self._participants):
            prepared = await result(prepare())
            try:
                commit, rollback = prepared
            except (TypeError, ValueError):
                raise TypeError(
                    f"{prepare!r} has returned {prepared!r}, and not two callables"
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
        try:
            await result(step())
        except Exception:
            _log.failure("{step!r} has failed", step=step)
