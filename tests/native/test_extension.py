"""
The stub of the extension describes the extension.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from txsignalfd._native import extension

STUB = Path(extension.__file__).with_name("extension.pyi")


@pytest.mark.parametrize(
    ("name", "instance"), [("Lib", extension.lib), ("FFI", extension.ffi)]
)
def test_stubNamesWhatTheExtensionHas(name: str, instance: object) -> None:
    """
    A type checker accepts only names that exist at run time.
    """
    (found,) = (
        node
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    named = {
        ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else node.name
        for node in found.body
        if isinstance(node, (ast.AnnAssign, ast.FunctionDef))
    }
    assert named <= set(dir(instance))


def test_stubNamesEveryFunction() -> None:
    """
    What the build declares can be used in typed code.
    """
    assert [name for name in dir(extension.lib) if name not in STUB.read_text()] == []
