"""
Print every signal, until SIGKILL.

This is the program that announced C{read_signalfd} in 2011, written for
python-signalfd.  Only the name of the imported module and the brackets of print are
new.
"""

import os
import select
import signal

import txsignalfd.lowlevel as signalfd


def main() -> None:
    """
    Receive all signals.
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
            assert s is sfd, "select returns the same object"
            print(signalfd.read_signalfd(s))


main()
