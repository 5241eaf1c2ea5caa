# -*- test-case-name: tests.test_watchers -*-
"""
L{Reload}, and those who are told of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd.sender import describeWithCommand
from txsignalfd.siginfo import SigInfo

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

    _log = Logger()

    def __init__(self, number: int, askers: Askers) -> None:
        """
        @param number: The number of the generation; that of the first is 1.
        @param askers: Those whose signals have asked for it.
        """
        self.number = number
        #: Their signals, of those that are equal one.
        self.infos = askers.infos
        self._askers = askers
        #: Whether the generation serves, or has failed.
        self.isOver = False
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
            self._log.info(
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

    _log = Logger()

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
            self._log.failure("{watcher!r} has failed", watcher=watcher)
