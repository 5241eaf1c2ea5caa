"""
Replace a service by a new generation while it serves.

The entry point is L{ReloadService <txsignalfd._reload.service.ReloadService>}.
Invariant: until the new generation serves, the old one can go on as if nothing
had happened.
"""
