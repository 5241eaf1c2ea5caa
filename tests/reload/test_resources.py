"""
L{Resources}: what one generation of a service has resources.
"""

from __future__ import annotations

import gc

import pytest

from txsignalfd._reload.resources import Resources


class Connection:
    """
    One that a cycle keeps.
    """

    def __init__(self) -> None:
        self.protocol = self


@pytest.mark.parametrize("already", [False, True])
def test_aConnectionThatWasLetGoOfIsNotWaitedFor(already: bool) -> None:
    """
    As inetd lets go of those that it hands to children; also where Python has
    collected it by itself.
    """
    resources = Resources()
    resources.opened(Connection())
    waited = resources.whenQuiet()
    assert not waited.called
    if already:
        gc.collect()
        assert not waited.called
    resources.collect()
    assert waited.called
    assert resources.isQuiet
