/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * site.h - where a library makes system calls, and how to get in between.
 *
 * The list is plain data without pointers: `pgmap run` finds it in a file and
 * hands it through shared memory to the program, whose runtime/syscall.c
 * checks it against the library in memory and rewrites the sites.
 *
 * A site is rewritten by a five-byte jump. HEAD puts it over the instructions
 * before the system call, nearly always the one "mov $number,%eax", and leaves
 * the system call itself where it is: a call that is let through is made by
 * the library's own instruction. TAIL puts it over the system call and what
 * follows it, for places where something jumps straight to the system call.
 */
#ifndef PG_SITE_H
#define PG_SITE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

/* The system calls that the runtime always wants to see; see pg_site_find().
 * Not vfork: its child runs on the caller's stack. Not rt_sigreturn: it has no
 * caller. */
#define PG_SITE_WANTED                                                         \
	SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk, SYS_ioctl, SYS_mremap,    \
		SYS_madvise, SYS_setsockopt, SYS_clone, SYS_fork, SYS_execve,  \
		SYS_mlock, SYS_munlock, SYS_mlockall, SYS_munlockall,          \
		SYS_exit_group, SYS_vmsplice, SYS_execveat, SYS_userfaultfd,   \
		SYS_mlock2, SYS_io_uring_setup, SYS_clone3

/* Those that it wants beside, where faults are signals. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define PG_SITE_SIGNAL SYS_close, SYS_dup2, SYS_dup3, SYS_close_range, SYS_exit

enum pg_site_kind {
	PG_SITE_NONE, /* cannot be rewritten; listed so that it can be shown */
	PG_SITE_HEAD, /* @bytes come right before the system call */
	PG_SITE_TAIL  /* @bytes are the system call and what follows */
};

#define PG_SITE_JUMP 5	 /* bytes of the jump; @len is at least this */
#define PG_SITE_BYTES 16 /* most bytes that move to a stub */
#define PG_SITE_MAX 768
#define PG_SITE_ID_MAX 32

/**
 * struct pg_site - One system call instruction.
 * @offset: Address of @bytes in the object; NONE: of the instruction.
 * @len:    How many of @bytes count: whole instructions that mean the same
 *          at any address.
 * @nr:     Number of the call where the code names it, else -1.
 */
struct pg_site {
	uint32_t offset;
	uint8_t len;
	uint8_t kind;
	int16_t nr;
	uint8_t bytes[PG_SITE_BYTES];
};

/** struct pg_site_list - The sites of one object, in rising order. */
struct pg_site_list {
	uint8_t id[PG_SITE_ID_MAX]; /* its build id */
	uint32_t id_len;
	uint32_t nr_sites;
	struct pg_site sites[PG_SITE_MAX];
};

/**
 * pg_site_find() - List the sites of the ELF object @path.
 * @buffers: Also those of calls that use memory, pg_buffers_has(), and of
 *           PG_SITE_SIGNAL.
 *
 * Context: `pgmap run` and tests; uses malloc and capstone. Some 15 ms for
 *          the C library and ld.so together.
 * Return: 0, or
 *         -ENOEXEC  not a well-formed x86-64 ELF object with a build id
 *         -ENODATA  it has no unwind table, so its functions are not known
 *         -E2BIG    more than PG_SITE_MAX sites
 *         -ENOMEM, or what open() and mmap() said
 */
int pg_site_find(const char *path, bool buffers, struct pg_site_list *list);

/** pg_site_build_id() - Find the build id in the bytes of a PT_NOTE segment.
 * Return: its length, 0 if there is none. */
static inline uint32_t pg_site_build_id(const uint8_t *note, size_t len,
					const uint8_t **id)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h;
		size_t desc, next;

		memcpy(&h, note, sizeof(h));
		desc = sizeof(h) + (((size_t)h.n_namesz + 3) & ~(size_t)3);
		next = desc + (((size_t)h.n_descsz + 3) & ~(size_t)3);
		if (next > len)
			return 0;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 &&
		    memcmp(note + sizeof(h), "GNU", 4) == 0 &&
		    h.n_descsz <= PG_SITE_ID_MAX) {
			*id = note + desc;
			return h.n_descsz;
		}
		note += next;
		len -= next;
	}
	return 0;
}

#endif
