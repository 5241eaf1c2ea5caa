# -*- test-case-name: tests.workers.test_membership -*-
"""
L{Membership}: the place of a worker, which its environment names.

The supervisor starts each worker by its own command line.  One variable of the
environment tells the new process that it is a worker, and which of its descriptors
leads to the supervisor.  The variable is removed when it is read, because a program
that the worker starts is no worker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

_VARIABLE: Final = "TXSIGNALFD_WORKER"


class Membership(NamedTuple):
    """
    The place of a worker among the others.

    @ivar number: Its number, from 1.  A worker that replaces another one has the
        number of that one.  A spare worker has 0, until it gets a number.
    @ivar supervisor: The pid of the supervisor.
    @ivar descriptor: The worker's end of the channel to the supervisor.
    @ivar inherited: The descriptors that systemd has passed to the supervisor.
    @ivar names: Their names.
    """

    number: int
    supervisor: int
    descriptor: int
    inherited: Sequence[int] = ()
    names: Sequence[str] = ()

    def variables(self) -> dict[str, str]:
        """
        Return the environment that makes a new process a worker.
        """
        return {_VARIABLE: json.dumps(self._asdict())}


@cache
def membership() -> Membership | None:
    """
    Return the place of this process as a worker, or C{None} if it is no worker.

    @raise SystemExit: If the supervisor has ended already.
    """
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    found = Membership(**json.loads(text))
    if found.supervisor != os.getppid():
        raise SystemExit("txsignalfd: the supervisor of this worker has ended")
    for descriptor in (found.descriptor, *found.inherited):
        os.set_inheritable(descriptor, False)
    return found


def workerNumber() -> int:
    """
    Return the number of this worker, from 1, or 1 in a program without workers.

    Code that only one process may run, such as a periodic job, belongs to worker 1.
    A worker that replaces another one, after a reload or a crash, has the number of
    that one.  During a reload the old and the new worker both live for a while.
    """
    found = membership()
    return 1 if found is None else found.number
