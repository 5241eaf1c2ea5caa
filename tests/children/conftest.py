"""
Fixtures for tests of child processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(params=["pidfds", "no pidfds"])
def anyKernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Run the test with pidfds, and as on a kernel without pidfd_open(2).
    """

    def pidfdOpen(pid: int) -> int:
        raise OSError(38, "no such system call")

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no pidfds":
            patch.setattr(os, "pidfd_open", pidfdOpen)
        yield
