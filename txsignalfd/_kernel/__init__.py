"""
Acquire signals in the whole process, receive them in a reactor, and restore them.

The entry points are L{SignalDescriptor
<txsignalfd._kernel.descriptor.SignalDescriptor>} and, where there is no signalfd(2),
L{SignalPipe <txsignalfd._kernel.pipe.SignalPipe>}.  Invariant: masks and dispositions
that are changed are restored, and no child inherits the changes.
"""
