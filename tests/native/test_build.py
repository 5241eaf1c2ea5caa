"""
The C code on systems that have only POSIX, and under a sanitizer.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.processes import runProgram

STRESS = Path(__file__).with_name("stress.c")
NATIVE = STRESS.parents[2] / "txsignalfd" / "_native" / "native.c"


def compiled(*arguments: str) -> str:
    """
    Run the C compiler and return what it prints, or skip the test.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or not NATIVE.exists():
        pytest.skip("needs a C compiler, and the source beside the tests")
    built = runProgram(compiler, *arguments)
    if "cannot find" in built.stderr:
        pytest.skip("this compiler lacks a library")
    assert built.returncode == 0, built.stderr
    return built.stderr


#: What OpenBSD's header has not always had of POSIX.
MISSING = ("SI_MESGQ", "SI_ASYNCIO")

POSIX = """\
#include <signal.h>
{undefined}
static int Py_AddPendingCall(int (*function)(void *), void *argument)
{{
    return function(argument);
}}
#include "{native}"
"""


@pytest.mark.parametrize("missing", [(), MISSING], ids=["", "OpenBSD"])
def test_theCNeedsNothingButPosix(tmp_path: Path, missing: tuple[str, ...]) -> None:
    """
    Without Linux's parts it compiles, with headers that declare only POSIX.
    """
    source = tmp_path / "posix.c"
    undefined = "".join(f"#undef {name}\n" for name in missing)
    hidden = "".join(f"#define {name} hidden_{name}\n" for name in missing)
    source.write_text(hidden + POSIX.format(undefined=undefined, native=NATIVE))
    flags = "-std=c11 -D_POSIX_C_SOURCE=200809L -DTXS_NO_LINUX -Wall -Wextra"
    # Only Python calls some of the functions.
    quiet = "-Wpedantic -Werror -Wno-unused-function -c"
    assert (
        compiled(*flags.split(), *quiet.split(), "-o", f"{source}.o", str(source)) == ""
    )


def test_theCHasNoWarnings(tmp_path: Path) -> None:
    """
    Neither has it with Linux's parts.
    """
    flags = "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -c"
    source = tmp_path / "linux.c"
    source.write_text(POSIX.format(undefined="", native=NATIVE))
    assert compiled(*flags.split(), "-o", f"{source}.o", str(source)) == ""


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="this Python has the class in Python"
)
def test_theRecordHasNoWarnings() -> None:
    """
    It needs nothing but the stable ABI.
    """
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        pytest.skip("needs Python's headers")
    flags = "-std=c11 -DPy_LIMITED_API=0x030A0000 -Wall -Wextra -Werror -c"
    source = str(NATIVE.with_name("record.c"))
    assert compiled(*flags.split(), "-I", str(headers), "-o", os.devnull, source) == ""


@pytest.mark.parametrize("options", [[], ["-DTXS_NO_LINUX"]], ids=["", "elsewhere"])
def test_theHandlerHoldsUnderASanitizer(tmp_path: Path, options: list[str]) -> None:
    """
    Each of 20,000 signals arrives once, at eight threads and spawn windows.

    The sanitizer for threads cannot be used: it calls handlers later, with a
    ucontext that is not the interrupted thread's.
    """
    binary = str(tmp_path / "stress")
    flags = ["-g", "-O1", "-pthread", "-fsanitize=address,undefined"]
    native = f'-DNATIVE_C="{NATIVE}"'
    compiled(*flags, *options, native, str(STRESS), "-o", binary)
    result = runProgram(binary)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout.endswith("nothing lost\n")
