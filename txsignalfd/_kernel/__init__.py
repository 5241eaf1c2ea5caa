"""
The signals of the whole process: mask, fork, children and descriptors.

L{SignalDescriptor <txsignalfd._kernel.descriptor.SignalDescriptor>} and
L{SignalPipe <txsignalfd._kernel.pipe.SignalPipe>} receive signals in a reactor.
Invariant: what is acquired from the process is restored, and no child inherits
it.
"""
