/* The record that a reader of signals gets, for native.h and record.c. */

#ifndef TXS_RECORD_H
#define TXS_RECORD_H

#include <stdint.h>

/*
 * struct signalfd_siginfo with the fields that recent kernels have added: the C
 * library's own declaration may be older than the kernel.
 */
struct txs_siginfo {
    uint32_t signo;
    int32_t errno_;     /* errno is a macro */
    int32_t code;
    uint32_t pid;
    uint32_t uid;
    int32_t fd;
    uint32_t tid;
    uint32_t band;
    uint32_t overrun;
    uint32_t trapno;
    int32_t status;
    int32_t int_;       /* int is a keyword */
    uint64_t ptr;
    uint64_t utime;
    uint64_t stime;
    uint64_t addr;
    uint16_t addr_lsb;
    uint16_t pad1;
    int32_t syscall;
    uint64_t call_addr;
    uint32_t arch;
    uint8_t pad2[28];
};

_Static_assert(sizeof(struct txs_siginfo) == 128, "the size of a record");

/* The most of one read, so that a burst of signals does not keep the reactor from its
   other descriptors. */
#define TXS_RECORDS_PER_READ 64

#endif
