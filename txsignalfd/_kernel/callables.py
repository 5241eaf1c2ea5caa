# -*- test-case-name: tests.kernel.test_callables -*-
"""
L{nameOf}: the name of a handler or another callable, for logs and reports.

L{Named}: a callable with a name of its own.

L{checkCallable}: refuse an object that cannot be called, before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.python.reflect import safe_repr

from txsignalfd._proc.quoting import printable

#: The name of an object that raises when it is inspected.
UNKNOWN: Final = "(unknown)"


class Named(partial[Any]):
    """
    A callable with a name, and advice for a user who wants something else.
    """

    #: The name that L{nameOf} returns.
    name: str
    #: How to have another handler called.
    advice: str

    # typing.Self is new in Python 3.11.
    def __new__(  # noqa: PYI034
        cls, function: Callable[..., Any], name: str, advice: str
    ) -> Named:
        """
        Give a function a name and advice.
        """
        self = super().__new__(cls, function)
        self.name, self.advice = printable(name), advice
        return self


def checkCallable(function: object, what: str) -> None:
    """
    Check that a function of the user can be called.

    @param what: Its purpose, such as C{handler}.
    @raise TypeError: If it cannot be called.
    """
    if not callable(function):
        raise TypeError(f"the {what} {safe_repr(function)} cannot be called")


def nameOf(function: object) -> str:
    """
    Return the dotted name of a callable.

    A L{Named} has its own name.  A partial or a C{LoopingCall} has the name of its
    function.  A bound method is named after its object's class, and a callable object
    has the name of its class.  This never raises.
    """
    try:
        if isinstance(function, Named):
            return function.name
        while isinstance(function, (partial, LoopingCall)):
            function = function.func if isinstance(function, partial) else function.f
        name = getattr(function, "__qualname__", None)
        owner = getattr(function, "__self__", None)
        if not isinstance(name, str):
            return _classOf(function)
        if owner is None or isinstance(owner, ModuleType):
            module = getattr(function, "__module__", None)
            return printable(f"{module}.{name}" if module else name)
        # The method may be defined in a base of the object's class.
        return f"{_classOf(owner)}.{printable(name.rpartition('.')[2])}"
    except BaseException:
        return UNKNOWN


def _classOf(owner: object) -> str:
    """
    Return the name of an object's class, or of a class.
    """
    found = owner if isinstance(owner, type) else type(owner)
    return printable(f"{found.__module__}.{found.__qualname__}")
