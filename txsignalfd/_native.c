/*
 * The seam between txsignalfd and the system: system calls, one signal
 * handler, and the constants as the compiler sees them.  No policy: who may
 * watch what, and when it is given back, is decided in _mask.py.
 *
 * Rules of the handler, which may interrupt any thread at any instruction:
 *   - it calls nothing that is not async-signal-safe (signal-safety(7)):
 *     sigaddset(3), sigismember(3), kill(2), getpid(2), and the raw system
 *     calls gettid and rt_sigqueueinfo;
 *   - it allocates nothing, takes no lock, and touches no Python object;
 *   - what it writes is its thread's own ucontext, lock-free atomics, and what
 *     is kept, which is its thread's own while the mask is open;
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
 */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <ucontext.h>
#else
#define SFD_CLOEXEC 0
#define SFD_NONBLOCK 0
#endif

#ifdef _NSIG
#define TXS_NSIG _NSIG
#else
#define TXS_NSIG NSIG
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

#ifdef __linux__
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
#ifdef __linux__
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
 * valid while the signal is held.
 */
static struct {
    struct sigaction action;
    int was_blocked;
    int held;
} txs_before[TXS_NSIG];

/*
 * Which threads we have blocked signals in, the handler or _mask.py, so that
 * it can be undone: a bit for each signal.  A thread for which there is no room
 * is served like the others, and only not noted.
 */
#define TXS_THREADS 512

static struct {
    atomic_int tid;
    atomic_ullong blocked;
} txs_threads[TXS_THREADS];

static void txs_note(int tid, int signo)
{
    for (int i = 0; i < TXS_THREADS; i++) {
        int none = 0;

        if (atomic_load(&txs_threads[i].tid) == tid
            || atomic_compare_exchange_strong(&txs_threads[i].tid, &none, tid)) {
            atomic_fetch_or(&txs_threads[i].blocked, 1ULL << (signo - 1));
            return;
        }
    }
}

/*
 * The signals that were noted for a thread, as bits; those of them that are in
 * the argument are forgotten.
 */
static unsigned long long txs_forget(int tid, unsigned long long signals)
{
    for (int i = 0; i < TXS_THREADS; i++)
        if (atomic_load(&txs_threads[i].tid) == tid) {
            unsigned long long noted
                = atomic_fetch_and(&txs_threads[i].blocked, ~signals);

            if (signals != 0 && (noted & ~signals) == 0)
                atomic_store(&txs_threads[i].tid, 0);
            return noted;
        }
    return 0;
}

static void txs_add(sigset_t *set, const sigset_t *signals)
{
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(signals, signo) == 1)
            sigaddset(set, signo);
}

/*
 * What came while a mask was open.  One thread at a time has opened its mask,
 * and only its handler, in which all signals are blocked, appends.
 */
#define TXS_KEPT 65536      /* of which memory has only what was ever used */

static siginfo_t txs_kept[TXS_KEPT];
static volatile sig_atomic_t txs_kept_count;
static atomic_int txs_opener;           /* the thread's id; 0: none is open */
static sigset_t txs_opened;             /* what it has unblocked */
static int txs_depth;                   /* how often it has opened it */

static void txs_handler(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno;
#ifdef __linux__
    int tid = (int)syscall(SYS_gettid);

    if (tid == atomic_load(&txs_opener)) {
        txs_kept[txs_kept_count] = *info;
        /* When it is full the rest stays queued, and the mask is closed. */
        if (++txs_kept_count == TXS_KEPT)
            txs_add(&((ucontext_t *)context)->uc_sigmask, &txs_opened);
        return;     /* errno was not touched: gettid cannot fail */
    }
    sigaddset(&((ucontext_t *)context)->uc_sigmask, signo);
    txs_note(tid, signo);
    /*
     * The thread's own id, not the process's: to itself a thread may send
     * any si_code, and the kernel still queues it for the whole process.
     *
     * It fails only when RLIMIT_SIGPENDING has been used up since this very
     * signal left the queue.  kill(2) is then still heard, without a
     * siginfo, as the kernel does it for a standard signal.
     */
    if (syscall(SYS_rt_sigqueueinfo, tid, signo, info) == -1)
        kill(getpid(), signo);
#else
    (void)signo, (void)info, (void)context;
#endif
    errno = saved_errno;
}

static int txs_is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == txs_handler;
}

/* 1 while the signal's disposition is our handler, 0 when not, -1 and errno. */
static int txs_caught(int signo)
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
static int txs_catch(int signo)
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
static int txs_release(int signo)
{
    int caught = txs_caught(signo);

    if (caught != 1)
        return caught;
    return sigaction(signo, &txs_before[signo].action, NULL);
}

/*
 * Whether we have blocked a signal in a thread.  It was not blocked there
 * before, or it was not where it was first taken, and the thread has it from
 * that one.
 */
static int txs_blocked_by_us(int tid, int signo)
{
    return !txs_before[signo].was_blocked
           || (txs_forget(tid, 0) >> (signo - 1) & 1);
}

static int txs_tid(void)
{
#ifdef __linux__
    return (int)syscall(SYS_gettid);
#else
    return (int)getpid();
#endif
}

/* The thread that forks, told to its child, in which it has another number. */
static __thread int txs_forking;

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
    sigset_t blocked;

    sigemptyset(&blocked);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        if (!txs_before[signo].held)
            continue;
        txs_release(signo);
        if (txs_blocked_by_us(txs_forking, signo))
            sigaddset(&blocked, signo);
        txs_before[signo].held = 0;
    }
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    memset(txs_threads, 0, sizeof txs_threads);
    atomic_store(&txs_opener, 0);
    txs_depth = 0;
    txs_kept_count = 0;
}

/*
 * Hold a signal: catch it, and have children of fork(2) start without us.
 * The caller has blocked it; was_blocked tells whether that was so before.
 */
static int txs_hold(int signo, int was_blocked)
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
    if (txs_catch(signo) == -1)
        return -1;
    txs_before[signo].was_blocked = was_blocked;
    txs_before[signo].held = 1;
    return 0;
}

/* Let go of a signal; unblocking it is the caller's. */
static int txs_let_go(int signo)
{
    txs_before[signo].held = 0;
    return txs_release(signo);
}

/* --- the open mask, while a child is started ----------------------------- */

/*
 * Unblock here what is held and was not blocked before, and keep what comes.
 * May be nested; one thread at a time, the caller sees to that.  How many
 * signals are kept already, or -1 and errno.
 */
static int txs_open(void)
{
    sigset_t before;
    int error;

    if (txs_depth > 0)
        return txs_depth++, txs_kept_count;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    sigemptyset(&txs_opened);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (txs_before[signo].held && txs_blocked_by_us(txs_tid(), signo)
            && sigismember(&before, signo) == 1)
            sigaddset(&txs_opened, signo);
    atomic_store(&txs_opener, txs_tid());
    error = pthread_sigmask(SIG_UNBLOCK, &txs_opened, NULL);
    if (error == 0)
        return txs_depth++, txs_kept_count;
    atomic_store(&txs_opener, 0);
    errno = error;
    return -1;
}

/*
 * Block again what was opened, but for what has been given back meanwhile.
 * How many signals are kept.
 */
static int txs_close(void)
{
    sigset_t again;

    /* In a child that was forked meanwhile it is 0 already. */
    if (txs_depth == 0 || --txs_depth > 0)
        return 0;
    sigemptyset(&again);
    for (int signo = 1; signo < TXS_NSIG; signo++)
        if (sigismember(&txs_opened, signo) == 1 && txs_before[signo].held)
            sigaddset(&again, signo);
    pthread_sigmask(SIG_BLOCK, &again, NULL);
    atomic_store(&txs_opener, 0);
    return txs_kept_count;
}

/* How many signals are kept. */
static int txs_count_kept(void)
{
    return txs_kept_count;
}

enum txs_layout { TXS_KILL, TXS_QUEUED, TXS_TIMER, TXS_POLL, TXS_CHILD, TXS_SYS };

/* Which fields mean something: as siginfo_layout() in Linux's kernel/signal.c. */
static enum txs_layout txs_layout(int signo, int code)
{
    if (code <= SI_USER || code >= 0x80) {
        if (code == SI_TIMER)
            return TXS_TIMER;
#ifdef SI_SIGIO
        if (code == SI_SIGIO)
            return TXS_POLL;
#endif
        return code < 0 ? TXS_QUEUED : TXS_KILL;
    }
    if (signo == SIGCHLD && code <= CLD_CONTINUED)
        return TXS_CHILD;
#ifdef __linux__
    if (signo == SIGSYS && code <= 2)
        return TXS_SYS;
#endif
#ifdef POLL_HUP
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
#ifdef __linux__
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
    case TXS_CHILD:
        record->pid = (uint32_t)info->si_pid;
        record->uid = (uint32_t)info->si_uid;
        record->status = info->si_status;
#ifdef __linux__
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
static int txs_take_kept(struct txs_siginfo *records, int room)
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
#ifdef __linux__
        else if (syscall(SYS_rt_sigqueueinfo, (int)syscall(SYS_gettid),
                         info->si_signo, info) == -1)
            kill(getpid(), info->si_signo);
#endif
    }
    if (txs_kept_count == TXS_KEPT && atomic_load(&txs_opener) != 0)
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

#if defined __linux__ && !defined SYS_SECCOMP
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
    ANY(SI_USER) ANY(SI_QUEUE) ANY(SI_TIMER) ANY(SI_MESGQ) ANY(SI_ASYNCIO)
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
#ifdef POLL_IN
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
    OF(SIGTRAP, TRAP_BRKPT) OF(SIGTRAP, TRAP_TRACE)
#ifdef __linux__
    OF(SIGSYS, SYS_SECCOMP)
#endif
#undef ANY
#undef OF
    {0, 0, NULL}        /* the end */
};

/* --- children ----------------------------------------------------------- */

/*
 * Look at the end of a child, and leave its status to whoever waits for it.
 * 1 when it has ended, with the record that its SIGCHLD has; 0 while it runs;
 * -1 and errno, ECHILD when it is no child of ours.
 */
static int txs_peek_child(int pid, struct txs_siginfo *record)
{
#ifdef __linux__
    siginfo_t info;
    struct rusage usage;
    unsigned long long ticks = (unsigned long long)sysconf(_SC_CLK_TCK);

    memset(&info, 0, sizeof info);
    memset(&usage, 0, sizeof usage);
    memset(record, 0, sizeof *record);
    /* waitid(3) has no rusage; the system call has. */
    if (syscall(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT, &usage)
        == -1)
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
    (void)pid, (void)record;
    errno = ENOSYS;
    return -1;
#endif
}

/*
 * Whether orphans among our descendants become our children.  Returns what
 * was so before, or -1 and errno.
 */
static int txs_set_subreaper(int wanted)
{
#ifdef __linux__
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
