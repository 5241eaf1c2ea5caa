"""
The metrics of C{twistd signalfd --metrics}.
"""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from tests.support.clients import Web, tcp
from tests.support.daemons import commandFor, program, reload, serving
from tests.support.freeports import freePort, local
from tests.support.observers import Logged
from tests.support.served import write
from txsignalfd._twistd.metrics import Collector, metricsService
from txsignalfd.tap import Options

pytest.importorskip("prometheus_client", reason="needs the extra txsignalfd[metrics]")


def test_metricsAreServedAcrossReloads(tmp_path: Path) -> None:
    """
    Their listener, and a connection to it, belong to the daemon.
    """
    port, own = freePort(), freePort()
    write(tmp_path, listen=[local(own)])
    endpoint = local(port)
    with serving(tmp_path, f"--metrics={endpoint}", "served") as daemon:
        with closing(Web(tcp(port))) as web, closing(Web(tcp(own))) as client:
            client.get()
            before = web.get("/metrics")
            reload(daemon)
            after = web.get("/metrics")
    assert b'\ntxsignalfd_reloads_total{outcome="succeeded"} 0.0\n' in before
    assert b'\ntxsignalfd_connections{state="serves"} 1.0\n' in before
    assert b'\ntxsignalfd_reloads_total{outcome="succeeded"} 1.0\n' in after
    assert (
        b'\ntxsignalfd_reload_duration_seconds_count{outcome="failed"} 0.0\n' in after
    )
    assert b'\ntxsignalfd_signals_received_total{signal="SIGHUP"} 1.0\n' in after
    assert b"\ntxsignalfd_workers 0.0\n" in after
    assert "GET /metrics" not in daemon.output()


def test_aPortInUseIsAnError(tmp_path: Path) -> None:
    """
    The daemon does not start without the metrics that it was asked for.
    """
    write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as used:
        endpoint = f"tcp:{used.getsockname()[1]}:interface=127.0.0.1"
        command = commandFor(tmp_path, f"--metrics={endpoint}", "served")
        with program(tmp_path, *command) as daemon:
            assert daemon.wait() == 1
    assert "not started: CannotListenError" in daemon.output()


@pytest.mark.parametrize("endpoint", ["tcp:x", "nonsense:1"])
def test_aWrongEndpointIsAnError(endpoint: str) -> None:
    """
    The message names the option.
    """
    with pytest.raises(ValueError, match=r"^--metrics: .*(invalid|nonsense)"):
        metricsService(endpoint, lambda: succeed({}))


def test_withoutTheExtraTheOptionIsRefused(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The message says what to install.
    """
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    expected = r"prometheus-client is missing; pip install 'txsignalfd\[metrics\]'"
    with pytest.raises(UsageError, match=expected):
        Options().parseOptions(["--metrics=tcp:0", "web"])


def test_metricsNeedAService() -> None:
    """
    The logger of signals has none.
    """
    with pytest.raises(UsageError, match="--metrics: only with a command"):
        Options().parseOptions(["--metrics=tcp:0"])


def test_unknownChildrenAreNoMetric() -> None:
    """
    Where the system does not list them.
    """
    collector = Collector()
    status: dict[str, Any] = {
        "version": "1",
        "uptime": 1.0,
        "reloads": {"seconds": {}},
        "generations": [],
        "signals": [],
        "childCount": None,
        "workers": [],
    }
    collector.status = status
    names = {family.name for family in collector.collect()}
    assert "txsignalfd_children" not in names
    assert "txsignalfd_workers" in names


def test_aClientThatHasGoneIsNotAnswered() -> None:
    """
    The workers may take a second to answer.
    """
    status: Deferred[dict[str, Any]] = Deferred()
    service: Any = metricsService("tcp:0", lambda: status)
    resource = service.factory.resource.children[b"metrics"]
    request = DummyRequest([])
    assert resource.render(request) is NOT_DONE_YET
    request.processingFailed(Failure(ConnectionDone()))
    status.callback({})
    assert request.written == []


@pytest.mark.parametrize("isGone", [False, True])
def test_aStatusThatIsNotKnownIsAnError(isGone: bool, logged: Logged) -> None:
    """
    The client does not wait for ever, and the log has the reason.
    """
    status: Deferred[dict[str, Any]] = Deferred()
    service: Any = metricsService("tcp:0", lambda: status)
    request = DummyRequest([])
    service.factory.resource.children[b"metrics"].render(request)
    if isGone:
        request.processingFailed(Failure(ConnectionDone()))
    status.errback(ValueError("no status"))
    assert (request.responseCode, request.finished) == (
        (None, 0) if isGone else (500, 1)
    )
    assert logged.contains("the metrics cannot be determined")
