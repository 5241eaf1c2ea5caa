"""
The daemon of C{twistd signalfd}: actions, logs, report, systemd, plugins.

The entry point is L{Daemon <txsignalfd._twistd.daemon.Daemon>}; the options of
the command line are in L{txsignalfd.tap}.  Invariant: from the start to the exit,
every signal with an action has that action and no other.
"""
