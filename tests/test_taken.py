"""
L{Taken}: what one generation of a service has taken.
"""

from __future__ import annotations

import gc

import pytest

from txsignalfd.taken import Taken


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
    taken = Taken()
    taken.opened(Connection())
    waited = taken.whenQuiet()
    assert not waited.called
    if already:
        gc.collect()
        assert not waited.called
    taken.collect()
    assert waited.called
    assert taken.isQuiet
