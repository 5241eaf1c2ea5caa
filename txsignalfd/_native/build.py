"""
Build C{txsignalfd._native.extension} from the C files beside it, by cffi.

In API mode the compiler fills in what C{...} leaves open, so that no number and
no layout is copied from a header.  Only C{setup.py} runs this module, by its
path: it must not import the package that it builds.
"""

from os import environ
from pathlib import Path

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    typedef struct { ...; } sigset_t;
    int sigemptyset(sigset_t *set);
    int sigaddset(sigset_t *set, int signo);
    int sigismember(const sigset_t *set, int signo);
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old);

    #define SIG_BLOCK ...
    #define SIG_UNBLOCK ...
    #define SIG_SETMASK ...
    #define SFD_CLOEXEC ...
    #define SFD_NONBLOCK ...
    #define TXS_NSIG ...
    #define TXS_LINUX ...
    #define TXS_RECORDS_PER_READ ...

    struct txs_siginfo {
        uint32_t signo; int32_t errno_; int32_t code; uint32_t pid;
        uint32_t uid; int32_t fd; uint32_t tid; uint32_t band;
        uint32_t overrun; uint32_t trapno; int32_t status; int32_t int_;
        uint64_t ptr; uint64_t utime; uint64_t stime; uint64_t addr;
        uint16_t addr_lsb; int32_t syscall; uint64_t call_addr;
        uint32_t arch; ...;
    };

    int txs_signalfd(int fd, const sigset_t *mask, int flags);
    int txs_sigqueue(int pid, int signo, int value);

    int txs_interpreter_enter(uintptr_t interpreter);
    void txs_interpreter_leave(void);
    int txs_interpreter_is_other(uintptr_t interpreter);
    int txs_acquire(int signo, int was_blocked, int pipe, int doorbell,
                    uintptr_t main_tid);
    int txs_release(int signo);
    int txs_install(int signo);
    uintptr_t txs_tid(void);
    void txs_note(uintptr_t tid, int signo);
    unsigned long long txs_noted(uintptr_t tid);
    int txs_ask(int tid, int signo, unsigned long long signals);
    int txs_unanswered(int signo);
    void txs_forget(uintptr_t tid, unsigned long long signals);
    unsigned long long txs_child_mask(void);
    int txs_unblock_in_main(const sigset_t *signals);

    #define TXS_DEFERRED ...
    int txs_window_open(void);
    void txs_window_update(void);
    int txs_window_close(void);
    int txs_deferred_count(void);
    const int *txs_deferred_counter(void);
    int txs_deferred_take(struct txs_siginfo *records, int wanted);
    unsigned long txs_without_siginfo(int signo);

    void txs_pipe_claim(int pipe);
    void txs_pipe_pause(int pipe);
    void txs_pipe_fill(int pipe);
    void txs_pipe_resume(int pipe);
    int txs_pipe_read(int fd, struct txs_siginfo *records, int wanted);

    struct txs_code { int signo; int code; const char *name; ...; };
    static const struct txs_code txs_codes[];

    int txs_peek_child(int pid, int pidfd, struct txs_siginfo *record);
    int txs_peek_any_child(struct txs_siginfo *record);
    int txs_set_subreaper(int wanted);

    int txs_exit_by(int signo);
    """
)

_HERE = Path("txsignalfd", "_native")

ffibuilder.set_source(
    "txsignalfd._native.extension",
    '#include "native.c"',
    include_dirs=[str(_HERE)],
    depends=[str(path) for path in sorted(_HERE.glob("*.[ch]"))],
    # Only for tests: build on Linux what other systems get.
    define_macros=[("TXS_NO_LINUX", "1")] if environ.get("TXSIGNALFD_NO_LINUX") else [],
)
