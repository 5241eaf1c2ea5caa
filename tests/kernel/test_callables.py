"""
L{nameOf}: names of handlers in logs and reports.
"""

from __future__ import annotations

from functools import partial
from signal import SIGUSR1
from typing import Any, cast

import pytest
from twisted.internet.task import LoopingCall

from txsignalfd import EventDescriptor, ReloadService, SignalDescriptor
from txsignalfd._kernel.callables import Named, nameOf


class Base:
    def method(self) -> None:
        pass

    @classmethod
    def make(cls) -> None:
        pass


class Derived(Base):
    def __call__(self) -> None:
        pass


class Liar:
    """
    It raises on access to every attribute.
    """

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


class Strange:
    __qualname__ = "bell\a"
    __module__ = "tests"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nameOf, "txsignalfd._kernel.callables.nameOf"),
        (partial(partial(nameOf, 1), 2), "txsignalfd._kernel.callables.nameOf"),
        (LoopingCall(partial(print)), "builtins.print"),
        (Derived().method, f"{__name__}.Derived.method"),
        (Derived.make, f"{__name__}.Derived.make"),
        (Derived(), f"{__name__}.Derived"),
        (Derived, f"{__name__}.Derived"),
        (print, "builtins.print"),
        ([].append, "builtins.list.append"),
        (lambda: None, f"{__name__}.<lambda>"),
        (eval("lambda: None", {}), "<lambda>"),  # as in a .tac file
        (Strange(), r"tests.bell\x07"),
        (Named(print, "action\a", "none"), r"action\x07"),
    ],
)
def test_aCallableHasAName(function: Any, name: str) -> None:
    assert nameOf(function) == name


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: EventDescriptor(cast(Any, None)), "callback"),
        (lambda: SignalDescriptor([SIGUSR1], cast(Any, None)), "receiver"),
        (lambda: ReloadService(cast(Any, None)), "factory"),
    ],
)
def test_anObjectThatCannotBeCalledIsRefusedAtOnce(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"the {name} None cannot be called"):
        make()


def test_aCallableThatRaisesHasNoName() -> None:
    """
    Its name is needed to log its failures.
    """
    assert nameOf(Liar()) == "(unknown)"
