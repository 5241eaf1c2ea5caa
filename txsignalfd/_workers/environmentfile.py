# -*- test-case-name: tests.workers.test_environmentfile -*-
"""
L{readEnvironment}: read variables from a file in the format of systemd.

systemd.exec(5) describes the format at C{EnvironmentFile=}.
"""

from __future__ import annotations

import os
import re
from typing import Final

#: An assignment, a comment, or a line that is neither.
_ENTRY: Final = re.compile(
    r"""\s*
    (?: [#;] (?: [^\\\n] | \\. )*
      | (?P<name> [A-Za-z_]\w* ) [ \t]* = [ \t]*
        (?P<quoted> (?: (?: '[^']*' | "(?: [^"\\] | \\. )*" ) [ \t\r]* )* )
        (?P<rest> (?! [ \t]* ['"] ) (?: [^\\\n] | \\. )* )
      | (?P<wrong> [^\n]+ )
      | \Z
    ) \n?""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_QUOTED: Final = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)


def parseEnvironment(text: str) -> dict[str, str]:
    """
    Parse the content of the file.

    @raise ValueError: For a line that is no assignment and no comment.
    """
    found = {}
    for entry in _ENTRY.finditer(text + "\n"):
        if entry["wrong"] is not None:
            number = text.count("\n", 0, entry.start("wrong")) + 1
            raise ValueError(f"line {number}: expected NAME=VALUE")
        if entry["name"] is not None:
            found[entry["name"]] = _unquoted(entry["quoted"]) + _plain(entry["rest"])
    return found


def _unquoted(text: str) -> str:
    parts = []
    for single, double in _QUOTED.findall(text):
        joined = double.replace("\\\n", "")
        parts.append(single or re.sub(r'\\(["\\`$])', r"\1", joined))
    return "".join(parts)


def _plain(text: str) -> str:
    characters = re.findall(r"\\.|[^\\]", text, re.DOTALL)
    while characters and characters[-1].isspace():
        characters.pop()
    return "".join(each[-1] for each in characters if each != "\\\n")


def readEnvironment(path: str) -> dict[str, str]:
    """
    Read the file.

    @raise OSError: It cannot be read.
    @raise ValueError: It is in another format.
    """
    with open(path, "rb") as file:
        content = os.fsdecode(file.read())
    try:
        return parseEnvironment(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
