"""
The installed package, and its build.
"""

from __future__ import annotations

import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest

import txsignalfd
from tests.support.processes import runPython

CHECKOUT = Path(__file__).parent.parent

inCheckout = pytest.mark.skipif(
    not (CHECKOUT / "setup.py").exists(),
    reason="these tests run beside an installed package: there is no checkout",
)

RUN_TWISTD = "from twisted.scripts.twistd import run; run()"


def run(directory: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """
    Run Python in a directory, with additional environment variables.
    """
    child = runPython(*arguments, cwd=directory, added=environment)
    return child.returncode, child.stdout, child.stderr


@pytest.mark.parametrize("program", [("-c", RUN_TWISTD), ("-m", "twisted")])
def test_commandIsListed(program: tuple[str, str], tmp_path: Path) -> None:
    """
    The command stands beside the other plugins of twistd and twist, in any directory.
    """
    status, out, err = run(tmp_path, *program, "--help")
    commands = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert (status, err) == (0, "")
    assert {"signalfd", "web"} <= commands


@inCheckout
def test_twistedStaysOneNamespace() -> None:
    """
    Twisted's own modules and plugins stay visible from a checkout.
    """
    assert list((CHECKOUT / "twisted").rglob("__init__.py")) == []


@inCheckout
def test_everyPackageIsInstalled() -> None:
    """
    A wheel has the packages that the settings of the build name.
    """
    settings = ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    house = CHECKOUT / "txsignalfd"
    packages = {
        ".".join(path.parent.relative_to(CHECKOUT).parts)
        for path in house.rglob("__init__.py")
    }
    named = settings["options"]["packages"].split()
    assert set(named) == packages | {"twisted.plugins"}


def test_typeCheckersSeeTheAnnotations() -> None:
    """
    The package is marked as typed.
    """
    assert (Path(txsignalfd.__file__).parent / "py.typed").exists()


@inCheckout
def test_withoutCompilerOneSentenceSaysSo(tmp_path: Path) -> None:
    """
    Where there is no C compiler, the build ends with one sentence that says
    what to install.
    """
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.rst"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("txsignalfd", "twisted"):
        shutil.copytree(
            CHECKOUT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("*.so", "__pycache__", "dropin.cache"),
        )
    compiler = str(tmp_path / "no-such-compiler")
    status, _, err = run(tmp_path, "setup.py", "build_ext", CC=compiler)
    sentence = err.splitlines()[-1]
    assert status == 1
    assert "Traceback" not in err
    assert sentence.startswith("txsignalfd has a part in C that could not be compiled")
    assert "install a C compiler and Python's headers" in sentence
    assert sentence.endswith("and try again.")
