"""
The house: what a module may import, how long it may be, and that an import
has no effect.
"""

from __future__ import annotations

import ast
import inspect
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
    "_record",
    "siginfo",
    "lowlevel",
    "_forking",
    "_mask",
    "_spawn",
    "descriptor",
    "backend",
    "description",
    "registration",
    "handlers",
    "waiting",
    "dispatcher",
    "group",
    "ends",
    "orphans",
    "children",
    "reactorsignals",
    "eventfd",
    "service",
    "reload",
    "systemd",
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
    documentation = vars(txsignalfd)[name].__doc__
    assert documentation
    assert inspect.cleandoc(documentation)


def test_everyPublicNameIsOffered() -> None:
    """
    What can be imported from the package is what it says that it offers.
    """
    found = {
        name
        for name, value in vars(txsignalfd).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    modules = {name for name in txsignalfd.__all__ if name in MODULES}
    assert found == set(txsignalfd.__all__) - modules
