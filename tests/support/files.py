"""
Objects with a descriptor, other than its number.
"""

from __future__ import annotations

from typing import Any


class HasFileno:
    """
    An object with nothing but a descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """
        Return the number of the descriptor.
        """
        return self.fd


def openRaw(fd: int) -> Any:
    """
    Open a descriptor as an unbuffered file.
    """
    return open(fd, "rb", buffering=0, closefd=False)


def openBuffered(fd: int) -> Any:
    """
    Open a descriptor as a buffered file.
    """
    return open(fd, "rb", closefd=False)
