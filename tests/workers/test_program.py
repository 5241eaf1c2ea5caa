"""
A Python program, found by its command line and run as Python itself would.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.forkserver import TWISTD
from tests.support.processes import runPython
from txsignalfd._workers.program import CannotRun, Program, findProgram

#: Says what a program can see of how it was started.
SOURCE = """
import sys
main = sys.modules["__main__"]
print(sys.argv, sys.path[:2], __name__, globals().get("__file__"), __package__)
print(vars(main) is globals(), sys.flags.dev_mode, 'annotations' in globals())
"""

#: Runs the program of the command line.
RUN = """
import sys
from txsignalfd._workers.program import findProgram
findProgram(sys.argv[1:]).run()
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """
    A directory with a program of each kind.
    """
    (tmp_path / "app.py").write_text(SOURCE)
    (tmp_path / "link").symlink_to("package/__main__.py")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(SOURCE)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "__main__.py").write_text(SOURCE)
    with ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", SOURCE)
    return tmp_path


@pytest.mark.parametrize("own", [[], ["-I"]], ids=["usual", "isolated"])
@pytest.mark.parametrize(
    "words",
    [
        ["app.py", "a", "--b"],
        ["link"],
        ["-m", "package", "-x"],
        ["-c", SOURCE, "c", "-m"],
        ["directory"],
        ["app.pyz", "a"],
    ],
    ids=lambda words: words[0],
)
def test_aProgramSeesWhatPythonShowsIt(
    words: list[str], own: list[str], programs: Path
) -> None:
    """
    Its arguments, its path, and the module C{__main__}.
    """
    outputs = []
    (programs / "run.py").write_text(RUN)
    for command in ([], ["run.py", "python"]):
        done = runPython(*own, *command, *words, cwd=programs)
        outputs.append(done.stdout.replace(f"'{programs}/./", f"'{programs}/"))
    assert outputs[0] == outputs[1]


#: Programs that fail: in a function, because they cannot be compiled, and as if ^C had
#: been typed.
FAILS, WRONG = "def f():\n    1 / 0\nf()\n", "1 +\n"
INTERRUPTED = "raise KeyboardInterrupt\n"


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["x.py"], FAILS),
        (["x.py"], WRONG),
        (["x.py"], INTERRUPTED),
        (["-m", "x"], FAILS),
        (["-c", FAILS], ""),
        (["."], FAILS),
    ],
)
def test_anErrorOfAProgramIsReportedAsPythonDoes(
    words: list[str], source: str, tmp_path: Path
) -> None:
    """
    Without the frames of this package, and those that Python itself has for C{-m}.
    """
    for name in ("x.py", "__main__.py"):
        (tmp_path / name).write_text(source)
    (tmp_path / "run.py").write_text(RUN)
    outputs = []
    for run in ([], ["run.py", "python"]):
        done = runPython(*run, *words, cwd=tmp_path)
        text = done.stderr.replace("/./", "/")
        lines = [line for line in text.splitlines() if "runpy" not in line]
        outputs.append([line for line in lines if line.startswith("  File")])
        outputs[-1] += lines[-1:]
    assert outputs[0] == outputs[1]


def test_anOptionOfPythonIsForTheWorkers(programs: Path) -> None:
    """
    Each of them is a word of its own, then.
    """
    script = str(programs / "app.py")
    found = findProgram(["python3", "-uX", "dev", "-Wignore", script, "-u"])
    assert found == Program(["-u", "-X", "dev", "-W", "ignore"], "", script, ["-u"])
    assert findProgram([sys.executable, "-u", "-m", "a.b"]) == Program(
        ["-u"], "m", "a.b", []
    )


def test_aDirectoryWithoutAMainModuleIsRefused(tmp_path: Path) -> None:
    """
    When it is run.
    """
    (tmp_path / "run.py").write_text(RUN)
    done = runPython("run.py", "python", ".", cwd=tmp_path)
    assert "CannotRun: . has no module __main__" in done.stderr


def test_aFileOfPythonNeedsNoFirstLine(programs: Path) -> None:
    """
    Nor to be executable.
    """
    script = str(programs / "app.py")
    assert findProgram([script, "-x"]) == Program([], "", script, ["-x"])


@pytest.mark.parametrize("place", ["PATH", "interpreter"])
def test_aConsoleScriptIsFound(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In PATH, or beside the interpreter.
    """
    path = os.path.dirname(TWISTD) if place == "PATH" else "/nowhere"
    monkeypatch.setenv("PATH", path)
    assert findProgram(["twistd", "-n"]) == Program([], "", TWISTD, ["-n"])


def test_aScriptForALongPathIsOneOfPython(tmp_path: Path) -> None:
    """
    Pip lets the shell begin it.
    """
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n' '''\n")
    assert findProgram([str(script)]).name == str(script)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "expected a program"),
        (["no-such-program"], "no-such-program was not found in PATH"),
        (["./none"], "./none: No such file or directory"),
        (["./none.py"], "./none.py does not exist"),
        (["python", "-"], "python: expected a script, -m MODULE or -c CODE"),
        (["python", "none.py"], "none.py does not exist"),
        (["python"], "python: expected a script, -m MODULE or -c CODE"),
        (["python", "-i", "app.py"], "python -i: this option cannot be used here"),
        (["python2.7", "app.py"], "python2.7 is another Python than that of txsi"),
        (["/usr/none/python3", "app.py"], "/usr/none/python3 is another Python than"),
        (["sh", "-c", "exit"], "/sh is no Python program, but no script: name"),
        (["./script"], "./script is no Python program, but a script for /bin/sh -e:"),
    ],
)
def test_anythingElseIsRefused(
    words: list[str], reason: str, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The reason says why.
    """
    monkeypatch.chdir(programs)
    (programs / "script").write_text("#!/bin/sh -e\nexec python app.py\n")
    with pytest.raises(CannotRun) as caught:
        findProgram(words)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["python", "-c", "def"], "invalid syntax"),
        (["python", "broken.py"], "invalid syntax"),
        (["python", "-m", "brokenpackage"], "invalid syntax"),
        (["./brokenpackage"], "invalid syntax"),
        (["python", "-m", "no_such_module"], "there is no module no_such_module"),
        (["python", "-m", "emptypackage"], "there is no module emptypackage"),
        (["./emptypackage"], "emptypackage has no module __main__"),
    ],
)
def test_aProgramThatCannotBeCompiledIsFound(
    words: list[str], reason: str, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without running one that can be.
    """
    monkeypatch.chdir(programs)
    monkeypatch.syspath_prepend(str(programs))
    for name in ("brokenpackage", "emptypackage"):
        Path(name).mkdir()
        Path(name, "__init__.py").touch()
    for file in ("broken.py", "brokenpackage/__main__.py"):
        Path(file).write_text("def")
    with pytest.raises((SyntaxError, CannotRun), match=reason):
        findProgram(words).check()
