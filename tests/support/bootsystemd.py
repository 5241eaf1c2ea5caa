"""
Run the tests that need a machine booted by systemd, in namespaces of this machine:
C{python -m tests.support.bootsystemd TREE WHEEL}.

It makes a Debian tree with debootstrap, installs the wheel there, and boots systemd as
pid 1 of namespaces of its own, with the tree as its root.  The tests are a unit that
powers the namespaces off when it ends.  Needs root and cgroup2.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

#: Has systemd 257 and Python 3.13.
SUITE = "trixie"
PYTHON = "3.13"
PACKAGES = "systemd,systemd-sysv,dbus,haproxy,python3,python3-venv,procps"

#: The files that the tests need besides the wheel.
TESTING = ["coverage", "hypothesis", "pytest", "pyyaml", "uvloop"]

HERE = Path(__file__).parent.parent.parent

#: The tests that need systemd or haproxy.
TESTS = ["tests/twistd/test_undersystemd.py", "tests/test_machines.py"]

#: The longest time for the tests and for a boot, in seconds.
DEADLINE = 400

UNIT = """\
[Unit]
After=multi-user.target dbus.service

[Service]
Type=oneshot
WorkingDirectory=/tests-of/txsignalfd
ExecStart=/bin/sh -c '/venv/bin/pytest -o addopts= -p no:cacheprovider -rs {tests} \
    >/output 2>&1; echo $? >/status'
ExecStopPost=/bin/systemctl --no-block poweroff
"""

BOOT = """\
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty
do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p old
pivot_root . old
umount -l old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /sbin/init --log-target=console --show-status=0
"""


def make(tree: Path) -> None:
    """
    Make the Debian tree.
    """
    if (tree / "made").exists():
        return
    if shutil.which("debootstrap") is None:
        for words in ("update", "install --yes"):
            apt = ["apt-get", "--quiet", "--quiet", *words.split()]
            subprocess.run(
                [*apt, *(["debootstrap"] if "install" in words else [])],
                stdout=subprocess.DEVNULL,
                check=True,
            )
    options = ["--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run(
        ["debootstrap", *options, SUITE, str(tree)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (tree / "made").touch()


def install(tree: Path, wheel: Path) -> None:
    """
    Install the wheel and the tests.
    """
    wheels = tree / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    tags = ("linux", "manylinux2014", "manylinux_2_28")
    platforms = [f"{tag}_{platform.machine()}" for tag in tags]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet"),
            *(f"--platform={each}" for each in platforms),
            *(f"--python-version={PYTHON}", "--implementation=cp", "--abi=cp313"),
            *("--abi=abi3", "--abi=none"),
            *("--only-binary=:all:", f"--dest={wheels}", str(wheel), *TESTING),
        ],
        check=True,
    )
    source = tree / "tests-of" / "txsignalfd"
    shutil.rmtree(source.parent, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "examples"):
        shutil.copytree(HERE / name, source / name, ignore=ignored)
    shutil.copy(HERE / "pyproject.toml", source)
    pip = "/venv/bin/pip install --quiet --no-index --find-links /wheels"
    command = f"python3 -m venv /venv && {pip} txsignalfd {' '.join(TESTING)}"
    subprocess.run(["chroot", str(tree), "sh", "-c", command], check=True)


def boot(tree: Path, tests: str) -> int:
    """
    Boot the tree, run tests, and return the exit status of pytest.
    """
    units = tree / "etc/systemd/system"
    (units / "tests.service").write_text(UNIT.format(tests=tests))
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    link = wants / "tests.service"
    link.unlink(missing_ok=True)
    link.symlink_to("../tests.service")
    for name in ("output", "status"):
        (tree / name).unlink(missing_ok=True)
    namespaces = "--mount --pid --fork --uts --ipc --cgroup --kill-child"
    console = subprocess.run(
        [
            *("timeout", "--signal=KILL", str(DEADLINE)),
            *("unshare", *namespaces.split(), "bash", "-ec", BOOT, str(tree)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_enterGroup,
        text=True,
        check=False,
    ).stdout
    if not (tree / "status").exists():
        sys.stdout.write(f"{console}\nsystemd has not run the tests\n")
        return 1
    sys.stdout.write((tree / "output").read_text())
    return int((tree / "status").read_text())


def _enterGroup() -> None:
    """
    Enter a control group, which becomes the root of the new namespace.
    """
    hierarchy = Path("/sys/fs/cgroup")
    if (hierarchy / "unified").is_dir():
        hierarchy /= "unified"
    group = hierarchy / "txsignalfd-tests"
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def main(directory: str, wheel: str, *tests: str) -> int:
    """
    Make the tree unless it is there, and run the tests.
    """
    tree = Path(directory).resolve()
    make(tree)
    install(tree, Path(wheel))
    return boot(tree, " ".join(tests or TESTS))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
