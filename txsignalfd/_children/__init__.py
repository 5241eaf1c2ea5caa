"""
The ends of child processes.

The entry point is L{ChildReaper <txsignalfd._children.reaper.ChildReaper>}.
Invariant: no exit status is taken that belongs to somebody else.
"""
