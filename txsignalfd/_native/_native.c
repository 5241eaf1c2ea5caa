/*
 * The seam between txsignalfd and the system: system calls, one signal
 * handler, and the constants as the compiler sees them.  No policy: who may
 * watch what, and when it is given back, is decided in _mask.py.
 *
 * Rules of the handler, which may interrupt any thread at any instruction:
 *   - it calls nothing that is not async-signal-safe (signal-safety(7)):
 *     sigaddset(3), sigismember(3), sigaction(2), kill(2), getpid(2), write(2),
 *     poll(2), pthread_self(3), memset(3), and on Linux the raw system calls
 *     gettid, tgkill and rt_sigqueueinfo;
 *   - it allocates nothing, takes no lock, and touches no Python object;
 *   - what it writes is its thread's own ucontext, lock-free atomics, a pipe,
 *     and what is kept, which is its thread's own while the mask is open;
 *   - it leaves errno as it found it.
 *
 * Why there is a handler at all, when everything is read from a signalfd: a
 * signal mask belongs to one thread.  A thread that was started before a
 * signal was blocked, or that unblocks it, would take the signal away from
 * the signalfd, and under SIG_DFL the process would die.  The handler stands
 * for such threads.  It blocks the signal in the thread that it interrupted,
 * from its return on, and hands the very siginfo back to the process's shared
 * queue, where the signalfd finds it.  Each thread costs one such bounce for
 * each signal, once in its life.
 *
 * While a child is started by posix_spawn(3) or vfork(2), which let no code of
 * ours run in the child, the thread that starts it opens its mask for that
 * moment.  Then the handler keeps what comes in that thread, to be read before
 * all that is queued behind it.  To send it back instead would put it at the
 * end of the queue, and so change the order of realtime signals.
 *
 * Where there is no signalfd(2), or it is refused, the handler writes each
 * siginfo to a pipe, from which the reactor reads records that look the same:
 * see "the pipe" below.
 *
 * Compiled with TXS_NO_LINUX, or elsewhere than on Linux, there is nothing here
 * that POSIX.1-2008 does not have, and pipes are all that works.
 */

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __linux__ && !defined TXS_NO_LINUX
#define TXS_LINUX 1
#else
#define TXS_LINUX 0
#endif

#if TXS_LINUX
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <ucontext.h>
#else
#define SFD_CLOEXEC 0
#define SFD_NONBLOCK 0
#endif

/* A bit for each signal has to fit into an unsigned long long. */
#if defined _NSIG && _NSIG <= 65
#define TXS_NSIG _NSIG
#elif defined NSIG && NSIG <= 65
#define TXS_NSIG NSIG
#else
#define TXS_NSIG 33
#endif

/* An option of POSIX. */
#ifndef SA_ONSTACK
#define SA_ONSTACK 0
#endif

/* The mask that a thread will have when the handler returns. */
#ifdef __OpenBSD__
#define TXS_MASK(context) ((sigset_t *)&((ucontext_t *)(context))->sc_mask)
#else
#define TXS_MASK(context) (&((ucontext_t *)(context))->uc_sigmask)
#endif

/* --- the record --------------------------------------------------------- */

/*
 * The record of signalfd(2), with the fields that the kernel has added since:
 * a C library's own struct may be older than the kernel.
 */
struct txs_siginfo {
    uint32_t signo;
    int32_t errno_;     /* errno is a macro */
    int32_t code;
    uint32_t pid;
    uint32_t uid;
    int32_t fd;
    uint32_t tid;
    uint32_t band;
    uint32_t overrun;
    uint32_t trapno;
    int32_t status;
    int32_t int_;       /* int is a keyword */
    uint64_t ptr;
    uint64_t utime;
    uint64_t stime;
    uint64_t addr;
    uint16_t addr_lsb;
    uint16_t pad1;
    int32_t syscall;
    uint64_t call_addr;
    uint32_t arch;
    uint8_t pad2[28];
};

#if TXS_LINUX
#define SAME(ours, theirs) \
    _Static_assert(offsetof(struct txs_siginfo, ours) \
                   == offsetof(struct signalfd_siginfo, theirs), #theirs)
SAME(code, ssi_code);
SAME(pid, ssi_pid);
SAME(overrun, ssi_overrun);
SAME(int_, ssi_int);
SAME(ptr, ssi_ptr);
SAME(addr, ssi_addr);
_Static_assert(sizeof(struct txs_siginfo) == sizeof(struct signalfd_siginfo),
               "the size of a record");
#undef SAME
#endif

/* --- system calls ------------------------------------------------------- */

static int txs_signalfd(int fd, const sigset_t *mask, int flags)
{
#if TXS_LINUX
    return signalfd(fd, mask, flags);
#else
    (void)fd, (void)mask, (void)flags;
    errno = ENOSYS;
    return -1;
#endif
}

/* sigqueue(3), with the int member of the union for its value. */
static int txs_sigqueue(int pid, int signo, int value)
{
    union sigval payload;

    memset(&payload, 0, sizeof payload);
    payload.sival_int = value;
#if defined _POSIX_REALTIME_SIGNALS && _POSIX_REALTIME_SIGNALS > 0
    return sigqueue((pid_t)pid, signo, payload);
#else
    (void)pid, (void)signo;
    errno = ENOSYS;
    return -1;
#endif
}

/* --- the handler -------------------------------------------------------- */

/*
 * What stood before ours was installed, and whether the signal was blocked;
 * valid while the signal is held.  The rest is for those that go to a pipe.
 */
static struct {
    struct sigaction action;
    atomic_int was_blocked;
    int held;
    atomic_int sink;            /* the pipe's number plus one; 0: no pipe */
    atomic_uintptr_t reader;    /* the thread that takes it for good */
    atomic_int full;            /* it has blocked it until there is room again */
    atomic_int uncovered;       /* it had it blocked, and we have unblocked it */
    atomic_uint untold;         /* how many found no room anywhere */
} txs_before[TXS_NSIG];

static atomic_uintptr_t txs_main;   /* the main thread's number */
static atomic_int txs_pid;      /* the process that holds them */
static atomic_int txs_writing;  /* how many handlers may write to a pipe now */

/* A thread's number: not 0, and for the handler to ask. */
static uintptr_t txs_tid(void)
{
#if TXS_LINUX
    return (uintptr_t)syscall(SYS_gettid);
#else
    return (uintptr_t)pthread_self();
#endif
}

/*
 * Which threads we have blocked signals in, the handler or _mask.py, so that
 * it can be undone: a bit for each signal.  A thread for which there is no room
 * is served like the others, and only not noted.  That must not happen to one
 * whose mask is given back: some places are for those alone, the main thread
 * and those that watch and read.
 */
#define TXS_THREADS 512
#define TXS_OWNERS 64

static struct {
    atomic_uintptr_t tid;       /* 0: free */
    atomic_ullong blocked;
} txs_threads[TXS_THREADS];

static atomic_int txs_places;   /* how many were ever had; to look at no more */

#define TXS_NOBODY UINTPTR_MAX

/*
 * Forget a thread.  The handler may come in between: a place is not to be had
 * before it is clean.
 */
static void txs_vacate(int place, uintptr_t tid)
{
    if (tid != 0 && tid != TXS_NOBODY
        && atomic_compare_exchange_strong(&txs_threads[place].tid, &tid,
                                          TXS_NOBODY)) {
        atomic_store(&txs_threads[place].blocked, 0);
        atomic_store(&txs_threads[place].tid, 0);
    }
}

/*
 * Make room where threads have ended, which tell nobody.  Elsewhere than on
 * Linux nobody can be asked: there each has its place for a while.
 */
static void txs_make_room(void)
{
#if TXS_LINUX
    for (int i = 0; i < TXS_THREADS; i++) {
        uintptr_t tid = atomic_load(&txs_threads[i].tid);

        if (syscall(SYS_tgkill, getpid(), (int)tid, 0) == -1 && errno == ESRCH)
            txs_vacate(i, tid);
    }
#else
    static atomic_uint turn;
    unsigned others = TXS_THREADS - TXS_OWNERS;
    int i = TXS_OWNERS + (int)(atomic_fetch_add(&turn, 1) % others);

    txs_vacate(i, atomic_load(&txs_threads[i].tid));
#endif
}

static int txs_has_noted(int first, uintptr_t tid, int signo)
{
    for (int i = first; i < TXS_THREADS; i++) {
        uintptr_t none = 0;

        if (atomic_load(&txs_threads[i].tid) == tid
            || atomic_compare_exchange_strong(&txs_threads[i].tid, &none, tid)) {
            int places = atomic_load(&txs_places);

            while (places <= i
                   && !atomic_compare_exchange_weak(&txs_places, &places, i + 1))
                ;
            atomic_fetch_or(&txs_threads[i].blocked, 1ULL << (signo - 1));
            return 1;
        }
    }
    return 0;
}

static void txs_note_from(int first, uintptr_t tid, int signo)
{
    if (!txs_has_noted(first, tid, signo)) {
        txs_make_room();
        txs_has_noted(first, tid, signo);
    }
}

/* For a thread whose mask is given back. */
static void txs_note(uintptr_t tid, int signo)
{
    txs_note_from(0, tid, signo);
}

/* The signals that were noted for a thread, as bits. */
static unsigned long long txs_noted(uintptr_t tid)
{
    unsigned long long all = 0;

    for (int i = 0, places = atomic_load(&txs_places); i < places; i++)
        if (atomic_load(&txs_threads[i].tid) == tid)
            all |= atomic_load(&txs_threads[i].blocked);
    return all;
}

/* Forget these signals for a thread. */
static void txs_forget(uintptr_t tid, unsigned long long signals)
{
    for (int i = 0, places = atomic_load(&txs_places); i < places; i++)
        if (atomic_load(&txs_threads[i].tid) == tid) {
            uintptr_t own = tid;

            atomic_fetch_and(&txs_threads[i].blocked, ~signals);
            /* The handler may note another just now: not in a place that goes. */
            if (tid == txs_tid()
                && atomic_compare_exchange_strong(&txs_threads[i].tid, &own,
                                                  TXS_NOBODY))
                atomic_store(&txs_threads[i].tid,
                             atomic_load(&txs_threads[i].blocked) != 0 ? tid : 0);
        }
}

/*
 * What came while a mask was open.  One thread at a time has opened its mask,
 * and only its handler, in which all signals are blocked, appends.
 */
#define TXS_DEFERRED 65536      /* of which memory has only what was ever used */

static siginfo_t txs_kept[TXS_DEFERRED];
static volatile sig_atomic_t txs_kept_count;
static atomic_uintptr_t txs_opener;     /* the thread's number; 0: none is open */
static sigset_t txs_opened;             /* what is open in it, of ours */
static sigset_t txs_reclosed;           /* what of that was not before */
static unsigned long long txs_noted_then;   /* what was noted for it then */
static int txs_depth;                   /* how often it has opened it */

/* Whether this is the thread that has opened its mask, and there is room. */
static int txs_may_keep(uintptr_t tid)
{
    return tid == atomic_load(&txs_opener) && txs_kept_count < TXS_DEFERRED;
}

static void txs_keep(const siginfo_t *info, void *context)
{
    uintptr_t tid = txs_tid();

    txs_kept[txs_kept_count] = *info;
    if (++txs_kept_count < TXS_DEFERRED)
        return;
    /* The rest stays queued, and the mask is closed. */
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(&txs_opened, signo) == 1) {
            sigaddset(TXS_MASK(context), signo);
            if (atomic_load(&txs_before[signo].reader) == tid)
                atomic_store(&txs_before[signo].full, 1);
        }
}

/*
 * Send a siginfo to the process, as it came.  0, or -1 where that cannot be.
 *
 * The thread's own number, not the process's: to itself a thread may send any
 * si_code, and the kernel still queues it for the whole process.
 */
static int txs_queue_again(int signo, siginfo_t *info)
{
#if TXS_LINUX
    return (int)syscall(SYS_rt_sigqueueinfo, (int)txs_tid(), signo, info);
#else
    (void)signo, (void)info;
    return -1;
#endif
}

/*
 * Whether a signal was blocked before us, and goes to a pipe: so the thread that
 * takes it, and those that it starts, have it unblocked, and no child has.
 */
static int txs_is_covered(int signo)
{
    return atomic_load(&txs_before[signo].was_blocked)
           && atomic_load(&txs_before[signo].sink) != 0;
}

/*
 * Whether a thread had a signal blocked, and not from us, that its handler
 * takes now.
 */
static int txs_is_uncovered(uintptr_t tid, int signo)
{
    return atomic_load(&txs_before[signo].uncovered)
           && txs_is_covered(signo)
           && atomic_load(&txs_before[signo].reader) == tid;
}

/* Have a thread block a signal from the handler's return on. */
static void txs_block(int signo, void *context)
{
    uintptr_t tid = txs_tid();
    int owns = tid == atomic_load(&txs_main)
               || tid == atomic_load(&txs_before[signo].reader);

    sigaddset(TXS_MASK(context), signo);
    if (!txs_is_uncovered(tid, signo))  /* else it is as it was before us */
        txs_note_from(owns ? 0 : TXS_OWNERS, tid, signo);
}

/*
 * Let the signal go to another thread, or to the signalfd.
 *
 * It cannot be queued again when RLIMIT_SIGPENDING has been used up since this
 * very signal left the queue.  kill(2) is then still heard, without a siginfo,
 * as the kernel does it for a standard signal.
 */
static void txs_pass_on(int signo, siginfo_t *info, void *context)
{
    txs_block(signo, context);
    if (txs_queue_again(signo, info) == -1)
        kill(getpid(), signo);
}

/*
 * The pipe
 *
 * A pipe is a queue with a bound, where the kernel's queue has none that a
 * program meets.  So the kernel's queue is used whenever the pipe is full: one
 * thread, in which the reactor runs, takes the signals for good, and when its
 * handler sees that there may be no room for the next, it blocks them until
 * the reader has made room.  Nothing is taken from the queue that does not fit,
 * and the order is the queue's.
 *
 * Another thread may take a signal that comes to it first.  It writes it, and
 * then blocks it, so that from then on the one thread has them in their order.
 * What it cannot write goes back to the kernel, and where the system has no way
 * for that it is told by its number alone: the reader sees a count.
 *
 * A signal that is given back while a handler runs in some thread must not be
 * written to a descriptor that is another file by then.  So a handler counts
 * itself in before it looks for the pipe, and the pipe is closed when nobody
 * who may have seen it is left.
 *
 * Rejected: a socket for a pipe (no system has more room in it); to have each
 * thread write for good (two threads may write in the wrong order what they
 * took in the right one); a counter of the pipe's records (poll(2) knows how
 * full it is, and each system has another size).
 */

static int txs_is_writable(int fd)
{
    struct pollfd room = {fd, POLLOUT, 0};

    return poll(&room, 1, 0) == 1 && (room.revents & POLLOUT);
}

/*
 * The reader's thread takes no more of a pipe's signals, but for the moment in
 * which its mask is open to start a child.
 */
static void txs_pipe_is_full(int fd, int opened, void *context)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (atomic_load(&txs_before[signo].sink) == fd + 1) {
            atomic_store(&txs_before[signo].full, 1);
            if (!opened)
                txs_block(signo, context);
        }
}

static void txs_record(const siginfo_t *info, struct txs_siginfo *record);

static void txs_write(int fd, int signo, siginfo_t *info, void *context)
{
    uintptr_t tid = txs_tid();
    int opened = tid == atomic_load(&txs_opener);
    int reads = tid == atomic_load(&txs_before[signo].reader);
    struct txs_siginfo record;

    txs_record(info, &record);
    /*
     * What is kept is older than what comes after it, and newer than what is
     * in the pipe: so once something is, the pipe gets no more until all of
     * that has been received.  And nobody may read it again, if no thread does.
     */
    if (!(opened && (txs_kept_count > 0 || !reads
                     || atomic_load(&txs_before[signo].full)))
        && write(fd, &record, sizeof record) == (ssize_t)sizeof record) {
        if (!reads)
            txs_block(signo, context);
        else if (!txs_is_writable(fd))
            txs_pipe_is_full(fd, opened, context);
        return;
    }
    if (reads)
        txs_pipe_is_full(fd, opened, context);
    if (txs_may_keep(tid)) {
        txs_keep(info, context);
        return;
    }
    txs_block(signo, context);
    if (txs_queue_again(signo, info) == 0)
        return;
    atomic_fetch_add(&txs_before[signo].untold, 1);
    /*
     * The reader may have emptied the pipe since, and looked for the count
     * too early.  Else there is no room, and it will look.
     */
    memset(&record, 0, sizeof record);
    if (write(fd, &record, sizeof record) == -1)
        return;
}

/*
 * In a child that was forked, before its dispositions were given back, or in
 * one of vfork(2), which shares our memory: do as if we had never been.
 */
static void txs_undo_in_child(int signo, siginfo_t *info)
{
    sigaction(signo, &txs_before[signo].action, NULL);
    if (txs_queue_again(signo, info) == -1)
        kill(getpid(), signo);
}

static void txs_handler(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno, sink;

    if (getpid() != atomic_load(&txs_pid)) {
        txs_undo_in_child(signo, info);
        errno = saved_errno;
        return;
    }
    atomic_fetch_add(&txs_writing, 1);
    sink = atomic_load(&txs_before[signo].sink);
    if (sink != 0)
        txs_write(sink - 1, signo, info, context);
    else if (txs_may_keep(txs_tid()))
        txs_keep(info, context);
    else
        txs_pass_on(signo, info, context);
    atomic_fetch_sub(&txs_writing, 1);
    errno = saved_errno;
}

static int txs_is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == txs_handler;
}

/* 1 while the signal's disposition is our handler, 0 when not, -1 and errno. */
static int txs_is_installed(int signo)
{
    struct sigaction current;

    if (sigaction(signo, NULL, &current) == -1)
        return -1;
    return txs_is_ours(&current);
}

/*
 * Install the handler, and keep what stood there.  What somebody else has
 * installed over ours meanwhile becomes what is given back.  1 when ours was
 * not there, 0 when it was, -1 and errno.
 */
static int txs_install(int signo)
{
    struct sigaction ours, old;

    if (sigaction(signo, NULL, &old) == -1)
        return -1;
    if (txs_is_ours(&old))
        return 0;
    txs_before[signo].action = old;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = txs_handler;
    ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK
                  | (old.sa_flags & (SA_NOCLDSTOP | SA_NOCLDWAIT));
    sigfillset(&ours.sa_mask);
    return sigaction(signo, &ours, NULL) == -1 ? -1 : 1;
}

/* Give the disposition back, unless somebody has taken it from us. */
static int txs_restore_action(int signo)
{
    int caught = txs_is_installed(signo);

    if (caught != 1)
        return caught;
    return sigaction(signo, &txs_before[signo].action, NULL);
}

/*
 * Whether we have blocked a signal in a thread.  It was not blocked there
 * before, or it was not where it was first taken, and the thread has it from
 * that one.
 */
static int txs_blocked_by_us(uintptr_t tid, int signo)
{
    return !atomic_load(&txs_before[signo].was_blocked)
           || (txs_noted(tid) >> (signo - 1) & 1);
}

/*
 * Open what we have blocked since in the thread that has opened its mask, for
 * the children that it will start until it closes it; then it is blocked again.
 */
static void txs_window_update(void)
{
    uintptr_t tid = txs_tid();
    sigset_t more;

    if (!txs_may_keep(tid))
        return;
    sigemptyset(&more);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (txs_before[signo].held && !txs_is_covered(signo)
            && (txs_noted(tid) >> (signo - 1) & 1)) {
            sigaddset(&txs_opened, signo);
            sigaddset(&txs_reclosed, signo);
            sigaddset(&more, signo);
        }
    pthread_sigmask(SIG_UNBLOCK, &more, NULL);
}

/* Whether a thread has a signal blocked until there is room in the pipe. */
static int txs_is_full(uintptr_t tid, int signo)
{
    return atomic_load(&txs_before[signo].full)
           && atomic_load(&txs_before[signo].reader) == tid;
}

/* The thread that forks, told to its child, in which it has another number. */
static _Thread_local uintptr_t txs_forking;

static void txs_before_fork(void)
{
    txs_forking = txs_tid();
}

/*
 * In a child that fork(2) made, before any of its code runs: what the process
 * had before.  The child has one thread and nothing pending.  It is not told
 * to vfork(2) and posix_spawn(3), which run no code of ours.
 */
static void txs_after_fork_in_child(void)
{
    unsigned long long noted = txs_noted(txs_forking);
    sigset_t blocked, covered;

    sigemptyset(&blocked);
    sigemptyset(&covered);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        if (!txs_before[signo].held) {
            if (noted >> (signo - 1) & 1)   /* given back by another thread */
                sigaddset(&blocked, signo);
            continue;
        }
        txs_restore_action(signo);
        if (txs_is_covered(signo))
            sigaddset(&covered, signo);
        else if (txs_blocked_by_us(txs_forking, signo))
            sigaddset(&blocked, signo);
        txs_before[signo].held = 0;
        atomic_store(&txs_before[signo].sink, 0);
    }
    pthread_sigmask(SIG_BLOCK, &covered, NULL);
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    atomic_store(&txs_writing, 0);
    memset(txs_threads, 0, sizeof txs_threads);
    atomic_store(&txs_opener, 0);
    txs_depth = 0;
    txs_kept_count = 0;
}

/*
 * Hold a signal: catch it, and have children of fork(2) start without us.
 * The caller has blocked it; was_blocked tells whether that was so before.
 * The handler writes it to a pipe, if that is not -1.
 */
static int txs_acquire(int signo, int was_blocked, int pipe, uintptr_t main_thread)
{
    static int watching_forks;

    if (!watching_forks) {
        int error = pthread_atfork(txs_before_fork, NULL, txs_after_fork_in_child);

        if (error != 0) {
            errno = error;
            return -1;
        }
        watching_forks = 1;
    }
    atomic_store(&txs_main, main_thread);
    atomic_store(&txs_pid, (int)getpid());
    atomic_store(&txs_before[signo].reader, 0);
    atomic_store(&txs_before[signo].full, 0);
    atomic_store(&txs_before[signo].uncovered, 0);
    atomic_store(&txs_before[signo].untold, 0);
    atomic_store(&txs_before[signo].was_blocked, was_blocked);
    atomic_store(&txs_before[signo].sink, pipe + 1);
    if (txs_install(signo) == -1) {
        atomic_store(&txs_before[signo].sink, 0);
        return -1;
    }
    txs_before[signo].held = 1;
    txs_window_update();
    return 0;
}

/*
 * Let go of a signal; unblocking it is the caller's.  Then nothing more of it
 * is written to its pipe.
 */
static int txs_release(int signo)
{
    int result;

    txs_before[signo].held = 0;
    result = txs_restore_action(signo);
    if (atomic_exchange(&txs_before[signo].sink, 0) != 0)
        while (atomic_load(&txs_writing) != 0)
            sched_yield();
    return result;
}

/* --- the pipe's reader --------------------------------------------------- */

/*
 * From now on this thread takes the signals of a pipe.  While its mask is open
 * that has to wait, as if the pipe were full: txs_window_close() goes on.  If it is
 * full, txs_pipe_resume() does.
 */
static void txs_pipe_claim(int pipe)
{
    uintptr_t tid = txs_tid();
    sigset_t before, wanted;

    if (tid == atomic_load(&txs_opener) || !txs_is_writable(pipe)) {
        for (int signo = 1; signo < TXS_NSIG; signo++)
            if (atomic_load(&txs_before[signo].sink) == pipe + 1) {
                atomic_store(&txs_before[signo].reader, tid);
                atomic_store(&txs_before[signo].full, 1);
            }
        txs_window_update();
        return;
    }
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    sigemptyset(&wanted);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        unsigned long long bit = 1ULL << (signo - 1);

        if (atomic_load(&txs_before[signo].sink) != pipe + 1)
            continue;
        atomic_store(&txs_before[signo].reader, tid);
        atomic_store(&txs_before[signo].full, 0);
        sigaddset(&wanted, signo);
        if (txs_noted(tid) & bit)
            txs_forget(tid, bit);
        else if (sigismember(&before, signo) == 1)
            atomic_store(&txs_before[signo].uncovered, 1);
    }
    pthread_sigmask(SIG_UNBLOCK, &wanted, NULL);
}

/* It takes them no more: they wait in the kernel. */
static void txs_pipe_pause(int pipe)
{
    uintptr_t tid = txs_tid();
    sigset_t before, wanted;

    sigemptyset(&wanted);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (atomic_load(&txs_before[signo].sink) == pipe + 1
            && atomic_load(&txs_before[signo].reader) == tid)
            sigaddset(&wanted, signo);
    pthread_sigmask(SIG_BLOCK, &wanted, &before);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(&wanted, signo) == 1) {
            if (atomic_exchange(&txs_before[signo].uncovered, 0))
                txs_forget(tid, 1ULL << (signo - 1));
            else if (sigismember(&before, signo) == 0)
                txs_note(tid, signo);
            atomic_store(&txs_before[signo].reader, 0);
            atomic_store(&txs_before[signo].full, 0);
        }
    txs_window_update();    /* for a child, what is closed now is to be open */
}

/* Let in what waits in the kernel, as far as there is room. */
static void txs_pipe_fill(int pipe)
{
    if (txs_is_writable(pipe)) {
        txs_pipe_claim(pipe);
        txs_pipe_pause(pipe);
    }
}

/* Let the signals come again for which there was no room, if there is now. */
static void txs_pipe_resume(int pipe)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (atomic_load(&txs_before[signo].sink) == pipe + 1
            && atomic_load(&txs_before[signo].full)) {
            if (txs_is_writable(pipe))
                txs_pipe_claim(pipe);
            return;
        }
}

/*
 * Read records, and after them one for each signal that found no room.  How
 * many records there are, or -1 and errno.  There is room for TXS_NSIG more
 * than are asked for, and of those that found no room *untold grows.
 */
static int txs_pipe_read(int fd, int pipe, struct txs_siginfo *records, int wanted,
                    unsigned long *untold)
{
    ssize_t size = read(fd, records, (size_t)wanted * sizeof *records);
    int count = 0;

    if (size == -1)
        return -1;
    if (size == 0)
        /* We hold an end to write to: so somebody has closed that. */
        return errno = EPIPE, -1;
    for (int i = 0; i < (int)((size_t)size / sizeof *records); i++)
        if (records[i].signo != 0)      /* else it was written to wake us */
            records[count++] = records[i];
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (atomic_load(&txs_before[signo].untold) != 0
            && atomic_load(&txs_before[signo].sink) == pipe + 1) {
            memset(&records[count], 0, sizeof *records);
            records[count].code = SI_USER;
            records[count++].signo = (uint32_t)signo;
            *untold += atomic_exchange(&txs_before[signo].untold, 0);
        }
    return count;
}

/* --- the open mask, while a child is started ----------------------------- */

/*
 * Unblock here what is held and was not blocked before, and keep what comes.
 * May be nested; one thread at a time, the caller sees to that.  How many
 * signals are kept already, or -1 and errno.
 */
static int txs_window_open(void)
{
    sigset_t before, opened;
    uintptr_t tid = txs_tid();
    int error;

    if (txs_depth > 0)
        return txs_depth++, txs_kept_count;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    opened = before;
    txs_noted_then = txs_noted(tid);
    sigemptyset(&txs_opened);
    sigemptyset(&txs_reclosed);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        int blocked = sigismember(&before, signo) == 1;

        if (!txs_before[signo].held) {
            /* Another thread has given it back: here it is opened for good. */
            if (txs_noted_then >> (signo - 1) & 1) {
                txs_forget(tid, 1ULL << (signo - 1));
                sigdelset(&opened, signo);
            }
        } else if (txs_is_covered(signo)) {
            sigaddset(&opened, signo);      /* as it was before us */
            if (!blocked && !txs_is_uncovered(tid, signo))
                txs_note(tid, signo);       /* and it stays so */
        } else if (!blocked) {
            sigaddset(&txs_opened, signo);
        } else if (txs_blocked_by_us(tid, signo)) {
            sigaddset(&txs_opened, signo);
            sigaddset(&txs_reclosed, signo);
            sigdelset(&opened, signo);
        }
    }
    atomic_store(&txs_opener, tid);
    error = pthread_sigmask(SIG_SETMASK, &opened, NULL);
    if (error == 0)
        return txs_depth++, txs_kept_count;
    atomic_store(&txs_opener, 0);
    errno = error;
    return -1;
}

/*
 * Block again what was opened, and what somebody has blocked for us meanwhile,
 * but for what has been given back.  How many signals are kept.
 */
static int txs_window_close(void)
{
    sigset_t all, after;
    uintptr_t tid = txs_tid();
    unsigned long long noted;
    int count;

    /* In a child that was forked meanwhile it is 0 already. */
    if (txs_depth == 0 || --txs_depth > 0)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &after);
    noted = txs_noted(tid) & ~txs_noted_then;
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        int held = txs_before[signo].held;
        int opened = sigismember(&txs_opened, signo) == 1;

        if (held && txs_is_full(tid, signo)) {
            sigaddset(&after, signo);
            if (opened)
                txs_note(tid, signo);
        } else if (held && (sigismember(&txs_reclosed, signo) == 1
                            || (noted >> (signo - 1) & 1)))
            sigaddset(&after, signo);
        else if (opened || (held && txs_is_uncovered(tid, signo)))
            sigdelset(&after, signo);
    }
    atomic_store(&txs_opener, 0);
    pthread_sigmask(SIG_SETMASK, &after, NULL);
    count = txs_kept_count;
    for (int signo = 1; count == 0 && signo < TXS_NSIG; signo++)
        if (txs_is_full(tid, signo))
            txs_pipe_resume(atomic_load(&txs_before[signo].sink) - 1);
    return count;
}

/* How many signals are kept. */
static int txs_deferred_count(void)
{
    return txs_kept_count;
}

enum txs_layout { TXS_KILL, TXS_QUEUED, TXS_TIMER, TXS_POLL, TXS_CHILD, TXS_SYS };

/* Which fields mean something: as siginfo_layout() in Linux's kernel/signal.c. */
static enum txs_layout txs_layout(int signo, int code)
{
    if (code == SI_TIMER)
        return TXS_TIMER;
    if (code == SI_QUEUE)
        return TXS_QUEUED;
#if defined SI_MESGQ && defined SI_ASYNCIO  /* not with each BSD */
    if (code == SI_MESGQ || code == SI_ASYNCIO)
        return TXS_QUEUED;
#endif
    if (signo == SIGCHLD
        && (code == CLD_EXITED || code == CLD_KILLED || code == CLD_DUMPED
            || code == CLD_TRAPPED || code == CLD_STOPPED || code == CLD_CONTINUED))
        return TXS_CHILD;
#if TXS_LINUX
    if (code == SI_SIGIO)
        return TXS_POLL;
    if (code < 0)
        return TXS_QUEUED;
    if (code == SI_USER || code >= SI_KERNEL)
        return TXS_KILL;
    if (signo == SIGSYS && code <= 2)
        return TXS_SYS;
    if (code <= POLL_HUP)
        return TXS_POLL;
#endif
    return TXS_KILL;
}

/* A siginfo as signalfd(2) tells it. */
static void txs_record(const siginfo_t *info, struct txs_siginfo *record)
{
    memset(record, 0, sizeof *record);
    record->signo = (uint32_t)info->si_signo;
    record->errno_ = info->si_errno;
    record->code = info->si_code;
    switch (txs_layout(info->si_signo, info->si_code)) {
#if TXS_LINUX
    case TXS_TIMER:
        record->tid = (uint32_t)info->si_timerid;
        record->overrun = (uint32_t)info->si_overrun;
        record->ptr = (uint64_t)(uintptr_t)info->si_value.sival_ptr;
        record->int_ = info->si_value.sival_int;
        break;
    case TXS_POLL:
        record->band = (uint32_t)info->si_band;
        record->fd = info->si_fd;
        break;
    case TXS_SYS:
        record->call_addr = (uint64_t)(uintptr_t)info->si_call_addr;
        record->syscall = info->si_syscall;
        record->arch = info->si_arch;
        break;
#endif
#if !TXS_LINUX
    case TXS_TIMER:
        record->ptr = (uint64_t)(uintptr_t)info->si_value.sival_ptr;
        record->int_ = info->si_value.sival_int;
        break;
#endif
    case TXS_CHILD:
        record->pid = (uint32_t)info->si_pid;
        record->uid = (uint32_t)info->si_uid;
        record->status = info->si_status;
#if TXS_LINUX
        record->utime = (uint64_t)info->si_utime;
        record->stime = (uint64_t)info->si_stime;
#endif
        break;
    case TXS_QUEUED:
        record->ptr = (uint64_t)(uintptr_t)info->si_value.sival_ptr;
        record->int_ = info->si_value.sival_int;
        /* fall through */
    default:
        record->pid = (uint32_t)info->si_pid;
        record->uid = (uint32_t)info->si_uid;
    }
}

/*
 * Take what is kept, in order, as far as there is room for its records, and
 * tell how many they are.  What has been given back meanwhile goes to the
 * process, as it would have.
 */
static int txs_deferred_take(struct txs_siginfo *records, int room)
{
    sigset_t all, before;
    int taken = 0, count, left;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    count = txs_kept_count < room ? txs_kept_count : room;
    for (int i = 0; i < count; i++) {
        siginfo_t *info = &txs_kept[i];

        if (txs_before[info->si_signo].held)
            txs_record(info, &records[taken++]);
        else if (txs_queue_again(info->si_signo, info) == -1)
            kill(getpid(), info->si_signo);
    }
    if (txs_kept_count == TXS_DEFERRED && atomic_load(&txs_opener) != 0)
        /* its handler has closed the mask */
        for (int signo = 1; signo < TXS_NSIG; signo++)
            if (sigismember(&txs_opened, signo) == 1)
                sigdelset(&before, signo);
    left = txs_kept_count - count;
    memmove(txs_kept, txs_kept + count, (size_t)left * sizeof txs_kept[0]);
    txs_kept_count = left;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return taken;
}

/* --- the main thread's mask --------------------------------------------- */

static int txs_unblock_pending(void *set)
{
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
    free(set);
    return 0;
}

/*
 * Have the main thread unblock these signals when it next runs Python code:
 * no other thread can change its mask.  -1 when there is no room to ask.
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

/* --- the names of si_code ----------------------------------------------- */

#if TXS_LINUX && !defined SYS_SECCOMP
#define SYS_SECCOMP 1   /* asm-generic/siginfo.h; glibc before 2.39 hides it */
#endif

struct txs_code {
    int signo;          /* 0: a code that any signal may have */
    int code;
    const char *name;
};

static const struct txs_code txs_codes[] = {
#define ANY(name) {0, name, #name},
#define OF(signo, name) {signo, name, #name},
    ANY(SI_USER) ANY(SI_QUEUE) ANY(SI_TIMER)
#if defined SI_MESGQ && defined SI_ASYNCIO
    ANY(SI_MESGQ) ANY(SI_ASYNCIO)
#endif
#ifdef SI_KERNEL
    ANY(SI_KERNEL)
#endif
#ifdef SI_TKILL
    ANY(SI_TKILL)
#endif
#ifdef SI_SIGIO
    ANY(SI_SIGIO)
#endif
#ifdef SI_ASYNCNL
    ANY(SI_ASYNCNL)
#endif
#ifdef SI_DETHREAD
    ANY(SI_DETHREAD)
#endif
    OF(SIGCHLD, CLD_EXITED) OF(SIGCHLD, CLD_KILLED) OF(SIGCHLD, CLD_DUMPED)
    OF(SIGCHLD, CLD_TRAPPED) OF(SIGCHLD, CLD_STOPPED) OF(SIGCHLD, CLD_CONTINUED)
#if defined POLL_IN && defined SIGPOLL
    OF(SIGPOLL, POLL_IN) OF(SIGPOLL, POLL_OUT) OF(SIGPOLL, POLL_MSG)
    OF(SIGPOLL, POLL_ERR) OF(SIGPOLL, POLL_PRI) OF(SIGPOLL, POLL_HUP)
#endif
    OF(SIGILL, ILL_ILLOPC) OF(SIGILL, ILL_ILLOPN) OF(SIGILL, ILL_ILLADR)
    OF(SIGILL, ILL_ILLTRP) OF(SIGILL, ILL_PRVOPC) OF(SIGILL, ILL_PRVREG)
    OF(SIGILL, ILL_COPROC) OF(SIGILL, ILL_BADSTK)
    OF(SIGFPE, FPE_INTDIV) OF(SIGFPE, FPE_INTOVF) OF(SIGFPE, FPE_FLTDIV)
    OF(SIGFPE, FPE_FLTOVF) OF(SIGFPE, FPE_FLTUND) OF(SIGFPE, FPE_FLTRES)
    OF(SIGFPE, FPE_FLTINV) OF(SIGFPE, FPE_FLTSUB)
    OF(SIGSEGV, SEGV_MAPERR) OF(SIGSEGV, SEGV_ACCERR)
#ifdef SEGV_BNDERR
    OF(SIGSEGV, SEGV_BNDERR)
#endif
#ifdef SEGV_PKUERR
    OF(SIGSEGV, SEGV_PKUERR)
#endif
    OF(SIGBUS, BUS_ADRALN) OF(SIGBUS, BUS_ADRERR) OF(SIGBUS, BUS_OBJERR)
#ifdef BUS_MCEERR_AR
    OF(SIGBUS, BUS_MCEERR_AR) OF(SIGBUS, BUS_MCEERR_AO)
#endif
#ifdef TRAP_BRKPT
    OF(SIGTRAP, TRAP_BRKPT) OF(SIGTRAP, TRAP_TRACE)
#endif
#if TXS_LINUX
    OF(SIGSYS, SYS_SECCOMP)
#endif
#undef ANY
#undef OF
    {0, 0, NULL}        /* the end */
};

/* --- children ----------------------------------------------------------- */

#define TXS_P_PIDFD 3       /* P_PIDFD, which older C libraries do not name */

/*
 * Look at the end of a child, and leave its status to whoever waits for it.
 * 1 when it has ended, with the record that its SIGCHLD has; 0 while it runs;
 * -1 and errno, ECHILD when it is no child of ours.  It is named by its pidfd,
 * as its number may be another's by now, or by the number where pidfd is -1.
 */
static int txs_peek_child(int pid, int pidfd, struct txs_siginfo *record)
{
#if TXS_LINUX
    const int flags = WEXITED | WNOHANG | WNOWAIT;
    siginfo_t info;
    long error;
    struct rusage usage;
    unsigned long long ticks = (unsigned long long)sysconf(_SC_CLK_TCK);

    memset(&info, 0, sizeof info);
    memset(&usage, 0, sizeof usage);
    memset(record, 0, sizeof *record);
    /* waitid(3) has no rusage; the system call has. */
    error = -1;
    errno = EINVAL;
    if (pidfd >= 0)
        error = syscall(SYS_waitid, TXS_P_PIDFD, pidfd, &info, flags, &usage);
    if (error == -1 && errno == EINVAL)     /* or the kernel is older than 5.4 */
        error = syscall(SYS_waitid, P_PID, pid, &info, flags, &usage);
    if (error == -1)
        return -1;
    record->signo = SIGCHLD;
    record->code = info.si_code;
    record->pid = (uint32_t)info.si_pid;
    record->uid = info.si_uid;
    record->status = info.si_status;
    record->utime = (uint64_t)usage.ru_utime.tv_sec * ticks
                  + (uint64_t)usage.ru_utime.tv_usec * ticks / 1000000;
    record->stime = (uint64_t)usage.ru_stime.tv_sec * ticks
                  + (uint64_t)usage.ru_stime.tv_usec * ticks / 1000000;
    return info.si_pid != 0;
#else
    siginfo_t info;

    (void)pidfd;
    memset(&info, 0, sizeof info);
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
        return -1;
    txs_record(&info, record);
    return info.si_pid != 0;
#endif
}

/*
 * The same for any child, where Python has no waitid(2), as on macOS.  The
 * record's pid is 0 while all run.
 */
static int txs_peek_any_child(struct txs_siginfo *record)
{
    siginfo_t info;

    memset(&info, 0, sizeof info);
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
        return -1;
    memset(record, 0, sizeof *record);
    record->pid = (uint32_t)info.si_pid;
    return 0;
}

/*
 * Whether orphans among our descendants become our children.  Returns what
 * was so before, or -1 and errno.
 */
static int txs_set_subreaper(int wanted)
{
#if TXS_LINUX
    int before;

    if (prctl(PR_GET_CHILD_SUBREAPER, &before, 0, 0, 0) == -1
        || prctl(PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0) == -1)
        return -1;
    return before;
#else
    (void)wanted;
    errno = ENOSYS;
    return -1;
#endif
}
