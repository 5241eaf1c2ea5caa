/*
 * The signals that this module has blocked, by thread, so that they can be
 * unblocked again.  The handler notes them, and so does _kernel/mask.py.
 *
 * The table is bounded.  A thread for which there is no slot is handled like
 * the others, but its signals are not unblocked later.  The main thread and the
 * threads that watch and read signals must have a slot: TXS_OWNER_SLOTS are
 * reserved for them.
 */

#include "native.h"

#define TXS_SLOTS 512
#define TXS_OWNER_SLOTS 64
#define TXS_NO_THREAD ((uintptr_t)0)            /* the slot is free */
#define TXS_SLOT_CHANGES UINTPTR_MAX            /* the slot is being emptied */

static struct {
    atomic_uintptr_t tid;
    atomic_ullong blocked;
} txs_slots[TXS_SLOTS];

static atomic_int txs_slots_used;   /* slots from here on were never used */

/* The number of the calling thread, never 0.  Async-signal-safe. */
static uintptr_t txs_tid(void)
{
#if TXS_LINUX
    return (uintptr_t)syscall(SYS_gettid);
#else
    return (uintptr_t)pthread_self();
#endif
}

/*
 * Empty the slot of a thread.  A handler may run at the same time: it must not
 * find a free slot whose signals are not yet cleared.
 */
static void txs_empty_slot(int slot, uintptr_t tid)
{
    if (tid != TXS_NO_THREAD && tid != TXS_SLOT_CHANGES
        && atomic_compare_exchange_strong(&txs_slots[slot].tid, &tid,
                                          TXS_SLOT_CHANGES)) {
        atomic_store(&txs_slots[slot].blocked, 0);
        atomic_store(&txs_slots[slot].tid, TXS_NO_THREAD);
    }
}

/*
 * Empty the slots of threads that have ended.  Only Linux tells whether a thread
 * has: elsewhere the slots that are not reserved are reused in turn.
 */
static void txs_reclaim_slots(void)
{
#if TXS_LINUX
    for (int i = 0; i < TXS_SLOTS; i++) {
        uintptr_t tid = atomic_load(&txs_slots[i].tid);

        if (syscall(SYS_tgkill, getpid(), (int)tid, 0) == -1 && errno == ESRCH)
            txs_empty_slot(i, tid);
    }
#else
    static atomic_uint turn;
    unsigned others = TXS_SLOTS - TXS_OWNER_SLOTS;
    int i = TXS_OWNER_SLOTS + (int)(atomic_fetch_add(&turn, 1) % others);

    txs_empty_slot(i, atomic_load(&txs_slots[i].tid));
#endif
}

/* 0 if all slots from the first one on belong to other threads. */
static int txs_note_in_slot(int first, uintptr_t tid, int signo)
{
    for (int i = first; i < TXS_SLOTS; i++) {
        uintptr_t free = TXS_NO_THREAD;

        if (atomic_load(&txs_slots[i].tid) == tid
            || atomic_compare_exchange_strong(&txs_slots[i].tid, &free, tid)) {
            int used = atomic_load(&txs_slots_used);

            while (used <= i
                   && !atomic_compare_exchange_weak(&txs_slots_used, &used, i + 1))
                ;
            atomic_fetch_or(&txs_slots[i].blocked, TXS_BIT(signo));
            return 1;
        }
    }
    return 0;
}

static void txs_note_from(int first, uintptr_t tid, int signo)
{
    if (!txs_note_in_slot(first, tid, signo)) {
        txs_reclaim_slots();
        txs_note_in_slot(first, tid, signo);
    }
}

/* Note that we block a signal in a thread that watches signals. */
static void txs_note(uintptr_t tid, int signo)
{
    txs_note_from(0, tid, signo);
}

/* For the handler: note that it blocks a signal in its thread. */
static void txs_note_interrupted(uintptr_t tid, int signo)
{
    int has_reserved = tid == atomic_load(&txs_main_tid)
                       || tid == atomic_load(&txs_signals[signo].owner_tid);

    txs_note_from(has_reserved ? 0 : TXS_OWNER_SLOTS, tid, signo);
}

/* The signals that are noted for a thread. */
static txs_bits txs_noted(uintptr_t tid)
{
    txs_bits all = 0;

    for (int i = 0, used = atomic_load(&txs_slots_used); i < used; i++)
        if (atomic_load(&txs_slots[i].tid) == tid)
            all |= atomic_load(&txs_slots[i].blocked);
    return all;
}

/* Remove these signals from those that are noted for a thread. */
static void txs_forget(uintptr_t tid, txs_bits signals)
{
    for (int i = 0, used = atomic_load(&txs_slots_used); i < used; i++)
        if (atomic_load(&txs_slots[i].tid) == tid) {
            uintptr_t own = tid;

            atomic_fetch_and(&txs_slots[i].blocked, ~signals);
            /*
             * The handler of another thread may note a signal now.  Only the
             * calling thread is sure to be in no handler, so only its slot can
             * become free.
             */
            if (tid == txs_tid()
                && atomic_compare_exchange_strong(&txs_slots[i].tid, &own,
                                                  TXS_SLOT_CHANGES))
                atomic_store(&txs_slots[i].tid,
                             atomic_load(&txs_slots[i].blocked) != 0
                                 ? tid : TXS_NO_THREAD);
        }
}

/*
 * Whether we have blocked a signal that a thread blocks.  It was unblocked where
 * it was acquired, and the thread inherited its mask from there; or it is noted.
 */
static int txs_blocked_by_us(uintptr_t tid, int signo)
{
    return !atomic_load(&txs_signals[signo].was_blocked)
           || (txs_noted(tid) & TXS_BIT(signo));
}

/*
 * The mask of a child that a thread with this mask starts: without the signals that
 * we have blocked, and with those that we have unblocked.
 */
static txs_bits txs_without_us(uintptr_t tid, const sigset_t *mask)
{
    txs_bits result = 0, noted = txs_noted(tid);

    for (int signo = 1; signo < TXS_NSIG; signo++) {
        int blocked = sigismember(mask, signo) == 1;

        if (!atomic_load(&txs_signals[signo].watched))
            blocked &= !(noted & TXS_BIT(signo));   /* another thread released it */
        else if (txs_child_blocks(signo))
            blocked = 1;
        else
            blocked &= !txs_blocked_by_us(tid, signo);
        if (blocked)
            result |= TXS_BIT(signo);
    }
    return result;
}

/* The mask of a child that this thread starts. */
static txs_bits txs_child_mask(void)
{
    sigset_t mask;

    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    return txs_without_us(txs_tid(), &mask);
}

/* Set a mask, except for the C library's own signals. */
static void txs_set_bits(sigset_t *mask, txs_bits bits)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (bits & TXS_BIT(signo))
            sigaddset(mask, signo);
        else
            sigdelset(mask, signo);
}

/* --- requests ------------------------------------------------------------ */

/*
 * The requests that have not been answered.  A slot is free if its thread is 0.  When
 * all are in use, no more threads are asked.
 */
static struct {
    atomic_int tid;
    atomic_int signo;
} txs_requests[1024];

static const int txs_request_count = sizeof txs_requests / sizeof *txs_requests;
static atomic_ullong txs_requested;     /* the signals that the threads should block */

#if TXS_LINUX
/* Find the slot of a thread, or a free one for 0.  -1 if there is none. */
static int txs_find_request(int tid)
{
    for (int i = 0; i < txs_request_count; i++)
        if (atomic_load(&txs_requests[i].tid) == tid)
            return i;
    return -1;
}
#endif

/*
 * Ask another thread to block signals: send it one of them, which it must not block.
 * 0, or -1 if that is impossible.  One thread at a time may call this.
 */
static int txs_ask(int tid, int signo, txs_bits signals)
{
#if TXS_LINUX
    siginfo_t info;
    int slot = txs_find_request(0);

    if (slot == -1)
        return -1;
    memset(&info, 0, sizeof info);
    info.si_signo = signo;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = txs_requests;     /* marks a request */
    atomic_store(&txs_requested, signals);
    atomic_store(&txs_requests[slot].signo, signo);
    atomic_store(&txs_requests[slot].tid, tid);
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, signo, &info) == 0)
        return 0;
    atomic_store(&txs_requests[slot].tid, 0);
#else
    (void)tid, (void)signo, (void)signals, (void)txs_requested;
#endif
    return -1;
}

/* How many threads have not answered a request with a signal, or with any for 0. */
static int txs_unanswered(int signo)
{
    int count = 0;

    for (int i = 0; i < txs_request_count; i++) {
        int tid = atomic_load(&txs_requests[i].tid);

        if (tid == 0 || (signo != 0 && atomic_load(&txs_requests[i].signo) != signo))
            continue;
#if TXS_LINUX
        if (syscall(SYS_tgkill, getpid(), tid, 0) == -1 && errno == ESRCH) {
            atomic_store(&txs_requests[i].tid, 0);
            continue;
        }
#endif
        count++;
    }
    return count;
}

/* For the handler: 0 if the signal is not a request, else answer it. */
static int txs_answer(const siginfo_t *info, void *context)
{
#if TXS_LINUX
    uintptr_t tid = txs_tid();
    txs_bits signals = atomic_load(&txs_requested);
    int slot;

    if (info->si_code != SI_QUEUE || info->si_value.sival_ptr != (void *)txs_requests
        || info->si_pid != getpid())
        return 0;
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if ((signals & TXS_BIT(signo)) && atomic_load(&txs_signals[signo].watched)
            && !txs_in_window(tid))
            txs_block_here(signo, context);
    slot = txs_find_request((int)tid);
    if (slot != -1)
        atomic_store(&txs_requests[slot].tid, 0);
    return 1;
#else
    (void)info, (void)context;
    return 0;
#endif
}

/* Empty the tables, in a forked child. */
static void txs_threads_reset(void)
{
    memset(txs_slots, 0, sizeof txs_slots);
    memset(txs_requests, 0, sizeof txs_requests);
}

/* --- the main thread's mask --------------------------------------------- */

static int txs_unblock_pending(void *set)
{
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
    free(set);
    return 0;
}

/*
 * Unblock signals in the main thread, as soon as it runs Python code: another
 * thread cannot change its mask.  -1 and errno when Python's queue is full.
 */
static int txs_unblock_in_main(const sigset_t *signals)
{
    sigset_t *set = malloc(sizeof *set);

    if (set == NULL)
        return -1;
    *set = *signals;
    if (Py_AddPendingCall(txs_unblock_pending, set) == 0)
        return 0;
    free(set);
    errno = EAGAIN;
    return -1;
}
