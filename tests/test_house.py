"""
The house: what a module may import, how long it may be, and that an import
has no effect.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import txsignalfd
from tests.reactors import DEADLINE

HOUSE = Path(txsignalfd.__file__).parent

#: A module imports only from those above it.  C{__init__} is what users
#: import from: nothing is built on it but the program.
ORDER = [
    "_native_build",
    "_native",
    "_record",
    "names",
    "actions",
    "procstatus",
    "procreport",
    "origin",
    "siginfo",
    "lowlevel",
    "choice",
    "_pending",
    "_forking",
    "_opened",
    "_mask",
    "_spawn",
    "descriptor",
    "pipe",
    "description",
    "backend",
    "run",
    "registration",
    "handlers",
    "waiting",
    "dispatcher",
    "group",
    "ends",
    "orphans",
    "spawned",
    "reaping",
    "children",
    "reactorsignals",
    "eventfd",
    "report",
    "logs",
    "notifysocket",
    "systemd",
    "service",
    "latch",
    "triggers",
    "taken",
    "socketpath",
    "listener",
    "ports",
    "pathports",
    "inherited",
    "starting",
    "reactorports",
    "sharing",
    "lastresponse",
    "generation",
    "sender",
    "watchers",
    "pace",
    "participants",
    "succession",
    "reload",
    "onsignal",
    "early",
    "signallog",
    "commands",
    "daemon",
    "plugins",
    "tap",
    "testing",
    "__init__",
    "__main__",
]

MODULES = sorted(path.stem for path in HOUSE.glob("*.py"))

#: The house rule is near 250.
MOST_LINES = 300


def importedModules(tree: ast.AST) -> Iterator[str]:
    """
    The modules of the package that a module imports from, anywhere in it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "txsignalfd" if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "txsignalfd":
                yield rest[0] if rest and rest[0] in ORDER else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_importsOnlyFromAbove(module: str) -> None:
    """
    To understand a module, one need not know those below it.
    """
    tree = ast.parse((HOUSE / f"{module}.py").read_bytes())
    above = ORDER[: ORDER.index(module)]
    assert [name for name in importedModules(tree) if name not in above] == []


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import txsignalfd", ["__init__"]),
        ("import txsignalfd._mask as mask, os", ["_mask"]),
        ("from txsignalfd import SigInfo, tap", ["__init__", "tap"]),
        ("from txsignalfd.siginfo import SigInfo", ["siginfo"]),
        ("from . import lowlevel", ["lowlevel"]),
        ("from .lowlevel import signalfd", ["lowlevel"]),
        ("def f():\n    from txsignalfd import service", ["service"]),
        ("from twisted.internet import reactor", []),
    ],
)
def test_everyFormOfImportIsSeen(source: str, imported: list[str]) -> None:
    """
    No form of the import statement gets around the order.
    """
    assert list(importedModules(ast.parse(source))) == imported


@pytest.mark.parametrize("module", MODULES)
def test_moduleIsShort(module: str) -> None:
    """
    Each module can be read at one sitting.
    """
    lines = (HOUSE / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("module", MODULES)
def test_moduleNamesItsTests(module: str) -> None:
    """
    Where it says that its tests are there are some.
    """
    first = (HOUSE / f"{module}.py").read_text(encoding="utf-8").partition("\n")[0]
    match = re.fullmatch(r"# -\*- test-case-name: tests\.(\w+) -\*-", first)
    if match:
        assert (Path(__file__).parent / f"{match[1]}.py").exists()
    else:
        assert module in ("__init__", "_native_build")


#: Import every module that a program imports, and tell what has changed.
IMPORT_ALL = """
import importlib, os, signal, sys

def state():
    with open("/proc/self/status", errors="replace") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {
        **{name: fields[name] for name in ("SigBlk", "SigIgn", "SigCgt")},
        "descriptors": os.listdir("/proc/self/fd"),
        "handlers": [signal.getsignal(signo) for signo in signal.Signals],
        "threads": os.listdir("/proc/self/task"),
        "reactor": "twisted.internet.reactor" in sys.modules,
    }

before = state()
importlib.import_module("txsignalfd")
for module in sys.argv[1:]:
    importlib.import_module("txsignalfd." + module)
after = state()
for name in before:
    if after[name] != before[name]:
        print(name, before[name], after[name])
"""


def test_importHasNoEffect(tmp_path: Path) -> None:
    """
    A library can import it without a choice of reactor, and without a change
    to mask, dispositions, descriptors and threads.
    """
    modules = [name for name in MODULES if name not in ("__main__", "_native_build")]
    child = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (child.stdout, child.stderr, child.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", txsignalfd.__all__)
def test_publicNameIsDocumented(name: str) -> None:
    """
    help() tells of everything that the package offers.
    """
    documentation = getattr(txsignalfd, name).__doc__
    assert documentation
    assert inspect.cleandoc(documentation)


def test_everyPublicNameIsOffered() -> None:
    """
    What L{dir} and completion show is what the package says that it offers.
    """
    public = [name for name in dir(txsignalfd) if not name.startswith("_")]
    assert sorted(public) == sorted(txsignalfd.__all__)
    assert not hasattr(txsignalfd, "NoSuchName")


def test_namesAreWhereTheTypesSayThatTheyAre() -> None:
    """
    What a checker of types is told to import is what is imported.
    """
    tree = ast.parse((HOUSE / "__init__.py").read_bytes())
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "")[:3] == "txs"
        for alias in node.names
    }
    assert told.keys() == set(txsignalfd.__all__)
    for name, module in told.items():
        assert module is not None
        value = getattr(importlib.import_module(module), name)
        assert getattr(txsignalfd, name) is value


#: Import each name from the package, in a program of its own for the first.
IMPORT_NAME = """
import sys
import txsignalfd
assert "twisted" not in sys.modules
assert "_cffi_backend" not in sys.modules
from txsignalfd import {name}
assert txsignalfd.{name} is {name}
"""


@pytest.mark.parametrize("name", ["dispatcherFor", "lowlevel", "SigInfo"])
def test_aNameIsImportedWhenItIsAskedFor(name: str, tmp_path: Path) -> None:
    """
    C{import txsignalfd} costs nothing, and every form of import works.
    """
    program = IMPORT_NAME.format(name=name)
    if name == "lowlevel":
        program += "assert 'twisted' not in sys.modules\n"
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, timeout=DEADLINE, check=True
    )
