"""
Other ways to start a daemon than C{twistd signalfd}.

L{run <txsignalfd._start.running.run>} and L{react <txsignalfd._start.reacting.react>}
are for programs with a main function of their own,
L{reloadable <txsignalfd._start.reloadable.reloadable>} for plugins of twistd, and
L{txsignalfd._start.environment} for programs that embed twistd.
L{runProgram <txsignalfd._start.supervised.runProgram>} runs a program that is not
changed.  All of them run a L{Daemon <txsignalfd._twistd.daemon.Daemon>}.
"""
