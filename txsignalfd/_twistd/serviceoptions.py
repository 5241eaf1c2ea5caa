# -*- test-case-name: tests.twistd.test_tap -*-
"""
The options that both C{twistd signalfd PLUGIN} and C{txsignalfd supervise} have.

Each is declared here only.  L{txsignalfd._twistd.arguments} parses its value.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ServiceOption(NamedTuple):
    """
    An option of both commands.
    """

    name: str
    #: The kind of its value, as the help shows it, or an empty string for a flag.
    kind: str
    help: str
    #: Whether it needs workers.
    ofWorkers: bool = False


SERVICE_OPTIONS: Final = (
    ServiceOption(
        "drain",
        "SECONDS",
        "seconds that open connections have to drain at a reload [default: 30]",
    ),
    ServiceOption(
        "stop-timeout",
        "SECONDS",
        "seconds that open connections have to drain at a stop [default: 30]",
    ),
    ServiceOption(
        "stop-first",
        "",
        "stop the old service before starting the new one, for resources that two of"
        " them cannot share; new connections wait in the listen queue",
    ),
    ServiceOption(
        "metrics",
        "ENDPOINT",
        "serve metrics for Prometheus at /metrics of this endpoint, such as"
        " tcp:9101:interface=127.0.0.1 [default: none]",
    ),
    ServiceOption(
        "workers",
        "N",
        "run the service in this number of fresh processes, or auto: as many as there"
        " are CPUs; a reload starts new ones, with the code as it is then",
    ),
    ServiceOption(
        "start-timeout",
        "SECONDS",
        "seconds that a worker has to start [default: 60]",
        ofWorkers=True,
    ),
    ServiceOption(
        "worker-timeout",
        "SECONDS",
        "replace a worker whose reactor has made no turn for this time, after the"
        " stacks of its threads were logged",
        ofWorkers=True,
    ),
    ServiceOption(
        "max-memory",
        "SIZE",
        "replace a worker that has more resident memory, such as 500M",
        ofWorkers=True,
    ),
    ServiceOption(
        "max-age",
        "SECONDS",
        "replace a worker that is older than this number of seconds",
        ofWorkers=True,
    ),
    ServiceOption(
        "spare-workers",
        "NUMBER",
        "keep at most this number of processes that have imported Twisted already, so"
        " that a reload is faster; 0 for none [default: as many as there are workers,"
        " after the first reload]",
        ofWorkers=True,
    ),
    ServiceOption(
        "environment-file",
        "FILE",
        "add the variables in this file to the environment of the workers; each reload"
        " reads it again",
        ofWorkers=True,
    ),
    ServiceOption(
        "watch",
        "",
        "reload when the file of a loaded module changes",
        ofWorkers=True,
    ),
    ServiceOption(
        "watch-path",
        "PATHS",
        "reload also when one of these files, or a file in one of these directories,"
        " changes (separated by colons)",
        ofWorkers=True,
    ),
)
