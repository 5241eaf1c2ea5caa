"""
The parts that setup.cfg cannot name: the C extensions and the manual pages.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError


class BuildExtension(build_ext):
    """
    Say in one sentence what is missing where nothing can be compiled.
    """

    def finalize_options(self) -> None:
        """
        Compile each time: what C{TXSIGNALFD_NO_LINUX} changes is in no file
        whose date could tell that an earlier build will not do.
        """
        super().finalize_options()
        self.force = True

    def run(self) -> None:
        """
        Compile.
        """
        try:
            super().run()
        except (CCompilerError, ExecError, PlatformError) as error:
            raise SystemExit(
                f"txsignalfd has a part in C that could not be compiled ({error}):"
                " install a C compiler and Python's headers"
                " (Debian and Ubuntu: apt install gcc libc6-dev python3-dev;"
                " Fedora: dnf install gcc python3-devel;"
                " Alpine: apk add gcc musl-dev python3-dev) and try again."
            ) from error


#: The pages of documentation that are manual pages too.
PAGES = ("txsignalfd", "twistd-signalfd")

#: Where the manual pages are made, and where they are installed below sys.prefix.
MANUAL = ("build/man1", "share/man/man1")


class BuildManual(Command):
    """
    Make manual pages of pages of the documentation.
    """

    description = "make the manual pages"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """
        There are no options.
        """

    finalize_options = initialize_options

    def run(self) -> None:
        """
        Run docutils, whose command is the same in all its versions.
        """
        Path(MANUAL[0]).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "docutils", "--writer=manpage"]
        # The colours of code blocks would need pygments.
        settings = ["--halt=warning", "--syntax-highlight=none"]
        for page in PAGES:
            made = f"{MANUAL[0]}/{page}.1"
            subprocess.run([*command, *settings, f"docs/{page}.rst", made], check=True)


build.sub_commands.append(("build_manual", None))

# A free-threaded build has no stable ABI.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")

RECORD = Extension(
    "txsignalfd._native.record",
    ["txsignalfd/_native/record.c"],
    depends=["txsignalfd/_native/record.h"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED else [],
    py_limited_api=LIMITED,
)

setup(
    cffi_modules=["txsignalfd/_native/build.py:ffibuilder"],
    # Elsewhere Python code is as fast.
    ext_modules=[RECORD] if sys.implementation.name == "cpython" else [],
    data_files=[
        (MANUAL[1], [f"{MANUAL[0]}/{page}.1" for page in PAGES]),
        ("share/bash-completion/completions", ["completions/txsignalfd"]),
        ("share/zsh/site-functions", ["completions/_txsignalfd"]),
    ],
    cmdclass={"build_ext": BuildExtension, "build_manual": BuildManual},
)
