"""
The manual pages, and the completion of shells: they have every command and option.
"""

from __future__ import annotations

import re
import subprocess
from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path

import pytest

from tests.support.forkserver import TWISTD
from tests.support.reactors import DEADLINE
from txsignalfd._control.arguments import parser
from txsignalfd._twistd.actions import SIMPLE
from txsignalfd.tap import Options

CHECKOUT = Path(__file__).parent.parent
DOCS = CHECKOUT / "docs"

pytestmark = pytest.mark.skipif(
    not DOCS.exists(), reason="the tests run without a checkout, and so its pages"
)


def commands() -> dict[str, ArgumentParser]:
    """
    Return the commands of C{txsignalfd}.
    """
    (found,) = (
        each for each in parser()._actions if isinstance(each, _SubParsersAction)
    )
    return dict(found.choices)


def optionsOf(command: ArgumentParser) -> set[str]:
    """
    Return the long options of a command.
    """
    options = (each for action in command._actions for each in action.option_strings)
    return {option for option in options if option.startswith("--")}


def test_theManualOfTheCommandIsComplete() -> None:
    """
    It names each command, and each option.
    """
    page = (DOCS / "txsignalfd.rst").read_text()
    for name, command in commands().items():
        assert f"\n``{name}``\n" in page
        synopsis, *_ = re.findall(rf"^    txsignalfd {name} (.*)", page, re.MULTILINE)
        for option in optionsOf(command) - {"--help"}:
            assert option in synopsis or synopsis.startswith("[options]")
            assert f"\n``{option}" in page


def test_theManualOfTheDaemonIsComplete() -> None:
    """
    It names each option, with its argument, and each action of a signal.
    """
    page = (DOCS / "twistd-signalfd.rst").read_text()
    for option in Options().longOpt:
        name, equals, _ = option.partition("=")
        value = " [A-Z=]+" if equals else ""
        assert re.search(f"^``.*--{name}{value}``", page, re.MULTILINE)
    for action in SIMPLE:
        assert f"``{action}``" in page


#: Complete a command line in bash: the last argument is the incomplete word.
BASH = """
source completions/txsignalfd
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_txsignalfd
echo "${COMPREPLY[@]}"
"""


def complete(*words: str) -> set[str]:
    """
    Return what bash offers.
    """
    command = ["bash", "-c", BASH, "bash", "txsignalfd", *words]
    out = subprocess.check_output(command, cwd=CHECKOUT, text=True, timeout=DEADLINE)
    return set(out.split())


def test_bashCompletesCommandsAndOptions() -> None:
    """
    Those that the parser has.
    """
    assert complete("") == {*commands(), *optionsOf(parser())}
    for name, command in commands().items():
        assert complete(name, "--") == optionsOf(command)


def test_bashCompletesTargets() -> None:
    """
    Directories, pidfiles and units.
    """
    assert {"unit:", "docs"} <= complete("reload", "")
    assert "README.rst" not in complete("reload", "")
    assert "1" in complete("inspect", "1")
    assert "signalfd" in complete("check", "")
    assert complete("check", "web", "--") == set()
    assert complete("reload", "--timeout", "") == set()


def test_zshCompletesCommandsAndOptions() -> None:
    """
    Those that the parser has.
    """
    script = (CHECKOUT / "completions" / "_txsignalfd").read_text()
    (common,) = re.findall(r"common=\(\n(.*?)\n    \)", script, re.DOTALL)
    cases = re.findall(r"(?ms)^        ([a-z |]+)\)(.*?);;", script)
    offered = {name: text for names, text in cases for name in names.split(" | ")}
    assert offered.keys() == commands().keys()
    for name, command in commands().items():
        own = offered[name].replace("$common", common)
        found = re.findall(r"--[a-z-]+", own)
        assert set(found) == optionsOf(command)
        assert f"\n        '{name}:" in script


def test_zshCompletesTheOptionsOfTheDaemon(tmp_path: Path) -> None:
    """
    By twistd's own generator, and the plugins that the daemon can run.
    """
    words = [TWISTD, "signalfd", "", "--_shell-completion", "zsh:3"]
    out = subprocess.check_output(words, cwd=tmp_path, text=True, timeout=DEADLINE)
    for option in Options().longOpt:
        assert f"--{option.removesuffix('=')}" in out
    (plugins,) = re.findall(r"^':command:\((.*)\)'", out, re.MULTILINE)
    assert "web" in plugins.split()
    assert "signalfd" not in plugins.split()
