"""
The unit files of C{examples/}, as systemd and twistd read them.
"""

from __future__ import annotations

import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest
from twisted.scripts._twistd_unix import ServerOptions

from tests.support.forkserver import TWISTD
from tests.support.processes import runProgram, runPython
from tests.support.servicemanager import NOTIFY_RELOAD

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
UNITS = sorted(EXAMPLES.glob("*.service")) + sorted(EXAMPLES.glob("*.socket"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]

pytestmark = pytest.mark.skipif(
    not UNITS, reason="needs the examples of the repository"
)

ANALYZE = shutil.which("systemd-analyze")

#: A program, because it imports the global reactor.
PARSE = """
import sys
from twisted.web.tap import Options

options = Options()
options.parseOptions(sys.argv[1:])
(port,) = options["ports"]
print(port)
"""


def read(unit: Path) -> ConfigParser:
    """
    Read a unit file in which each name stands once.
    """
    parser = ConfigParser(interpolation=None, delimiters=["="], strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text(encoding="ascii"))
    return parser


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_aServiceWaitsForItsReload(unit: Path) -> None:
    """
    Its watchdog and its timeouts fit the options of C{twistd signalfd}.
    """
    service = read(unit)["Service"]
    if service["Type"] == "notify":
        assert service["ExecReload"] == "/usr/bin/txsignalfd reload $MAINPID"
    else:
        assert service["Type"] == "notify-reload"
        assert "ExecReload" not in service  # notify-reload sends SIGHUP itself
    # The default is NotifyAccess=main: the process that ExecStart runs.
    assert "NotifyAccess" not in service
    assert int(service["WatchdogSec"]) > 1
    command, *arguments = shlex.split(service["ExecStart"])
    assert Path(command).name == "twistd"
    assert arguments[:3] == ["--nodaemon", "--pidfile=", "signalfd"]
    ServerOptions().parseOptions(["--nodaemon", "--pidfile="])
    stopTimeout = re.search("--stop-timeout ([0-9]+)", service["ExecStart"])
    patience = int(service["TimeoutStopSec"])
    assert patience > int(stopTimeout.group(1) if stopTimeout else 30)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_twistdWebAcceptsTheOptions(unit: Path) -> None:
    command = read(unit)["Service"]["ExecStart"].replace("/srv/www", "/")
    arguments = shlex.split(command)
    child = runPython("-c", PARSE, *arguments[arguments.index("web") + 1 :], check=True)
    activated = unit.with_suffix(".socket").exists()
    assert child.stdout.startswith("systemd:" if activated else "tcp:")


def test_theServiceNamesItsSocket() -> None:
    """
    The name of the descriptor is the same in both unit files.
    """
    (unit,) = (unit for unit in UNITS if unit.suffix == ".socket")
    service = read(unit.with_suffix(".service"))
    assert service["Unit"]["Requires"] == service["Install"]["Also"] == unit.name
    name = read(unit)["Socket"]["FileDescriptorName"]
    assert f"systemd:domain=INET6:name={name} " in service["Service"]["ExecStart"]


def version() -> int:
    """
    Return the version of the installed systemd-analyze.
    """
    assert ANALYZE
    said = runProgram(ANALYZE, "--version", check=True).stdout
    return int(said.split()[1])


@pytest.mark.skipif(not ANALYZE, reason="needs systemd-analyze")
def test_systemdVerifiesTheUnits(tmp_path: Path) -> None:
    """
    Without a warning.  A systemd without Type=notify-reload verifies Type=notify.
    """
    assert ANALYZE
    for unit in UNITS:
        text = unit.read_text(encoding="ascii").replace("/usr/bin/twistd", TWISTD)
        text = text.replace(
            "/usr/bin/txsignalfd", str(Path(TWISTD).with_name("txsignalfd"))
        )
        if version() < NOTIFY_RELOAD:
            text = text.replace("Type=notify-reload", "Type=notify")
        (tmp_path / unit.name).write_text(text, encoding="ascii")
    copies = [str(tmp_path / unit.name) for unit in UNITS]
    analyzed = runProgram(ANALYZE, "verify", "--man=no", *copies)
    assert (analyzed.stdout, analyzed.stderr, analyzed.returncode) == ("", "", 0)
