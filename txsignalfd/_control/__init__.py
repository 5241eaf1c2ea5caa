"""
The C{txsignalfd} command.

The entry point is L{main <txsignalfd._control.inspect.main>}.
"""
