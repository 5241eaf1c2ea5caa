"""
The rules that every module and document follows: imports, length, names, words.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import txsignalfd
from tests.support.layers import LAYERS
from tests.support.processes import runPython

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

#: The modules that are written in C.
EXTENSIONS = {"_native.extension", "_native.record"}

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
        if name in MODULES or name in EXTENSIONS:
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
        - {module, *EXTENSIONS}
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
# twistd imports it, and from Python 3.13 on its readline catches SIGWINCH.
import pdb

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
    modules = [name for name in MODULES if name not in ("__init__", "_native.build")]
    child = runPython("-c", IMPORT_ALL, *modules, cwd=tmp_path)
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
    runPython("-c", program, cwd=tmp_path, check=True)


CHECKOUT = HOUSE.parent

#: The documents, and other files whose words follow the same rules.
DOCUMENTS = [
    path for where in ("*.rst", "[bdn]*/*.rst") for path in sorted(CHECKOUT.glob(where))
]
TEXTS = [
    *DOCUMENTS,
    *(
        path
        for directory in ("txsignalfd", "tests", "benchmarks", "examples", "twisted")
        for path in sorted((CHECKOUT / directory).rglob("*"))
        if path.suffix in (".py", ".pyi", ".c", ".h", ".service", ".socket")
        if path.name != "test_house.py"
    ),
]

inCheckout = pytest.mark.skipif(
    not (CHECKOUT / "docs").exists(), reason="the tests run without a checkout"
)

#: The most columns of a document.
MOST_COLUMNS = 100

#: Words of an idiom that nobody outside the project knows, and the standard ones.
UNCLEAR = {
    r"letGo|[Ll]ets? go\b": "release",
    r"giveBack|\b[Gg]i(ve|ves|ven) back\b": "restore",
    r"\b[Uu]ntold\b": "without siginfo",
    r"\b[Aa]new\b": "again",
    r"\b[Ww]hoever\b|^\W*Who [a-z]": "the noun",
    r"\b[Tt]ells? of\b|\b[Tt]old of\b": "report",
    r"\b[Hh]and(s|ed)? on\b": "pass on",
    r"\bcomes? to (its|an|their) end\b": "drain, finish",
    r"\btime is over\b|\btime was over\b": "the limit",
    r"\b[Nn]obody's\b": "unowned",
    r"\b([Ee]very|[Ss]ome|[Aa]ny)body\b": "the noun",
    r"\bAskers?\b|\bwho asked\b": "requester",
}


@inCheckout
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documentFitsTheScreen(document: Path) -> None:
    """
    No line of a document is longer than a screen is wide.
    """
    lines = document.read_text(encoding="utf-8").splitlines()
    if document.parent.name != "results":  # a table that a program writes
        assert [line for line in lines if len(line) > MOST_COLUMNS] == []


@inCheckout
@pytest.mark.parametrize("pattern", UNCLEAR)
def test_wordsAreStandard(pattern: str) -> None:
    """
    A word that has to be learned first is replaced by the standard one.
    """
    unclear = re.compile(pattern)
    found = [
        f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if unclear.search(line)
    ]
    assert found == [], f"say: {UNCLEAR[pattern]}"


@inCheckout
def test_noTestModuleImportsAnother() -> None:
    """
    Helpers of several test modules are in C{tests.support}.
    """
    modules = sorted((CHECKOUT / "tests").rglob("*.py"))
    imported = [
        f"{path.relative_to(CHECKOUT)}: {line}"
        for path in modules
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) tests\.(?!support)", line)
    ]
    assert imported == []
