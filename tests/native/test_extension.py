"""
The stubs of the extensions describe the extensions.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from txsignalfd import SigInfo
from txsignalfd._native import extension

STUB = Path(extension.__file__).with_name("extension.pyi")


def namesIn(stub: Path, name: str) -> set[str]:
    """
    Return the names in the body of a class.
    """
    (found,) = (
        node
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    return {
        ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else node.name
        for node in found.body
        if isinstance(node, (ast.AnnAssign, ast.FunctionDef))
    }


@pytest.mark.parametrize(
    ("name", "instance"), [("Lib", extension.lib), ("FFI", extension.ffi)]
)
def test_stubNamesWhatTheExtensionHas(name: str, instance: object) -> None:
    """
    A type checker accepts only names that exist at run time.
    """
    assert namesIn(STUB, name) <= set(dir(instance))


def test_stubNamesTheFieldsOfARecord() -> None:
    """
    Exactly those: a type checker finds the misspelled field of a L{SigInfo}.
    """
    stub = namesIn(STUB.with_name("record.pyi"), "Record")
    named = {name for name in stub if not name.startswith("_")}
    assert named == {name for name in dir(SigInfo.__base__) if not name.startswith("_")}


def test_stubNamesEveryFunction() -> None:
    """
    Functions and constants that the build declares can be used in typed code.
    """
    assert [name for name in dir(extension.lib) if name not in STUB.read_text()] == []
