/*
 * Deferred signals: the handler stores them here until they are read.
 *
 * They are older than the signals that are still queued, and have to be received
 * first.  Handlers of several threads may add signals at the same time; one thread
 * at a time removes them.  No operation waits for another: the turn of a slot says
 * whether it is free or full, as in D. Vyukov's bounded queue.
 */

#include "native.h"

#define TXS_DEFERRED 65536  /* only the pages that were ever used take memory */

static struct {
    atomic_ullong turn;     /* 2n: free for use number n; 2n + 1: full */
    siginfo_t info;
} txs_deferred[TXS_DEFERRED];

static atomic_ullong txs_deferred_tail, txs_deferred_head;
static atomic_int txs_deferred_ready;   /* those that can be removed */

/* For the handler: add a signal.  0 if there is no room. */
static int txs_defer(const siginfo_t *info)
{
    unsigned long long tail = atomic_load(&txs_deferred_tail);

    for (;;) {
        int slot = (int)(tail % TXS_DEFERRED);
        unsigned long long is_free = tail / TXS_DEFERRED * 2;
        unsigned long long turn = atomic_load(&txs_deferred[slot].turn);

        if (turn < is_free)
            return 0;
        if (turn > is_free)
            tail = atomic_load(&txs_deferred_tail);
        else if (atomic_compare_exchange_weak(&txs_deferred_tail, &tail, tail + 1)) {
            txs_deferred[slot].info = *info;
            atomic_store(&txs_deferred[slot].turn, is_free + 1);
            atomic_fetch_add(&txs_deferred_ready, 1);
            return 1;
        }
    }
}

/* Take the oldest signal.  0 if there is none. */
static int txs_undefer(siginfo_t *info)
{
    unsigned long long head = atomic_load(&txs_deferred_head);
    int slot = (int)(head % TXS_DEFERRED);
    unsigned long long is_full = head / TXS_DEFERRED * 2 + 1;

    if (atomic_load(&txs_deferred[slot].turn) != is_full)
        return 0;
    *info = txs_deferred[slot].info;
    atomic_store(&txs_deferred[slot].turn, is_full + 1);
    atomic_store(&txs_deferred_head, head + 1);
    atomic_fetch_sub(&txs_deferred_ready, 1);
    return 1;
}

static int txs_deferred_count(void)
{
    int ready = atomic_load(&txs_deferred_ready);

    return ready > 0 ? ready : 0;   /* it may lag behind */
}

/*
 * Where the count is.  A reader looks at it before each read, and a call from
 * Python would take longer.
 */
static const int *txs_deferred_counter(void)
{
    return (const int *)&txs_deferred_ready;
}

/*
 * Take deferred signals, in order, at most as many as are wanted, and after them
 * one record for each signal that was only counted.  Returns how many records there
 * are; the array has room for TXS_NSIG more than are wanted.  Signals that were
 * released meanwhile go to the process.
 */
static int txs_deferred_take(struct txs_siginfo *records, int wanted)
{
    siginfo_t info;
    int count = 0;

    while (wanted-- > 0 && txs_undefer(&info))
        if (atomic_load(&txs_signals[info.si_signo].watched))
            txs_record(&info, &records[count++]);
        else if (txs_queue_again(info.si_signo, &info) == -1)
            kill(getpid(), info.si_signo);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        struct txs_signal *signal = &txs_signals[signo];
        unsigned counted = atomic_load(&signal->without_siginfo);

        if (atomic_load(&signal->watched)
            && atomic_exchange(&signal->reported, counted) != counted) {
            memset(&info, 0, sizeof info);
            info.si_signo = signo;
            txs_record(&info, &records[count++]);
        }
    }
    txs_window_reopen();
    return count;
}

/* How many signals could not be deferred, and arrived without a siginfo. */
static unsigned long txs_without_siginfo(int signo)
{
    return atomic_load(&txs_signals[signo].without_siginfo);
}

/* Drop the signals of the parent, in a forked child. */
static void txs_deferred_reset(void)
{
    unsigned long long tail = atomic_load(&txs_deferred_tail);

    /* A slot may have been claimed by a thread that the child does not have. */
    for (unsigned long long n = atomic_load(&txs_deferred_head); n < tail; n++)
        atomic_store(&txs_deferred[n % TXS_DEFERRED].turn, n / TXS_DEFERRED * 2 + 2);
    atomic_store(&txs_deferred_head, tail);
    atomic_store(&txs_deferred_ready, 0);
}
