"""
The C{txsignalfd} command: inspect a process.

The entry point is L{main <txsignalfd._control.inspect.main>}.  Invariant: it works
without Twisted, and changes nothing in the process that it inspects.
"""
