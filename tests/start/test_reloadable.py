"""
L{reloadable}: a plugin of twistd that reloads by itself.
"""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGWINCH
from typing import Any

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.python.usage import Options
from zope.interface import Interface, implementer

from tests.support.clients import fetch, tcp
from tests.support.daemons import Program, commandFor, program, reload
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort, local
from tests.support.observers import Logged
from tests.support.processes import runPython
from tests.support.served import write
from txsignalfd import reloadable

#: A plugin file that makes a plugin of L{tests.support.served} reloadable.
PLUGIN = """
from twisted.application.service import ServiceMaker
from txsignalfd import reloadable
import tests.support.measured
again = reloadable(
    ServiceMaker("again", "tests.support.served", "It reloads.", "again"), {settings}
)
"""


def command(
    directory: Path, *arguments: str, settings: str = "", twist: bool = False
) -> list[str]:
    """
    Write the plugin file into a directory, and return a command of twistd there.
    """
    whole = commandFor(directory, *arguments)
    plugin = directory / "twisted" / "plugins" / "again_plugin.py"
    plugin.write_text(PLUGIN.format(settings=settings))
    whole.remove("signalfd")
    if twist:
        start = whole.index(TWISTD)
        name = str(Path(TWISTD).with_name("twist"))
        whole[start : start + 2] = [name, "--log-format=text"]
    return whole


def serves(daemon: Program) -> None:
    daemon.waitForOutput(f"pid {daemon.pid} serves")


@pytest.mark.parametrize("twist", [False, True])
def test_thePluginReloads(twist: bool, tmp_path: Path) -> None:
    """
    It has its own options, and the actions that the plugin file chooses.
    """
    port = freePort()
    listen = [local(port)]
    write(tmp_path, listen=listen, body="old")
    settings = "drain=5, on={'WINCH': 'report'}"
    whole = command(tmp_path, "again", settings=settings, twist=twist)
    with program(tmp_path, *whole) as daemon:
        serves(daemon)
        assert fetch(tcp(port)) == b"old"
        write(tmp_path, listen=listen, body="new")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("generation 2 serves")
        assert fetch(tcp(port)) == b"new"
        daemon.kill(SIGWINCH)
        daemon.waitForOutput("generation 2 serves: ")
        assert daemon.stop() == -SIGTERM


def test_signalfdBeforeItsNameIsNotNested(tmp_path: Path) -> None:
    """
    The options of C{signalfd} override those of the plugin file.
    """
    write(tmp_path)
    settings = "on=['WINCH=report', 'URG=report'], stopFirst=True"
    arguments = ["signalfd", "--on=WINCH=ignore", "again"]
    with program(tmp_path, *command(tmp_path, *arguments, settings=settings)) as daemon:
        serves(daemon)
        assert "SIGURG=report, SIGWINCH=ignore" in daemon.output()
        reload(daemon)
        assert daemon.output().count("serves; ") == 1
        assert daemon.stop() == -SIGTERM


@pytest.mark.parametrize(
    ("arguments", "settings", "why"),
    [
        (["--bad"], "", "twistd again: option --bad not recognized (try: twistd again"),
        ([], "drain=-1", "twistd again: reloadable: drain: expected a number"),
        ([], "on=17", "twistd again: reloadable: 'int' object is not iterable"),
    ],
)
def test_wrongOptionsAreReported(
    arguments: list[str], settings: str, why: str, tmp_path: Path
) -> None:
    """
    In one line, with the name of the plugin.
    """
    write(tmp_path)
    whole = command(tmp_path, "again", *arguments, settings=settings)
    with program(tmp_path, *whole) as daemon:
        assert daemon.wait() == 1
        assert daemon.stderr.read_text().startswith(why)


@pytest.mark.parametrize("options", [{"make": "raise"}, {"start": "raise"}])
def test_aFailedStartIsReported(options: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, **options)
    with program(tmp_path, *command(tmp_path, "again")) as daemon:
        assert daemon.wait() == 1
        assert "not started: RuntimeError: it was told to raise" in daemon.output()
        assert "Traceback" not in daemon.output()


def test_theHelpIsThatOfThePlugin(tmp_path: Path) -> None:
    write(tmp_path)
    with program(tmp_path, *command(tmp_path, "again", "--help")) as daemon:
        assert daemon.wait() == 0
        assert daemon.output().startswith("Usage: twistd [options] again [options]\n")
        assert "--drain" not in daemon.output()


def test_theFileImportsLittle() -> None:
    """
    Twistd imports the files of all plugins, whichever it runs.
    """
    source = """
import sys
import twisted.application.service, twisted.plugin
before = set(sys.modules)
from txsignalfd import reloadable
reloadable(twisted.application.service.ServiceMaker("a", "b", "c", "d"))
print(*sorted(set(sys.modules) - before))
"""
    child = runPython("-c", source, check=True)
    imported = child.stdout.split()
    assert len([name for name in imported if name.startswith("txsignalfd")]) == 6
    assert [name for name in imported if name.startswith("twisted")] == []


class IOther(Interface):
    """
    Another interface of a plugin.
    """


@implementer(IPlugin, IServiceMaker, IOther)
class Maker:
    """
    A plugin that is no C{ServiceMaker}.
    """

    tapname = "other"
    description = "Another one."
    options = Options
    extra = "extra"

    def makeService(self, options: Any) -> Any:
        return "a service"


def test_thePluginKeepsItsInterfacesAndAttributes() -> None:
    """
    And a second C{reloadable} changes only the settings.
    """
    plugin: Any = reloadable(reloadable(Maker(), drain=5.0), stopFirst=True)
    assert all(each.providedBy(plugin) for each in (IPlugin, IServiceMaker, IOther))
    assert (plugin.tapname, plugin.extra) == ("other", "extra")
    assert type(plugin.original) is Maker
    assert plugin.settings.stopFirst


def test_otherOptionsMakeAnOrdinaryService(logged: Logged) -> None:
    """
    A program that has made them itself knows nothing of reloads.
    """
    plugin: Any = reloadable(Maker())
    assert plugin.makeService(Options()) == "a service"
    assert "other does not reload: its options are not" in logged.texts[-1]
