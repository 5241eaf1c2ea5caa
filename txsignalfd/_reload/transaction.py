# -*- test-case-name: tests.reload.test_transaction -*-
"""
L{Reload}, and those who are told of it.

L{Participants}: what changes together with a reload, or not at all.
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

#: How many of those who have asked for one reload are named.
_MOST: Final = 10

#: Seconds after which a reload is a long one.
_LONG: Final = 1.0


class Askers:
    """
    Those who ask for one reload.  Who does by a signal is looked at then, for
    later he may have ended.
    """

    def __init__(self) -> None:
        #: Those who wait for it.
        self.waiting: list[Deferred[None]] = []
        self._times: Counter[str] = Counter()
        self._told: dict[SigInfo, str] = {}

    @property
    def infos(self) -> list[SigInfo]:
        """
        Their signals, of those that are equal one.
        """
        return list(self._told)

    def add(self, info: SigInfo) -> None:
        """
        One asks, perhaps once more.
        """
        if info not in self._told:
            self._told[info] = describeWithCommand(info)
        self._times[self._told[info]] += 1

    def __bool__(self) -> bool:
        return bool(self.waiting or self._times)

    def refuse(self, failure: Failure) -> None:
        """
        There will be none, for those who wait.
        """
        for deferred in self.waiting:
            deferred.errback(failure)

    def __str__(self) -> str:
        named = [
            text if times == 1 else f"{text} ({times} times)"
            for text, times in list(self._times.items())[:_MOST]
        ]
        if len(self._times) > _MOST:
            named.append(f"and {len(self._times) - _MOST} more")
        return "; ".join(named)


class Reload:
    """
    The making of a generation.
    """

    def __init__(self, number: int, askers: Askers) -> None:
        """
        @param number: The number of the generation; that of the first is 1.
        @param askers: Those whose signals have asked for it.
        """
        self.number = number
        #: Their signals, of those that are equal one.
        self.infos: list[SigInfo] = askers.infos
        self._askers = askers
        #: Whether the generation serves, or has failed.
        self.isOver: bool = False
        #: Why it has failed; C{None} while it has not.
        self.failure: Failure | None = None
        #: What holds then, such as C{generation 1 serves on}.
        self.remains = ""
        self._began = monotonic()
        self._ended = 0.0

    @property
    def seconds(self) -> float:
        """
        How long it took until the generation served, or has taken so far.
        """
        return (self._ended if self.isOver else monotonic()) - self._began

    @property
    def asker(self) -> str:
        """
        Who has asked for it: pid, command and uid, as far as they are known.
        """
        return str(self._askers) or "the program"

    @property
    def reason(self) -> str:
        """
        Why it has failed, in one line, as at the end of a traceback.
        """
        assert self.failure is not None, "it has failed"
        name = type(self.failure.value).__name__
        message = " ".join(self.failure.getErrorMessage().split())
        return f"{name}: {message}" if message else name

    def tellThatItLasts(self, askers: Askers) -> None:
        """
        Somebody asks for another one meanwhile.  If it takes long, say so.
        """
        if not self.isOver and self.seconds > _LONG:
            _log.info(
                "generation {number} has been starting for {seconds:.0f} s: one more"
                " reload when that is over, asked for by {askers}",
                number=self.number,
                seconds=self.seconds,
                askers=askers,
            )

    def ended(self, failure: Failure | None = None) -> None:
        """
        The generation serves, or has failed.
        """
        self._ended = monotonic()
        self.isOver = True
        self.failure = failure


Watcher: TypeAlias = Callable[[Reload], object]


class Watchers:
    """
    Those who are told.
    """

    def __init__(self) -> None:
        self._watchers: list[tuple[Watcher, Watcher]] = []

    def add(self, before: Watcher, after: Watcher) -> None:
        """
        Tell somebody, after those who are told already.
        """
        self._watchers.append((before, after))

    def before(self, reload: Reload) -> None:
        """
        The generation will be made.
        """
        for watcher, _ in list(self._watchers):
            self._tell(watcher, reload)

    def after(self, reload: Reload) -> None:
        """
        It serves, or has failed.
        """
        for _, watcher in list(self._watchers):
            self._tell(watcher, reload)

    def _tell(self, watcher: Watcher, reload: Reload) -> None:
        try:
            watcher(reload)
        except Exception:
            _log.failure("{watcher!r} has failed", watcher=watcher)


#: Has something ready, and returns what makes it so and what gives it up.  It may
#: return a Deferred, or be a coroutine function; so may these two.
Prepare: TypeAlias = Callable[[], Any]


async def result(value: Any) -> Any:
    """
    @return: The value, or what it comes to when it is awaitable.
    """
    return await toDeferred(value) if isawaitable(value) else value


class Participants:
    """
    Those who take part in each reload, such as a certificate or a pool.
    """

    def __init__(self) -> None:
        self._prepares: list[Prepare] = []
        self._prepared: list[tuple[Callable[[], Any], Callable[[], Any]]] = []

    def add(self, prepare: Prepare) -> None:
        """
        Have one more take part, after those that do already.
        """
        self._prepares.append(prepare)

    async def prepare(self) -> None:
        """
        Have each get ready; the first that cannot ends this with its error.
        """
        for prepare in list(self._prepares):
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
        What was prepared holds from now on.  One that fails is logged, for it
        is too late to go back.
        """
        prepared, self._prepared = self._prepared, []
        for commit, _ in prepared:
            await self._do(commit)

    async def rollback(self) -> None:
        """
        What was prepared is given up, the last first.
        """
        prepared, self._prepared = self._prepared, []
        for _, rollback in reversed(prepared):
            await self._do(rollback)

    async def _do(self, step: Callable[[], Any]) -> None:
        try:
            await result(step())
        except Exception:
            _log.failure("{step!r} has failed", step=step)
