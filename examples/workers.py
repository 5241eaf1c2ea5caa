"""
Worker processes wake the reactor, which counts their finished pieces of work.
"""

import hashlib
import multiprocessing

from twisted.internet import reactor

from txsignalfd import EventDescriptor

WORKERS = 4
PIECES = 500


def work(descriptor: EventDescriptor) -> None:
    """
    Work in a forked process.  It uses only C{add} of the objects that it inherits.
    """
    for piece in range(PIECES):
        hashlib.sha256(bytes(piece * 1000)).digest()
        descriptor.add()


def main() -> None:
    """
    Start the workers, and count their pieces.
    """
    done = 0
    everything = WORKERS * PIECES

    def finished(count: int) -> None:
        nonlocal done
        done += count
        print(f"{count} more: {done} of {everything}")
        if done == everything:
            reactor.stop()

    descriptor = EventDescriptor(finished)
    # The workers have the descriptor because they are forked.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(descriptor,)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    reactor.addReader(descriptor)
    reactor.run()
    for worker in workers:
        worker.join()


main()
