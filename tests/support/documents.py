"""
Run pages of documentation: write their programs to files, type their commands, and
compare the output.

A page has three kinds of C{code-block}:

  - C{python}, C{c}, or another language with an extension of its own: a whole
    file.  The paragraph before it names the file: "This is C{``alarm.py``}:".
  - C{console}: lines after "$ " (and their continuations after "> ") are typed, the
    others are the output, line by line.  Numbers may differ, and "..." stands for
    any text.  A page has one shell, in a directory that contains C{examples}, and
    stops everything that it starts.
  - C{ini} and C{text} are not run.
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

#: Languages that are not run: settings of other programs, and layouts.
ONLY_SHOWN = ("ini", "text")

_BLOCK = re.compile(
    r"^( *)\.\. code-block:: *(\S*)\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE
)
_NAME = re.compile(r"``([\w-]+\.\w+)``")
#: The shell's own messages about its jobs are ignored.
_JOBS = re.compile(r"\S*bash: line \d+: .*")


class Block(NamedTuple):
    """
    A block of a page.

    @ivar language: Its language.
    @ivar name: The last file that the paragraph before it names, if any.
    @ivar text: Its text, without the indentation.
    """

    language: str
    name: str | None
    text: str


def blocks(page: str) -> Iterator[Block]:
    """
    Yield the blocks of a page, in order.
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
    Return the pattern of the output for a line of a page.
    """
    escaped = re.escape(line)
    # Times and process ids differ.
    escaped = re.sub(r"\d+", r"\\d+", escaped)
    return re.compile(escaped.replace(re.escape("..."), ".*"))


class Shell:
    """
    A shell that reads commands from a test, in a directory.
    """

    def __init__(self, directory: Path) -> None:
        scripts = str(Path(sys.executable).parent)
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env={
                **os.environ,
                "PATH": os.pathsep.join((scripts, os.environ["PATH"])),
                # As at a terminal, output appears immediately.
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
        Wait for a line of output, and compare it with the one that is shown.
        """
        try:
            printed = self._lines.get(timeout=DEADLINE)
        except Empty:
            raise AssertionError(f"{line!r} was not printed") from None
        assert pattern(line).fullmatch(printed), f"expected {line!r}, got {printed!r}"

    def end(self) -> list[str]:
        """
        Wait until the shell and all its programs have ended.

        @return: The rest of the output.
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
        Kill everything that still runs.
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
    Run a page in a directory.
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
        assert not rest, f"output that is not shown: {rest}"
    finally:
        shell.kill()
