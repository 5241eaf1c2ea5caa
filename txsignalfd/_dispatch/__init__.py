"""
From signal records to handlers.

The entry point is L{dispatcherFor <txsignalfd._dispatch.dispatcher.dispatcherFor>}.
Invariant: every signal that is read reaches each handler of its number once, in
order, or is counted as dropped.
"""
