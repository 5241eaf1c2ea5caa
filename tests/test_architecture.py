"""
docs/architecture.rst is true: its picture, and its walks.
"""

from __future__ import annotations

import re

import pytest

from tests.support.documents import CHECKOUT
from tests.support.freeports import freePort
from tests.support.layers import LAYERS
from tests.support.processes import runPython
from tests.support.walks import HOUSE
from tests.support.worlds import needsSignalfd

PAGE = CHECKOUT / "docs" / "architecture.rst"

pytestmark = pytest.mark.skipif(
    not PAGE.exists(), reason="the tests run without a checkout, and so its pages"
)

#: Files that only convert a value: a number or a sender to its name, and an
#: awaitable to a Deferred.
CONVERSIONS = re.compile(r"_native/names\.py|_proc/\w+\.py|_dispatch/runs\.py")

#: The most files on the way of a signal through a reload.
MOST_FILES = 15

WALKS = {
    "signalToHandler": "A signal to its handler",
    "reload": "A SIGHUP to a finished reload",
    "childToProcessExited": "A SIGCHLD to processExited",
    "reloadWithWorkers": "A reload with workers",
}

#: The options of C{signalfd} on the walks of a reload.
OPTIONS: dict[str, list[str]] = {"reload": [], "reloadWithWorkers": ["--workers=1"]}


def section(title: str) -> str:
    """
    Return the text of a section of the page.
    """
    _, _, after = PAGE.read_text().partition(f"\n{title}\n===")
    return after.partition("\n\n\n")[0]


def steps(walk: str) -> list[tuple[list[str], list[str]]]:
    """
    Return the files and the names that each step of a walk mentions.
    """
    found = re.findall(r"^\d+\. (.*(?:\n .*)*)", section(WALKS[walk]), re.MULTILINE)
    parts = [step.partition(":") for step in found]
    return [(_literals(files), _literals(text)) for files, _, text in parts]


def filesOf(walk: str) -> list[str]:
    """
    Return the files that a walk mentions.
    """
    return [file for files, _ in steps(walk) for file in files]


def _literals(text: str) -> list[str]:
    return re.findall(r"``([^`]+)``", text)


def trace(walk: str) -> dict[str, set[str]]:
    """
    Return the functions that a real run calls, by file.
    """
    arguments = [walk]
    if walk in OPTIONS:
        port = f"tcp:{freePort()}:interface=127.0.0.1"
        arguments = ["reload", port, *OPTIONS[walk]]
    child = runPython("-m", "tests.support.walks", *arguments, cwd=CHECKOUT)
    called: dict[str, set[str]] = {}
    for line in child.stdout.splitlines():
        file, name = line.split()
        called.setdefault(file, set()).add(name)
    assert called, child.stderr
    return called


@needsSignalfd
@pytest.mark.parametrize("walk", WALKS)
def test_aWalkIsWhatHappens(walk: str) -> None:
    """
    The files of a walk are those of a real run, which calls what they mention.
    """
    called = trace(walk)
    ran = {file for file in called if not CONVERSIONS.fullmatch(file)}
    if walk == "reloadWithWorkers":
        # It leaves out what is as without workers.  Some files run at other times.
        assert ran - set(filesOf("reload")) <= set(filesOf(walk))
    else:
        assert sorted(filesOf(walk)) == sorted(ran)
    for here, names in steps(walk):
        for name in names:
            if "." in name:
                assert any(name in called[file] for file in here), name
            else:
                assert any(name in (HOUSE / file).read_text() for file in here), name


def test_aReloadPassesFewFiles() -> None:
    """
    A reader who follows a SIGHUP through a reload opens few files.
    """
    assert len(filesOf("reload")) <= MOST_FILES


def test_thePictureShowsTheLayers() -> None:
    """
    Each line of the picture is a layer, the lowest last.
    """
    picture = re.findall(r"^    ((?:\w+ )+) +\S", section("The packages"), re.MULTILINE)
    shown = [line.split() for line in picture]
    layers = [layer for layer in LAYERS if layer != ["__init__"]]
    assert [sorted(line) for line in reversed(shown)] == layers


@pytest.mark.skipif(
    not (HOUSE / "_native" / "handler.c").exists(), reason="a wheel has no C files"
)
def test_everythingThatThePageNamesExists() -> None:
    """
    Files, classes and functions, and a method in the file of its class.
    """
    paths = [*HOUSE.rglob("*.py"), *HOUSE.rglob("*.c")]
    sources = [path.read_text() for path in paths]
    for literal in _literals(PAGE.read_text()):
        for name in re.findall(r"[\w/]+\.(?:py|c)\b", literal):
            assert (HOUSE / name).exists(), name
        for owner, name in re.findall(r"^(?:([A-Z]\w+)\.)?(\w+)$", literal):
            word = re.compile(rf"\b{name}\b")
            there = [each for each in sources if f"class {owner}" in each or not owner]
            assert any(map(word.search, there)) or (HOUSE / name).exists(), literal
