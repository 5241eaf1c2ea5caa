"""
Workers in the report, the status and the metrics.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM, SIGUSR2
from socket import MSG_PEEK
from typing import Any

import pytest

from tests.support.clients import Web, fetch, keeping, tcp
from tests.support.daemons import childrenOf, serving
from tests.support.freeports import freePort, local
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._twistd.metrics import Collector


def test_aBusyWorkerIsNamed(tmp_path: Path) -> None:
    """
    After a second; the others answer, and each writes a report of its own.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], body="body")
    options = ["--workers=2", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        first, second = childrenOf(daemon.pid)
        os.kill(first, SIGSTOP)
        client = keeping(tcp(port))
        client()
        daemon.kill(SIGUSR2)
        daemon.waitForOutput(f"worker 1 (pid {first}) is busy: 0 connections, ")
        daemon.waitForOutput(f"worker 2 (pid {second}) serves: 1 connection, ")
        daemon.waitForOutput("worker 2: SIGUSR2 from pid ")
        assert "worker 1: SIGUSR2" not in daemon.output()
        os.kill(first, SIGCONT)
        daemon.waitForOutput("worker 1: SIGUSR2 from pid ")
        client.close()


def test_theStatusAndTheMetricsShowEachWorker(tmp_path: Path) -> None:
    """
    With its connections as they are now.
    """
    pytest.importorskip("prometheus_client", reason="needs txsignalfd[metrics]")
    port, own = freePort(), freePort()
    write(tmp_path, listen=[local(own)], body="body")
    metrics = f"--metrics=tcp:{port}:interface=127.0.0.1"
    options = ["--workers=1", "--spare-workers=0", metrics]
    with serving(tmp_path, *options, "served") as daemon:
        (worker,) = childrenOf(daemon.pid)
        client = keeping(tcp(own))
        client()
        labels = b'{pid="%d",worker="1"}' % worker
        found = fetch(tcp(port), "/metrics")
        assert b"txsignalfd_worker_connections%s 1.0\n" % labels in found
        assert b"txsignalfd_worker_busy%s 0.0\n" % labels in found
        command = [sys.executable, "-m", "txsignalfd", "status", str(daemon.pid)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        assert f"1 of generation 1, pid {worker}: serves, 1 connection," in done.stdout
        client.close()


def test_aStopShowsWhatDrainsInWorkers(tmp_path: Path) -> None:
    """
    The connections of all of them.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], body="body")
    with serving(tmp_path, "--workers=1", "served") as daemon:
        web = Web(tcp(port))
        web.send("/go")
        web.socket.recv(1, MSG_PEEK)
        command = [sys.executable, "-m", "txsignalfd", "stop", str(daemon.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stopping:
            assert stopping.stderr is not None
            assert stopping.stderr.readline() == "stopping: 1 connection drains\n"
            (tmp_path / "go").touch()
            assert web.receive() == b"body"
            assert stopping.wait(DEADLINE) == 0
        web.close()
        assert daemon.wait() == -SIGTERM


def test_aBusyWorkerIsAMetric() -> None:
    """
    Its value is 1.
    """
    pytest.importorskip("prometheus_client", reason="needs txsignalfd[metrics]")
    worker = {"state": "is busy", "number": 1, "pid": 2, "connections": 3}
    status: dict[str, Any] = {"workers": [{**worker, "memory": 4, "uptime": 5}]}
    collector = Collector()
    collector.status = status
    values = [family.samples[0].value for family in collector._workers()]
    assert values == [1, 3, 4, 5]
