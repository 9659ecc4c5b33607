/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * syscall_entry.h - what syscall.c and syscall_entry.S must agree on.
 */
#ifndef PG_SYSCALL_ENTRY_H
#define PG_SYSCALL_ENTRY_H

/* Offsets of struct stub. */
#define STUB_HEAD 0
#define STUB_CODE 16
#define STUB_NATIVE 48
#define STUB_DONE 56
#define STUB_ENTRY 80
#define STUB_TABLE 88
#define STUB_IP 96
#define STUB_SIZE 112

/* pg_syscall_vector_level: which registers there are to save. */
#define LEVEL_SSE 0
#define LEVEL_AVX 1
#define LEVEL_AVX512 2

/* Of the kernel's interface. */
#define NR_IOCTL 16
#define NR_SETSOCKOPT 54
#define UFFDIO_REGISTER_NR 0xc020aa00
#define LEVEL_SOCKET 1
#define OPTION_ZEROCOPY 60

#endif
