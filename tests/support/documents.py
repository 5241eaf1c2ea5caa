"""
Pages of documentation for tests: their programs are written to files, and what
is typed at the shell there is typed, and answers as shown.

A page has blocks of three kinds, each a C{code-block}.

  - C{python}, C{c}, or another language with an extension of its own: a whole
    file.  The paragraph before it names it, as in "This is C{``alarm.py``}::".
  - C{console}: lines that begin with "$ " are typed (and those that go on with
    "> "), the others are what is then printed, line by line.  Numbers may be
    others, and "..." stands for anything.  A page has one shell, in one
    directory, where C{examples} is.  All that it starts it ends.
  - C{ini} and C{text} are only shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from signal import SIGKILL
from typing import NamedTuple

from tests.support.reactors import DEADLINE

CHECKOUT = Path(__file__).parent.parent.parent
PAGES = sorted(CHECKOUT.glob("docs/*.rst"))
EXAMPLES = sorted(CHECKOUT.glob("examples/*.py"))

#: What is not run, because there is nothing to run: settings of other
#: programs, and layouts.
ONLY_SHOWN = ("ini", "text")

_BLOCK = re.compile(
    r"^( *)\.\. code-block:: *(\S*)\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE
)
_NAME = re.compile(r"``([\w-]+\.\w+)``")
#: What the shell says of its jobs is nobody's output.
_JOBS = re.compile(r"\S*bash: line \d+: .*")


class Block(NamedTuple):
    """
    A block of a page.

    @ivar language: How it is marked.
    @ivar name: The file that the paragraph before it names last, if any.
    @ivar text: What stands in it, as it would be in a file.
    """

    language: str
    name: str | None
    text: str


def blocks(page: str) -> Iterator[Block]:
    """
    The blocks of a page, in order.
    """
    for found in _BLOCK.finditer(page):
        *_, paragraph = page[: found.start()].rstrip().rsplit("\n\n", 1)
        names = _NAME.findall(paragraph)
        lines = found[3].rstrip().splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line)
        text = "".join(line[indent:] + "\n" for line in lines)
        yield Block(found[2], names[-1] if names else None, text)


def pattern(line: str) -> re.Pattern[str]:
    """
    What may be printed where a page shows a line.
    """
    escaped = re.escape(line)
    # A number of time or of a process is another each time.
    escaped = re.sub(r"\d+", r"\\d+", escaped)
    return re.compile(escaped.replace(re.escape("..."), ".*"))


class Shell:
    """
    A shell that is typed into, in a directory.
    """

    def __init__(self, directory: Path) -> None:
        scripts = str(Path(sys.executable).parent)
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env={
                **os.environ,
                "PATH": os.pathsep.join((scripts, os.environ["PATH"])),
                # As at a terminal, where each line is seen when it is printed.
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not _JOBS.match(line):
                self._lines.put(line.rstrip("\n"))

    def type(self, command: str) -> None:
        """
        Type a line.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def expect(self, line: str) -> None:
        """
        Wait for a line of output, which must be like the one that is shown.
        """
        try:
            printed = self._lines.get(timeout=DEADLINE)
        except Empty:
            raise AssertionError(f"{line!r} was not printed") from None
        assert pattern(line).fullmatch(printed), f"{printed!r}, and not {line!r}"

    def end(self) -> list[str]:
        """
        Wait until the shell and all that it has started have ended.

        @return: What else was printed.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "a program of the page still runs"
        rest = []
        while not self._lines.empty():
            rest.append(self._lines.get())
        return rest

    def kill(self) -> None:
        """
        End all that still runs.
        """
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, SIGKILL)
        self._thread.join(DEADLINE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(DEADLINE)


def run(page: str, directory: Path) -> None:
    """
    Do what a page says, in a directory.
    """
    shell = Shell(directory)
    try:
        for block in blocks(page):
            if block.language != "console":
                if block.name is not None:
                    (directory / block.name).write_text(block.text)
                continue
            for line in block.text.splitlines():
                if line.startswith(("$ ", "> ")):
                    shell.type(line[2:])
                else:
                    shell.expect(line)
        rest = shell.end()
        assert not rest, f"printed, and not shown: {rest}"
    finally:
        shell.kill()
