/*
 * The spawn window, in which a thread starts a child.
 *
 * posix_spawn(3) and vfork(2) run no code of ours in the child, which inherits
 * the mask of the thread that starts it.  So that thread unblocks the watched
 * signals for the moment of the start: it opens its window.  The handler defers
 * the signals that the thread gets meanwhile.
 *
 * One thread at a time has a window: the caller holds a lock.
 */

#include "native.h"

static struct {
    atomic_uintptr_t tid;   /* the thread that has the window, or 0 */
    int depth;              /* it may open the window repeatedly */
    atomic_int full;        /* the handler has blocked the signals again */
    sigset_t unblocked;     /* the watched signals that do not reach the queue */
    sigset_t reblock;       /* those of them that were blocked before */
    txs_bits noted;         /* the signals that were noted for the thread before */
} txs_window;

static int txs_in_window(uintptr_t tid)
{
    return tid == atomic_load(&txs_window.tid);
}

/*
 * For the handler in a window: defer a signal.  The last signal that fits closes
 * the mask.  0 if there is no room.
 */
static int txs_window_defer(const siginfo_t *info, void *context)
{
    uintptr_t tid = txs_tid();

    if (!txs_defer(info))
        return 0;
    if (txs_deferred_count() < TXS_DEFERRED || context == NULL)
        return 1;
    atomic_store(&txs_window.full, 1);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(&txs_window.unblocked, signo) == 1) {
            sigaddset(TXS_MASK(context), signo);
            if (atomic_load(&txs_signals[signo].owner_tid) == tid)
                atomic_store(&txs_signals[signo].throttled, 1);
        }
    return 1;
}

/*
 * Unblock in the window what we have blocked in its thread since it was opened.
 * It is blocked again when the window is closed.
 */
static void txs_window_update(void)
{
    uintptr_t tid = txs_tid();
    sigset_t more;

    if (!txs_in_window(tid) || atomic_load(&txs_window.full))
        return;
    sigemptyset(&more);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (atomic_load(&txs_signals[signo].watched) && !txs_child_blocks(signo)
            && (txs_noted(tid) & TXS_BIT(signo))) {
            sigaddset(&txs_window.unblocked, signo);
            sigaddset(&txs_window.reblock, signo);
            sigaddset(&more, signo);
        }
    pthread_sigmask(SIG_UNBLOCK, &more, NULL);
}

/*
 * Open the window: unblock here the watched signals that were not blocked
 * before, and defer them.  Returns how many are deferred, or -1 and errno.
 */
static int txs_window_open(void)
{
    sigset_t before, mask;
    uintptr_t tid = txs_tid();
    txs_bits bits;
    int error;

    if (txs_window.depth > 0)
        return txs_window.depth++, txs_deferred_count();
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    mask = before;
    bits = txs_without_us(tid, &before);
    txs_set_bits(&mask, bits);
    txs_window.noted = txs_noted(tid);
    sigemptyset(&txs_window.unblocked);
    sigemptyset(&txs_window.reblock);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        int blocked = sigismember(&before, signo) == 1;

        if (!atomic_load(&txs_signals[signo].watched)) {
            if (txs_window.noted & TXS_BIT(signo))
                txs_forget(tid, TXS_BIT(signo));    /* it stays unblocked */
        } else if (txs_child_blocks(signo)) {
            if (!blocked && !txs_is_user_blocked(tid, signo))
                txs_note(tid, signo);               /* it stays blocked */
        } else if (!(bits & TXS_BIT(signo))) {
            sigaddset(&txs_window.unblocked, signo);
            if (blocked)
                sigaddset(&txs_window.reblock, signo);
        }
    }
    atomic_store(&txs_window.full, 0);
    atomic_store(&txs_window.tid, tid);
    error = pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (error == 0)
        return txs_window.depth++, txs_deferred_count();
    atomic_store(&txs_window.tid, 0);
    errno = error;
    return -1;
}

/*
 * Close the window.  Block again what was blocked before it, and what was
 * blocked for us in it, except signals that were released.  Returns how many
 * signals are deferred.
 */
static int txs_window_close(void)
{
    sigset_t all, after;
    uintptr_t tid = txs_tid();
    txs_bits noted;
    int count;

    /* In a child that was forked in the window the depth is 0. */
    if (txs_window.depth == 0 || --txs_window.depth > 0)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &after);
    noted = txs_noted(tid) & ~txs_window.noted;
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        int watched = atomic_load(&txs_signals[signo].watched);
        int unblocked = sigismember(&txs_window.unblocked, signo) == 1;

        if (watched && txs_is_throttled(tid, signo)) {
            sigaddset(&after, signo);
            if (unblocked)
                txs_note(tid, signo);
        } else if (watched && (sigismember(&txs_window.reblock, signo) == 1
                               || (noted & TXS_BIT(signo))))
            sigaddset(&after, signo);
        else if (unblocked || (watched && txs_is_user_blocked(tid, signo)))
            sigdelset(&after, signo);
    }
    atomic_store(&txs_window.tid, 0);
    pthread_sigmask(SIG_SETMASK, &after, NULL);
    count = txs_deferred_count();
    for (int signo = 1; count == 0 && signo < TXS_NSIG; signo++)
        if (txs_is_throttled(tid, signo))
            txs_pipe_resume(atomic_load(&txs_signals[signo].pipe_fd) - 1);
    return count;
}

/* Unblock what the handler has blocked because no more could be deferred. */
static void txs_window_reopen(void)
{
    if (txs_in_window(txs_tid()) && atomic_exchange(&txs_window.full, 0))
        pthread_sigmask(SIG_UNBLOCK, &txs_window.unblocked, NULL);
}

/* Close the window of the parent, in a forked child. */
static void txs_window_reset(void)
{
    atomic_store(&txs_window.tid, 0);
    txs_window.depth = 0;
}
