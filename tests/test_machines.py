"""
The examples for Kubernetes and haproxy, as these and twistd read them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import yaml

from tests.support.clients import canConnect, keeping, load, opening, tcp
from tests.support.daemons import program, serving, waitFor
from tests.support.freeports import freePort
from tests.support.processes import runProgram
from tests.support.reactors import DEADLINE
from txsignalfd._control.arguments import parser
from txsignalfd._workers.process import GRACE

EXAMPLES = Path(__file__).parent.parent / "examples"
KUBERNETES = EXAMPLES / "kubernetes.yaml"
HAPROXY = EXAMPLES / "haproxy.cfg"

pytestmark = pytest.mark.skipif(
    not KUBERNETES.exists(), reason="needs the examples of the repository"
)


def check(command: list[str]) -> None:
    """
    Let C{txsignalfd check} accept a command line.
    """
    assert command[0] == "twistd"
    arguments = [each.replace("/srv/www", "/") for each in command[1:]]
    whole = [sys.executable, "-m", "txsignalfd", "check", *arguments]
    subprocess.run(whole, timeout=DEADLINE, check=True)


def pod() -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Return the pod, and its container.
    """
    deployment, _ = yaml.safe_load_all(KUBERNETES.read_text())
    found = deployment["spec"]["template"]["spec"]
    (container,) = found["containers"]
    return found, container


def test_theContainerRunsACorrectCommand() -> None:
    """
    Its plugin accepts the arguments.
    """
    check(pod()[1]["command"])


def test_aPodHasTheTimeThatItsStopTakes() -> None:
    """
    Kubernetes counts from the beginning of preStop.
    """
    found, container = pod()
    command = container["command"]
    stopTimeout = float(command[command.index("--stop-timeout") + 1])
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    needed = float(seconds) + stopTimeout + GRACE
    assert found["terminationGracePeriodSeconds"] > needed


def test_theProbesAskTheServiceAndTheDaemon() -> None:
    """
    The daemon is the first process of the container.
    """
    _, container = pod()
    (port,) = container["ports"]
    assert f"tcp:{port['containerPort']}" in container["command"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["name"]
    probe = container["livenessProbe"]
    program, *arguments = probe["exec"]["command"]
    asked = parser().parse_args(arguments)
    assert (program, asked.command, asked.target) == ("txsignalfd", "status", "1")
    assert probe["timeoutSeconds"] > asked.timeout


def test_theServiceFindsThePods() -> None:
    """
    By their labels, at the port of their container.
    """
    deployment, service = yaml.safe_load_all(KUBERNETES.read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == pod()[1]["ports"][0]["name"]


def test_haproxyWaitsNoLongerThanAStop() -> None:
    """
    And its servers listen where the command of the comment does.
    """
    text = HAPROXY.read_text()
    (command,) = re.findall("^#   (twistd .*)", text, re.MULTILINE)
    check(command.split())
    stopTimeout = int(command.split("--stop-timeout ")[1].split()[0])
    (timeout,) = re.findall("timeout server ([0-9]+)s", text)
    assert int(timeout) <= stopTimeout
    ports = re.findall(r"server \w+ [\d.]+:(\d+)$", text, re.MULTILINE)
    assert set(ports) == set(re.findall("tcp:([0-9]+)", command))


needsHaproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="needs haproxy"
)


@needsHaproxy
def test_haproxyAcceptsItsFile() -> None:
    """
    Without a warning.
    """
    command = ["haproxy", "-q", "-c", "-f", str(HAPROXY)]
    done = runProgram(*command, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@needsHaproxy
def test_aStopBehindHaproxyLosesNoRequest(tmp_path: Path) -> None:
    """
    It goes to the other server, and to the first one when that is there again.
    """
    front, first, second = freePort(), freePort(), freePort()
    text = HAPROXY.read_text().replace("bind :80", f"bind 127.0.0.1:{front}")
    text = text.replace("192.0.2.1:8080", f"127.0.0.1:{first}")
    text = text.replace("192.0.2.2:8080", f"127.0.0.1:{second}")
    (tmp_path / "haproxy.cfg").write_text(text)
    with (
        serving(_directory(tmp_path, "2"), *_web(second)),
        program(tmp_path, "haproxy", "-f", "haproxy.cfg") as haproxy,
    ):
        with serving(_directory(tmp_path, "1"), *_web(first)) as daemon:
            waitFor(lambda: canConnect(tcp(front)), "haproxy listens")
            with load(opening(tcp(front)), keeping(tcp(front))) as clients:
                assert daemon.stop() == -SIGTERM
                clients.waitForAnswers(10)
                haproxy.waitForOutput("Server twistd/web1 is DOWN")
                with serving(_directory(tmp_path, "3"), *_web(first)):
                    haproxy.waitForOutput("Server twistd/web1 is UP")
                    clients.waitForAnswers(10)


def _directory(parent: Path, name: str) -> Path:
    directory = parent / name
    directory.mkdir()
    return directory


def _web(port: int) -> list[str]:
    return ["web", f"--listen=tcp:{port}:interface=127.0.0.1", "--path=."]
