/*
 * Types, state and functions that the C files of txsignalfd share.
 *
 *   record.h     the record that a reader of signals gets
 *   siginfo.c    siginfo records, their layout, and the names of si_code
 *   threads.c    the signals that this module has blocked, by thread
 *   handler.c    the signal handler, its table of states, acquire and release
 *   actions.c    the actions that the handler replaces and restores
 *   deferred.c   signals that the handler defers until they are read
 *   window.c     the spawn window, in which a thread starts a child
 *   pipe.c       the backend for systems without signalfd(2)
 *   children.c   the ends of child processes
 *   exit.c       the end of this process by a signal
 *
 * native.c includes all of them: they are one translation unit, and all names
 * are static.  (record.c is another extension module.)  The C code makes no policy:
 * _kernel/mask.py decides which descriptor may watch a signal, and when the signal is
 * released.
 *
 * A macro TXS_NO_LINUX, or another system than Linux, leaves nothing here that
 * POSIX.1-2008 does not define.  Only the pipe backend works then.
 */

#ifndef TXS_NATIVE_H
#define TXS_NATIVE_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "record.h"

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

/* One more than the highest signal number. */
#if defined _NSIG && _NSIG <= 65
#define TXS_NSIG _NSIG
#elif defined NSIG && NSIG <= 65
#define TXS_NSIG NSIG
#else
#define TXS_NSIG 33
#endif

/* POSIX makes it optional. */
#ifndef SA_ONSTACK
#define SA_ONSTACK 0
#endif

/* The mask that the interrupted thread has after the handler returns. */
#ifdef __OpenBSD__
#define TXS_MASK(context) ((sigset_t *)&((ucontext_t *)(context))->sc_mask)
#else
#define TXS_MASK(context) (&((ucontext_t *)(context))->uc_sigmask)
#endif

/* A set of signals as bits, for atomic operations. */
typedef unsigned long long txs_bits;

#define TXS_BIT(signo) (1ULL << ((signo) - 1))

/* --- assumptions -------------------------------------------------------- */

_Static_assert(TXS_NSIG - 1 <= sizeof(txs_bits) * CHAR_BIT,
               "a txs_bits has a bit for each signal");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "the handler uses atomic_int");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "the handler uses atomic_ullong");
_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "the handler uses atomic_uintptr_t");
_Static_assert(sizeof(uintptr_t) <= sizeof(unsigned long long),
               "a thread's number fits into a lock-free type");
_Static_assert(sizeof(atomic_int) == sizeof(int), "Python reads an atomic_int");
_Static_assert(sizeof(pid_t) <= sizeof(int), "a pid fits into an atomic_int");
#if TXS_LINUX
_Static_assert(sizeof(pthread_t) <= sizeof(uintptr_t) && sizeof(pid_t) == 4,
               "record fields have the sizes of the kernel's");
#endif

/* --- records (siginfo.c) ------------------------------------------------ */

_Static_assert(sizeof(struct txs_siginfo) <= _POSIX_PIPE_BUF,
               "a record is written to a pipe whole");

static void txs_record(const siginfo_t *info, struct txs_siginfo *record);

/* --- signals (handler.c) ------------------------------------------------ */

/* The handler's state of each signal.  See the table of states in handler.c. */
static struct txs_signal {
    atomic_int watched;
    atomic_int running;             /* handlers that may use the descriptors */
    atomic_int was_blocked;         /* in the thread that acquired the signal */
    atomic_int pipe_fd;             /* of the pipe backend, plus 1; or 0 */
    atomic_int doorbell_fd;         /* an eventfd that wakes the owner, plus 1; or 0 */
    atomic_uintptr_t owner_tid;     /* the thread that writes to the pipe */
    atomic_int throttled;           /* blocked there until the pipe has room */
    atomic_int user_blocked;        /* blocked there by the user, and not now */
    atomic_uint without_siginfo;    /* signals that could not be deferred */
    atomic_uint reported;           /* those that the reader has learned of */
} txs_signals[TXS_NSIG];

static int txs_queue_again(int signo, siginfo_t *info);
static int txs_child_blocks(int signo);
static int txs_is_user_blocked(uintptr_t tid, int signo);
static int txs_is_throttled(uintptr_t tid, int signo);
static int txs_is_from_kernel(int signo);
static void txs_block_here(int signo, void *context);
static void txs_handler(int signo, siginfo_t *info, void *context);

/* --- actions (actions.c) ------------------------------------------------ */

static int txs_install(int signo);
static int txs_install_first(int signo);
static int txs_restore_action(int signo);
static void txs_perform(int signo, siginfo_t *info, void *context);
static void txs_lock_actions(void);
static void txs_unlock_actions(void);

/* --- threads (threads.c) ------------------------------------------------ */

static atomic_uintptr_t txs_main_tid;

static uintptr_t txs_tid(void);
static void txs_note(uintptr_t tid, int signo);
static void txs_note_interrupted(uintptr_t tid, int signo);
static txs_bits txs_noted(uintptr_t tid);
static void txs_forget(uintptr_t tid, txs_bits signals);
static int txs_blocked_by_us(uintptr_t tid, int signo);
static txs_bits txs_without_us(uintptr_t tid, const sigset_t *mask);
static void txs_set_bits(sigset_t *mask, txs_bits bits);
static int txs_unanswered(int signo);
static int txs_answer(const siginfo_t *info, void *context);
static void txs_threads_reset(void);

/* --- deferred signals, and the spawn window (deferred.c, window.c) ------- */

static int txs_defer(const siginfo_t *info);
static int txs_undefer(siginfo_t *info);
static int txs_deferred_count(void);
static void txs_deferred_reset(void);

static int txs_in_window(uintptr_t tid);
static int txs_window_defer(const siginfo_t *info, void *context);
static void txs_window_update(void);
static void txs_window_reopen(void);
static void txs_window_reset(void);

/* --- the pipe (pipe.c) -------------------------------------------------- */

static void txs_pipe_write(int fd, uintptr_t tid, int signo, siginfo_t *info,
                           void *context);
static void txs_pipe_resume(int pipe);

#endif
