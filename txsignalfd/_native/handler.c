/*
 * The signal handler, and how a signal is acquired and released.
 *
 * Signals are read from a signalfd, so why is there a handler?  A signal mask
 * belongs to one thread.  The kernel may deliver a signal to any thread that does
 * not block it, past the signalfd, and under SIG_DFL the process would end.  The
 * handler stands in for such threads.  It blocks the signal in the thread that it
 * interrupts, from its return on, and gives it to the reader.  So each thread is
 * interrupted at most once for each signal.
 *
 * THE STATES of a signal in a thread, and what happens to a signal that the
 * kernel delivers to that thread.  tests/native/test_states.py has a test for
 * each row, by its name.
 *
 *   state          the thread                   the signal
 *   -------------  ---------------------------  ---------------------------------
 *   unwatched      any                          has the action of the program
 *   watched        does not block it, and the   is blocked here, noted and deferred,
 *                  owner has a doorbell         and the doorbell rings (-> blocked)
 *   no-doorbell    the same, but the owner has  is blocked here, noted and sent back
 *                  none                         to the queue (-> blocked); if that
 *                                               is full, it is deferred
 *   no-space       the same as any of these,    is blocked here, noted and counted;
 *                  and no more can be deferred  the reader learns only its number
 *   requested      is asked to block it, as a   is dropped: it is the request
 *                  realtime signal is acquired  (-> blocked)
 *   blocked        blocks it                    stays queued until the signalfd is
 *                                               read; no handler runs
 *   chained        any; other code calls the    is received once, but not blocked
 *                  handler                      here: the mask is that code's
 *   window         has opened its mask to       is deferred
 *                  start a child
 *   window-full    the same, and this is the    is deferred, and all are blocked
 *                  last signal that fits        here until there is room
 *   owner          receives the signals of a    is written to the pipe
 *                  pipe
 *   throttled      the same, and the pipe is    is blocked here with the other
 *                  full                         signals of the pipe, until the
 *                                               reader has made room (-> owner)
 *   not-owner      does not block it, and the   is written to the pipe, blocked
 *                  backend is a pipe            here and noted (-> blocked)
 *   no-room        the same, and the pipe is    is blocked here, noted and deferred
 *                  full
 *   user-blocked   owner, had it blocked        is unblocked here while this thread
 *                  before it was acquired       is the owner; children block it
 *   child          of fork or vfork, in which   has the action of the program
 *                  the handler is installed
 *   released       any; other code calls the    has the action that it had before
 *                  handler, or it began before  it was watched
 *                  the release
 *
 * Rules.  The handler may interrupt any thread at any instruction:
 *   - It calls only what is async-signal-safe (signal-safety(7)): sigaddset(3),
 *     sigismember(3), sigaction(2), pthread_sigmask(3), raise(3), getpid(2),
 *     write(2), poll(2), pthread_self(3), memset(3), and on Linux the system calls
 *     gettid, tgkill, rt_sigprocmask and rt_sigqueueinfo.
 *   - It allocates no memory, takes no lock and uses no Python object.
 *   - It writes to its thread's own ucontext, to lock-free atomics, to the slots of
 *     deferred signals that it has claimed, to a pipe and to an eventfd.
 *   - It restores errno.
 */

#include "native.h"

static atomic_int txs_pid;      /* the process that watches signals */

/*
 * The Python interpreter that watches signals, or 0.  The locks and the owners of
 * signals are kept in Python, where interpreters of one process cannot share them.
 */
static atomic_uintptr_t txs_interpreter;

/*
 * Send a siginfo to the process unchanged.  0, or -1 if that is impossible.
 *
 * The kernel lets a thread send any si_code to its own thread number, and queues
 * the signal for the whole process nevertheless.
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
 * Whether children start with a signal blocked, because the user has blocked it:
 * with a pipe, this thread has it unblocked nevertheless.
 */
static int txs_child_blocks(int signo)
{
    return atomic_load(&txs_signals[signo].was_blocked)
           && atomic_load(&txs_signals[signo].pipe_fd) != 0;
}

/* Whether a thread receives a signal that the user has blocked in it. */
static int txs_is_user_blocked(uintptr_t tid, int signo)
{
    return atomic_load(&txs_signals[signo].user_blocked)
           && txs_child_blocks(signo)
           && atomic_load(&txs_signals[signo].owner_tid) == tid;
}

/* Whether a thread blocks a signal until the pipe has room. */
static int txs_is_throttled(uintptr_t tid, int signo)
{
    return atomic_load(&txs_signals[signo].throttled)
           && atomic_load(&txs_signals[signo].owner_tid) == tid;
}

/* Block a signal in this thread from the handler's return on, if it can be. */
static void txs_block_here(int signo, void *context)
{
    uintptr_t tid = txs_tid();

    if (context == NULL)
        return;
    sigaddset(TXS_MASK(context), signo);
    if (!txs_is_user_blocked(tid, signo))
        txs_note_interrupted(tid, signo);
}

/* --- how the handler was called ------------------------------------------ */

/*
 * Whether the kernel has called the handler, and not other code that has found it
 * installed.  Such code may call it with one argument: then the others are
 * whatever the registers contain.
 *
 * The kernel leaves both structures on the stack just above.  It calls the handler
 * only while that is installed, and with all signals blocked.  The second check
 * takes longer than all else that the handler does.
 */
static int txs_may_be_from_kernel(int signo, const siginfo_t *info,
                                  const void *context)
{
    const uintptr_t reach = 65536;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);

    return (uintptr_t)info - here < reach && (uintptr_t)context - here < reach
           && info->si_signo == signo;
}

static int txs_is_from_kernel(int signo)
{
    sigset_t all, now;

    if (!txs_is_installed(signo))
        return 0;
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    for (int other = 1; other < TXS_NSIG; other++)
        if (sigismember(&all, other) == 1 && sigismember(&now, other) != 1)
            return 0;
    return 1;
}

/* Whether an address can be read: the system call fails, but it looks there first. */
static int txs_is_readable(const void *address)
{
#if TXS_LINUX
    return syscall(SYS_rt_sigprocmask, -1, address, NULL, (size_t)8) == -1
           && errno != EFAULT;
#else
    (void)address;
    return 0;
#endif
}

/* Whether an argument that other code has passed looks like a siginfo. */
static int txs_is_siginfo(int signo, const siginfo_t *info)
{
    return info != NULL && txs_is_readable(info)
           && txs_is_readable((const char *)(info + 1) - 8)
           && info->si_signo == signo && info->si_errno == 0
           && info->si_code >= -64 && info->si_code <= 128;
}

/* --- the handler --------------------------------------------------------- */

/* Wake the reactor that watches the signal. */
static void txs_ring(int fd)
{
    const uint64_t one = 1;

    /* It is full only if the reactor has not read it for very long. */
    if (write(fd, &one, sizeof one) == -1)
        return;
}

/* Receive a watched signal for a signalfd. */
static void txs_receive(int signo, siginfo_t *info, void *context)
{
    int doorbell_fd = atomic_load(&txs_signals[signo].doorbell_fd);

    if (txs_in_window(txs_tid()) && txs_window_defer(info, context))
        return;
    txs_block_here(signo, context);
    if (doorbell_fd != 0 && txs_defer(info)) {
        txs_ring(doorbell_fd - 1);
        return;
    }
    /* RLIMIT_SIGPENDING may have been used up since the signal left the queue. */
    if (txs_queue_again(signo, info) == -1 && !txs_defer(info))
        atomic_fetch_add(&txs_signals[signo].without_siginfo, 1);
}

static void txs_handler(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno, watched = 0;
    struct txs_signal *signal;
    siginfo_t unknown;
    uintptr_t tid = txs_tid();
    int owns;

    if (signo <= 0 || signo >= TXS_NSIG)
        return;
    signal = &txs_signals[signo];
    owns = tid == atomic_load(&signal->owner_tid);
    /* The owner of a pipe gets every signal: it looks again before it blocks one. */
    if (!txs_may_be_from_kernel(signo, info, context)
        || (!owns && !txs_is_from_kernel(signo))) {
        context = NULL;
        if (!txs_is_siginfo(signo, info)) {
            /* As the kernel describes a signal whose sender it has forgotten. */
            memset(&unknown, 0, sizeof unknown);
            unknown.si_signo = signo;
            info = &unknown;
        }
    }
    if (context != NULL && txs_answer(info, context)) {
        errno = saved_errno;
        return;
    }
    if (getpid() == atomic_load(&txs_pid)) {
        int pipe_fd;

        atomic_fetch_add(&signal->running, 1);
        watched = atomic_load(&signal->watched);
        pipe_fd = atomic_load(&signal->pipe_fd);
        if (watched && pipe_fd != 0)
            txs_pipe_write(pipe_fd - 1, tid, signo, info, context);
        else if (watched)
            txs_receive(signo, info, context);
        atomic_fetch_sub(&signal->running, 1);
    }
    if (!watched)
        txs_perform(signo, info, context);
    errno = saved_errno;
}

/* --- fork --------------------------------------------------------------- */

/* The thread that forks: its child has another number for it. */
static _Thread_local uintptr_t txs_forking_tid;

static void txs_before_fork(void)
{
    txs_forking_tid = txs_tid();
    txs_lock_actions();
}

/*
 * In a child of fork(2), before any other code runs there: restore mask and
 * actions.  The child has one thread, and no signal is pending in it.  vfork(2)
 * and posix_spawn(3) do not call this.
 */
static void txs_after_fork_in_child(void)
{
    txs_set_bits(&txs_unlocked_mask,
                 txs_without_us(txs_forking_tid, &txs_unlocked_mask));
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        struct txs_signal *signal = &txs_signals[signo];

        atomic_store(&signal->running, 0);
        if (!atomic_load(&signal->watched))
            continue;
        txs_restore_action(signo);
        atomic_store(&signal->watched, 0);
        atomic_store(&signal->pipe_fd, 0);
        atomic_store(&signal->doorbell_fd, 0);
    }
    atomic_store(&txs_pid, (int)getpid());
    atomic_store(&txs_interpreter, 0);
    txs_threads_reset();
    txs_window_reset();
    txs_deferred_reset();
    txs_unlock_actions();
}

/* --- acquire and release ------------------------------------------------ */

/* Let an interpreter watch signals.  0 if another one watches some. */
static int txs_interpreter_enter(uintptr_t interpreter)
{
    uintptr_t current = 0;

    return atomic_compare_exchange_strong(&txs_interpreter, &current, interpreter)
           || current == interpreter;
}

/* The interpreter has released its last signal. */
static void txs_interpreter_leave(void)
{
    atomic_store(&txs_interpreter, 0);
}

/* Whether another interpreter watches signals. */
static int txs_interpreter_is_other(uintptr_t interpreter)
{
    uintptr_t current = atomic_load(&txs_interpreter);

    return current != 0 && current != interpreter;
}

/* Do this once: fork(2) restores everything in a child.  0, or -1 and errno. */
static int txs_watch_forks(void)
{
    static int watches_forks;
    int error = 0;

    if (!watches_forks)
        error = pthread_atfork(txs_before_fork, txs_unlock_actions,
                               txs_after_fork_in_child);
    watches_forks |= error == 0;
    errno = error;
    return error == 0 ? 0 : -1;
}

/*
 * Acquire a signal: install the handler, and restore everything in children of
 * fork(2).  The caller has blocked the signal; was_blocked says whether it was
 * blocked before.  pipe is the pipe to write to, or -1 when a signalfd is read.
 * doorbell is the eventfd that says that a signal is deferred, or -1.
 */
static int txs_acquire(int signo, int was_blocked, int pipe, int doorbell,
                       uintptr_t main_tid)
{
    struct txs_signal *signal = &txs_signals[signo];

    if (txs_watch_forks() == -1)
        return -1;
    atomic_store(&txs_main_tid, main_tid);
    atomic_store(&txs_pid, (int)getpid());
    atomic_store(&signal->owner_tid, 0);
    atomic_store(&signal->throttled, 0);
    atomic_store(&signal->user_blocked, 0);
    atomic_store(&signal->without_siginfo, 0);
    atomic_store(&signal->reported, 0);
    atomic_store(&signal->was_blocked, was_blocked);
    atomic_store(&signal->pipe_fd, pipe + 1);
    atomic_store(&signal->doorbell_fd, doorbell + 1);
    /* Before it is installed: it may run in another thread at once. */
    atomic_store(&signal->watched, 1);
    if (txs_install_first(signo) == -1) {
        atomic_store(&signal->watched, 0);
        atomic_store(&signal->pipe_fd, 0);
        atomic_store(&signal->doorbell_fd, 0);
        return -1;
    }
    txs_window_update();
    return 0;
}

/*
 * Release a signal.  The caller unblocks it.  When this returns, no handler uses
 * the pipe and the doorbell any more, and they can be closed.
 */
static int txs_release(int signo)
{
    const struct timespec moment = {0, 100000};
    struct txs_signal *signal = &txs_signals[signo];
    int result;

    atomic_store(&signal->watched, 0);
    txs_lock_actions();
    /* A thread that has not answered must not run into another action. */
    result = txs_unanswered(signo) ? 0 : txs_restore_action(signo);
    txs_unlock_actions();
    atomic_store(&signal->pipe_fd, 0);
    atomic_store(&signal->doorbell_fd, 0);
    /* Sleep: to yield would leave a handler of less priority no time to end. */
    while (atomic_load(&signal->running) != 0)
        nanosleep(&moment, NULL);
    return result;
}
