"""
Every check of the project as a session: C{nox -l} lists them, C{nox} runs all.

C{build} makes the wheel, and most other sessions install that wheel.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

nox.options.error_on_external_run = True

HERE = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")

#: The content of the wheel besides the package.
PLUGINS = {
    "twisted/plugins/txsignalfd_plugin.py",
    "twisted/plugins/txsignalfd_reactors.py",
}
WHEEL_NEEDS = {
    "txsignalfd/_native/extension.abi3.so",
    "txsignalfd/_native/record.abi3.so",
    "txsignalfd/py.typed",
    *PLUGINS,
}
#: The files that it installs below sys.prefix.
SHARED = {
    "share/man/man1/txsignalfd.1",
    "share/man/man1/twistd-signalfd.1",
    "share/bash-completion/completions/txsignalfd",
    "share/zsh/site-functions/_txsignalfd",
}
SDIST_NEEDS = {"README.rst", "LICENSE", "setup.py", "txsignalfd/_native/build.py"}

#: Modules whose code differs in a build that uses nothing but POSIX.  In a Python
#: between the oldest and the newest, where a difference would be surprising, they are
#: all that is tested.
POSIX_TESTS = [
    "tests/kernel/test_pipe.py",
    "tests/kernel/test_spawn.py",
    "tests/dispatch",
    "tests/children",
    "tests/reload/test_reload.py",
    "tests/test_service.py",
    "tests/test_reactors.py",
    "tests/test_reactorsignals.py",
    "tests/test_testing.py",
    "tests/test_eventfd.py",
    "tests/twistd/test_tap.py",
    "tests/twistd/test_daemonservice.py",
]

#: The tests of documents and of sources, whose programs are daemons too.
DOCUMENTS = ["architecture", "benchmarks", "docs", "house", "manual", "packaging"]

#: Most of the time goes into tests that start daemons.  All of them run by the README's
#: command, and in the oldest Python if that is another.  Other sessions run only a few.
FEW_DAEMONS = [
    "tests",
    *(f"--ignore=tests/{name}" for name in ("control", "start", "workers")),
    *(f"--ignore=tests/test_{name}.py" for name in DOCUMENTS),
    "--ignore-glob=tests/twistd/test_[!d]*",
]

#: Where signals are read, and their attributes.
PURE_TESTS = ["tests/test_siginfo.py", "tests/native", "tests/kernel", "tests/dispatch"]

#: Print the minor version of an interpreter that can load the wheel.
USABLE = """
import sys, sysconfig
if (
    sys.implementation.name == "cpython"
    and sys.version_info >= (3, 10)
    and not sysconfig.get_config_var("Py_GIL_DISABLED")  # has no stable ABI
):
    print(sys.version_info.minor)
"""


def interpreters() -> dict[str, str]:
    """
    The path of one interpreter for each supported version on this machine.
    """
    names = [f"python3.{minor}" for minor in range(10, 20)]
    pyenv = sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))
    found: dict[int, str] = {}
    for path in [*map(shutil.which, names), *map(str, pyenv)]:
        if path is None:
            continue
        run = subprocess.run(
            [path, "-c", USABLE], capture_output=True, text=True, check=False
        )
        if run.returncode == 0 and run.stdout:
            found.setdefault(int(run.stdout), path)
    return {f"3.{minor}": found[minor] for minor in sorted(found)}


INTERPRETERS = interpreters()
#: C{tests} runs in this one.
OWN = f"3.{sys.version_info.minor}"


def readmeCommand(pattern: str) -> str:
    """
    The command of the README that matches, as a reader would paste it.
    """
    readme = (HERE / "README.rst").read_text()
    found = re.search(rf"^ +({pattern})$", readme, re.MULTILINE)
    assert found, f"README.rst has no command {pattern}"
    return found[1]


def dist(session: nox.Session, pattern: str) -> Path:
    """
    The file of that name which C{nox -s build} has made.
    """
    found = list((Path(session.cache_dir) / "dist").glob(pattern))
    if len(found) != 1:
        session.error("run 'nox -s build' first")
    return found[0].resolve()


def install(session: nox.Session, file: Path, extras: str, *more: str) -> None:
    """
    Install a wheel or an sdist, also over one of the same version.
    """
    session.install(f"txsignalfd[{extras}] @ {file.as_uri()}", *more)
    session.install("--force-reinstall", "--no-deps", str(file))


def installWheel(session: nox.Session, extras: str, *more: str) -> None:
    """
    Install the wheel with some of its extras, and what else is needed.
    """
    install(session, dist(session, "*.whl"), extras, *more)


@contextmanager
def sourcesAlone(session: nox.Session) -> Iterator[None]:
    """
    Run among the sdist's files, without the package: the wheel is imported.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        tarfile.open(dist(session, "*.tar.gz")) as sdist,
    ):
        sdist.extractall(directory, filter="data")
        (source,) = Path(directory).iterdir()
        for name in ("txsignalfd", "twisted"):
            shutil.rmtree(source / name)
        # Tests of the build are skipped without it.
        (source / "setup.py").unlink()
        with session.chdir(source):
            yield


def pytest(session: nox.Session, *arguments: str) -> None:
    """
    Run tests of the sdist with the installed package: all, some, or those that
    are named after C{--}.
    """
    chosen = session.posargs or arguments
    with sourcesAlone(session):
        session.run("pytest", "-p", "no:cacheprovider", *chosen)


@nox.session
def build(session: nox.Session) -> None:
    """
    Build the sdist and, from it, the wheel; check what they contain.
    """
    session.install("build")
    output = Path(session.cache_dir) / "dist"
    shutil.rmtree(output, ignore_errors=True)
    printed = session.run("python", "-m", "build", "--outdir", str(output), silent=True)
    if re.search("Deprecat|Warning", str(printed)):
        session.error(f"the build warned:\n{printed}")
    with zipfile.ZipFile(dist(session, "txsignalfd-*-cp310-abi3-*.whl")) as wheel:
        names = set(wheel.namelist())
    foreign = {name for name in names if not re.match("txsignalfd[/-]", name)}
    shared = {name.partition(".data/data/")[2] for name in names}
    if not shared >= SHARED:
        session.error(f"wheel: missing {SHARED - shared}")
    if not names >= WHEEL_NEEDS or foreign != PLUGINS:
        session.error(f"wheel: missing {WHEEL_NEEDS - names}, foreign {foreign}")
    with tarfile.open(dist(session, "*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    if not names >= SDIST_NEEDS:
        session.error(f"sdist: missing {SDIST_NEEDS - names}")


@nox.session(tags=["suite"])
def tests(session: nox.Session) -> None:
    """
    Install and test by the README's commands, and require full branch coverage.

    Arguments after C{--} go to pytest, and then the coverage is not required.
    """
    command, _, _ = readmeCommand("pip install -e .* && twistd .*").partition(" && ")
    session.run_install("bash", "-c", command, external=True)
    data = str(Path(session.create_tmp()) / "coverage")
    environment = {"COVERAGE_FILE": data, "COVERAGE_PROCESS_START": "pyproject.toml"}
    test = readmeCommand("pytest").split()
    session.run(*test, *session.posargs, env=environment)
    if not session.posargs:
        session.run("coverage", "combine", "--quiet", env=environment)
        session.run("coverage", "report", env=environment)


def oldestTwisted() -> list[str]:
    """
    The oldest Twisted that setup.cfg allows, with a pyOpenSSL of its time.
    """
    setup = configparser.ConfigParser()
    setup.read(HERE / "setup.cfg")
    required = setup["options"]["install_requires"]
    (version,) = re.findall("^twisted>=(.*)", required, re.MULTILINE)
    return [f"twisted=={version}", "pyopenssl<25.1"]


@nox.session(tags=["suite"])
@nox.parametrize(
    "python",
    [nox.param(path, id=name) for name, path in INTERPRETERS.items() if name != OWN],
)
def wheel(session: nox.Session) -> None:
    """
    Test the wheel in each other Python, in the oldest with the oldest Twisted.
    """
    oldest, *_, newest = INTERPRETERS.values()
    installWheel(
        session, "test", *(oldestTwisted() if session.python == oldest else [])
    )
    if session.python == oldest:
        pytest(session)
    elif session.python == newest:
        pytest(session, *FEW_DAEMONS)
    else:
        # Without the processes from which the programs of other sessions are forked.
        session.env["TXSIGNALFD_FRESH"] = "1"
        pytest(session, *POSIX_TESTS)


@nox.session(tags=["suite"])
def handler(session: nox.Session) -> None:
    """
    Test the wheel with the handler backend in place of signalfd(2).
    """
    installWheel(session, "test")
    session.env["TXSIGNALFD_BACKEND"] = "handler"
    pytest(session, *FEW_DAEMONS)


@nox.session(tags=["suite"])
def pure(session: nox.Session) -> None:
    """
    Test the wheel with the class of records in Python, as on PyPy.
    """
    installWheel(session, "test")
    session.env["TXSIGNALFD_PURE"] = "1"
    pytest(session, *PURE_TESTS)


@nox.session(tags=["suite"])
def posix(session: nox.Session) -> None:
    """
    Test a build that uses nothing but POSIX, as on macOS and the BSDs.
    """
    session.env["TXSIGNALFD_NO_LINUX"] = "1"
    install(session, dist(session, "*.tar.gz"), "test")
    pytest(session, *POSIX_TESTS)


#: The tests of each dependency group with servers of others.
SERVERS = {
    "servers": "not cowrie and not openCanary and not synapse and not crossbar",
    "cowrie": "cowrie",
    "opencanary": "openCanary",
}
#: Those whose installation takes minutes.
LARGE_SERVERS = {"synapse": "synapse", "crossbar": "crossbar"}


def reloadServers(session: nox.Session, group: str, tests: str) -> None:
    """
    Reload the servers of a dependency group.
    """
    if group in ("cowrie", "crossbar") and sys.version_info < (3, 11):
        session.skip("it needs Python 3.11")
    needed = nox.project.dependency_groups(PYPROJECT, group)
    if group == "opencanary":
        # It pins a bcrypt that is too old for twisted[conch], of the extra "test".
        installWheel(session, "metrics", "hypothesis", "pytest", "uvloop", *needed)
    else:
        installWheel(session, "test", *needed)
    command = ["pytest", "-s", "tests/test_servers.py", "-k", tests]
    with sourcesAlone(session):
        printed = session.run(*command, silent=True)
    session.log(str(printed))
    if "SKIPPED" in str(printed):
        session.error("a server was not tried")


@nox.session(name="large-servers", default=False)
@nox.parametrize("group", list(LARGE_SERVERS), ids=list(LARGE_SERVERS))
def largeServers(session: nox.Session, group: str) -> None:
    """
    Reload synapse and crossbar.
    """
    reloadServers(session, group, LARGE_SERVERS[group])


@nox.session
@nox.parametrize("group", list(SERVERS), ids=list(SERVERS))
def servers(session: nox.Session, group: str) -> None:
    """
    Reload other people's servers, and one server two hundred times.

    Cowrie and OpenCanary pin their dependencies, and have environments of their own.
    """
    reloadServers(session, group, SERVERS[group])
    if group == "servers":
        session.env["TXSIGNALFD_RELOADS"] = "200"
        pytest(session, "-k", "noConnectionIsLost", "tests/reload/test_continuity.py")


@nox.session
def systemd(session: nox.Session) -> None:
    """
    Run daemons under a real systemd, which is booted in namespaces.
    """
    tools = ("debootstrap", "apt-get")
    if os.getuid() or not any(map(shutil.which, tools)):
        session.skip("needs root, and debootstrap or apt-get")
    tree = Path(session.create_tmp()) / "tree"
    module = "tests.support.bootsystemd"
    session.run("python", "-m", module, str(tree), str(dist(session, "*.whl")))


@nox.session
def twisted(session: nox.Session) -> None:
    """
    Run Twisted's own tests with this package's reactor.
    """
    installWheel(session, "test")
    with sourcesAlone(session):
        session.run("python", "-m", "tests.support.twisted_suite")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """
    Show that the benchmarks work; the times of so short a run mean nothing.
    """
    installWheel(session, "test,benchmark")
    with sourcesAlone(session):
        session.run("python", "-m", "benchmarks", "--quick", "--output", "results")
        session.run("python", "-m", "benchmarks.soak", "--quick")
        session.run("python", "benchmarks/reload.py", "--quick")
        session.run("python", "benchmarks/reload.py", "--quick", "--soak", "20")
        session.run("python", "benchmarks/reload.py", "--quick", "--ports")
        session.run("python", "benchmarks/workers.py", "--quick")
        session.run("python", "benchmarks/codereload.py", "--quick")
        session.run("python", "benchmarks/reload.py", "--quick", "--latency")
        session.run("python", "-m", "benchmarks.memory", "--quick")


@nox.session
def lint(session: nox.Session) -> None:
    """
    Check style and format.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """
    Check types, and that every public name has a complete type.
    """
    installWheel(
        session,
        "test,benchmark",
        "nox",
        *nox.project.dependency_groups(PYPROJECT, "types"),
    )
    session.run("mypy", "--cache-dir", str(Path(session.create_tmp()) / "mypy"))
    # Outside the checkout, where it would find the package a second time.
    session.chdir(session.create_tmp())
    session.run("basedpyright", "--verifytypes", "txsignalfd", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """
    Check the links of docstrings, the markup of documents and the news fragments.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    output = session.create_tmp()
    session.run("pydoctor", "--quiet", "--html-output", f"{output}/api")
    for page in sorted([*HERE.glob("*.rst"), *HERE.glob("[bd]*/*.rst")]):
        session.run("docutils", "--halt=warning", str(page), f"{output}/page.html")
    session.run("towncrier", "build", "--draft", "--version", "next")
