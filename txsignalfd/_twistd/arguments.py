# -*- test-case-name: tests.twistd.test_tap -*-
"""
Parse the arguments of options of C{twistd signalfd}.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.python.usage import UsageError

from txsignalfd._twistd.actions import parseSignal
from txsignalfd._twistd.making import parseCount
from txsignalfd._twistd.serviceoptions import SERVICE_OPTIONS, ServiceOption
from txsignalfd._twistd.settings import checkSeconds


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


def watchedPaths(name: str, text: str) -> list[str]:
    """
    Parse a list of paths.

    @param name: The name of the option.
    @raise UsageError: If a path does not exist.
    """
    paths = [os.path.abspath(each) for each in text.split(os.pathsep) if each]
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"{name}: {path} does not exist")
    return paths


def _memorySize(name: str, text: str) -> int:
    from txsignalfd._workers.limits import parseSize

    try:
        return parseSize(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name}: expected a number, 0 or more, got {text!r}")
    return int(text)


def _path(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name}: expected the path of a file, got nothing")
    return text


def _metricsEndpoint(name: str, text: str) -> str:
    from txsignalfd._twistd.metrics import checkInstalled

    checkInstalled()
    return text


#: Parse a value, by its kind, or raise C{ValueError} or C{UsageError}.
_PARSERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "SECONDS": checkSeconds,
    "N": parseCount,
    "NUMBER": _number,
    "SIZE": _memorySize,
    "PATHS": watchedPaths,
    "FILE": _path,
    "ENDPOINT": _metricsEndpoint,
}


def parseValue(option: ServiceOption, text: str) -> Any:
    """
    Parse the value of an option.

    @raise UsageError: If it is not of the kind that the option has.
    """
    try:
        return _PARSERS[option.kind](f"--{option.name}", text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def twistdFlags() -> list[list[Any]]:
    """
    Return the flags of C{SERVICE_OPTIONS}, as C{optFlags} of twistd has them.
    """
    return [[each.name, None, _help(each)] for each in SERVICE_OPTIONS if not each.kind]


def twistdParameters() -> list[list[Any]]:
    """
    Return the options with a value, as C{optParameters} of twistd has them.
    """
    return [
        [each.name, None, None, _help(each), partial(parseValue, each)]
        for each in SERVICE_OPTIONS
        if each.kind
    ]


def _help(option: ServiceOption) -> str:
    return f"with --workers: {option.help}" if option.ofWorkers else option.help


def documented(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Return a decorator that sets the help of an option, which is no literal.

    twistd shows the docstring of the method that parses the option.
    """

    def decorate(method: Callable[..., None]) -> Callable[..., None]:
        method.__doc__ = text
        return method

    return decorate
