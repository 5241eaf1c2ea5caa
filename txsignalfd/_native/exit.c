/*
 * End the process by a signal, when everything else that exit(3) does is done.
 *
 * So Python finishes as usual: its atexit functions run, its threads are joined,
 * and its files are flushed.
 */

#include "native.h"

static int txs_exit_signal;
static pid_t txs_exit_process;

static void txs_end_by_signal(void)
{
    sigset_t signals;

    if (getpid() != txs_exit_process)
        return;         /* a child that was forked since */
    fflush(NULL);
    signal(txs_exit_signal, SIG_DFL);
    sigemptyset(&signals);
    sigaddset(&signals, txs_exit_signal);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    raise(txs_exit_signal);
}

/*
 * Have exit(3) end the process by a signal.  The first process of a pid namespace
 * cannot end in this way, and exits with its status.
 */
static int txs_exit_by(int signo)
{
    txs_exit_signal = signo;
    txs_exit_process = getpid();
    return atexit(txs_end_by_signal);
}
