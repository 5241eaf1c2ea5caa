# -*- test-case-name: tests.twistd.test_tap -*-
"""
Parse the arguments of options of C{twistd signalfd}.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.usage import UsageError

from txsignalfd._twistd.actions import parseSignal


def signalNumbers(names: str) -> list[int]:
    """
    Parse the argument of C{--signals}.

    @param names: Names or numbers of signals, separated by commas.
    @raise UsageError: For an unknown signal, or one that cannot be watched.
    """
    try:
        return [parseSignal(name) for name in names.split(",")]
    except ValueError as error:
        raise UsageError(f"--signals: {error}") from None


def metricsEndpoint(text: str) -> str:
    """
    Parse the argument of C{--metrics}.

    @raise UsageError: If metrics cannot be served.
    """
    from txsignalfd._twistd.metrics import checkInstalled

    try:
        checkInstalled()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return text


def documented(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Return a decorator that sets the help of an option, which is no literal.

    twistd shows the docstring of the method that parses the option.
    """

    def decorate(method: Callable[..., None]) -> Callable[..., None]:
        method.__doc__ = text
        return method

    return decorate
