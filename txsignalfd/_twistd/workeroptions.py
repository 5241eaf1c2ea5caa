# -*- test-case-name: tests.workers.test_options -*-
"""
What C{--workers} of C{twistd signalfd} changes, in the supervisor and in a worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from twisted.python.reflect import fullyQualifiedName
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from txsignalfd._twistd.settings import checkSeconds
from txsignalfd._twistd.supervising import START, WorkerSettings, parseCount
from txsignalfd._workers.membership import membership

if TYPE_CHECKING:
    from txsignalfd._workers.worker import Worker

#: Options that mean something only if there are workers.
OF_WORKERS: Final = (
    "start-timeout",
    "worker-timeout",
    "max-memory",
    "max-age",
    "watch",
    "watch-path",
)

#: Options of twistd that are the supervisor's.
OF_SUPERVISOR: Final = ("pidfile", "logfile", "syslog", "debug")


def seconds(option: str, text: str) -> float:
    """
    Parse the argument of an option that takes a time.

    @param option: The name of the option.
    @param text: A number of seconds.
    @raise UsageError: For anything else.
    """
    try:
        return checkSeconds(option, text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def workerCount(text: str) -> Callable[[], int]:
    """
    Parse the argument of C{--workers}.

    @return: A function that returns the number of workers.
    @raise UsageError: If it is neither a positive number nor C{auto}.
    """
    try:
        return parseCount("--workers", text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def watchedPaths(text: str) -> list[str]:
    """
    Parse the argument of C{--watch-path}.

    @raise UsageError: If a path does not exist.
    """
    paths = [os.path.abspath(each) for each in text.split(os.pathsep) if each]
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"--watch-path: {path} does not exist")
    return paths


def memorySize(text: str) -> int:
    """
    Parse the argument of C{--max-memory}.

    @raise UsageError: If it is no size.
    """
    from txsignalfd._workers.limits import parseSize

    try:
        return parseSize(text)
    except ValueError as error:
        raise UsageError(f"--max-memory: {error}") from None


#: The options for workers.
PARAMETERS: Final[list[list[Any]]] = [
    [
        "workers",
        None,
        None,
        (
            "run the service in this number of fresh processes, or auto: as many"
            " as there are CPUs; a reload starts new ones, with the code as it is"
            " then"
        ),
        workerCount,
    ],
    [
        "start-timeout",
        None,
        None,
        "with --workers: seconds that a worker has to start [default: 60]",
        partial(seconds, "--start-timeout"),
    ],
    [
        "worker-timeout",
        None,
        None,
        (
            "with --workers: replace a worker whose reactor has made no turn for so"
            " many seconds, after the stacks of its threads were logged"
        ),
        partial(seconds, "--worker-timeout"),
    ],
    [
        "max-memory",
        None,
        None,
        "with --workers: replace a worker that has more memory, such as 500M",
        memorySize,
    ],
    [
        "max-age",
        None,
        None,
        "with --workers: replace a worker that is older, in seconds",
        partial(seconds, "--max-age"),
    ],
    [
        "watch-path",
        None,
        None,
        (
            "with --workers: reload also when one of these files, or a file in one of"
            " these directories, changes (separated by colons)"
        ),
        watchedPaths,
    ],
]


#: The flags for workers.
FLAGS: Final[list[list[str | None]]] = [
    [
        "watch",
        None,
        "with --workers: reload when the file of a loaded module changes",
    ],
]


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
    Stay the process that the program before was, in an upgrade or its trial.

    @param twistd: The options of twistd.
    @return: The pidfile, which names this process already, and which twistd must not
        find before the service is made.
    """
    pidfile = twistd["pidfile"] or ""
    twistd["pidfile"] = ""
    if not twistd["nodaemon"]:
        twistd["nodaemon"] = True
        twistd["logfile"] = twistd["logfile"] or "twistd.log"
    return pidfile


def becomeSupervisor(twistd: Any) -> None:
    """
    Leave what applies to workers to them, who parse the command line again.

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
