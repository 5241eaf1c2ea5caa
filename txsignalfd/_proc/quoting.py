# -*- test-case-name: tests.proc.test_quoting -*-
"""
Names of processes and numbers of things, as a log or a terminal shows them.

A process chooses its name, its threads' names and its command line.  They may contain
control characters that a terminal obeys, line ends, characters that change the order
of text, and text that looks like the rest of the line.  So they are quoted or escaped.
"""

from __future__ import annotations

#: Characters that end a name in the lines of this package, or quote it.
_SYNTAX = frozenset("\"'\\(),")


def printable(text: str) -> str:
    """
    Escape the characters of a text that do not show as themselves.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def counted(count: int, noun: str) -> str:
    """
    Return how many there are of something: one, or several.

    @param count: The number.
    @param noun: The word for one, whose plural ends in C{s}.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def quoted(name: str) -> str:
    """
    Return a name as it may stand in a line: in quotes, if it is unusual.

    Names of letters, digits, spaces and most punctuation, in any language, are
    returned as they are.
    """
    if name.isprintable() and name.strip() == name != "" and not _SYNTAX & set(name):
        return name
    return '"' + printable(name.replace("\\", "\\\\").replace('"', '\\"')) + '"'
