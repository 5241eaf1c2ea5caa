# -*- test-case-name: tests.twistd.test_actions -*-
"""
The actions of C{--on SIGNAL=ACTION}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from signal import (
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    SIGTTIN,
    SIGTTOU,
    SIGUSR1,
    SIGUSR2,
    Signals,
)
from typing import Any, Final, NamedTuple, TypeAlias

from twisted.python.reflect import ModuleNotFound, ObjectNotFound, namedAny

from txsignalfd._kernel.callables import nameOf
from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._native.names import signalName, signalNumber

#: Actions without an argument.
SIMPLE: Final = (
    "reload",
    "stop",
    "quit",
    "rotate",
    "upgrade",
    "report",
    "ignore",
    "leave",
    "add-worker",
    "remove-worker",
)

#: Seconds within which a repeated stop signal is the same request.  systemd signals
#: every process of a unit, and a wrapper forwards that to the daemon.
REPEAT: Final = 0.5


class Action(NamedTuple):
    """
    The action of a signal: its name, and the argument of C{call} or C{run}.
    """

    #: One of L{SIMPLE}, C{call} or C{run}.
    name: str
    #: The dotted name of the function, or the shell command.
    argument: str = ""
    #: The function to call.
    function: Callable[..., Any] | None = None

    @property
    def isStop(self) -> bool:
        """
        Whether the daemon ends.
        """
        return self.name in ("stop", "quit")

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


#: The actions of signals without C{--on}.
DEFAULTS: Final = {
    int(SIGHUP): Action("reload"),
    int(SIGTERM): Action("stop"),
    int(SIGINT): Action("stop"),
    int(SIGQUIT): Action("quit"),
    int(SIGUSR1): Action("rotate"),
    int(SIGUSR2): Action("report"),
}

#: The actions of further signals in a supervisor of workers.
SUPERVISOR_DEFAULTS: Final = {
    int(SIGTTIN): Action("add-worker"),
    int(SIGTTOU): Action("remove-worker"),
}

#: The signals that a supervisor does not pass on to its workers if they are left to
#: the program: they end it, and its workers with it, or tell it that one has ended.
KEPT_BY_SUPERVISOR: Final = frozenset({SIGTERM, SIGINT, SIGQUIT, SIGCHLD})


#: The actions of signals as a program names them: C{{"USR2": "rotate"}}, with a
#: function in place of an action, or C{["USR2=rotate"]}.
On: TypeAlias = Mapping[Any, str | Callable[..., Any]] | Iterable[str]


def parseActions(on: On) -> dict[int, Action]:
    """
    Parse the actions that a program chooses.

    @param on: A mapping from signals, by name or number, to actions or functions,
        or the arguments of C{--on}.
    @raise ValueError: With a message for the user.
    """
    if isinstance(on, str):
        on = [on]
    if not isinstance(on, Mapping):
        return dict(map(parseOn, on))
    return {_signalOf(signal): _actionOf(action) for signal, action in on.items()}


def _signalOf(signal: str | int) -> int:
    if isinstance(signal, str):
        return parseSignal(signal)
    (signo,) = checkWatchable([signal])
    return signo


def _actionOf(action: str | Callable[..., Any]) -> Action:
    if isinstance(action, str):
        return _parseAction(action)
    if callable(action):
        return Action("call", nameOf(action), action)
    raise TypeError(f"expected an action or a function, got {action!r}")


def parseOn(text: str) -> tuple[int, Action]:
    """
    Parse the argument of C{--on}.

    @param text: C{HUP=reload}, C{USR2=call:module.function} or
        C{RTMIN+1=run:COMMAND}.
    @return: The number of the signal, and its action.
    @raise ValueError: With a message for the user.
    """
    signal, equals, action = text.partition("=")
    if not equals:
        raise ValueError(f"expected SIGNAL=ACTION, got {text!r}")
    return parseSignal(signal), _parseAction(action.strip())


def parseSignal(text: str) -> int:
    """
    Parse the name or the number of a signal.

    @raise ValueError: If it is unknown or cannot be watched.
    """
    name = text.strip()
    try:
        number = signalNumber(name)
    except ValueError as error:
        length = 0 if name.upper().startswith("SIG") else len("SIG")
        known = (signal.name[length:] for signal in Signals)
        from txsignalfd._twistd.usage import nearest

        raise ValueError(f"{error}{nearest(name, known)}") from None
    (signo,) = checkWatchable([number])
    return signo


def _parseAction(text: str) -> Action:
    name, colon, argument = text.partition(":")
    if name in SIMPLE and not colon:
        return Action(name)
    if name == "run" and argument.strip():
        return Action(name, argument)
    if name == "call" and argument:
        return Action(name, argument, _function(argument))
    from txsignalfd._twistd.usage import nearest

    raise ValueError(
        f"unknown action {text!r}: expected {', '.join(SIMPLE)},"
        f" call:MODULE.FUNCTION or run:COMMAND{nearest(name, SIMPLE)}"
    )


def _function(name: str) -> Callable[..., Any]:
    try:
        function = namedAny(name)
    except (ModuleNotFound, ObjectNotFound) as error:
        module = name.partition(".")[0]
        raise ValueError(
            f"call:{name}: no module named {module!r} (is it in PYTHONPATH?)"
        ) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"call:{name}: the import failed: {why}") from error
    if not callable(function):
        raise ValueError(f"call:{name}: not a function")  # noqa: TRY004
    return function  # type: ignore[no-any-return]


def describeActions(actions: dict[int, Action]) -> str:
    """
    Return the actions of all signals as one line for the log.
    """
    return ", ".join(
        f"{signalName(signo)}={action}" for signo, action in sorted(actions.items())
    )
