/*
 * The floor: what a program costs that does nothing else.  And the sender of
 * all measurements, so that what is sent costs the same in each of them.
 *
 *   floor echo              answer each signal with a byte on stdout
 *   floor count             count them, and tell when asked by SIGRTMAX
 *   floor ping PID FD N     send N signals, each when the last was answered on
 *                           FD, and write to stdout how long each took
 *   floor burst N           queue N signals, and print how long it takes to
 *                           read them, 64 at a time
 *   floor send PID N RATE   send N signals, RATE in a second; 0: at once
 *
 * Times are in nanoseconds.
 */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define SIGNAL SIGRTMIN
#define REPORT SIGRTMAX
#define RECORDS 64

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int open_signalfd(int flags)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGNAL);
    sigaddset(&set, REPORT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, flags);
    if (fd == -1)
        die("signalfd");
    return fd;
}

static void answer(const void *data, size_t size)
{
    if (write(STDOUT_FILENO, data, size) != (ssize_t)size)
        die("write");
}

/* When the receiver's queue is full, wait until there is room. */
static void queue(pid_t pid, int value)
{
    union sigval payload = {.sival_int = value};

    while (sigqueue(pid, SIGNAL, payload) == -1) {
        if (errno != EAGAIN)
            die("sigqueue");
        sched_yield();
    }
}

static void receive(int echoes)
{
    static struct signalfd_siginfo infos[RECORDS];
    int fd = open_signalfd(SFD_CLOEXEC);
    int64_t count = 0;

    answer("r", 1);
    for (;;) {
        ssize_t size = read(fd, infos, sizeof infos);

        if (size <= 0)
            die("read");
        for (size_t i = 0; i < (size_t)size / sizeof infos[0]; i++) {
            if (infos[i].ssi_signo == (uint32_t)REPORT)
                answer(&count, sizeof count);
            else if (echoes)
                answer("x", 1);
            else
                count++;
        }
    }
}

static void ping(pid_t pid, int fd, int count)
{
    int64_t *times = malloc((size_t)count * sizeof *times);
    char byte;

    if (times == NULL)
        die("malloc");
    for (int i = 0; i < count; i++) {
        int64_t before = now();

        queue(pid, 1);
        if (read(fd, &byte, 1) != 1)
            die("read");
        times[i] = now() - before;
    }
    fwrite(times, sizeof *times, (size_t)count, stdout);
}

static void burst(int count)
{
    static struct signalfd_siginfo infos[RECORDS];
    int fd = open_signalfd(SFD_CLOEXEC | SFD_NONBLOCK);
    int64_t before, sum = 0;
    int left = count;

    for (int i = 0; i < count; i++)
        queue(getpid(), i);
    before = now();
    while (left > 0) {
        ssize_t size = read(fd, infos, sizeof infos);

        if (size <= 0)
            die("read");
        for (size_t i = 0; i < (size_t)size / sizeof infos[0]; i++)
            sum += infos[i].ssi_int;
        left -= (int)((size_t)size / sizeof infos[0]);
    }
    printf("%lld %lld\n", (long long)(now() - before), (long long)sum);
}

static void send_at(pid_t pid, int count, int rate)
{
    int64_t start = now();

    for (int i = 0; i < count; i++) {
        if (rate > 0)
            while (now() - start < (int64_t)i * 1000000000 / rate)
                usleep(200);
        queue(pid, 0);
    }
}

int main(int argc, char **argv)
{
    int number[3] = {0};

    for (int i = 2; i < argc && i < 5; i++)
        number[i - 2] = atoi(argv[i]);
    if (argc == 2 && strcmp(argv[1], "echo") == 0)
        receive(1);
    else if (argc == 2 && strcmp(argv[1], "count") == 0)
        receive(0);
    else if (argc == 5 && strcmp(argv[1], "ping") == 0)
        ping(number[0], number[1], number[2]);
    else if (argc == 3 && strcmp(argv[1], "burst") == 0)
        burst(number[0]);
    else if (argc == 5 && strcmp(argv[1], "send") == 0)
        send_at(number[0], number[1], number[2]);
    else
        return 2;
    return 0;
}
