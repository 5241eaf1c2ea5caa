/*
 * The pipe backend: the handler writes records to a pipe, and the reactor reads
 * them.  It is used where signalfd(2) is missing or refused.
 *
 * The queue of the kernel holds more than a pipe, so it is used whenever the pipe
 * is full.  One thread, the owner, in which the reactor runs, does not block the
 * signals.  When its handler sees that the next record may not fit, it blocks
 * them (they are throttled) until the reader has made room.  So only signals that
 * fit leave the queue, and they stay in order.
 *
 * Another thread may get a signal first.  Its handler writes the record, and
 * blocks the signal in that thread: from then on the owner gets it.  If the pipe
 * is full, the signal is deferred.
 *
 * A signal may be released while a handler of it runs in another thread, which
 * must not write to a descriptor that has become another file.  So each handler
 * counts itself as running before it looks for the pipe, and txs_release() waits
 * until none runs.
 *
 * Rejected: a socket instead of the pipe (on no system it has more room); to let
 * every thread write for good (two threads may write in another order than they
 * were interrupted); to count the records in the pipe (poll(2) knows, and the
 * size of a pipe differs between systems).
 */

#include "native.h"

static int txs_is_writable(int fd)
{
    struct pollfd room = {fd, POLLOUT, 0};

    return poll(&room, 1, 0) == 1 && (room.revents & POLLOUT);
}

/* Whether a signal goes to this pipe. */
static int txs_uses_pipe(int signo, int fd)
{
    return atomic_load(&txs_signals[signo].pipe_fd) == fd + 1;
}

/*
 * For the handler of the owner: stop receiving the signals of a pipe, but in a
 * spawn window leave them unblocked.
 */
static void txs_throttle(int fd, int in_window, void *context)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (txs_uses_pipe(signo, fd)) {
            atomic_store(&txs_signals[signo].throttled, 1);
            if (!in_window)
                txs_block_here(signo, context);
        }
}

/* For the handler: write a signal to the pipe, or find another place for it. */
static void txs_pipe_write(int fd, uintptr_t tid, int signo, siginfo_t *info,
                           void *context)
{
    int in_window = txs_in_window(tid);
    int owns = tid == atomic_load(&txs_signals[signo].owner_tid);
    struct txs_siginfo record;

    txs_record(info, &record);
    /*
     * Deferred signals are newer than the records in the pipe, and older than
     * later signals.  So after the first deferred signal nothing is written until
     * all deferred signals have been received.  The same if no thread reads.
     */
    if (!(in_window && (txs_deferred_count() > 0 || !owns
                        || atomic_load(&txs_signals[signo].throttled)))
        && write(fd, &record, sizeof record) == (ssize_t)sizeof record) {
        if (!owns)
            txs_block_here(signo, context);
        else if (!txs_is_writable(fd))
            txs_throttle(fd, in_window, txs_is_from_kernel(signo) ? context : NULL);
        return;
    }
    if (owns) {
        context = txs_is_from_kernel(signo) ? context : NULL;
        txs_throttle(fd, in_window, context);
    }
    if (in_window && txs_window_defer(info, context))
        return;
    txs_block_here(signo, context);
    if (!txs_defer(info) && txs_queue_again(signo, info) == -1)
        atomic_fetch_add(&txs_signals[signo].without_siginfo, 1);
    /*
     * The reader may have emptied the pipe and looked for deferred signals before
     * that: wake it.  If the pipe is still full, the reader will look again anyway.
     */
    memset(&record, 0, sizeof record);
    if (write(fd, &record, sizeof record) == -1)
        return;
}

/* --- the reader --------------------------------------------------------- */

/*
 * Make the calling thread the owner of a pipe: unblock its signals here.  In a
 * spawn window, and while the pipe is full, the signals are throttled first.
 * txs_window_close() and txs_pipe_resume() end that.
 */
static void txs_pipe_claim(int pipe)
{
    uintptr_t tid = txs_tid();
    int throttle = txs_in_window(tid) || !txs_is_writable(pipe);
    sigset_t before, unblock;

    pthread_sigmask(SIG_BLOCK, NULL, &before);
    sigemptyset(&unblock);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        if (!txs_uses_pipe(signo, pipe))
            continue;
        atomic_store(&txs_signals[signo].owner_tid, tid);
        atomic_store(&txs_signals[signo].throttled, throttle);
        if (throttle)
            continue;
        sigaddset(&unblock, signo);
        if (txs_noted(tid) & TXS_BIT(signo))
            txs_forget(tid, TXS_BIT(signo));
        else if (sigismember(&before, signo) == 1)
            atomic_store(&txs_signals[signo].user_blocked, 1);
    }
    if (throttle)
        txs_window_update();
    else
        pthread_sigmask(SIG_UNBLOCK, &unblock, NULL);
}

/* Block the signals of a pipe in its owner, so that they stay queued. */
static void txs_pipe_pause(int pipe)
{
    uintptr_t tid = txs_tid();
    sigset_t before, block;

    sigemptyset(&block);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (txs_uses_pipe(signo, pipe)
            && atomic_load(&txs_signals[signo].owner_tid) == tid)
            sigaddset(&block, signo);
    pthread_sigmask(SIG_BLOCK, &block, &before);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(&block, signo) == 1) {
            if (atomic_exchange(&txs_signals[signo].user_blocked, 0))
                txs_forget(tid, TXS_BIT(signo));
            else if (sigismember(&before, signo) == 0)
                txs_note(tid, signo);
            atomic_store(&txs_signals[signo].owner_tid, 0);
            atomic_store(&txs_signals[signo].throttled, 0);
        }
    txs_window_update();    /* a child must not inherit that they are blocked */
}

/* Fill the pipe with signals that are queued, and leave the others queued. */
static void txs_pipe_fill(int pipe)
{
    if (txs_is_writable(pipe)) {
        txs_pipe_claim(pipe);
        txs_pipe_pause(pipe);
    }
}

/* Unblock throttled signals, if the pipe has room again. */
static void txs_pipe_resume(int pipe)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (txs_uses_pipe(signo, pipe)
            && atomic_load(&txs_signals[signo].throttled)) {
            if (txs_is_writable(pipe))
                txs_pipe_claim(pipe);
            return;
        }
}

/*
 * Read records.  Returns how many there are, or -1 and errno.
 */
static int txs_pipe_read(int fd, struct txs_siginfo *records, int wanted)
{
    ssize_t size = read(fd, records, (size_t)wanted * sizeof *records);
    int count = 0;

    if (size == -1)
        return -1;
    if (size == 0)
        return errno = EPIPE, -1;       /* our end to write to was closed */
    for (int i = 0; i < (int)((size_t)size / sizeof *records); i++)
        if (records[i].signo != 0)      /* 0 only wakes the reader */
            records[count++] = records[i];
    return count;
}
