/*
 * The signal handler, and how a signal is acquired and released.
 *
 * Signals are read from a signalfd, so why is there a handler?  A signal mask
 * belongs to one thread.  A thread that does not block a signal takes it away
 * from the signalfd, and under SIG_DFL the process would end.  The handler stands
 * in for such threads.  It blocks the signal in the thread that it interrupts,
 * from its return on, and sends the same siginfo back to the queue of the
 * process, where the signalfd finds it.  So each thread is interrupted at most
 * once for each signal.
 *
 * THE STATES of a signal in a thread, and what happens to a signal that the
 * kernel delivers to that thread.  tests/native/test_states.py has a test for
 * each row, by its name.
 *
 *   state          the thread                   the signal
 *   -------------  ---------------------------  ---------------------------------
 *   unwatched      any                          has the action of the program
 *   watched        does not block it, and the   is blocked here, noted, and sent
 *                  backend is a signalfd        back to the queue (-> blocked)
 *   blocked        blocks it                    stays queued until the signalfd
 *                                               is read; no handler runs
 *   window         has opened its mask to       is deferred
 *                  start a child
 *   window-full    the same, and no room is     is deferred if it is the last that
 *                  left for deferred signals    fits, and then blocked here until
 *                                               there is room (-> blocked); else
 *                                               handled as watched
 *   owner          receives the signals of a    is written to the pipe
 *                  pipe
 *   throttled      the same, and the pipe is    is blocked here with the other
 *                  full                         signals of the pipe, until the
 *                                               reader has made room (-> owner)
 *   not-owner      does not block it, and the   is written to the pipe, blocked
 *                  backend is a pipe            here and noted (-> blocked)
 *   no-room        the same, and the pipe is    is blocked here, noted, and sent
 *                  full                         back to the queue; on other
 *                                               systems than Linux, counted
 *   user-blocked   owner, had it blocked        is unblocked here while this thread
 *                  before it was acquired       is the owner; children block it
 *   child          of fork or vfork, in which   has the action of the program, and
 *                  the handler is still         is sent to the child once more
 *                  installed
 *   released       the handler was running      is blocked here, noted, and sent
 *                  when it was released         back to the queue
 *
 * Rules.  The handler may interrupt any thread at any instruction:
 *   - It calls only what is async-signal-safe (signal-safety(7)): sigaddset(3),
 *     sigismember(3), sigaction(2), kill(2), getpid(2), write(2), poll(2),
 *     pthread_self(3), memset(3), and on Linux the system calls gettid, tgkill
 *     and rt_sigqueueinfo.
 *   - It allocates no memory, takes no lock and uses no Python object.
 *   - It writes to its thread's own ucontext, to lock-free atomics, to a pipe,
 *     and, in the thread that has a spawn window, to the deferred signals.
 *   - It restores errno.
 */

#include "native.h"

static atomic_int txs_pid;              /* the process that watches signals */
static atomic_int txs_handlers_running; /* handlers that may write to a pipe */

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
 * Send a siginfo back, or at least its signal.  RLIMIT_SIGPENDING may have been
 * used up since the signal left the queue.  The kernel accepts kill(2) then.
 */
static void txs_send_back(int signo, siginfo_t *info)
{
    if (txs_queue_again(signo, info) == -1)
        kill(getpid(), signo);
}

/*
 * Whether children start with a signal blocked, because the user has blocked it:
 * with a pipe, this thread has it unblocked all the same.
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

static void txs_handler(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno, pipe_fd;

    if (getpid() != atomic_load(&txs_pid)) {
        sigaction(signo, &txs_signals[signo].action, NULL);
        txs_send_back(signo, info);
        errno = saved_errno;
        return;
    }
    atomic_fetch_add(&txs_handlers_running, 1);
    pipe_fd = atomic_load(&txs_signals[signo].pipe_fd);
    if (pipe_fd != 0)
        txs_pipe_write(pipe_fd - 1, signo, info, context);
    else if (txs_may_defer(txs_tid()))
        txs_defer(info, context);
    else {
        txs_block_here(signo, context);
        txs_send_back(signo, info);
    }
    atomic_fetch_sub(&txs_handlers_running, 1);
    errno = saved_errno;
}

/* --- dispositions ------------------------------------------------------- */

static int txs_is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == txs_handler;
}

/* 1 while our handler is installed for a signal, else 0; or -1 and errno. */
static int txs_is_installed(int signo)
{
    struct sigaction current;

    if (sigaction(signo, NULL, &current) == -1)
        return -1;
    return txs_is_ours(&current);
}

/*
 * Install the handler.  The action that it replaces is restored later.  1 if it
 * was not installed, 0 if it was; or -1 and errno.
 */
static int txs_install(int signo)
{
    struct sigaction ours, old;

    if (sigaction(signo, NULL, &old) == -1)
        return -1;
    if (txs_is_ours(&old))
        return 0;
    txs_signals[signo].action = old;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = txs_handler;
    ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK
                  | (old.sa_flags & (SA_NOCLDSTOP | SA_NOCLDWAIT));
    sigfillset(&ours.sa_mask);
    return sigaction(signo, &ours, NULL) == -1 ? -1 : 1;
}

/* Restore the action from before, unless our handler was replaced. */
static int txs_restore_action(int signo)
{
    int installed = txs_is_installed(signo);

    if (installed != 1)
        return installed;
    return sigaction(signo, &txs_signals[signo].action, NULL);
}

/* --- fork --------------------------------------------------------------- */

/* The thread that forks: its child has another number for it. */
static _Thread_local uintptr_t txs_forking_tid;

static void txs_before_fork(void)
{
    txs_forking_tid = txs_tid();
}

/*
 * In a child of fork(2), before any other code runs there: restore mask and
 * actions.  The child has one thread, and no signal is pending in it.  vfork(2)
 * and posix_spawn(3) do not call this.
 */
static void txs_after_fork_in_child(void)
{
    txs_bits noted = txs_noted(txs_forking_tid);
    sigset_t unblock, block;

    sigemptyset(&unblock);
    sigemptyset(&block);
    for (int signo = 1; signo < TXS_NSIG; signo++) {
        if (!atomic_load(&txs_signals[signo].watched)) {
            if (noted & TXS_BIT(signo))     /* another thread has released it */
                sigaddset(&unblock, signo);
            continue;
        }
        txs_restore_action(signo);
        if (txs_child_blocks(signo))
            sigaddset(&block, signo);
        else if (txs_blocked_by_us(txs_forking_tid, signo))
            sigaddset(&unblock, signo);
        atomic_store(&txs_signals[signo].watched, 0);
        atomic_store(&txs_signals[signo].pipe_fd, 0);
    }
    pthread_sigmask(SIG_BLOCK, &block, NULL);
    pthread_sigmask(SIG_UNBLOCK, &unblock, NULL);
    atomic_store(&txs_handlers_running, 0);
    txs_threads_reset();
    txs_window_reset();
}

/* --- acquire and release ------------------------------------------------ */

/*
 * Acquire a signal: install the handler, and make fork(2) undo that in children.
 * The caller has blocked the signal; was_blocked says whether it was blocked
 * before.  pipe is the pipe to write to, or -1 when a signalfd is read.
 */
static int txs_acquire(int signo, int was_blocked, int pipe, uintptr_t main_tid)
{
    static int watches_forks;

    if (!watches_forks) {
        int error = pthread_atfork(txs_before_fork, NULL, txs_after_fork_in_child);

        if (error != 0) {
            errno = error;
            return -1;
        }
        watches_forks = 1;
    }
    atomic_store(&txs_main_tid, main_tid);
    atomic_store(&txs_pid, (int)getpid());
    atomic_store(&txs_signals[signo].owner_tid, 0);
    atomic_store(&txs_signals[signo].throttled, 0);
    atomic_store(&txs_signals[signo].user_blocked, 0);
    atomic_store(&txs_signals[signo].without_siginfo, 0);
    atomic_store(&txs_signals[signo].was_blocked, was_blocked);
    atomic_store(&txs_signals[signo].pipe_fd, pipe + 1);
    if (txs_install(signo) == -1) {
        atomic_store(&txs_signals[signo].pipe_fd, 0);
        return -1;
    }
    atomic_store(&txs_signals[signo].watched, 1);
    txs_window_update();
    return 0;
}

/*
 * Release a signal.  The caller unblocks it.  When this returns, no handler
 * writes to the pipe any more, and its descriptor can be closed.
 */
static int txs_release(int signo)
{
    int result;

    atomic_store(&txs_signals[signo].watched, 0);
    result = txs_restore_action(signo);
    if (atomic_exchange(&txs_signals[signo].pipe_fd, 0) != 0)
        while (atomic_load(&txs_handlers_running) != 0)
            sched_yield();
    return result;
}
