"""
Run a service in several fresh processes under a supervisor.

The entry points are L{Supervisor <txsignalfd._workers.supervisor.Supervisor>}, which
makes the service that the supervisor reloads, and L{membership
<txsignalfd._workers.membership.membership>}, by which a process learns that it is a
worker.  Invariant: the supervisor owns the listening sockets, so no failure of a
worker closes one.
"""
