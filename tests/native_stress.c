/*
 * The handler of _native.c under load, for a sanitizer: without Python, of
 * which it needs but one function.
 *
 * Threads that block nothing, a thread that reads a signalfd, and opens and
 * closes its mask in between as for a child, and a process that sends.  Every
 * value must come once.
 */

#define _GNU_SOURCE
#include <stddef.h>

static int Py_AddPendingCall(int (*function)(void *), void *argument)
{
    return function(argument);
}

#include NATIVE_C

#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>

#define COUNT 20000
#define THREADS 8

static atomic_int stop;
static unsigned char seen[COUNT];
static int total;

static void *busy(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop))
        sched_yield();
    return NULL;
}

static void note(int value)
{
    if (value < 0 || value >= COUNT || seen[value]++) {
        printf("value %d came twice, or was never sent\n", value);
        exit(1);
    }
    total++;
}

static void send_all(pid_t pid, int signo)
{
    for (int value = 0; value < COUNT; value++)
        while (txs_sigqueue(pid, signo, value) == -1)
            usleep(100);    /* RLIMIT_SIGPENDING: the reader will catch up */
    _exit(0);
}

int main(void)
{
    static struct txs_siginfo kept[TXS_KEPT];
    struct signalfd_siginfo read_[64];
    pthread_t threads[THREADS];
    int signo = SIGRTMIN, fd, status;
    sigset_t set;
    pid_t child;

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, busy, NULL);
    sigemptyset(&set);
    sigaddset(&set, signo);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = txs_signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd == -1 || txs_hold(signo, 0) == -1)
        return 2;

    child = fork();
    if (child == 0)
        send_all(getppid(), signo);

    while (total < COUNT) {
        struct pollfd ready = {fd, POLLIN, 0};
        ssize_t size;

        if (txs_open() == -1)
            return 3;
        usleep(50);
        txs_close();
        for (int i = 0, count = txs_take_kept(kept, TXS_KEPT); i < count; i++)
            note(kept[i].int_);
        poll(&ready, 1, 1);
        while ((size = read(fd, read_, sizeof read_)) > 0)
            for (size_t i = 0; i < (size_t)size / sizeof read_[0]; i++)
                note(read_[i].ssi_int);
    }
    waitpid(child, &status, 0);
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (txs_let_go(signo) == -1 || txs_caught(signo) != 0)
        return 4;
    printf("%d signals, nothing lost\n", total);
    return 0;
}
