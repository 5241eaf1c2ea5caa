# -*- test-case-name: tests.workers.test_program -*-
"""
L{Program}: run a Python program in this interpreter, as its command line would.

C{runpy} runs modules.  It does not run files here, because C{sys.argv} would begin
with the absolute path then, and the module C{__main__} would be gone when exit
functions run.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec, module_from_spec
from pkgutil import get_importer
from types import CodeType, ModuleType, TracebackType
from typing import Any, Final, NamedTuple
from zipfile import is_zipfile

#: The options of Python that a program may have, without and with an argument.
_FLAGS: Final = "bBdEIOPqsSuv"
_WITH_ARGUMENT: Final = "WX"

#: How many entries Python puts at the beginning of C{sys.path} for the program that it
#: runs: none with -P or -I.  Python 3.10 has no -P.
REPLACED: Final = int(not getattr(sys.flags, "safe_path", sys.flags.isolated))


class CannotRun(Exception):
    """
    A command line does not name a Python program.
    """


class Program(NamedTuple):
    """
    A Python program, and its command line.

    @ivar interpreter: The options of Python.
    @ivar kind: C{m} for a module and C{c} for code, as the options of Python, or an
        empty string for a file.
    @ivar name: The path, the module or the code.
    @ivar arguments: The arguments.
    """

    interpreter: list[str]
    kind: str
    name: str
    arguments: list[str]

    @property
    def words(self) -> list[str]:
        """
        The words of its command line after the options of Python.
        """
        return [*([f"-{self.kind}"] if self.kind else []), self.name, *self.arguments]

    def run(self) -> None:
        """
        Run it in the module C{__main__}, and with the C{sys.argv} that Python gives it.
        """
        # In place of the directory of this program.
        sys.path[:REPLACED] = self.directories(os.getcwd())
        self.execute()

    def directories(self, directory: str) -> list[str]:
        """
        Return what C{sys.path} begins with.

        @param directory: The working directory of the program, without links.
        """
        path = os.path.join(directory, self.name)
        if not self.kind and _isArchive(path):
            return [os.path.normpath(path)]
        if not REPLACED:
            return []
        if self.kind == "m":
            return [directory]
        return [""] if self.kind else [os.path.dirname(os.path.realpath(path))]

    def execute(self) -> None:
        """
        Do the same as L{run}, when C{sys.path} begins with L{directories} already.
        """
        try:
            self._execute()
        except BaseException as error:
            sys.excepthook = partial(_reportFrom, _traceOf(error), sys.excepthook)
            raise

    def _execute(self) -> None:
        path = self.name
        sys.argv = [{"m": "-m", "c": "-c"}.get(self.kind, path), *self.arguments]
        if self.kind == "m":
            runpy.run_module(path, run_name="__main__", alter_sys=True)
        elif self.kind == "c":
            _execute(compile(self.name, "<string>", "exec", dont_inherit=True))
        elif _isArchive(path):
            # Otherwise the __main__ of this program is found in place of the archive's.
            del sys.modules["__main__"]
            spec: Any = find_spec("__main__")
            if spec is None:
                raise CannotRun(f"{path} has no module __main__")
            module = sys.modules["__main__"] = module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            path = os.path.abspath(path)
            _execute(_compiled(path), path)

    def check(self) -> None:
        """
        Compile the module C{__main__} that it would run.

        A package is imported for that, if its C{__main__} is the module.

        @raise CannotRun: If there is no such module.
        """
        path = self.name
        if self.kind == "c":
            compile(path, "<string>", "exec", dont_inherit=True)
        elif self.kind == "m":
            spec = find_spec(path)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = find_spec(f"{path}.__main__")
            _compileModule(spec, f"there is no module {path} that can be run")
        elif _isArchive(path):
            importer: Any = get_importer(path)
            spec = importer.find_spec("__main__")
            _compileModule(spec, f"{path} has no module __main__")
        else:
            _compiled(path)


def _traceOf(error: BaseException) -> TracebackType | None:
    """
    Return the traceback of a program, without the frames that run it.
    """
    trace = error.__traceback__
    while trace and trace.tb_frame.f_globals.get("__name__") != "__main__":
        trace = trace.tb_next
    return trace


def _reportFrom(
    trace: TracebackType | None, report: Any, kind: type, error: BaseException, _: Any
) -> None:
    """
    Report an error as C{sys.excepthook} does, with another traceback.
    """
    report(kind, error.with_traceback(trace), trace)


def _compiled(path: str) -> CodeType:
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _compileModule(spec: Any, why: str) -> None:
    if spec is None:
        raise CannotRun(why)
    spec.loader.get_code(spec.name)


def _isArchive(path: str) -> bool:
    return os.path.isdir(path) or is_zipfile(path)


def _execute(code: CodeType, path: str | None = None) -> None:
    module = sys.modules["__main__"] = ModuleType("__main__")
    if path is not None:
        module.__file__ = path
    exec(code, vars(module))  # noqa: S102


def findProgram(words: Sequence[str]) -> Program:
    """
    Find the program that a command line names.

    @param words: C{python}, its options and a script, a module or code; or the path
        of a script; or the name of one in C{PATH} or beside this interpreter.
    @raise CannotRun: If there is none, or it is no Python program.
    """
    if not words:
        raise CannotRun("expected a program")
    first, *arguments = words
    if python := re.fullmatch(r"(?:python|pypy)([\d.]*)", os.path.basename(first)):
        _checkInterpreter(first, python[1])
        return parseInterpreted(first, arguments)
    path: str | None = first
    if "/" not in first:
        places = [*os.get_exec_path(), os.path.dirname(sys.executable)]
        path = shutil.which(first, path=os.pathsep.join(places))
    if path is None:
        raise CannotRun(f"{first} was not found in PATH")
    _checkPython(path)
    return Program([], "", path, arguments)


def _checkInterpreter(path: str, version: str) -> None:
    """
    Check that a command names this interpreter, which is meant by C{python} alone.
    """
    if "/" in path:
        isThis = all(
            os.path.exists(each) and os.path.samefile(each, own)
            for each, own in [
                (path, sys.executable),
                (os.path.dirname(path), os.path.dirname(sys.executable)),
            ]
        )
    else:
        isThis = version in ("", "3", "{}.{}".format(*sys.version_info))
    if not isThis:
        raise CannotRun(
            f"{path} is another Python than that of txsignalfd, {sys.executable}:"
            f" install txsignalfd there, and run {path} -m txsignalfd supervise"
        )


def parseInterpreted(python: str, words: list[str]) -> Program:
    """
    Parse the arguments of Python.
    """
    options: list[str] = []
    words = list(words)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        for index, letter in enumerate(word[1:], 1):
            if letter in f"cm{_WITH_ARGUMENT}":
                value = word[index + 1 :] or (words.pop(0) if words else "")
                if letter in "cm":
                    return Program(options, letter, value, words)
                options += [f"-{letter}", value]
                break
            if letter not in _FLAGS:
                raise CannotRun(f"{python} {word}: this option cannot be used here")
            options.append(f"-{letter}")
    if not words:
        raise CannotRun(f"{python}: expected a script, -m MODULE or -c CODE")
    path, *arguments = words
    if not os.path.exists(path):
        raise CannotRun(f"{path} does not exist")
    return Program(options, "", path, arguments)


def _checkPython(path: str) -> None:
    """
    Check that a program is one of Python.

    @raise CannotRun: If it is not.
    """
    if _isArchive(path) or path.endswith(".py"):
        if not os.path.exists(path):
            raise CannotRun(f"{path} does not exist")
        return
    try:
        with open(path, "rb") as file:
            first, second = file.readline(1000), file.readline(1000)
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}") from None
    # pip begins a script so if the path of the interpreter is long or has a space.
    if re.match(rb"#!.*(python|pypy)", first) or second.startswith(b"'''exec'"):
        return
    kind = "no script"
    if first.startswith(b"#!"):
        kind = f"a script for {os.fsdecode(first[2:]).strip()}"
    raise CannotRun(
        f"{path} is no Python program, but {kind}: name the Python program that it"
        " starts"
    )
