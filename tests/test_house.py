"""
The rules that every module and document follows: imports, length, names, words.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import txsignalfd
from tests.support.layers import LAYERS
from tests.support.reactors import DEADLINE

HOUSE = Path(txsignalfd.__file__).parent

#: The number of the layer of each package and of each public module.
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

#: Every module, by its dotted name below C{txsignalfd}.
MODULES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted(HOUSE.rglob("*.py"))
}

#: The most lines of a module.
MOST_LINES = 500


def importedModules(tree: ast.AST) -> Iterator[str]:
    """
    Yield the modules of the package that a module imports from, anywhere in it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "txsignalfd":
                yield _moduleOf(rest)


def _moduleOf(parts: list[str]) -> str:
    """
    Return the longest part of a dotted name that is a module.
    """
    while parts:
        name = ".".join(parts)
        if name in MODULES or name == "_native.extension":
            return name
        parts = parts[:-1]
    return "__init__"


def _imports(module: str) -> list[str]:
    return list(importedModules(ast.parse(MODULES[module].read_bytes())))


@pytest.mark.parametrize("module", MODULES)
def test_importsOnlyFromLowerLayers(module: str) -> None:
    """
    A package can be understood without the layers above it.
    """
    package = module.partition(".")[0]
    wrong = [
        name
        for name in _imports(module)
        if (other := name.partition(".")[0]) != package
        and LAYER_OF[other] >= LAYER_OF[package]
    ]
    assert wrong == []


def test_importsInsideAPackageFormNoCycle() -> None:
    """
    Each package can be read from one end to the other.
    """
    graph = {
        module: {
            name
            for name in _imports(module)
            if name.partition(".")[0] == module.partition(".")[0]
        }
        - {module, "_native.extension"}
        for module in MODULES
    }
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import txsignalfd", ["__init__"]),
        ("import txsignalfd._kernel.mask as mask, os", ["_kernel.mask"]),
        ("from txsignalfd import SigInfo, tap", ["__init__", "tap"]),
        ("from txsignalfd.siginfo import SigInfo", ["siginfo"]),
        ("from txsignalfd._kernel import mask", ["_kernel.mask"]),
        ("def f():\n    from txsignalfd import service", ["service"]),
        ("from twisted.internet import reactor", []),
    ],
)
def test_everyFormOfImportIsSeen(source: str, imported: list[str]) -> None:
    """
    No form of the import statement gets around the layers.
    """
    assert list(importedModules(ast.parse(source))) == imported


@pytest.mark.parametrize("module", MODULES)
def test_moduleIsShort(module: str) -> None:
    """
    A module can be read at one sitting.
    """
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("module", MODULES)
def test_moduleNamesItsTests(module: str) -> None:
    """
    Every module names a test module that exists.
    """
    first = MODULES[module].read_text(encoding="utf-8").partition("\n")[0]
    match = re.fullmatch(r"# -\*- test-case-name: tests\.([\w.]+) -\*-", first)
    if match:
        path = Path(__file__).parent / f"{match[1].replace('.', '/')}.py"
        assert path.exists()
    else:
        assert MODULES[module].stem in ("__init__", "build")


#: Import every module that a program imports, and print what has changed.
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
    An import chooses no reactor, and changes no mask, disposition, descriptor or
    thread.
    """
    modules = [
        name
        for name in MODULES
        if name not in ("__init__", "__main__", "_native.build")
    ]
    child = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (child.stdout, child.stderr, child.returncode) == ("", "", 0)


#: The names that the package offers.
PUBLIC = [name for name in dir(txsignalfd) if not name.startswith("_")]


@pytest.mark.parametrize("name", PUBLIC)
def test_publicNameIsDocumented(name: str) -> None:
    """
    L{help} describes every public name.
    """
    documentation = getattr(txsignalfd, name).__doc__
    assert documentation
    assert inspect.cleandoc(documentation)


def test_dirShowsThePublicNames() -> None:
    """
    L{dir}, C{__all__} and C{import *} agree, and other names do not exist.
    """
    exported: dict[str, object] = {}
    exec("from txsignalfd import *\nfrom txsignalfd import __all__", exported)
    assert exported.keys() - {"__builtins__", "__all__"} == set(PUBLIC)
    assert exported["__all__"] == PUBLIC
    assert not hasattr(txsignalfd, "NoSuchName")


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
