"""
C{TXSIGNALFD_TWISTD}: a program that embeds twistd.
"""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGTERM

import pytest
from twisted.application.app import ServerOptions
from twisted.python.usage import Options

from tests.support.clients import fetch, tcp
from tests.support.daemons import commandFor, program, reload
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort, local
from tests.support.served import write
from txsignalfd._start.environment import VARIABLE, Plugin

#: A program that makes the command line of twistd, as carbon-cache.py does.
WRAPPER = """
import sys
from twisted.scripts.twistd import ServerOptions, runApp
config = ServerOptions()
config.parseOptions(["--nodaemon", "--pidfile=wrapper.pid", "served"])
assert config.subCommand == "served"
runApp(config)
"""


def command(directory: Path, value: str, *arguments: str) -> list[str]:
    """
    Return a command of the wrapper, or of twistd with some arguments.
    """
    (directory / "wrapper.py").write_text(WRAPPER)
    env, *_ = commandFor(directory)
    path = commandFor(directory)[1]
    whole = [env, path, f"{VARIABLE}={value}"]
    if arguments:
        return [*whole, TWISTD, *arguments]
    return [*whole, sys.executable, "wrapper.py"]


@pytest.mark.parametrize("value", ["1", "--drain 5 --on 'WINCH=run:echo \"a b\"'"])
def test_theEmbeddedPluginReloads(value: str, tmp_path: Path) -> None:
    """
    With the options of C{signalfd} that the variable has.
    """
    port = freePort()
    listen = [local(port)]
    write(tmp_path, listen=listen, body="old")
    with program(tmp_path, *command(tmp_path, value)) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        assert ('SIGWINCH=run:echo "a b"' in daemon.output()) == (value != "1")
        write(tmp_path, listen=listen, body="new")
        reload(daemon)
        assert fetch(tcp(port)) == b"new"
        assert daemon.stop() == -SIGTERM
        assert not (tmp_path / "wrapper.pid").exists()


@pytest.mark.parametrize("value", ["", "0"])
def test_theVariableCanBeUnset(value: str, tmp_path: Path) -> None:
    """
    As in the environment of a child.
    """
    write(tmp_path)
    with program(tmp_path, *command(tmp_path, value)) as daemon:
        daemon.waitForOutput("reactor class")
        daemon.stop()
        assert "serves" not in daemon.output()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("'", "TXSIGNALFD_TWISTD: No closing quotation\n"),
        ("--drian 5", "TXSIGNALFD_TWISTD='--drian 5' twistd served: option --drian no"),
    ],
)
def test_aWrongValueIsReported(value: str, why: str, tmp_path: Path) -> None:
    write(tmp_path)
    with program(tmp_path, *command(tmp_path, value)) as daemon:
        assert daemon.wait() == 1
        assert daemon.stderr.read_text().startswith(why)


def test_signalfdOnTheCommandLineComesFirst(tmp_path: Path) -> None:
    """
    The variable changes nothing then.
    """
    write(tmp_path)
    arguments = ["-n", "signalfd", "--on=WINCH=report", "served"]
    with program(tmp_path, *command(tmp_path, "--drian", *arguments)) as daemon:
        daemon.waitForOutput("SIGWINCH=report\n")
        assert daemon.stop() == -SIGTERM


def test_aProgramWithItsOwnPluginsIsLeftAlone() -> None:
    """
    It has other subcommands than twistd, and no service makers.
    """

    class Own(ServerOptions):
        subOptions = Plugin("1")
        subCommands = [("node", None, Options, "Run a node.")]

    options = Own()
    assert not hasattr(options, "subOptions")
    options.parseOptions(["node"])
    assert type(options.subOptions) is Options
