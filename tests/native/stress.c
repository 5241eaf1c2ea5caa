/*
 * The handler under load, for a sanitizer.
 *
 * Eight threads block no signal, a child sends 20,000 realtime signals, and the
 * main thread reads them from a signalfd, and then from a pipe.  It opens a
 * spawn window before each read.  Every value must arrive once.
 *
 * Of Python only the one function is needed that is defined here.
 */

#define _GNU_SOURCE
#include <stddef.h>

static int Py_AddPendingCall(int (*function)(void *), void *argument)
{
    return function(argument);
}

#include NATIVE_C

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
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
        printf("value %d arrived twice, or was never sent\n", value);
        exit(1);
    }
    total++;
}

static void start_again(void)
{
    total = 0;
    memset(seen, 0, sizeof seen);
}

static void start_sender(int signo)
{
    pid_t pid = getpid();

    if (fork() != 0)
        return;
    for (int value = 0; value < COUNT; value++)
        while (txs_sigqueue(pid, signo, value) == -1)
            usleep(100);    /* RLIMIT_SIGPENDING is used up */
    _exit(0);
}

static void use_window(void)
{
    static struct txs_siginfo deferred[TXS_DEFERRED + TXS_NSIG];

    if (txs_window_open() == -1)
        exit(3);
    usleep(50);
    txs_window_close();
    for (int i = 0, count = txs_deferred_take(deferred, TXS_DEFERRED); i < count; i++)
        note(deferred[i].int_);
}

/* The signalfd backend.  Without a doorbell signals go back to the queue. */
#if TXS_LINUX
static void read_signalfd(int signo, int doorbell)
{
    struct signalfd_siginfo records[64];
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, signo);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = txs_signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd == -1 || txs_acquire(signo, 0, -1, doorbell, 0) == -1)
        exit(2);
    start_sender(signo);
    while (total < COUNT) {
        struct pollfd ready = {fd, POLLIN, 0};
        ssize_t size;

        use_window();
        poll(&ready, 1, 1);
        while ((size = read(fd, records, sizeof records)) > 0)
            for (size_t i = 0; i < (size_t)size / sizeof records[0]; i++)
                note(records[i].ssi_int);
    }
    if (txs_release(signo) == -1 || txs_is_installed(signo))
        exit(4);
    close(fd);
}
#endif

/* The pipe backend.  The pipe is full most of the time. */
static void read_pipe(int signo)
{
    static struct txs_siginfo records[64];
    sigset_t set;
    int fds[2];

    sigemptyset(&set);
    sigaddset(&set, signo);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pipe(fds) == -1 || fcntl(fds[0], F_SETFL, O_NONBLOCK) == -1
        || fcntl(fds[1], F_SETFL, O_NONBLOCK) == -1
        || fcntl(fds[1], F_SETPIPE_SZ, 4096) == -1
        || txs_acquire(signo, 0, fds[1], -1, 0) == -1)
        exit(2);
    txs_pipe_claim(fds[1]);
    start_sender(signo);
    while (total < COUNT) {
        struct pollfd ready = {fds[0], POLLIN, 0};
        int count;

        use_window();
        poll(&ready, 1, 1);
        while ((count = txs_pipe_read(fds[0], records, 64)) > 0)
            for (int i = 0; i < count; i++)
                if (records[i].code == SI_QUEUE)
                    note(records[i].int_);
        txs_pipe_resume(fds[1]);
    }
    txs_pipe_pause(fds[1]);
    if (txs_without_siginfo(signo) != 0)
        exit(5);
    if (txs_release(signo) == -1 || txs_is_installed(signo))
        exit(4);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    pthread_t threads[THREADS];
    int status;

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, busy, NULL);
#if TXS_LINUX
    read_signalfd(SIGRTMIN, -1);
    start_again();
    read_signalfd(SIGRTMIN + 2, eventfd(0, EFD_NONBLOCK));
    start_again();
#endif
    read_pipe(SIGRTMIN + 1);
    while (wait(&status) > 0)
        if (status != 0)
            return 6;
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d signals, nothing lost\n", total);
    return 0;
}
