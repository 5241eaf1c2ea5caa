"""
The C extension, which setup.cfg cannot name; all else is in setup.cfg.
"""

import sys
import sysconfig

from setuptools import Extension, setup
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
    cmdclass={"build_ext": BuildExtension},
)
