# -*- test-case-name: tests.workers.test_options -*-
"""
The effects of C{--workers} of C{twistd signalfd}, in the supervisor and in a worker.
"""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Any, Final

from twisted.python.reflect import fullyQualifiedName
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from txsignalfd._twistd.making import START, WorkerSettings
from txsignalfd._workers.membership import membership

if TYPE_CHECKING:
    from txsignalfd._workers.worker import Worker

#: Options of twistd that are the supervisor's.
OF_SUPERVISOR: Final = ("pidfile", "logfile", "syslog", "debug")


class Unparsed(UsageOptions):
    """
    The options of a plugin in the supervisor, which leaves them to its workers.
    """

    def parseOptions(self, options: list[str] | None = None) -> None:
        """
        Parse nothing.
        """


def becomeWorker(twistd: Any) -> Worker | None:
    """
    Stay a child of the supervisor, which writes the log and the pidfile.

    @param twistd: The options of twistd.
    @return: The connection to the supervisor, or C{None} if this is no worker.
    """
    place = membership()
    if place is None:
        return None
    from twisted.internet import reactor

    from txsignalfd._workers.worker import Worker
    from txsignalfd._workers.workerlog import observer

    for option in OF_SUPERVISOR:
        twistd[option] = None
    # A plugin may expect that it is a string.
    twistd["pidfile"] = ""
    twistd["nodaemon"] = True
    twistd["logger"] = fullyQualifiedName(observer)
    return Worker(place, reactor)


def resumeSupervisor(twistd: Any) -> str:
    """
    Keep the pidfile, and stay in the foreground, in an upgrade or its trial.

    @param twistd: The options of twistd.
    @return: The pidfile, which names this process already, and which twistd must not
        find before the service is made.
    """
    # twistd enters the directory of --rundir before it writes and removes the file.
    pidfile = os.path.abspath(twistd["pidfile"]) if twistd["pidfile"] else ""
    twistd["pidfile"] = ""
    if not twistd["nodaemon"]:
        twistd["nodaemon"] = True
        twistd["logfile"] = twistd["logfile"] or "twistd.log"
    return pidfile


def becomeSupervisor(twistd: Any) -> None:
    """
    Leave the options that apply to workers to the workers, which parse them again.

    @param twistd: The options of twistd.
    @raise UsageError: If there can be no workers.
    """
    if twistd is None or "nodaemon" not in twistd:
        raise UsageError("--workers: only with twistd")
    if twistd["chroot"]:
        raise UsageError("--workers: not with --chroot of twistd")
    twistd["uid"] = twistd["gid"] = None


def workerSettings(options: Any) -> WorkerSettings:
    """
    Return the settings of the workers.

    @param options: The options of C{twistd signalfd}.
    """
    limits = (options[each] for each in ("worker-timeout", "max-memory", "max-age"))
    return WorkerSettings(
        options["workers"],
        START if options["start-timeout"] is None else options["start-timeout"],
        [inf if limit is None else limit for limit in limits],
        options.interpreter,
        inf if options["spare-workers"] is None else options["spare-workers"],
        options["environment-file"] or "",
    )


def watchedBy(options: Any) -> list[str] | None:
    """
    Return the files to watch besides the loaded modules, or C{None} to watch none.

    @param options: The options of C{twistd signalfd}.
    """
    if not (options["watch"] or options["watch-path"]):
        return None
    paths = list(options["watch-path"] or ())
    if options.application is not None:
        paths.append(os.path.abspath(options.application.tapname))
    return paths
