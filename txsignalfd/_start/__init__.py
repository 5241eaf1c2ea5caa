"""
Other ways to start a daemon than C{twistd signalfd}.

L{running.run} and L{reacting.react} are for programs with a main function of their
own.
"""
