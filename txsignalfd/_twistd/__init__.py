"""
What C{twistd signalfd} runs: actions, logs, the report, systemd, plugins.

The entry point is L{Daemon <txsignalfd._twistd.daemon.Daemon>}; the options of
the command line are in L{txsignalfd.tap}.
"""
