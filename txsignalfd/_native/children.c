/*
 * The ends of child processes, read without reaping them: the status stays for
 * the code that waits for the child.
 */

#include "native.h"

#if TXS_LINUX

#define TXS_P_PIDFD 3       /* P_PIDFD: older C libraries have no name for it */

/*
 * The kernel's struct rusage.  The C library's may have a wider time_t, which
 * only its own functions convert.
 */
struct txs_rusage {
    struct {
        long seconds;
        long microseconds;
    } utime, stime;
    long others[14];
};

static uint64_t txs_ticks(long seconds, long microseconds)
{
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);

    return (uint64_t)seconds * ticks + (uint64_t)microseconds * ticks / 1000000;
}

/* waitid(2).  Unlike waitid(3), it also returns the times that a child used. */
static int txs_waitid(int type, int id, siginfo_t *info, struct txs_rusage *usage)
{
    return (int)syscall(SYS_waitid, type, id, info, WEXITED | WNOHANG | WNOWAIT,
                        usage);
}

#endif

/*
 * Look whether a child has ended.  1 if it has, with the record that SIGCHLD
 * would have; 0 while it runs; -1 and errno, which is ECHILD when pid is not a
 * child of this process.  A pidfd names the child reliably.  Without one (-1)
 * the pid does, which may have been reused.
 */
static int txs_peek_child(int pid, int pidfd, struct txs_siginfo *record)
{
    siginfo_t info;
#if TXS_LINUX
    struct txs_rusage usage;
    int result = -1;

    memset(&info, 0, sizeof info);
    memset(&usage, 0, sizeof usage);
    errno = EINVAL;
    if (pidfd >= 0)
        result = txs_waitid(TXS_P_PIDFD, pidfd, &info, &usage);
    if (result == -1 && errno == EINVAL)    /* Linux before 5.4 has no P_PIDFD */
        result = txs_waitid(P_PID, pid, &info, &usage);
    if (result == -1)
        return -1;
    txs_record(&info, record);
    record->signo = SIGCHLD;
    record->utime = txs_ticks(usage.utime.seconds, usage.utime.microseconds);
    record->stime = txs_ticks(usage.stime.seconds, usage.stime.microseconds);
#else
    (void)pidfd;
    memset(&info, 0, sizeof info);
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
        return -1;
    txs_record(&info, record);
#endif
    return info.si_pid != 0;
}

/*
 * Look whether any child has ended, for systems whose Python has no waitid(2),
 * such as macOS.  The pid in the record is 0 while all children run.
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
 * Choose whether orphaned descendants become children of this process.  Returns
 * the choice before, or -1 and errno.
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
