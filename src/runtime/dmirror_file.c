/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dmirror_file.c - /dev/hmm_dmirror0 to 3, which the program opens, and what it
 * asks of them.
 *
 * The interface is that of the test driver of Linux: 0 and 1 have memory of
 * their own that the CPU cannot use, 2 and 3 such that it can. With it comes
 * the file by which the tests get pages pinned. An open file is an empty memfd
 * that we know; its numbers are not followed through dup().
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/mem.h"
#include "base/mutant.h"
#include "core/mm.h"
#include "core/unit.h"
#include "runtime/buffers.h"
#include "runtime/dmirror.h"
#include "runtime/runtime.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define POPULATE_READ 22 /* MADV_POPULATE_READ, Linux 5.14 */

#define MAX_FILES 64u
/* As large as anybody may map it. */
#define FILE_SIZE ((size_t)1 << 40)

/* What the ioctls of a device take, and give back. */
struct command {
	uint64_t addr, ptr, npages;
	uint64_t cpages, faults; /* out */
};

enum {
	CMD_READ,
	CMD_WRITE,
	CMD_TO_DEVICE,
	CMD_TO_SYSTEM,
	CMD_SNAPSHOT,
	CMD_EXCLUSIVE,
	CMD_CHECK_EXCLUSIVE,
	CMD_RELEASE,
	CMD_NR
};

/* Of the file that pins. */
struct pin_command {
	uint64_t get_us, put_us; /* out */
	uint64_t addr, size;
	uint32_t pages_per_call, flags, test_flags, which[8];
};

/* For good; the number was another one before Linux 6.3. */
#define PIN_LONGTERM (0x100u | 0x10000u)
enum { PIN_GUP_FAST = 1, PIN_PIN_FAST, PIN_LONGTERM_ALL, PIN_GUP };

/* struct file - An open file. files_lock, but for users; it stays as it is
 * while there are some. */
struct file {
	bool open;
	int fd;
	struct pg_dmirror *mirror; /* NULL: of the file that pins */
	pg_atomic32 users;	   /* commands under way; acquire, release */
};

static struct file file[MAX_FILES];
static struct pg_lock files_lock; /* LOCK_LEAF */
static pg_atomic32 nr_files;	  /* open; relaxed: a hint */

static struct file *find(int fd)
{
	for (uint32_t i = 0; i < MAX_FILES; i++)
		if (file[i].open && file[i].fd == fd)
			return &file[i];
	return NULL;
}

static bool is_ours(long fd)
{
	bool is;

	if (!pg_load(&nr_files, relaxed))
		return false;
	pg_lock(&files_lock, LOCK_LEAF);
	is = find((int)fd);
	pg_unlock(&files_lock, LOCK_LEAF);
	return is;
}

static struct file *use(int fd)
{
	struct file *f;

	pg_lock(&files_lock, LOCK_LEAF);
	f = find(fd);
	if (f)
		pg_fetch_add(&f->users, 1, acquire);
	pg_unlock(&files_lock, LOCK_LEAF);
	return f;
}

static void unuse(struct file *f)
{
	pg_fetch_sub(&f->users, 1, release);
}

/* ---- Open and close ---- */

static const char device_path[] = "/dev/hmm_dmirror";
static const char pin_path[] = "/sys/kernel/debug/gup_test";

/* Which file a path names: a unit, UNIT_PIN, or -1. */
#define UNIT_PIN 4

/* Up to @len bytes of a string; the page behind it may not be there. */
static void copy_name(char *to, uintptr_t from, size_t len)
{
	size_t rest = PG_PAGE_SIZE - from % PG_PAGE_SIZE;
	struct iovec own = {to, len};
	struct iovec part[2] = {{(void *)from, rest < len ? rest : len},
				{(void *)(from + rest), 0}};

	if (rest < len && !pg_mutant("names_end_with_their_page"))
		part[1].iov_len = len - rest;
	pg_sys(process_vm_readv, pg_rt.pid, &own, 1, part, 2, 0);
}

static int unit_of(const struct pg_call *c)
{
	char name[sizeof(pin_path)] = "";
	const size_t n = sizeof(device_path) - 1;

	copy_name(name, (uintptr_t)c->arg[c->nr == SYS_open ? 0 : 1],
		  sizeof(name));
	if (!memcmp(name, pin_path, sizeof(pin_path)))
		return UNIT_PIN;
	if (memcmp(name, device_path, n) || name[n] < '0' || name[n] > '3' ||
	    name[n + 1])
		return -1;
	return name[n] - '0';
}

static struct pg_dmirror *make_mirror(int unit)
{
	struct pg_dmirror *m;
	struct pgmap_mm *mm = pg_adopt_start();

	m = mm ? pg_mem_map(sizeof(*m)) : NULL;
	if (!m)
		return NULL;
	m->mm = mm;
	m->owner = (uint8_t)(unit + 1);
	m->coherent = unit >= 2;
	pg_dmirror_start(m);
	return m;
}

static void free_mirror(struct pg_dmirror *m)
{
	if (!m)
		return;
	/* Of a fork's parent: a thread that is not here may have been at work
	 * in its table, which is left as it is. */
	if (m->mm)
		pg_dmirror_stop(m);
	pg_mem_unmap(m, sizeof(*m));
}

static bool add_file(int fd, struct pg_dmirror *m)
{
	bool added = false;

	pg_lock(&files_lock, LOCK_LEAF);
	for (uint32_t i = 0; i < MAX_FILES && !added; i++) {
		added = !file[i].open && !pg_load(&file[i].users, acquire);
		if (!added)
			continue;
		file[i].open = true;
		file[i].fd = fd;
		file[i].mirror = m;
		pg_fetch_add(&nr_files, 1, relaxed);
	}
	pg_unlock(&files_lock, LOCK_LEAF);
	return added;
}

static long open_file(int unit, long flags)
{
	struct pg_dmirror *m = NULL;
	long fd;

	if (unit != UNIT_PIN) {
		m = make_mirror(unit);
		if (!m)
			return -ENOMEM;
	}
	fd = pg_sys(memfd_create, "hmm_dmirror",
		    flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd >= 0)
		pg_sys(ftruncate, fd, FILE_SIZE);
	if (fd >= 0 && !add_file((int)fd, m)) {
		pg_sys(close, fd);
		fd = -ENFILE;
	}
	if (fd < 0)
		free_mirror(m);
	return fd;
}

static void close_file(int fd)
{
	struct pg_dmirror *m = NULL;
	struct file *f;

	pg_lock(&files_lock, LOCK_LEAF);
	f = find(fd);
	if (f) {
		f->open = false;
		m = f->mirror;
		pg_fetch_sub(&nr_files, 1, relaxed);
	}
	pg_unlock(&files_lock, LOCK_LEAF);
	if (!f)
		return;
	while (pg_load(&f->users, acquire))
		pg_yield();
	free_mirror(m);
}

static void close_files(unsigned int first, unsigned int last)
{
	for (uint32_t i = 0; i < MAX_FILES; i++) {
		int fd = -1;

		pg_lock(&files_lock, LOCK_LEAF);
		if (file[i].open && (unsigned int)file[i].fd >= first &&
		    (unsigned int)file[i].fd <= last)
			fd = file[i].fd;
		pg_unlock(&files_lock, LOCK_LEAF);
		if (fd >= 0)
			close_file(fd);
	}
}

/* ---- Commands ---- */

static bool copy_from(void *to, uint64_t from, size_t len)
{
	struct iovec l = {to, len}, r = {(void *)(uintptr_t)from, len};

	return pg_sys(process_vm_readv, pg_rt.pid, &l, 1, &r, 1, 0) ==
	       (long)len;
}

static bool copy_to(uint64_t to, void *from, size_t len)
{
	struct iovec l = {from, len}, r = {(void *)(uintptr_t)to, len};

	return pg_sys(process_vm_writev, pg_rt.pid, &l, 1, &r, 1, 0) ==
	       (long)len;
}

static int run_command(struct pg_dmirror *m, unsigned int nr,
		       const struct command *c, char *buf,
		       struct pg_dmirror_done *done)
{
	uintptr_t va = (uintptr_t)c->addr;
	size_t n = (size_t)c->npages;

	switch (nr) {
	case CMD_READ:
		return pg_dmirror_read(m, va, n, buf, done);
	case CMD_WRITE:
		return pg_dmirror_write(m, va, n, buf, done);
	case CMD_TO_DEVICE:
		return pg_dmirror_to_device(m, va, n, buf, done);
	case CMD_TO_SYSTEM:
		return pg_dmirror_to_system(m, va, n, done);
	case CMD_SNAPSHOT:
		return pg_dmirror_snapshot(m, va, n, (uint8_t *)buf, done);
	case CMD_EXCLUSIVE:
		return pg_dmirror_exclusive(m, va, n, buf, done);
	case CMD_CHECK_EXCLUSIVE:
		return pg_dmirror_check_exclusive(m, va, n);
	default:
		return pg_dmirror_release(m);
	}
}

static int command(struct pg_dmirror *m, unsigned int nr, uint64_t arg)
{
	struct pg_dmirror_done done = {0};
	struct command c;
	size_t len;
	char *buf;
	int ret;

	if (!copy_from(&c, arg, sizeof(c)))
		return -EFAULT;
	if (c.addr % PG_PAGE_SIZE || !c.npages ||
	    c.npages > SIZE_MAX / PG_PAGE_SIZE ||
	    c.addr + c.npages * PG_PAGE_SIZE < c.addr)
		return -EINVAL;
	/* Of a fork's parent, whose memory we have not. */
	if (!m->mm)
		return -EFAULT;
	len = (size_t)c.npages * PG_PAGE_SIZE;
	buf = pg_mem_map(len);
	if (!buf)
		return -ENOMEM;
	ret = nr == CMD_WRITE && !copy_from(buf, c.ptr, len)
		      ? -EFAULT
		      : run_command(m, nr, &c, buf, &done);
	if (nr == CMD_SNAPSHOT)
		len = (size_t)c.npages;
	/* Not under a lock: what it goes to may be away as well. */
	if (!ret &&
	    (nr == CMD_READ || nr == CMD_TO_DEVICE || nr == CMD_SNAPSHOT ||
	     nr == CMD_EXCLUSIVE) &&
	    !copy_to(c.ptr, buf, len))
		ret = -EFAULT;
	pg_mem_unmap(buf, (size_t)c.npages * PG_PAGE_SIZE);
	c.cpages = done.pages;
	c.faults = done.faults;
	if (!ret && !copy_to(arg, &c, sizeof(c)))
		ret = -EFAULT;
	return ret;
}

static int pin_command(unsigned int nr, uint64_t arg)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);
	struct pin_command c;
	uint64_t start;
	int ret;

	if (!copy_from(&c, arg, sizeof(c)))
		return -EFAULT;
	if (c.addr % PG_PAGE_SIZE || c.addr + c.size < c.addr)
		return -EINVAL;
	if (!mm)
		return -ENOMEM;
	start = pg_now_ns();
	ret = pg_dmirror_pin(mm, (uintptr_t)c.addr,
			     (size_t)(c.size + PG_PAGE_SIZE - 1) / PG_PAGE_SIZE,
			     nr == PIN_LONGTERM_ALL || c.flags & PIN_LONGTERM);
	c.get_us = (pg_now_ns() - start) / 1000;
	c.put_us = 0;
	if (!ret && !copy_to(arg, &c, sizeof(c)))
		ret = -EFAULT;
	return ret;
}

static long control(struct file *f, uint32_t request, uint64_t arg)
{
	unsigned int nr = _IOC_NR(request);

	if (f->mirror && nr < CMD_NR &&
	    request == (uint32_t)_IOC(_IOC_READ | _IOC_WRITE, 'H', nr,
				      sizeof(struct command)))
		return command(f->mirror, nr, arg);
	if (!f->mirror && nr >= PIN_GUP_FAST && nr <= PIN_GUP &&
	    request == (uint32_t)_IOC(_IOC_READ | _IOC_WRITE, 'g', nr,
				      sizeof(struct pin_command)))
		return pin_command(nr, arg);
	return -EINVAL;
}

/* ---- Calls ---- */

static const int calls[] = {SYS_open, SYS_openat, SYS_ioctl,	  SYS_close,
			    SYS_dup2, SYS_dup3,	  SYS_close_range};

void pg_dmirror_init(void)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		pg_syscall_want(calls[i]);
}

bool pg_dmirror_wants(const struct pg_call *c)
{
	/* In a vfork child the descriptors are another process's. */
	switch (c->nr) {
	case SYS_open:
	case SYS_openat:
		return unit_of(c) >= 0 && pg_sys(getpid) == pg_rt.pid;
	case SYS_ioctl:
	case SYS_close:
		return is_ours(c->arg[0]) && pg_sys(getpid) == pg_rt.pid;
	case SYS_dup2:
	case SYS_dup3:
		return is_ours(c->arg[1]) && pg_sys(getpid) == pg_rt.pid;
	case SYS_close_range:
		return pg_load(&nr_files, relaxed) &&
		       pg_sys(getpid) == pg_rt.pid;
	default:
		return false;
	}
}

int pg_dmirror_call(struct pg_call *c)
{
	struct file *f;

	switch (c->nr) {
	case SYS_open:
	case SYS_openat:
		c->ret = open_file(unit_of(c),
				   c->arg[c->nr == SYS_open ? 1 : 2]);
		return PG_CALL_DONE;
	case SYS_ioctl:
		f = use((int)c->arg[0]);
		if (!f)
			return PG_CALL_NATIVE;
		c->ret = control(f, (uint32_t)c->arg[1], (uint64_t)c->arg[2]);
		unuse(f);
		return PG_CALL_DONE;
	case SYS_close:
		close_file((int)c->arg[0]);
		return PG_CALL_NATIVE;
	case SYS_dup2:
	case SYS_dup3:
		if (c->arg[0] != c->arg[1])
			close_file((int)c->arg[1]);
		return PG_CALL_NATIVE;
	default:
		close_files((unsigned int)c->arg[0], (unsigned int)c->arg[1]);
		return PG_CALL_NATIVE;
	}
}

void pg_dmirror_mapped(const struct pg_call *c)
{
	/* A driver of a mixed mapping has put them there. */
	if (c->nr == SYS_mmap && !pg_sys_failed(c->ret) &&
	    !(c->arg[3] & MAP_ANONYMOUS) && is_ours(c->arg[4]))
		pg_sys(madvise, c->ret, c->arg[1], POPULATE_READ);
}

/* ---- Fork ---- */

void pg_dmirror_fork(struct pgmap_mm *mm)
{
	const struct pg_notify_range all = {.end = UINTPTR_MAX,
					    .event = PG_NOTIFY_PROTECTION};

	pg_notify_begin(mm, &all);
	pg_unit_leave_coherent(mm);
	pg_notify_end(mm, &all);
}

void pg_dmirror_forked(struct pgmap_mm *mm)
{
	/* Threads that held or used something are not here. */
	memset(&files_lock, 0, sizeof(files_lock));
	mm->notifiers = NULL;
	for (uint32_t i = 0; i < MAX_FILES; i++) {
		pg_store(&file[i].users, 0, relaxed);
		if (file[i].open && file[i].mirror)
			file[i].mirror->mm = NULL;
	}
}
