"""
Replace a service by a new generation while it serves.

The entry point is L{ReloadService <txsignalfd._reload.service.ReloadService>}.
Invariant: a failure before the new generation serves leaves the old one serving.
"""
