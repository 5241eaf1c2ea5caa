"""
L{Resources}: the ports and connections of one generation.
"""

from __future__ import annotations

import gc

import pytest

from txsignalfd._reload.resources import Resources


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
