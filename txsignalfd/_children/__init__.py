"""
Report the ends of child processes while SIGCHLD is watched.

The entry point is L{ChildReaper <txsignalfd._children.reaper.ChildReaper>}.
Invariant: an exit status is collected only by the owner of the child.
"""
