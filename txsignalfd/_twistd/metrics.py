# -*- test-case-name: tests.twistd.test_metrics -*-
"""
The metrics of a daemon, for Prometheus.

L{metricsService} serves them by prometheus-client's own resource for Twisted.  The
listener belongs to the daemon, not to a generation: a reload does not touch it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from operator import itemgetter
from typing import Any, Final

from twisted.application import strports
from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import INTERNAL_SERVER_ERROR
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

_log: Final = Logger("txsignalfd.metrics")

#: The states of generations that are always shown.
_STATES: Final = ("serves", "drains")

#: The metrics of each worker: their help, and how to find the value.
_OF_WORKERS: Final[dict[str, tuple[str, Callable[[dict[str, Any]], float]]]] = {
    "busy": ("1 if it has not answered", lambda each: each["state"] == "is busy"),
    "connections": ("Open connections", itemgetter("connections")),
    "memory_bytes": ("Resident memory", itemgetter("memory")),
    "uptime_seconds": ("The time since its start", itemgetter("uptime")),
}


class Collector:
    """
    Converts the status of a daemon to metrics.

    prometheus-client calls it in a thread of the reactor's thread pool.

    @ivar status: The status, as C{txsignalfd status --json} shows it.
    """

    status: dict[str, Any]

    def collect(self) -> Iterator[Any]:
        """
        Yield the metrics.
        """
        from prometheus_client import core

        status, reloads = self.status, self.status["reloads"]
        version = {"version": status["version"]}
        yield core.InfoMetricFamily("txsignalfd", "The version", value=version)
        text = "The time since the daemon was made"
        yield _family("Gauge", "uptime_seconds", text, [(status["uptime"],)])
        seconds = reloads["seconds"]
        counts = [(each, reloads[each]) for each in seconds]
        yield _family("Counter", "reloads", "Reloads by outcome", counts, "outcome")
        text = "The time that reloads have taken, by outcome"
        sums = [(each, reloads[each], total) for each, total in seconds.items()]
        yield _family("Summary", "reload_duration_seconds", text, sums, "outcome")
        generations = Counter(dict.fromkeys(_STATES, 0))
        connections = Counter(dict.fromkeys(_STATES, 0))
        for each in status["generations"]:
            generations[each["state"]] += 1
            connections[each["state"]] += each["connections"]
        for name, states in (
            ("generations", generations),
            ("connections", connections),
        ):
            text = f"{name.title()} by state"
            yield _family("Gauge", name, text, states.items(), "state")
        received = [(each["name"], each["received"]) for each in status["signals"]]
        text = "Signals received"
        yield _family("Counter", "signals_received", text, received, "signal")
        if status["childCount"] is not None:
            children = [(status["childCount"],)]
            yield _family("Gauge", "children", "Child processes", children)
        count = [(len(status["workers"]),)]
        yield _family("Gauge", "workers", "Worker processes", count)
        yield from self._workers()

    def _workers(self) -> Iterator[Any]:
        workers = self.status["workers"]
        for name, (text, valueOf) in _OF_WORKERS.items():
            rows = [(each["number"], each["pid"], valueOf(each)) for each in workers]
            yield _family("Gauge", f"worker_{name}", text, rows, "worker", "pid")


def _family(
    kind: str, name: str, text: str, rows: Iterable[Sequence[Any]], *labels: str
) -> Any:
    """
    Return a metric of prometheus-client.

    @param rows: The values of the labels, and then those of the metric.
    """
    from prometheus_client import core

    family = getattr(core, f"{kind}MetricFamily")(
        f"txsignalfd_{name}", text, labels=labels
    )
    for row in rows:
        ofLabels, values = row[: len(labels)], row[len(labels) :]
        family.add_metric(list(map(str, ofLabels)), *values)
    return family


def checkInstalled() -> None:
    """
    Check that prometheus-client is installed.

    @raise ValueError: If it is not.
    """
    if find_spec("prometheus_client") is None:
        raise ValueError(
            "--metrics: prometheus-client is missing; pip install 'txsignalfd[metrics]'"
        )


class _MetricsResource(Resource):
    """
    Answers with the metrics, when the status of the daemon is known.
    """

    isLeaf = True

    def __init__(self, status: Callable[[], Deferred[dict[str, Any]]]) -> None:
        super().__init__()
        from prometheus_client import CollectorRegistry
        from prometheus_client.twisted import MetricsResource

        self._status = status
        self._collector = Collector()
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._metrics = MetricsResource(registry)

    def render(self, request: Any) -> Any:
        def answer(status: dict[str, Any]) -> None:
            if not isLost:
                self._collector.status = status
                # It answers in a later turn.
                self._metrics.render(request)

        def failed(failure: Failure) -> None:
            _log.failure("the metrics cannot be determined", failure)
            if not isLost:
                request.setResponseCode(INTERNAL_SERVER_ERROR)
                request.finish()

        isLost: list[object] = []
        request.notifyFinish().addErrback(isLost.append)
        self._status().addCallback(answer).addErrback(failed)
        return NOT_DONE_YET


class _QuietSite(Site):
    noisy = False

    def log(self, request: Any) -> None:
        """
        Do not log a request: there is one every few seconds.
        """


def metricsService(
    endpoint: str, status: Callable[[], Deferred[dict[str, Any]]]
) -> IService:
    """
    Return a service that serves metrics at C{/metrics}.

    @param endpoint: Where to listen, such as C{tcp:9101:interface=127.0.0.1}.
    @param status: Finds the status of the daemon, in the reactor's thread.
    @raise ValueError: If prometheus-client is missing, or for a wrong endpoint.
    """
    checkInstalled()
    root = Resource()
    root.putChild(b"metrics", _MetricsResource(status))
    try:
        return strports.service(endpoint, _QuietSite(root))
    except ValueError as error:
        raise ValueError(f"--metrics: {error}") from None
