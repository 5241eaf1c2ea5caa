"""
The state of a process and the sender of a signal, read from C{/proc}.

The entry points are L{ofProcess <txsignalfd._proc.status.ofProcess>} and
L{describeWithCommand <txsignalfd._proc.sender.describeWithCommand>}.  Invariant:
this package only reads, and changes no process.
"""
