"""
Whether a new interpreter would load the same files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from types import ModuleType

import pytest

from txsignalfd._workers.snapshot import Snapshot

#: Later than any change of a file.
LATE = 1 << 62


class Lazy(ModuleType):
    """
    A module that must not be asked for its attributes.
    """

    def __getattribute__(self, name: str) -> object:
        raise ImportError(name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    The only directory in C{sys.path}, with a loaded package.
    """
    package = tmp_path / "site" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "site" / "old.pth").touch()
    (tmp_path / "archive.zip").touch()
    (tmp_path / "here").symlink_to("site")
    module = ModuleType("package")
    module.__file__ = str(tmp_path / "here" / "package" / "__init__.py")
    module.__path__ = [str(tmp_path / "here" / "package")]
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    sys.modules["package"] = module
    sys.modules["lazy"] = Lazy("lazy")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "here"), "/none"])
    sys.path.append(str(tmp_path / "archive.zip"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unrelated(place: Path) -> None:
    (place / "site" / "app.py").touch()
    (place / "site" / "package-1.dist-info").mkdir()


def changed(place: Path) -> None:
    (place / "site" / "package" / "__init__.py").write_text("1")


def replaced(place: Path) -> None:
    file = place / "site" / "package" / "__init__.py"
    before = file.stat()
    new = file.with_suffix(".new")
    new.touch()
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(file)


def extended(place: Path) -> None:
    (place / "site" / "package" / "more").mkdir()


def hidden(place: Path) -> None:
    (place / "package.py").touch()


def pathAdded(place: Path) -> None:
    (place / "site" / "new.pth").touch()


def pathChanged(place: Path) -> None:
    (place / "site" / "old.pth").write_text("/usr")


def customized(place: Path) -> None:
    (place / "sitecustomize.py").touch()


def archiveChanged(place: Path) -> None:
    (place / "archive.zip").write_text("1")


def linkMoved(place: Path) -> None:
    (place / "other").mkdir()
    (place / "here").unlink()
    (place / "here").symlink_to("other")


CHANGES = [
    changed,
    replaced,
    extended,
    hidden,
    pathAdded,
    pathChanged,
    customized,
    archiveChanged,
    linkMoved,
]


@pytest.mark.parametrize("change", CHANGES)
def test_aChangeIsFound(place: Path, change: Callable[[Path], None]) -> None:
    """
    Of what is loaded, and of what would be loaded in its place.
    """
    snapshot = Snapshot()
    snapshot.take(LATE)
    unrelated(place)
    assert snapshot.isCurrent
    change(place)
    assert not snapshot.isCurrent


@pytest.mark.parametrize("change", [changed, linkMoved])
def test_aChangeDuringTheImportsIsFound(
    place: Path, change: Callable[[Path], None]
) -> None:
    """
    It is not known whether the old or the new file was loaded.
    """
    began = time_ns() + 1
    while os.stat(place / "site" / "old.pth").st_ctime_ns + 20_000_000 >= began:
        (place / "clock").touch()
        began = os.stat(place / "clock").st_ctime_ns
    snapshot = Snapshot()
    change(place)
    snapshot.take(began)
    assert not snapshot.isCurrent


def test_librariesCount(place: Path) -> None:
    """
    An interpreter maps them into its memory.
    """
    snapshot = Snapshot()
    snapshot.take(LATE)
    assert any(".so" in path for path in snapshot._files)
