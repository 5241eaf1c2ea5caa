"""
Tell of every signal, until SIGKILL.

This is the program that announced C{read_signalfd} in 2011, written for
python-signalfd.  New are the module's name in the import, and the brackets
that print has in Python 3.
"""

import os
import select
import signal

import txsignalfd.lowlevel as signalfd


def main() -> None:
    """
    Capture them all.
    """
    signals = []
    for name in dir(signal):
        if name.startswith("SIG") and not name.startswith("SIG_"):
            signals.append(getattr(signal, name))

    sfd = signalfd.create_signalfd(signals)
    print("Capturing: %r" % sorted(signals))
    while True:
        print("selecting - pid: %d" % os.getpid())
        ready = select.select([sfd], [], [])[0]
        for s in ready:
            assert s is sfd, "select gives back the very object"
            print(signalfd.read_signalfd(s))


main()
