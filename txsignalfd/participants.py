# -*- test-case-name: tests.test_reload -*-
"""
L{Participants}: what changes together with a reload, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, TypeAlias

from twisted.logger import Logger

from txsignalfd.run import toDeferred

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

    _log = Logger()

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
            self._log.failure("{step!r} has failed", step=step)
