# -*- test-case-name: tests.twistd.test_actions -*-
"""
What C{--on SIGNAL=ACTION} says.
"""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any, Final, NamedTuple

from twisted.python.reflect import ModuleNotFound, ObjectNotFound, namedAny

from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._native.names import signalName, signalNumber

#: What needs no more than its name.
PLAIN: Final = ("reload", "stop", "quit", "rotate", "report", "ignore")


class Action(NamedTuple):
    """
    What a signal does.
    """

    #: One of L{PLAIN}, C{call} or C{run}.
    name: str
    #: The name of the function, or the command.
    argument: str = ""
    #: The function.
    function: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


#: What signals do when nothing is said.
DEFAULTS: Final = {
    int(SIGHUP): Action("reload"),
    int(SIGTERM): Action("stop"),
    int(SIGINT): Action("stop"),
    int(SIGQUIT): Action("quit"),
    int(SIGUSR1): Action("rotate"),
    int(SIGUSR2): Action("report"),
}


def parseOn(text: str) -> tuple[int, Action]:
    """
    Read what C{--on} is given.

    @param text: C{HUP=reload}, C{USR2=call:module.function},
        C{RTMIN+1=run:COMMAND}.
    @return: The signal's number, and what it does.
    @raise ValueError: With a message for the user.
    """
    signal, equals, action = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not SIGNAL=ACTION")
    (signo,) = checkWatchable([signalNumber(signal.strip())])
    return signo, _parseAction(action.strip())


def _parseAction(text: str) -> Action:
    name, colon, argument = text.partition(":")
    if name in PLAIN and not colon:
        return Action(name)
    if name == "run" and argument.strip():
        return Action(name, argument)
    if name == "call" and argument:
        return Action(name, argument, _function(argument))
    raise ValueError(
        f"{text!r} is none of {', '.join(PLAIN)}, call:MODULE.FUNCTION and run:COMMAND"
    )


def _function(name: str) -> Callable[..., Any]:
    try:
        function = namedAny(name)
    except (ModuleNotFound, ObjectNotFound) as error:
        module = name.partition(".")[0]
        raise ValueError(
            f"call:{name}: there is no module {module}: is it in PYTHONPATH?"
        ) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"call:{name} cannot be imported: {why}") from error
    if not callable(function):
        raise ValueError(f"call:{name} is no function")  # noqa: TRY004
    return function  # type: ignore[no-any-return]


def describeActions(actions: dict[int, Action]) -> str:
    """
    A line for the log.
    """
    return ", ".join(
        f"{signalName(signo)}={action}" for signo, action in sorted(actions.items())
    )
