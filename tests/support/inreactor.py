"""
Run a test that is a coroutine function in a reactor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import pytest

from tests.support.reactors import KINDS, spin
from tests.support.worlds import dispatcherFor

Test = Callable[..., Coroutine[Any, Any, object]]

#: The arguments that are made for the test; all others are fixtures.
_MADE = ("reactor", "dispatcher")


def _inReactor(test: Test, parameters: tuple[str, ...]) -> Callable[..., None]:
    wanted = signature(test).parameters
    fixtures = [each for name, each in wanted.items() if name not in _MADE]
    added = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)
        for name in parameters
        if name not in wanted
    ]

    @wraps(test)
    def run(**given: Any) -> None:
        kind, inThread = given.get("kind", "epoll"), given.get("inThread", False)
        for parameter in added:
            del given[parameter.name]

        async def main(reactor: Any) -> None:
            made = {"reactor": reactor} if "reactor" in wanted else {}
            if "dispatcher" not in wanted:
                await test(**made, **given)
                return
            dispatcher = made["dispatcher"] = dispatcherFor(reactor)
            try:
                await test(**made, **given)
            except BaseException:
                # The test does not finish what close would wait for.
                dispatcher.close()
                raise
            await dispatcher.close()

        spin(main, kind, inThread)

    run.__signature__ = signature(test).replace(  # type: ignore[attr-defined]
        parameters=[*fixtures, *added], return_annotation=None
    )
    del run.__wrapped__
    return run


def inReactor(test: Test) -> Callable[..., None]:
    """
    Run the test in an epoll reactor.

    The argument C{reactor} is that reactor, also L{currentReactor
    <tests.support.reactors.currentReactor>}, and C{dispatcher} its dispatcher, which is
    closed after the test.  All other arguments are fixtures; C{kind} and C{inThread}
    also choose the reactor and its thread.
    """
    return _inReactor(test, ())


def inEveryReactor(test: Test) -> Callable[..., None]:
    """
    Run the test in each kind of reactor, in the main thread and in another.

    See L{inReactor} for the arguments.
    """
    run = _inReactor(test, ("kind", "inThread"))
    everyKind = pytest.mark.parametrize("kind", list(KINDS))
    eachThread = pytest.mark.parametrize(
        "inThread", [False, True], ids=["main thread", "other thread"]
    )
    marked: Callable[..., None] = eachThread(everyKind(run))
    return marked
