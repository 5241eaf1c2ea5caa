# -*- test-case-name: tests.twistd.test_actions -*-
"""
L{Settings}: how a daemon acts on signals, drains and stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

from txsignalfd._twistd.actions import Action, On, parseActions

#: Seconds that open connections have to drain, by default.
DRAIN: Final = 30.0


class Settings(NamedTuple):
    """
    How a daemon acts on signals, drains and stops.
    """

    #: The actions that differ from the defaults, by signal.
    on: Mapping[int, Action]
    #: Seconds that open connections have to drain at a reload.
    drain: float = DRAIN
    #: Seconds that open connections have to drain at a stop.
    stopTimeout: float = DRAIN
    #: Whether a reload stops the old service before it makes the new one.
    stopFirst: bool = False
    #: The endpoint where metrics are served, or an empty string.
    metrics: str = ""


def checkSettings(
    on: On = (),
    drain: float = DRAIN,
    stopTimeout: float = DRAIN,
    stopFirst: bool = False,
    metrics: str = "",
) -> Settings:
    """
    Return the settings that a program chooses.

    @raise ValueError: For an unknown signal or action, or a wrong time.
    """
    return Settings(
        parseActions(on),
        checkSeconds("drain", drain),
        checkSeconds("stopTimeout", stopTimeout),
        stopFirst,
        metrics,
    )


def checkSeconds(name: str, value: float | str) -> float:
    """
    Return a time as a number of seconds.

    @param name: The name of the option or the argument.
    @raise ValueError: If it is negative, infinite or no number.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1
    if 0 <= seconds < inf:
        return seconds
    raise ValueError(f"{name}: expected a number of seconds, 0 or more, got {value!r}")
