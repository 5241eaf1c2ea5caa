"""
What C{/proc} says of a process, and of the sender of a signal.

The entry points are L{ofProcess <txsignalfd._proc.status.ofProcess>} and
L{describeWithCommand <txsignalfd._proc.sender.describeWithCommand>}.  Nothing
here changes anything.
"""
