"""
L{Resources} and L{Triggers}: what one generation owns.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from tests.support.observers import Logged
from tests.support.reactors import spin
from txsignalfd._reload.generation import Resources, Triggers


class Connection:
    """
    A connection in a reference cycle.
    """

    def __init__(self) -> None:
        self.protocol = self


@pytest.mark.parametrize("collected", [False, True])
def test_aDroppedConnectionIsNotWaitedFor(collected: bool) -> None:
    """
    Inetd drops connections that it passes to children.
    """
    resources = Resources()
    resources.opened(Connection())
    waited = resources.whenQuiet()
    assert not waited.called
    if collected:
        gc.collect()
        assert not waited.called
    resources.collect()
    assert waited.called
    assert resources.isQuiet


def test_triggersFireOnceInTheReactorsOrder(logged: Logged) -> None:
    """
    A removed one does not fire, and one that fails stops no other.
    """
    done: list[str] = []

    async def main(reactor: Any) -> None:
        triggers = Triggers()

        def add(phase: str, call: Any) -> Any:
            identity = reactor.addSystemEventTrigger(phase, "shutdown", call)
            triggers.add(phase, identity, call)
            return identity

        def slowly() -> Deferred[None]:
            later: Deferred[None] = deferLater(reactor, 0)
            return later.addCallback(lambda _: done.append("during"))

        add("after", partial(done.append, "after"))
        add("during", slowly)
        add("before", lambda: fail(RuntimeError("it fails")))
        add("before", partial(done.append, "before"))
        removed = add("before", partial(done.append, "removed"))
        reactor.removeSystemEventTrigger(removed)
        await triggers.fire(reactor)
        assert done == ["before", "during", "after"]
        await triggers.fire(reactor)
        add("after", partial(done.append, "left"))
        triggers.leave()
        await triggers.fire(reactor)

    spin(main)
    # The reactor has stopped, and has fired the one that was left to it.
    assert done == ["before", "during", "after", "left"]
    failures = [event["log_failure"] for event in logged if "log_failure" in event]
    assert [failure.getErrorMessage() for failure in failures] == ["it fails"]
