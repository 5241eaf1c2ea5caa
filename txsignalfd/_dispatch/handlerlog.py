# -*- test-case-name: tests.dispatch.test_handlers -*-
"""
Log messages about a handler: a failure, a signal without room, a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._kernel.callables import Named, nameOf
from txsignalfd._native.names import signalName
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")


def logFailure(handler: Callable[..., Any], info: SigInfo, failure: Failure) -> None:
    """
    Log a failure of a handler, with the signal.
    """
    _log.failure(
        "the handler {handler} failed on {info}",
        failure=failure,
        handler=nameOf(handler),
        info=info,
    )


def warnOfDrop(handler: Callable[..., Any], info: SigInfo) -> None:
    """
    Log the first signal for which there is no room.
    """
    _log.warn(
        "the handler {handler} is busy and its limit is reached, so that"
        " {info} is dropped (further ones are counted, and not logged)",
        handler=nameOf(handler),
        info=info,
    )


def warnOfGenerator(handler: Callable[..., Any], signo: int) -> None:
    """
    Log that a handler returns a generator, which nothing runs.
    """
    _log.warn(
        "the handler {handler} of {name} is a generator function, so that"
        " its body never runs: decorate it with @inlineCallbacks, or make"
        " it a coroutine function without yield",
        handler=nameOf(handler),
        name=signalName(signo),
    )


def warnOfUnhandled(info: SigInfo) -> None:
    """
    Log the first signal that is watched and has no handler.
    """
    _log.warn(
        "{info}: {name} is watched, but has no handler"
        " (further ones are counted, and not logged)",
        info=info,
        name=info.name,
    )


def explain(handlers: Sequence[Callable[..., Any]]) -> tuple[str, str]:
    """
    Return the names of a signal's handlers, and how to have another one called.
    """
    names = ", ".join(map(nameOf, handlers)) or "no handler"
    for handler in handlers:
        if isinstance(handler, Named):
            return names, handler.advice
    return names, "add it to the dispatcher, or unwatch the signal first"
