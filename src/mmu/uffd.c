/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd.c - struct pg_mmu_ops on userfaultfd.
 *
 * There are two descriptors. The program's ranges are registered with the
 * first, for missing pages; it delivers faults and, if wanted, events. Pool
 * memory is registered with the second, and for write protection only, which
 * is never used: the kernel wants the destination of a UFFDIO_MOVE to be
 * registered, but a touch of an absent pool page must get an ordinary zeroed
 * page and no fault, or the fault thread would wait for itself; and
 * MADV_DONTNEED on the pool must raise no event.
 *
 * Without UFFDIO_MOVE (Linux before 6.8) a page is taken by write protecting,
 * copying and dropping it, and given by UFFDIO_COPY. This loses no store of
 * the CPU, but DMA into a pinned page is lost, because nothing tells that it
 * is pinned.
 */
#include "mmu/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/sys.h"
#include "mmu/look.h"
#include "mmu/proc.h"

/* What the headers of Linux 6.1 lack. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
struct uffd_move {
	uint64_t dst, src, len, mode;
	int64_t move; /* out: bytes, or a negative errno */
};
struct uffd_poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated; /* out: bytes, or a negative errno */
};
#define IOC_MOVE _IOWR(UFFDIO, 0x05, struct uffd_move)
#define IOC_POISON _IOWR(UFFDIO, 0x08, struct uffd_poison)
/* The same bit in COPY, MOVE and POISON. */
#define MODE_DONTWAKE 1u
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define EVENT_BITS                                                             \
	(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |                \
	 UFFD_FEATURE_EVENT_REMAP)

#define NR_POOLS 1024u
#define NR_ZAPS 16u
/* Pages in one go where a buffer of ours bounds it: one huge page. */
#define BATCH 512u
/* Pages that are made exclusive at once after a fork. */
#define UNSHARE_BATCH 64u
#define POOL_ALIGN ((size_t)2 << 20)

/* A mapping of pool memory; free when @nr is 0. Claimed by setting @nr from 0
 * to POOL_CLAIMED (acq_rel), filled in, then published (release). */
struct pool {
	pg_atomic64 start;
	pg_atomic64 nr;
};
#define POOL_CLAIMED ((uint64_t)1 << 63)

struct uffd {
	struct pg_mmu mmu;
	struct pg_uffd_features features;
	bool events;
	bool nofork;
	bool user;
	bool signal;
	uint64_t mask;
	int fd;	     /* the program's ranges */
	int pool_fd; /* the pool, if there is MOVE */
	int pagemap;
	int mem;     /* /proc/self/mem; -1 with MOVE if it cannot be had */
	char *zeros; /* BATCH pages that are never written */
	pg_atomic64 copied;
	pg_atomic32 nobody; /* a futex that nobody waits for */
	struct pool pools[NR_POOLS];
	struct pg_lock zap_lock; /* LOCK_LEAF */
	/* Watched memory that we zap ourselves, as far as its events have not
	 * been read: they are not for core. Free when @end is 0. */
	struct zap {
		uintptr_t at, end;
	} zaps[NR_ZAPS]; /* zap_lock */
};

const char pg_uffd_permission_hint[] =
	"as root run 'sysctl vm.unprivileged_userfaultfd=1' or 'chmod 666 "
	"/dev/userfaultfd', or run with CAP_SYS_PTRACE";

static const struct pg_mmu_ops uffd_ops;

static struct uffd *to_uffd(struct pg_mmu *m)
{
	return (struct uffd *)(void *)m;
}

static const struct uffd *to_uffd_const(const struct pg_mmu *m)
{
	return (const struct uffd *)(const void *)m;
}

static size_t bytes(size_t nr)
{
	return nr << PG_PAGE_SHIFT;
}

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Calls left until one fails; 0: never. atomic, relaxed: tests only. */
static pg_atomic32 fail_in;
static pg_atomic32 fail_with;

unsigned int pg_uffd_fail_nth(unsigned int nth, int error)
{
	pg_store(&fail_with, (uint32_t)-error, relaxed);
	return pg_xchg(&fail_in, nth, relaxed);
}

/* The one way to the kernel for what works on a descriptor. */
static int call(int fd, unsigned long cmd, void *arg)
{
	uint32_t left = pg_load(&fail_in, relaxed);

	while (left) {
		if (!pg_cas(&fail_in, &left, left - 1, relaxed))
			continue;
		if (left == 1)
			return -(int)pg_load(&fail_with, relaxed);
		break;
	}
	return (int)pg_sys(ioctl, fd, cmd, arg);
}

/* ----- the list of pool mappings ----- */

static bool list_add(struct uffd *u, uintptr_t start, size_t nr)
{
	for (size_t i = 0; i < NR_POOLS; i++) {
		struct pool *p = &u->pools[i];
		uint64_t none = 0;

		if (pg_load(&p->nr, relaxed) ||
		    !pg_cas(&p->nr, &none, POOL_CLAIMED, acq_rel))
			continue;
		pg_store(&p->start, start, relaxed);
		pg_store(&p->nr, nr, release);
		return true;
	}
	return false;
}

/* Before it is unmapped: then the address may be another's. */
static void list_del(struct uffd *u, uintptr_t start)
{
	for (size_t i = 0; i < NR_POOLS; i++) {
		struct pool *p = &u->pools[i];

		if (pg_load(&p->nr, acquire) &&
		    pg_load(&p->start, relaxed) == start) {
			pg_store(&p->nr, 0, release);
			return;
		}
	}
}

/* ----- opening ----- */

static int open_descriptor(bool user, bool *device)
{
	long flags = O_CLOEXEC | O_NONBLOCK | (user ? UFFD_USER_MODE_ONLY : 0);
	long dev = pg_sys(openat, AT_FDCWD, "/dev/userfaultfd",
			  O_RDWR | O_CLOEXEC);
	long fd = dev;

	*device = false;
	if (dev >= 0) {
		fd = pg_sys(ioctl, dev, USERFAULTFD_IOC_NEW, flags);
		pg_sys(close, dev);
		*device = fd >= 0;
	}
	if (fd < 0)
		fd = pg_sys(userfaultfd, flags);
	return (int)fd;
}

/* Open a descriptor with @want features; 0 asks which there are. */
static int open_with(bool user, uint64_t want, uint64_t *have, bool *device)
{
	struct uffdio_api api = {.api = UFFD_API, .features = want};
	int fd = open_descriptor(user, device);
	int ret;

	if (fd < 0)
		return fd;
	ret = call(fd, UFFDIO_API, &api);
	if (ret < 0) {
		pg_sys(close, fd);
		return ret;
	}
	if (have)
		*have = api.features;
	return fd;
}

static int explain(int ret, char *error, size_t error_len)
{
	switch (ret) {
	case -EPERM:
	case -EACCES:
		pg_format(error, error_len,
			  "no permission to serve page faults with "
			  "userfaultfd: %s",
			  pg_uffd_permission_hint);
		return -EPERM;
	case -ENOSYS:
		pg_format(error, error_len,
			  "this kernel has no userfaultfd: use one built with "
			  "CONFIG_USERFAULTFD");
		return ret;
	case -EOPNOTSUPP:
		pg_format(error, error_len,
			  "the userfaultfd of this kernel can neither move nor "
			  "write-protect pages: use Linux 5.14 or later");
		return ret;
	default:
		pg_format(error, error_len,
			  "userfaultfd failed with error %d: see errno(3)",
			  -ret);
		return ret;
	}
}

static int probe(struct pg_uffd_features *f, bool user, uint64_t mask)
{
	int fd = open_with(user, 0, &f->bits, &f->device);

	if (fd < 0)
		return fd;
	pg_sys(close, fd);
	f->bits &= ~mask;
	f->kernel = !user;
	f->wp = f->bits & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	f->signal = f->bits & UFFD_FEATURE_SIGBUS;
	/* The pool needs write protection to be registered for. */
	f->move = f->wp && (f->bits & PG_UFFD_FEATURE_MOVE);
	f->poison = f->bits & PG_UFFD_FEATURE_POISON;
	f->events = (f->bits & EVENT_BITS) == EVENT_BITS;
	return f->wp ? 0 : -EOPNOTSUPP;
}

int pg_uffd_probe(struct pg_uffd_features *f, char *error, size_t error_len)
{
	int ret;

	*f = (struct pg_uffd_features){0};
	if (error_len)
		error[0] = '\0';
	ret = probe(f, false, 0);
	if (!ret)
		return 0;
	ret = explain(ret, error, error_len);
	return ret == -EPERM && !probe(f, true, 0) ? 0 : ret;
}

static void close_fds(struct uffd *u)
{
	int *const fds[] = {&u->fd, &u->pool_fd, &u->pagemap, &u->mem};

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
		if (*fds[i] >= 0)
			pg_sys(close, *fds[i]);
		*fds[i] = -1;
	}
}

static int open_proc(const char *path, char *error, size_t error_len)
{
	int fd = (int)pg_sys(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		pg_format(error, error_len,
			  "cannot open %s (error %d): mount /proc", path, -fd);
	return fd;
}

/* Where a program does not expect numbers of its own: just below its limit, or
 * below what a table should grow to for our sake. */
#define HIGHEST_FD 4096u

/* Give the descriptors high numbers, in rising order. */
static int move_up(struct uffd *u)
{
	int *const fds[] = {&u->fd, &u->pool_fd, &u->mem, &u->pagemap};
	struct rlimit lim = {HIGHEST_FD, HIGHEST_FD};
	long min;

	pg_sys(prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
	min = (long)(lim.rlim_cur < HIGHEST_FD ? lim.rlim_cur : HIGHEST_FD);
	/* Never 0 to 2, which may be closed: others write there. */
	min = min > 4 * PG_UFFD_FDS + 3 ? min - 4 * PG_UFFD_FDS : 3;
	for (size_t i = 0; i < PG_UFFD_FDS; i++) {
		long fd;

		if (*fds[i] < 0)
			continue;
		fd = pg_sys(fcntl, *fds[i], F_DUPFD_CLOEXEC, min);
		if (fd < 0)
			return (int)fd;
		pg_sys(close, *fds[i]);
		*fds[i] = (int)fd;
		min = fd + 1;
	}
	return 0;
}

static int open_fds(struct uffd *u, char *error, size_t error_len)
{
	uint64_t want = 0;
	bool device;
	int ret = probe(&u->features, u->user, u->mask);

	u->fd = u->pool_fd = u->pagemap = u->mem = -1;
	if (ret)
		return explain(ret, error, error_len);
	if (u->signal && !u->features.signal) {
		pg_format(
			error, error_len,
			"the userfaultfd of this kernel cannot raise signals: "
			"use Linux 4.14 or later");
		return -EOPNOTSUPP;
	}
	want = u->features.bits &
	       (UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
		PG_UFFD_FEATURE_MOVE | PG_UFFD_FEATURE_POISON);
	if (u->events)
		want |= EVENT_BITS;
	if (u->signal)
		want |= UFFD_FEATURE_SIGBUS;
	u->fd = ret = open_with(u->user, want, NULL, &device);
	if (ret < 0)
		return explain(ret, error, error_len);
	if (u->features.move) {
		u->pool_fd = ret = open_with(
			u->user,
			PG_UFFD_FEATURE_MOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP,
			NULL, &device);
		if (ret < 0) {
			explain(ret, error, error_len);
			goto err_close;
		}
	}
	u->mem = ret = open_proc("/proc/self/mem", error, error_len);
	if (ret < 0 && !u->features.move)
		goto err_close;
	u->pagemap = ret = open_proc("/proc/self/pagemap", error, error_len);
	if (ret < 0)
		goto err_close;
	ret = u->signal ? move_up(u) : 0;
	if (ret) {
		explain(ret, error, error_len);
		goto err_close;
	}
	return 0;

err_close:
	close_fds(u);
	return ret;
}

int pg_uffd_create(const struct pg_uffd_config *config, struct pg_mmu **m,
		   char *error, size_t error_len)
{
	struct uffd *u = pg_mem_map(sizeof(*u));
	int ret = -ENOMEM;

	if (error_len)
		error[0] = '\0';
	if (!u || !(u->zeros = pg_mem_map(bytes(BATCH)))) {
		pg_format(error, error_len,
			  "out of memory: raise the limit of virtual memory "
			  "(ulimit -v) or of mappings (vm.max_map_count)");
		goto err_free;
	}
	u->mmu.ops = &uffd_ops;
	u->events = config->events;
	u->nofork = config->nofork;
	u->user = config->user || config->signal;
	u->signal = config->signal;
	u->mask = config->mask;
	ret = open_fds(u, error, error_len);
	if (ret)
		goto err_free;
	*m = &u->mmu;
	return 0;

err_free:
	if (u)
		pg_mem_unmap(u->zeros, bytes(BATCH));
	pg_mem_unmap(u, sizeof(*u));
	return ret;
}

void pg_uffd_forget(struct pg_mmu *m)
{
	struct uffd *u = to_uffd(m);

	for (size_t i = 0; i < NR_POOLS; i++) {
		uint64_t nr = pg_load(&u->pools[i].nr, acquire);

		if (nr & ~POOL_CLAIMED)
			pg_mem_unmap(
				(void *)pg_load(&u->pools[i].start, relaxed),
				bytes(nr));
	}
	pg_mem_unmap(u->zeros, bytes(BATCH));
	pg_mem_unmap(u, sizeof(*u));
}

void pg_uffd_destroy(struct pg_mmu *m)
{
	close_fds(to_uffd(m));
	pg_uffd_forget(m);
}

static int do_register(int fd, uintptr_t va, size_t nr, uint64_t mode)
{
	struct uffdio_register r = {
		.range = {.start = va, .len = bytes(nr)},
		.mode = mode,
	};

	return call(fd, UFFDIO_REGISTER, &r);
}

int pg_uffd_inherit(struct pg_mmu *m, char *error, size_t error_len)
{
	struct uffd *u = to_uffd(m);
	int ret;

	if (error_len)
		error[0] = '\0';
	memset(&u->zap_lock, 0, sizeof(u->zap_lock));
	memset(u->zaps, 0, sizeof(u->zaps));
	if (u->signal)
		close_fds(u); /* the parent's, copied */
	ret = open_fds(u, error, error_len);
	for (size_t i = 0; i < NR_POOLS && !ret && u->features.move; i++) {
		uint64_t nr = pg_load(&u->pools[i].nr, acquire);

		if (nr & POOL_CLAIMED) /* by a thread that is not here */
			pg_store(&u->pools[i].nr, 0, relaxed);
		else if (nr)
			ret = do_register(u->pool_fd,
					  pg_load(&u->pools[i].start, relaxed),
					  nr, UFFDIO_REGISTER_MODE_WP);
		if (ret) {
			explain(ret, error, error_len);
			close_fds(u);
		}
	}
	return ret;
}

void pg_uffd_leave_fds(struct pg_mmu *m)
{
	struct uffd *u = to_uffd(m);

	u->fd = u->pool_fd = u->pagemap = u->mem = -1;
}

unsigned int pg_uffd_fds(const struct pg_mmu *m, int fds[PG_UFFD_FDS])
{
	const struct uffd *u = to_uffd_const(m);
	const int all[PG_UFFD_FDS] = {u->fd, u->pool_fd, u->mem, u->pagemap};
	unsigned int n = 0;

	for (size_t i = 0; i < PG_UFFD_FDS; i++)
		if (all[i] >= 0)
			fds[n++] = all[i];
	return n;
}

int pg_uffd_fd(const struct pg_mmu *m)
{
	return to_uffd_const(m)->fd;
}

const struct pg_uffd_features *pg_uffd_features(const struct pg_mmu *m)
{
	return &to_uffd_const(m)->features;
}

uint64_t pg_uffd_copied(const struct pg_mmu *m)
{
	return pg_load(&to_uffd_const(m)->copied, relaxed);
}

/* ----- watching ----- */

static int uffd_watch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct uffd *u = to_uffd(m);
	uint64_t mode = UFFDIO_REGISTER_MODE_MISSING;
	struct uffdio_range r = {.start = va, .len = bytes(nr)};
	int ret;

	/* The kernel registers a range with holes in it, and what comes there
	 * later is not watched. This call does nothing but look for holes. */
	if (pg_sys(msync, va, bytes(nr), MS_ASYNC))
		return -ENOMEM;
	if (u->features.wp)
		mode |= UFFDIO_REGISTER_MODE_WP; /* see uffd_take() */
	ret = do_register(u->fd, va, nr, mode);
	if (!ret && u->nofork &&
	    pg_sys(madvise, va, bytes(nr), MADV_DONTFORK)) {
		pg_sys(madvise, va, bytes(nr), MADV_DOFORK);
		ret = -ENOMEM;
	}
	switch (ret) {
	case 0:
	case -EBUSY:
	case -EINVAL:
		return ret;
	case -EPERM: /* a file that cannot be written */
		return -EINVAL;
	default:
		/* Out of memory in the middle: the front part is watched. */
		call(u->fd, UFFDIO_UNREGISTER, &r);
		return -ENOMEM;
	}
}

/*
 * Somebody may have mapped something in the range that cannot be watched;
 * then the kernel refuses all of it. Leave out what it refuses by halving, at
 * most @tries times.
 */
static void unregister(struct uffd *u, uintptr_t va, size_t nr, int *tries)
{
	struct uffdio_range r = {.start = va, .len = bytes(nr)};

	if (!call(u->fd, UFFDIO_UNREGISTER, &r) || nr == 1 || --*tries < 0)
		return;
	unregister(u, va, nr / 2, tries);
	unregister(u, va + bytes(nr / 2), nr - nr / 2, tries);
}

static void uffd_unwatch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	int tries = 1000;

	if (to_uffd(m)->nofork)
		pg_sys(madvise, va, bytes(nr), MADV_DOFORK);
	unregister(to_uffd(m), va, nr, &tries);
}

static void uffd_wake(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct uffdio_range r = {.start = va, .len = bytes(nr)};

	if (!to_uffd(m)->signal)
		call(to_uffd(m)->fd, UFFDIO_WAKE, &r);
}

/* ----- looking ----- */

/* Read entries of at most BATCH pages. Return: how many, or an errno. */
static long read_pagemap(struct uffd *u, uintptr_t va, size_t nr,
			 uint64_t *entry)
{
	long ret = pg_sys(pread64, u->pagemap, entry,
			  min_size(nr, BATCH) * sizeof(*entry),
			  (va >> PG_PAGE_SHIFT) * sizeof(*entry));

	if (ret < 0)
		return ret;
	return ret ? ret / (long)sizeof(*entry) : -EINVAL;
}

static bool is_there(uint64_t entry)
{
	return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
}

static int uffd_present(struct pg_mmu *m, uintptr_t va, size_t nr,
			uint64_t *bits)
{
	uint64_t entry[BATCH];

	for (size_t i = 0; i < nr;) {
		long n = read_pagemap(to_uffd(m), va + bytes(i), nr - i, entry);

		if (n < 0)
			return (int)n;
		for (long k = 0; k < n; k++, i++) {
			uint64_t bit = (uint64_t)1 << (i % 64);

			if (i % 64 == 0)
				bits[i / 64] = 0;
			if (is_there(entry[k]))
				bits[i / 64] |= bit;
		}
	}
	return 0;
}

static size_t uffd_absent(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct scan_region first = {0};
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = va,
		.end = va + bytes(nr),
		.vec = (uintptr_t)&first,
		.vec_len = 1,
		/* Where the first one is, not how many follow it. */
		.max_pages = 1,
		.any_of = SCAN_PRESENT | SCAN_SWAPPED,
		.returned = SCAN_PRESENT | SCAN_SWAPPED,
	};
	long n = pg_sys(ioctl, to_uffd(m)->pagemap, IOC_PAGEMAP_SCAN, &arg);

	if (n < 0)
		return 0;
	return n ? (first.start - va) >> PG_PAGE_SHIFT : nr;
}

static int uffd_look(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t *bits)
{
	return pg_look(to_uffd(m)->pagemap, va, nr, bits);
}

static int uffd_populate(struct pg_mmu *m, uintptr_t va, size_t nr, bool write)
{
	(void)m;
	return pg_look_populate(va, nr, write);
}

/* How many pages from @va on, at most BATCH, are @there? */
static size_t run_of_pages(struct uffd *u, uintptr_t va, size_t nr, bool there)
{
	uint64_t entry[BATCH];
	long n = read_pagemap(u, va, nr, entry);
	size_t run = 0;

	while ((long)run < n && is_there(entry[run]) == there)
		run++;
	return run;
}

/* ----- moving pages ----- */

/*
 * One call on @nr pages. The kernel says -EAGAIN when it did a part, and only
 * the next call, on the page that it refused, says why.
 * Return: 0 and *done > 0, or the error of the first page.
 */
static int partial(int ret, int64_t part, size_t nr, size_t *done)
{
	*done = 0;
	if (!ret)
		*done = nr;
	else if (ret == -EAGAIN && part > 0)
		*done = (size_t)part >> PG_PAGE_SHIFT;
	return *done ? 0 : ret;
}

static int do_move(int fd, uintptr_t to, uintptr_t from, size_t nr,
		   size_t *done)
{
	struct uffd_move arg = {
		.dst = to,
		.src = from,
		.len = bytes(nr),
		.mode = MODE_DONTWAKE,
	};
	int ret = call(fd, IOC_MOVE, &arg);

	return partial(ret, arg.move, nr, done);
}

static int do_copy(struct uffd *u, uintptr_t to, const void *from, size_t nr,
		   size_t *done)
{
	struct uffdio_copy arg = {
		.dst = to,
		.src = (uintptr_t)from,
		.len = bytes(nr),
		.mode = MODE_DONTWAKE,
	};
	int ret = call(u->fd, UFFDIO_COPY, &arg);

	return partial(ret, arg.copy, nr, done);
}

static int do_protect(struct uffd *u, uintptr_t va, size_t nr, uint64_t mode)
{
	struct uffdio_writeprotect arg = {
		.range = {.start = va, .len = bytes(nr)},
		.mode = mode,
	};

	return call(u->fd, UFFDIO_WRITEPROTECT, &arg);
}

/* Who stores to a page that we leave protected sleeps for ever, so this must
 * not give up while there is something to unprotect. */
static void unprotect(struct uffd *u, uintptr_t va, size_t nr)
{
	int ret;

	while ((ret = do_protect(u, va, nr, 0)) == -EAGAIN || ret == -ENOMEM)
		pg_yield();
}

/*
 * After a fork the kernel refuses to move a page until it has been written,
 * even when the child is gone. Write each page of the run without changing it:
 * an atomic addition of 0 in the kernel, which fails on an absent page, where
 * an access of our own would wait for a fault thread that may be ourselves.
 */
static void unshare(struct uffd *u, uintptr_t va, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		pg_sys(futex, &u->nobody, FUTEX_WAKE_OP_PRIVATE, 0, 0,
		       va + bytes(i),
		       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_LT, 0));
}

static void drop(void *buf, size_t nr)
{
	pg_sys(madvise, buf, bytes(nr), MADV_DONTNEED);
}

/* What a take that did nothing says to core. */
static int take_error(int ret)
{
	switch (ret) {
	case -EINTR: /* a deadly signal */
	case -ESRCH: /* the process exits */
		return -EAGAIN;
	case -EFAULT: /* a marker of poison, not a page */
		return -EINVAL;
	default:
		return ret;
	}
}

/*
 * Linux 6.18, whose UFFDIO_MOVE moves several pages at a time, can move pages,
 * lose a race against the split of a huge page, start over, and say EEXIST for
 * what it has just moved. The destination was empty, so what is there has
 * come from the source, provided that it is there no more.
 * Return: pages that were moved.
 */
static size_t moved_unsaid(struct uffd *u, uintptr_t to, uintptr_t from,
			   size_t nr)
{
	size_t n = run_of_pages(u, to, nr, true);

	return n ? run_of_pages(u, from, n, false) : 0;
}

static int take_by_move(struct uffd *u, uintptr_t va, char *buf, size_t nr,
			size_t *done)
{
	size_t i = 0, chunk = nr, unshared = 0;
	int ret = 0;

	while (i < nr) {
		size_t n = min_size(chunk, nr - i), k;

		ret = do_move(u->pool_fd, (uintptr_t)buf + bytes(i),
			      va + bytes(i), n, &k);
		if (ret == -EEXIST) {
			k = moved_unsaid(u, (uintptr_t)buf + bytes(i),
					 va + bytes(i), n);
			if (k)
				ret = 0;
		}
		if (!ret) {
			i += k;
			chunk = nr;
			continue;
		}
		if (ret == -EBUSY && i >= unshared) {
			unshared = min_size(i + UNSHARE_BATCH, nr);
			unshare(u, va + bytes(i), unshared - i);
		} else if (ret == -EINVAL && n > 1) {
			/* The range may reach into another mapping. */
			chunk = n / 2;
		} else {
			break;
		}
	}
	/* The kernel looks at the buffer first. */
	if (ret == -EEXIST && run_of_pages(u, va + bytes(i), 1, false))
		ret = -ENOENT;
	*done = i;
	return i == nr ? 0 : take_error(ret);
}

/*
 * Is this the event of a zap of ours? There is one for each mapping that the
 * zap reaches into, in the order of addresses. madvise() may have returned
 * before the reader gets here, so the reader is who frees the entry.
 */
static bool is_own_zap(struct uffd *u, uintptr_t start, uintptr_t end)
{
	bool own = false;

	if (!u->events)
		return false;
	pg_lock(&u->zap_lock, LOCK_LEAF);
	for (size_t i = 0; i < NR_ZAPS && !own; i++) {
		struct zap *z = &u->zaps[i];

		own = start <= z->at && z->at < end && end <= z->end;
		if (own)
			z->at = end;
		if (own && end == z->end)
			*z = (struct zap){0};
	}
	pg_unlock(&u->zap_lock, LOCK_LEAF);
	return own;
}

static struct zap *expect_zap(struct uffd *u, uintptr_t va, size_t nr)
{
	struct zap *z = NULL;

	pg_lock(&u->zap_lock, LOCK_LEAF);
	for (size_t i = 0; i < NR_ZAPS && !z; i++)
		if (!u->zaps[i].end)
			z = &u->zaps[i];
	if (z)
		*z = (struct zap){.at = va, .end = va + bytes(nr)};
	pg_unlock(&u->zap_lock, LOCK_LEAF);
	return z;
}

/* Only the part of the zap up to @end was done. */
static void cut_zap(struct uffd *u, struct zap *z, uintptr_t end)
{
	pg_lock(&u->zap_lock, LOCK_LEAF);
	z->end = end;
	if (z->at >= z->end)
		*z = (struct zap){0};
	pg_unlock(&u->zap_lock, LOCK_LEAF);
}

/*
 * Drop pages of the program that nobody can write or put back meanwhile.
 * madvise() stops at a mapping that it refuses, and has dropped what lies
 * before it; over a hole it goes on, and says -ENOMEM.
 */
static int zap(struct uffd *u, uintptr_t va, size_t nr, size_t *done)
{
	struct zap *z = NULL;
	int ret;

	*done = 0;
	if (u->events && !(z = expect_zap(u, va, nr)))
		return -EAGAIN;
	ret = (int)pg_sys(madvise, va, bytes(nr), MADV_DONTNEED);
	if (!ret || ret == -ENOMEM) {
		*done = nr;
		return 0;
	}
	*done = run_of_pages(u, va, nr, false);
	if (z)
		cut_zap(u, z, va + bytes(*done));
	return *done ? 0 : ret;
}

/*
 * Stores are kept out from the write protection to the zap. A thread that
 * wants to store meanwhile sleeps, and the wake-up at the end lets it fault
 * again, on an absent page. One that goes to sleep after the zap misses it, so
 * its message is delivered as that of any fault.
 */
static int copy_out(struct uffd *u, uintptr_t va, char *buf, size_t nr,
		    size_t *done)
{
	size_t n = run_of_pages(u, va, nr, true);
	long got;
	int ret;

	*done = 0;
	if (!n)
		return -ENOENT;
	ret = pg_mutant("take_without_protection")
		      ? 0
		      : do_protect(u, va, n, UFFDIO_WRITEPROTECT_MODE_WP);
	if (ret) {
		/* It may have protected the part before another mapping. */
		unprotect(u, va, n);
		return ret == -ENOENT ? -EINVAL : ret;
	}
	/* Not by memcpy: on a page that has gone it would wait for a fault
	 * thread, this says EIO. */
	got = pg_sys(pread64, u->mem, buf, bytes(n), va);
	if (pg_mutant("take_without_protection"))
		pg_yield();
	if (got >= (long)PG_PAGE_SIZE)
		ret = zap(u, va, (size_t)got >> PG_PAGE_SHIFT, done);
	else /* gone, or not to be read */
		ret = run_of_pages(u, va, 1, true) ? -EINVAL : -ENOENT;
	if (*done < n) {
		unprotect(u, va + bytes(*done), n - *done);
		drop(buf + bytes(*done), n - *done);
	}
	uffd_wake(&u->mmu, va, n);
	pg_fetch_add(&u->copied, *done, relaxed);
	return ret;
}

static int take_by_copy(struct uffd *u, uintptr_t va, char *buf, size_t nr,
			size_t *done)
{
	size_t i = 0, chunk = nr;
	int ret = 0;

	while (i < nr) {
		size_t n = min_size(chunk, nr - i), k;

		ret = copy_out(u, va + bytes(i), buf + bytes(i), n, &k);
		if (!ret) {
			i += k;
			chunk = nr;
		} else if (ret == -EINVAL && n > 1) {
			/* Only a part may be locked, or another mapping. */
			chunk = n / 2;
		} else {
			break;
		}
	}
	*done = i;
	return i == nr ? 0 : take_error(ret);
}

static int uffd_take(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		     size_t *done)
{
	struct uffd *u = to_uffd(m);
	size_t copied;
	int ret;

	if (!u->features.move)
		return take_by_copy(u, va, buf, nr, done);
	ret = take_by_move(u, va, buf, nr, done);
	if (ret != -EINVAL || !u->features.wp || u->mem < 0)
		return ret;
	/* Memory that cannot be both read and written does not move. A device
	 * does not write to it either, so a copy loses nothing. */
	ret = take_by_copy(u, va + bytes(*done), (char *)buf + bytes(*done),
			   nr - *done, &copied);
	*done += copied;
	return ret;
}

/* Copy pages of the pool that are really there. They go, as by a move, so
 * that the pool is not larger than core believes. */
static int copy_in(struct uffd *u, uintptr_t va, char *buf, size_t nr,
		   size_t *done)
{
	size_t n = run_of_pages(u, (uintptr_t)buf, nr, true);
	int ret;

	*done = 0;
	if (!n)
		return -EFAULT;
	ret = do_copy(u, va, buf, n, done);
	if (*done)
		drop(buf, *done);
	pg_fetch_add(&u->copied, *done, relaxed);
	return ret;
}

/*
 * The kernel moves only into plain memory that can be read and written, and
 * only pages that no forked process shares; it copies everything.
 */
static int give_some(struct uffd *u, uintptr_t va, char *buf, size_t nr,
		     size_t *done)
{
	int ret = -EINVAL;

	if (u->features.move)
		ret = do_move(u->fd, va, (uintptr_t)buf, nr, done);
	if (ret == -EEXIST) {
		*done = moved_unsaid(u, va, (uintptr_t)buf, nr);
		if (*done)
			return 0;
	}
	if (ret == -EINVAL || ret == -EBUSY)
		ret = copy_in(u, va, buf, nr, done);
	return ret;
}

static int uffd_give(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		     size_t *done)
{
	struct uffd *u = to_uffd(m);
	char *from = buf;
	size_t i = 0, chunk = nr;
	int ret = 0;

	while (i < nr) {
		size_t n = min_size(chunk, nr - i), k;

		ret = give_some(u, va + bytes(i), from + bytes(i), n, &k);
		if (!ret) {
			i += k;
			chunk = nr;
		} else if (ret == -ENOENT && n > 1) {
			/* The range may reach into another mapping. */
			chunk = n / 2;
		} else {
			break;
		}
	}
	/* MOVE says ENOENT for both sides. */
	if (ret == -ENOENT &&
	    run_of_pages(u, (uintptr_t)from + bytes(i), 1, false))
		ret = -EFAULT;
	if (ret == -ESRCH) { /* the process exits: nobody will look */
		ret = 0;
		i = nr;
	}
	*done = i;
	return ret == -EINTR ? -EAGAIN : ret;
}

static int uffd_zero(struct pg_mmu *m, uintptr_t va, size_t nr, size_t *done)
{
	struct uffd *u = to_uffd(m);
	size_t i = 0, chunk = BATCH;
	int ret = 0;

	while (i < nr) {
		size_t n = min_size(chunk, nr - i), k;

		ret = do_copy(u, va + bytes(i), u->zeros, n, &k);
		if (!ret) {
			i += k;
			chunk = BATCH;
		} else if (ret == -ENOENT && n > 1) {
			chunk = n / 2;
		} else {
			break;
		}
	}
	if (ret == -ESRCH) {
		ret = 0;
		i = nr;
	}
	*done = i;
	return ret;
}

static int uffd_poison(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct uffd *u = to_uffd(m);
	size_t i = 0;

	if (!u->features.poison)
		return -EOPNOTSUPP;
	while (i < nr) {
		struct uffd_poison arg = {
			.range = {.start = va + bytes(i), .len = bytes(nr - i)},
			.mode = MODE_DONTWAKE,
		};
		size_t k;
		int ret = call(u->fd, IOC_POISON, &arg);

		ret = partial(ret, arg.updated, nr - i, &k);
		if (ret)
			return ret;
		i += k;
	}
	return 0;
}

/* ----- the pool ----- */

static void *uffd_pool_map(struct pg_mmu *m, size_t nr)
{
	struct uffd *u = to_uffd(m);
	void *p;

	if (!nr || nr > SIZE_MAX >> PG_PAGE_SHIFT)
		return NULL;
	p = pg_mem_map_aligned(bytes(nr), POOL_ALIGN);
	if (!p)
		return NULL;
	if (u->features.move &&
	    do_register(u->pool_fd, (uintptr_t)p, nr, UFFDIO_REGISTER_MODE_WP))
		goto err_unmap;
	if (!list_add(u, (uintptr_t)p, nr))
		goto err_unmap;
	return p;

err_unmap:
	pg_mem_unmap(p, bytes(nr));
	return NULL;
}

static void uffd_pool_unmap(struct pg_mmu *m, void *buf, size_t nr)
{
	if (!buf)
		return;
	list_del(to_uffd(m), (uintptr_t)buf);
	pg_mem_unmap(buf, bytes(nr));
}

/*
 * A huge page moves whole: one entry of a page table instead of 512. It is
 * allowed for the moment only: later one page would cost 2 MB, of which core
 * knows 4 KB.
 */
static int uffd_pool_fill(struct pg_mmu *m, void *buf, size_t nr)
{
	bool huge = (uintptr_t)buf % POOL_ALIGN == 0 &&
		    bytes(nr) % POOL_ALIGN == 0 && !pg_mutant("small_fill");
	volatile char *p = buf;
	int ret;

	(void)m;
	if (huge)
		pg_sys(madvise, buf, bytes(nr), MADV_HUGEPAGE);
	ret = (int)pg_sys(madvise, buf, bytes(nr), MADV_POPULATE_WRITE);
	if (huge)
		pg_sys(madvise, buf, bytes(nr), MADV_NOHUGEPAGE);
	if (!ret || ret == -ENOMEM)
		return ret;
	/* Linux before 5.14. The buffer is its holder's alone. */
	for (size_t i = 0; i < nr; i++)
		p[bytes(i)] = p[bytes(i)];
	return 0;
}

static void uffd_pool_drop(struct pg_mmu *m, void *buf, size_t nr)
{
	(void)m;
	if (nr)
		drop(buf, nr);
}

static uint64_t uffd_now_ns(struct pg_mmu *m)
{
	(void)m;
	return pg_now_ns();
}

static const struct pg_mmu_ops uffd_ops = {
	.name = "uffd",
	.watch = uffd_watch,
	.unwatch = uffd_unwatch,
	.take = uffd_take,
	.give = uffd_give,
	.zero = uffd_zero,
	.poison = uffd_poison,
	.wake = uffd_wake,
	.present = uffd_present,
	.absent = uffd_absent,
	.look = uffd_look,
	.populate = uffd_populate,
	.pool_map = uffd_pool_map,
	.pool_unmap = uffd_pool_unmap,
	.pool_fill = uffd_pool_fill,
	.pool_drop = uffd_pool_drop,
	.now_ns = uffd_now_ns,
};

/* ----- faults and events ----- */

/* Translate a message. Return: is it for core? */
static bool decode(struct uffd *u, const struct uffd_msg *msg,
		   struct pg_uffd_event *ev)
{
	const uintptr_t page = ~(uintptr_t)(PG_PAGE_SIZE - 1);

	*ev = (struct pg_uffd_event){0};
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP &&
		    pg_mutant("stores_to_what_leaves_are_not_told"))
			return false;
		ev->kind = PG_UFFD_FAULT;
		ev->va = msg->arg.pagefault.address & page;
		ev->nr = 1;
		if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE)
			ev->flags = PG_FAULT_WRITE;
		if (u->features.bits & UFFD_FEATURE_THREAD_ID)
			ev->tid = (int32_t)msg->arg.pagefault.feat.ptid;
		return true;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		ev->kind = msg->event == UFFD_EVENT_REMOVE ? PG_UFFD_REMOVE
							   : PG_UFFD_UNMAP;
		ev->va = msg->arg.remove.start;
		ev->nr = (msg->arg.remove.end - ev->va) >> PG_PAGE_SHIFT;
		return ev->kind == PG_UFFD_UNMAP ||
		       !is_own_zap(u, ev->va, msg->arg.remove.end);
	case UFFD_EVENT_REMAP:
		ev->kind = PG_UFFD_REMAP;
		ev->va = msg->arg.remap.from;
		ev->to = msg->arg.remap.to;
		ev->nr = msg->arg.remap.len >> PG_PAGE_SHIFT;
		return true;
	default:
		return false;
	}
}

/* By way of /proc: poll() does not work on a descriptor whose reads wait. */
bool pg_uffd_has_event(struct pg_mmu *m)
{
	static const char key[] = "pending:\t";
	char path[64], text[512];
	long fd, n;

	pg_format(path, sizeof(path), "/proc/thread-self/fdinfo/%d",
		  to_uffd(m)->fd);
	fd = pg_sys(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = pg_sys(read, fd, text, sizeof(text));
	pg_sys(close, fd);
	for (long i = 0; i + (long)sizeof(key) <= n; i++)
		if (!memcmp(text + i, key, sizeof(key) - 1))
			return text[i + (long)sizeof(key) - 1] != '0';
	return false;
}

int pg_uffd_read(struct pg_mmu *m, struct pg_uffd_event *ev, int n,
		 int timeout_ms)
{
	struct uffd *u = to_uffd(m);
	struct uffd_msg msg[16];
	struct pollfd pfd = {.fd = u->fd, .events = POLLIN};
	size_t max = min_size((size_t)n, sizeof(msg) / sizeof(*msg));
	long ret = 1;
	int nr = 0;

	if (timeout_ms)
		ret = pg_sys(poll, &pfd, 1, timeout_ms);
	if (ret > 0)
		ret = pg_sys(read, u->fd, msg, max * sizeof(*msg));
	if (ret == -EINTR || ret == -EAGAIN)
		return 0;
	if (ret <= 0)
		return (int)ret;
	for (size_t i = 0; i < (size_t)ret / sizeof(*msg); i++)
		nr += decode(u, &msg[i], &ev[nr]);
	return nr;
}
