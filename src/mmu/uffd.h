/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd.h - the back end for real programs, and what only it can do.
 */
#ifndef PG_UFFD_H
#define PG_UFFD_H

#include "mmu/mmu.h"

/* Bits of UFFDIO_API that the headers of Linux 6.1 lack. */
#define PG_UFFD_FEATURE_POISON (1ull << 14)
#define PG_UFFD_FEATURE_MOVE (1ull << 16)

/** What the kernel offers; see pg_uffd_probe(). */
struct pg_uffd_features {
	bool device;   /* opened by /dev/userfaultfd, not by the system call */
	bool kernel;   /* faults of system calls are delivered, too */
	bool move;     /* UFFDIO_MOVE, Linux 6.8 */
	bool poison;   /* UFFDIO_POISON, Linux 6.6 */
	bool events;   /* REMOVE, UNMAP, REMAP */
	bool wp;       /* write protection of anonymous memory */
	bool signal;   /* SIGBUS instead of a message */
	uint64_t bits; /* as from UFFDIO_API */
};

/** enum pg_uffd_event_kind - What pg_uffd_read() delivers. */
enum pg_uffd_event_kind {
	PG_UFFD_FAULT,	/* touch of an absent page */
	PG_UFFD_REMOVE, /* madvise is about to zap the range */
	PG_UFFD_UNMAP,	/* the range is unmapped */
	PG_UFFD_REMAP	/* mremap moved it to @to; an UNMAP follows */
};

struct pg_uffd_event {
	enum pg_uffd_event_kind kind;
	uintptr_t va;	/* page of the fault, or start of the range */
	size_t nr;	/* pages; 1 for a fault */
	uintptr_t to;	/* REMAP */
	uint32_t flags; /* PG_FAULT_* */
	int32_t tid;	/* FAULT: the thread, 0 when not known */
};

/**
 * struct pg_uffd_config
 * @events: Ask for REMOVE, UNMAP, REMAP. Somebody must then read them at all
 *          times: madvise, munmap and mremap of watched memory sleep until
 *          their event was read, and meanwhile give, zero and poison are
 *          -EAGAIN. Where there is no UFFDIO_MOVE, take is -EAGAIN too, and
 *          the thread that reads must not call it. Pool memory raises no
 *          event. An event comes too late to save a take that runs at the
 *          same time: it may carry off a page of a new mapping at the same
 *          address. Only a lock around the program's call prevents that.
 * @nofork: A fork child gets no mapping at watched addresses: nobody would
 * serve its faults, and what is away would read as zeros.
 * @user:   For user accesses only: needs no permission. A system call that
 *          reaches an absent page then fails with EFAULT; who asks for this
 *          sees to it that none does (core/hold.h).
 * @signal: A touch of an absent page is a SIGBUS to the thread that made it,
 *          which serves the fault itself; implies @user, and nobody reads or
 *          wakes. The descriptors have high numbers: see pg_uffd_fds().
 * @mask:   Features to do without, for tests: UFFD_FEATURE_* bits.
 */
struct pg_uffd_config {
	bool events;
	bool nofork;
	bool user;
	bool signal;
	uint64_t mask;
};

/**
 * pg_uffd_create() - Open a userfaultfd for this address space.
 * @error: Out, on failure: one line that names the cause and the way out.
 *
 * /dev/userfaultfd is tried before the system call. The descriptor lives in
 * the calling thread's descriptor table, and every operation must be called
 * from threads that share it.
 *
 * Return: 0; -EPERM no permission for faults of system calls; -ENOSYS the
 *         kernel has no userfaultfd; -EOPNOTSUPP it lacks what is needed;
 *         -ENOMEM.
 */
int pg_uffd_create(const struct pg_uffd_config *config, struct pg_mmu **m,
		   char *error, size_t error_len);
void pg_uffd_destroy(struct pg_mmu *m);

/** pg_uffd_forget() - In a fork child: free the memory of @m (pool included)
 * without touching its descriptors, which are not this process's. The other
 * thing that a child may do is pg_uffd_inherit(). */
void pg_uffd_forget(struct pg_mmu *m);

/**
 * pg_uffd_inherit() - In a fork child, on its new fault thread: open a
 * userfaultfd of its own under the same @m and watch the pool memory again.
 * The caller watches the program's ranges again with ops->watch.
 * Return: as pg_uffd_create().
 */
int pg_uffd_inherit(struct pg_mmu *m, char *error, size_t error_len);

/** pg_uffd_leave_fds() - In a fork child that has its parent's descriptor
 * table: what is open there is the parent's. Before pg_uffd_inherit(). */
void pg_uffd_leave_fds(struct pg_mmu *m);

/**
 * pg_uffd_read() - Wait for faults and events.
 * @ev:         Array of @n.
 * @timeout_ms: -1 waits for ever.
 *
 * A fault may be delivered again (after a signal, after a wake-up); that its
 * page is there by now is no error. The kernel does not tell faults of system
 * calls from others, so PG_FAULT_KERNEL is never set.
 *
 * Context: one thread at a time.
 * Return: how many were read, 0 on timeout or signal, or a negative errno.
 */
int pg_uffd_read(struct pg_mmu *m, struct pg_uffd_event *ev, int n,
		 int timeout_ms);

/** pg_uffd_has_event() - Is there a fault to read? Context: a thread with the
 * descriptors of the MMU. */
bool pg_uffd_has_event(struct pg_mmu *m);

/** pg_uffd_copied() - Pages that were copied because the kernel could not move
 * them, both ways. */
uint64_t pg_uffd_copied(const struct pg_mmu *m);

#define PG_UFFD_FDS 4
/** pg_uffd_fds() - All descriptors, in rising order if they are of an instance
 * with signals: then a descriptor table that has the same under the same
 * numbers serves as well. Return: how many. */
unsigned int pg_uffd_fds(const struct pg_mmu *m, int fds[PG_UFFD_FDS]);
/** pg_uffd_fd() - The descriptor, to hand a duplicate to somebody. */
int pg_uffd_fd(const struct pg_mmu *m);
const struct pg_uffd_features *pg_uffd_features(const struct pg_mmu *m);

/**
 * pg_uffd_probe() - What would pg_uffd_create() find?
 * @error: As there; empty when it would succeed.
 *
 * Without permission for faults of system calls it looks for the rest:
 * @f->kernel is false, @error says why, and only with @user would it succeed.
 * Return: as pg_uffd_create(); @f is filled in as far as known.
 */
int pg_uffd_probe(struct pg_uffd_features *f, char *error, size_t error_len);

/** pg_uffd_fail_nth() - Tests: make the @nth call of the kernel from now on a
 * descriptor of any instance fail with @error (negative), once; 0 switches it
 * off. Return: how many calls were left of the last order, 0 if it came. */
unsigned int pg_uffd_fail_nth(unsigned int nth, int error);

/** pg_uffd_permission_hint - How to get the permission, one line. */
extern const char pg_uffd_permission_hint[];

#endif
