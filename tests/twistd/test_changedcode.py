"""
L{LoadedCode}: the log says that a reload does not load new code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import reload, serving
from tests.support.freeports import freePort
from tests.support.observers import Logged
from txsignalfd._twistd.plugins import LoadedCode

KEEPS = "a reload keeps the loaded code"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[Path]]:
    """
    The files of three loaded modules.
    """
    paths = [tmp_path / f"{name}.py" for name in ("one", "three", "two")]
    for path in paths:
        path.write_text("")
        module = ModuleType(f"changedcode_{path.stem}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module
    yield paths
    for path in paths:
        del sys.modules[f"changedcode_{path.stem}"]


def test_eachChangeIsLoggedOnce(files: list[Path], logged: Logged) -> None:
    first, second, third = files
    code = LoadedCode()
    code.logChanges()
    first.write_text("1")
    code.logChanges()
    code.logChanges()
    second.write_text("2")
    third.unlink()
    code.logChanges()
    code.logChanges()
    for path in (first, second, third):
        path.write_text("changed once more")
    code.logChanges()
    assert logged.texts == [
        f"{first} has changed since it was loaded; {KEEPS}",
        f"{second} and 1 other file have changed since they were loaded; {KEEPS}",
        f"{first} and 2 other files have changed since they were loaded; {KEEPS}",
    ]


def test_modulesThatAreLoadedLaterCountFromThen(
    files: list[Path], logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Objects that are not modules, and modules without a file, do not count.
    """
    first = files[0]
    later = sys.modules.pop("changedcode_one")
    monkeypatch.setitem(sys.modules, "changedcode_none", None)
    archived = ModuleType("changedcode_archived")
    archived.__file__ = str(first / "module.py")
    monkeypatch.setitem(sys.modules, "changedcode_archived", archived)
    code = LoadedCode()
    sys.modules["changedcode_one"] = later
    first.write_text("1")
    code.addModules()
    code.logChanges()
    assert logged.texts == []
    first.write_text("changed")
    code.logChanges()
    assert logged.texts == [f"{first} has changed since it was loaded; {KEEPS}"]


def test_theStandardLibraryDoesNotCount() -> None:
    """
    But installed packages do.
    """
    states = LoadedCode()._states
    assert pytest.__file__ in states
    assert not any("/argparse.py" in path for path in states)


def test_aReloadLogsThatItKeepsTheLoadedCode(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    source = (
        "from twisted.web.static import Data\n"
        "def resource():\n"
        "    found = Data(b'old', 'text/plain')\n"
        "    found.isLeaf = True\n"
        "    return found\n"
    )
    app.write_text(source)
    port = freePort()
    listen = f"--listen=tcp:{port}:interface=127.0.0.1"
    with serving(tmp_path, "web", listen, "--class=app.resource") as daemon:
        reload(daemon)
        assert KEEPS not in daemon.output()
        app.write_text(source.replace("old", "newer"))
        reload(daemon)
        reload(daemon)
        assert fetch(tcp(port)) == b"old"
        line = f"app.py has changed since it was loaded; {KEEPS}"
        assert daemon.output().count(line) == 1
