/*
 * Siginfo: the system calls that create and send it, the record that a reader
 * gets, and the names of si_code.
 */

#include "native.h"

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

/* sigqueue(3); the value is the int member of union sigval. */
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

/* --- records ------------------------------------------------------------ */

enum txs_layout { TXS_KILL, TXS_QUEUED, TXS_TIMER, TXS_POLL, TXS_CHILD, TXS_SYS };

/* The fields that are valid: siginfo_layout() in Linux's kernel/signal.c. */
static enum txs_layout txs_layout(int signo, int code)
{
    if (code == SI_TIMER)
        return TXS_TIMER;
    if (code == SI_QUEUE)
        return TXS_QUEUED;
#if defined SI_MESGQ && defined SI_ASYNCIO  /* missing on some BSDs */
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

/* Convert a siginfo to the record that a read of a signalfd would return. */
static void txs_record(const siginfo_t *info, struct txs_siginfo *record)
{
    memset(record, 0, sizeof *record);
    record->signo = (uint32_t)info->si_signo;
    record->errno_ = info->si_errno;
    record->code = info->si_code;
    switch (txs_layout(info->si_signo, info->si_code)) {
    case TXS_TIMER:
        record->ptr = (uint64_t)(uintptr_t)info->si_value.sival_ptr;
        record->int_ = info->si_value.sival_int;
#if TXS_LINUX
        record->tid = (uint32_t)info->si_timerid;
        record->overrun = (uint32_t)info->si_overrun;
        break;
    case TXS_POLL:
        record->band = (uint32_t)info->si_band;
        record->fd = info->si_fd;
        break;
    case TXS_SYS:
        record->call_addr = (uint64_t)(uintptr_t)info->si_call_addr;
        record->syscall = info->si_syscall;
        record->arch = info->si_arch;
#endif
        break;
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

/* --- the names of si_code ----------------------------------------------- */

#if TXS_LINUX && !defined SYS_SECCOMP
#define SYS_SECCOMP 1   /* asm-generic/siginfo.h; glibc before 2.39 does not have it */
#endif

struct txs_code {
    int signo;          /* 0: any signal may have the code */
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
