/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * adopt.c - which memory is the program's, and when it must be managed.
 *
 * What is mapped is an upper bound of what can be resident, and counting it
 * costs nothing; so a tree that maps less than a part of its budget never meets
 * us. Above that, K looks at the resident size, the sooner again the nearer the
 * budget, and near it adopts all large private anonymous mappings, as listed
 * by the kernel: that list knows what no hook has seen.
 *
 * All processes of a tree look at the sum. One that had mapped its memory
 * before the sum got that far, and maps no more, has no thread that could look:
 * at most START_PART of the budget stays with such ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/log.h"
#include "base/mem.h"
#include "core/mm.h"
#include "mmu/uffd.h"
#include "runtime/buffers.h"
#include "runtime/runtime.h"

#define MS 1000000u
/* No program dirties memory faster than this, in bytes a ns, on all CPUs. */
#define FASTEST 4u
#define RESCAN_NS (500u * MS)
#define MAPS_BUF ((size_t)64 << 10)
/* F and K start when the tree can use 1/START_PART of its budget; but not in a
 * process that could use less than what they cost. */
#define START_PART 4u
#define START_LEAST ((uint64_t)2 << 20)

/* ---- /proc/self/maps ---- */

struct region {
	uintptr_t start, end;
	bool private, shared_file, stack, heap, special, text;
	const char *name; /* until the next one is parsed */
	size_t name_len;
};

static const char *parse_hex(const char *p, uintptr_t *v)
{
	for (*v = 0;; p++) {
		if (*p >= '0' && *p <= '9')
			*v = *v << 4 | (uintptr_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			*v = *v << 4 | (uintptr_t)(*p - 'a' + 10);
		else
			return p;
	}
}

/* "start-end perms offset dev inode   name" */
static void parse_line(const char *p, const char *end, struct region *r)
{
	uintptr_t offset, major, minor, inode = 0;
	bool digits = false;

	memset(r, 0, sizeof(*r));
	p = parse_hex(p, &r->start);
	p = parse_hex(p + 1, &r->end);
	p++;
	r->private = end - p > 4 && p[3] == 'p';
	r->text = end - p > 4 && p[2] == 'x';
	p = parse_hex(p + 5, &offset);
	p = parse_hex(p + 1, &major);
	p = parse_hex(p + 1, &minor);
	for (p++; p < end && *p >= '0' && *p <= '9'; p++) {
		inode = inode * 10 + (uintptr_t)(*p - '0');
		digits = true;
	}
	while (p < end && *p == ' ')
		p++;
	r->shared_file = !digits || inode || major || minor;
	r->name = p;
	r->name_len = (size_t)(end - p);
	if (p == end)
		return;
	r->heap = end - p == 6 && !memcmp(p, "[heap]", 6);
	r->stack = end - p >= 6 && !memcmp(p, "[stack", 6);
	r->special = !r->heap && !r->stack &&
		     !(end - p >= 6 && !memcmp(p, "[anon:", 6));
}

/* Call @fn for each region. Return: 0 or a negative errno. */
static int each_region(void (*fn)(const struct region *, void *), void *arg)
{
	char *buf = pg_mem_map(MAPS_BUF);
	size_t have = 0;
	long fd, n = -ENOMEM;

	if (!buf)
		return -ENOMEM;
	fd = pg_sys(openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		pg_mem_unmap(buf, MAPS_BUF);
		return (int)fd;
	}
	for (;;) {
		char *line = buf, *nl;

		n = pg_sys(read, fd, buf + have, MAPS_BUF - have);
		if (n <= 0)
			break;
		have += (size_t)n;
		while ((nl = memchr(line, '\n', have - (size_t)(line - buf)))) {
			struct region r;

			parse_line(line, nl, &r);
			fn(&r, arg);
			line = nl + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
	}
	pg_sys(close, fd);
	pg_mem_unmap(buf, MAPS_BUF);
	return (int)n;
}

/* ---- What stays apart ---- */

void pg_apart_add_(uintptr_t start, uintptr_t end, size_t reason)
{
	if (reason == offsetof(struct pgmap_left_alone, foreign))
		pg_store(&pg_rt.foreign, 1, relaxed);
	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	pg_ranges_set(&pg_rt.apart, start, end, reason);
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
}

bool pg_apart_foreign(uintptr_t addr)
{
	const struct pg_ranges *r = &pg_rt.apart;
	bool foreign;
	uint32_t i;

	/* Most programs have no such memory, and this is asked for each fault.
	 */
	if (!pg_load(&pg_rt.foreign, relaxed))
		return false;
	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	i = pg_ranges_find(r, addr);
	foreign = i < r->nr && r->range[i].start <= addr &&
		  r->range[i].tag == offsetof(struct pgmap_left_alone, foreign);
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
	return foreign;
}

void pg_ranges_unmapped(uintptr_t start, uintptr_t end)
{
	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	pg_ranges_clear(&pg_rt.apart, start, end);
	pg_ranges_clear(&pg_rt.nofork, start, end);
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
}

void pg_nofork_set(uintptr_t start, uintptr_t end, int advice)
{
	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	if (advice == MADV_DONTFORK || advice == MADV_WIPEONFORK)
		pg_ranges_set(&pg_rt.nofork, start, end, (size_t)advice);
	else
		pg_ranges_clear(&pg_rt.nofork, start, end);
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
}

int pg_nofork_get(uintptr_t addr)
{
	const struct pg_ranges *r = &pg_rt.nofork;
	int advice = 0;
	uint32_t i;

	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	i = pg_ranges_find(r, addr);
	if (i < r->nr && r->range[i].start <= addr)
		advice = (int)r->range[i].tag;
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
	return advice;
}

void pg_nofork_child(struct pgmap_mm *mm)
{
	for (uint32_t i = 0; i < pg_rt.nofork.nr; i++) {
		struct pg_range *r = &pg_rt.nofork.range[i];
		size_t nr = (r->end - r->start) / PG_PAGE_SIZE;

		if (r->tag == MADV_DONTFORK)
			pg_mm_unmap(mm, r->start, nr);
		else
			pg_mm_remove(mm, r->start, nr);
	}
}

/* The first part of [@start, @end) that is not to stay apart. */
static bool next_free(uintptr_t *start, uintptr_t *stop, uintptr_t end)
{
	bool any;

	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	any = pg_ranges_gap(&pg_rt.apart, start, stop, end);
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
	return any;
}

static int release_job(struct pgmap_mm *mm, void *arg)
{
	const struct pg_range *a = arg;
	int ret =
		pg_mm_release(mm, a->start, (a->end - a->start) / PG_PAGE_SIZE);

	pg_apart_add_(a->start, a->end, a->tag);
	return ret;
}

void pg_apart_release(uintptr_t start, uintptr_t end, size_t reason)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);
	struct pg_range a = {start & ~(uintptr_t)(PG_PAGE_SIZE - 1),
			     (end + PG_PAGE_SIZE - 1) &
				     ~(uintptr_t)(PG_PAGE_SIZE - 1),
			     reason};

	if (a.start >= a.end)
		return;
	if (!mm) {
		pg_apart_add_(a.start, a.end, reason);
		return;
	}
	pg_log(PG_LOG_DEBUG, "process %d: %lu KB at %p: released",
	       (int)pg_rt.pid, (a.end - a.start) >> 10, (void *)a.start);
	pgmap_mm_change_begin(mm);
	pg_host_run(mm, release_job, &a);
	pgmap_mm_change_end(mm);
}

/* Of what exists before main(), the heap and the .bss of the program are its
 * own; the rest is the dynamic linker's and the libraries': thread-local
 * storage, their variables, and ours. */
static void note_early(const struct region *r, void *arg)
{
	const uintptr_t *exe = arg;

	if (r->private && !r->shared_file && !r->heap && !r->stack &&
	    !r->special && !pg_mem_is_own(r->start, r->end - r->start) &&
	    (r->start < exe[0] || r->start >= exe[1]))
		pg_apart_add(r->start, r->end, early);
}

/* Where the program's own segments are. */
static void find_program(uintptr_t exe[2])
{
	const ElfW(Phdr) *p = (const void *)getauxval(AT_PHDR);
	unsigned long n = getauxval(AT_PHNUM);
	uintptr_t base = 0;

	exe[0] = UINTPTR_MAX;
	exe[1] = 0;
	for (unsigned long i = 0; p && i < n; i++)
		if (p[i].p_type == PT_PHDR)
			base = (uintptr_t)p - p[i].p_vaddr;
	for (unsigned long i = 0; p && i < n; i++) {
		uintptr_t start = base + p[i].p_vaddr;

		if (p[i].p_type != PT_LOAD)
			continue;
		if (start < exe[0])
			exe[0] = start;
		if (start + p[i].p_memsz > exe[1])
			exe[1] = start + p[i].p_memsz;
	}
}

void pg_adopt_init(void)
{
	uintptr_t exe[2];
	long brk = pg_sys(brk, 0);

	pg_rt.brk = pg_sys_failed(brk) ? 0 : (uintptr_t)brk;
	/* Without memory for these, nothing is apart: do nothing at all. */
	if (pg_ranges_init(&pg_rt.apart, PG_MAX_RANGES) ||
	    pg_ranges_init(&pg_rt.nofork, PG_MAX_RANGES))
		pg_store(&pg_rt.off, 1, relaxed);
	find_program(exe);
	each_region(note_early, exe);
}

/* ---- Start and arm ---- */

/* On F, when all is open. */
static void started(void *ctx, struct pg_mmu *mmu)
{
	(void)ctx;
	/* Without somebody outside who holds it, memory that is away would
	 * read as zeros should this table ever be lost. */
	pg_control_send_fd(pg_rt.name, pg_rt.name_len, pg_uffd_fd(mmu));
}

static struct pg_host_hooks host_hooks = {
	.started = started,
	.tick = pg_adopt_tick,
};

/* ---- System calls that nobody sees ---- */

struct search {
	char *buf; /* SEARCH_BUF */
	char what[128];
};

#define SEARCH_BUF ((size_t)256 << 10)
/* mov $number, %eax; syscall */
#define CALL_BYTES 7

/* Where the runtime has rewritten a call, its first instruction is a jump. */
static bool has_call(const char *text, size_t len)
{
	const char *at = text, *end = text + len;

	while ((at = memchr(at, 0x0f, (size_t)(end - at)))) {
		uint32_t nr;

		at++;
		if (at == end || *at != 0x05 || at - text < CALL_BYTES - 1 ||
		    (uint8_t)at[1 - (int)CALL_BYTES] != 0xb8)
			continue;
		memcpy(&nr, at + 2 - CALL_BYTES, sizeof(nr));
		if (nr < 512 && pg_buffers_has(nr))
			return true;
	}
	return false;
}

static void name_of(const struct region *r, char *what, size_t size)
{
	const char *p = r->name + r->name_len;
	size_t n = 0;

	while (p > r->name && p[-1] != '/' && n + 1 < size) {
		p--;
		n++;
	}
	memcpy(what, p, n);
	what[n] = '\0';
}

static void search_region(const struct region *r, void *arg)
{
	const uintptr_t own = (uintptr_t)search_region;
	struct search *s = arg;
	size_t n;

	if (!r->text || !r->shared_file || s->what[0] ||
	    (own >= r->start && own < r->end))
		return;
	/* By way of a copy: it may be unmapped at any time. */
	for (uintptr_t at = r->start; at < r->end; at += n) {
		struct iovec to = {s->buf, SEARCH_BUF};
		struct iovec from = {(void *)at, r->end - at};
		long got = pg_sys(process_vm_readv, pg_rt.pid, &to, 1, &from, 1,
				  0);

		if (got <= (long)CALL_BYTES)
			return;
		n = (size_t)got;
		if (has_call(s->buf, n)) {
			name_of(r, s->what, sizeof(s->what));
			return;
		}
		if (at + n < r->end)
			n -= CALL_BYTES - 1;
	}
}

/* Does anything but libc make system calls with memory? What they use would
 * not be held. On K. */
static int search_job(struct pgmap_mm *mm, void *arg)
{
	struct search *s = arg;

	(void)mm;
	s->buf = pg_mem_map(SEARCH_BUF);
	if (!s->buf)
		return -ENOMEM;
	each_region(search_region, s);
	pg_mem_unmap(s->buf, SEARCH_BUF);
	return s->what[0] ? -EXDEV : 0;
}

static void refuse_unseen_calls(struct pgmap_mm *mm)
{
	struct search s = {0};
	char why[192];

	if (!pg_host_run(mm, search_job, &s))
		return;
	pg_format(why, sizeof(why),
		  "%s makes system calls past the C library, and nobody may "
		  "serve the kernel's page faults",
		  s.what);
	pg_store(&pg_rt.off, 1, relaxed);
	pg_control_unmanaged(pg_rt.control, pg_rt.proc, pg_rt.pid, why);
}

/* Start F and K. */
static void start_host(void)
{
	struct pgmap_mm_config config = {.size = sizeof(config)};
	struct pgmap_mm *mm;
	char error[256] = "";

	pg_lock(&pg_rt.lock, LOCK_FORK);
	if (!pg_load(&pg_rt.mm, relaxed) && !pg_load(&pg_rt.off, relaxed)) {
		host_hooks.holds = pg_rt.holds;
		host_hooks.signal = pg_rt.signal;
		config.ram = pg_rt.control->budget;
		config.device = pg_rt.control->device;
		config.folio_size = (uint64_t)PG_PAGE_SIZE
				    << pg_rt.control->folio_order;
		if (pg_host_open(&config, &host_hooks, &mm, error,
				 sizeof(error))) {
			pg_store(&pg_rt.off, 1, relaxed);
			pg_control_unmanaged(pg_rt.control, pg_rt.proc,
					     pg_rt.pid, error);
		} else {
			if (pg_rt.holds)
				refuse_unseen_calls(mm);
			if (pg_load(&pg_rt.zerocopy, acquire))
				pg_pool_no_recycle(&mm->pool);
			pg_store(&pg_rt.mm, mm, seq_cst);
			pg_log(PG_LOG_INFO,
			       "process %d: device %s is open; its memory is "
			       "watched%s",
			       (int)pg_rt.pid, config.device,
			       pg_rt.holds ? ", what system calls use is held"
					   : "");
		}
	}
	pg_unlock(&pg_rt.lock, LOCK_FORK);
}

void pg_adopt_range(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	uintptr_t stop, own = 0, own_end = 0;

	for (; next_free(&start, &stop, end); start = stop) {
		size_t len = stop - start;
		const struct pg_vma *v;
		bool known;
		int ret;

		if (pg_mem_first_own(start, len, &own, &own_end)) {
			/* Perhaps a neighbour that the kernel has merged. */
			if (start < own)
				pg_adopt_range(mm, start, own);
			if (own_end < stop)
				stop = own_end;
			continue;
		}
		if (len < PG_ADOPT_MIN && !pg_rt.control->dmirror)
			continue;
		v = pg_mm_find(mm, start);
		known = v && v->end >= stop;
		ret = pg_mm_adopt(mm, start, len / PG_PAGE_SIZE);
		if (!known)
			pg_log(PG_LOG_DEBUG, "process %d: %lu KB at %p: %s",
			       (int)pg_rt.pid, len >> 10, (void *)start,
			       ret ? "left alone" : "managed");
		if (ret == -EBUSY)
			pg_apart_add(start, stop, foreign);
		else if (ret)
			pg_apart_add(start, stop, refused);
	}
}

struct pgmap_mm *pg_adopt_start(void)
{
	start_host();
	return pg_load(&pg_rt.mm, acquire);
}

struct wanted {
	struct pgmap_mm *mm;
	uintptr_t start, end;
};

static void adopt_wanted(const struct region *r, void *arg)
{
	const struct wanted *w = arg;

	if (r->private && !r->shared_file && !r->stack && !r->special &&
	    r->start < w->end && w->start < r->end)
		pg_adopt_range(w->mm, r->start, r->end);
}

void pg_adopt_mappings(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	struct wanted w = {mm, start, end};

	pg_private_file_replace(mm, start, end);
	each_region(adopt_wanted, &w);
}

static void lock_region(const struct region *r, void *arg)
{
	(void)arg;
	/* Fails where nothing can be in RAM, as mlockall() does silently. */
	if (!r->special && !pg_mem_is_own(r->start, r->end - r->start))
		pg_sys(mlock, r->start, r->end - r->start);
}

/* Our tables are sparse: locked, all that they could grow to would be in RAM.
 * So first lock without bringing in, then bring in what is the program's. */
long pg_adopt_lock(long flags)
{
	long ret;

	if (flags & MCL_ONFAULT || !(flags & MCL_CURRENT)) {
		ret = pg_sys(mlockall, flags);
		pg_mem_unlock();
		return ret;
	}
	ret = pg_sys(mlockall, MCL_CURRENT | MCL_ONFAULT);
	pg_mem_unlock();
	if (ret)
		return ret;
	each_region(lock_region, NULL);
	return flags & MCL_FUTURE ? pg_sys(mlockall, MCL_FUTURE) : 0;
}

struct scan {
	struct pgmap_mm *mm;
	uint64_t small;
};

static void adopt_region(const struct region *r, void *arg)
{
	struct scan *s = arg;

	if (!r->private || r->shared_file || r->stack || r->special)
		return;
	if (r->end - r->start < PG_ADOPT_MIN && !r->heap) {
		s->small += r->end - r->start;
		return;
	}
	pg_adopt_range(s->mm, r->start, r->end);
}

/* Sum up what is apart. Holds LOCK_MM for writing. */
static void count_left(struct pgmap_mm *mm, uint64_t small)
{
	struct pgmap_left_alone left = {0};

	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	for (uint32_t i = 0; i < pg_rt.apart.nr; i++) {
		struct pg_range *a = &pg_rt.apart.range[i];

		*(uint64_t *)(void *)((char *)&left + a->tag) +=
			a->end - a->start;
	}
	pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
	left.small = small;
	left.pinned += pg_load(&mm->stuck, relaxed) * PG_PAGE_SIZE;
	pg_rt.left = left;
}

/* Adopt what the kernel lists. On K. False: somebody changes mappings. */
static bool scan(struct pgmap_mm *mm)
{
	struct scan s = {.mm = mm};
	uint64_t managed = 0;

	/* Who holds memory looks at the instance to know what is managed. */
	if (!pg_load(&pg_rt.mm, acquire))
		return false;
	if (!pg_mm_change_trybegin(mm))
		return false;
	if (!pg_load(&pg_rt.off, relaxed))
		each_region(adopt_region, &s);
	count_left(mm, s.small);
	for (uint32_t i = 0; i < mm->nr_vma; i++)
		managed += mm->vma[i].end - mm->vma[i].start;
	pg_store(&mm->stat.managed, managed, relaxed);
	pgmap_mm_change_end(mm);
	return true;
}

/* Of /proc/self/statm: anonymous bytes that are resident, and bytes that are
 * mapped private and writable, which the former can become. */
static void read_statm(uint64_t *resident, uint64_t *writable)
{
	char text[128];
	uint64_t v[6] = {0}, own;
	long fd = pg_sys(openat, AT_FDCWD, "/proc/self/statm",
			 O_RDONLY | O_CLOEXEC);
	long n;
	const char *p = text;

	*resident = *writable = 0;
	if (fd < 0)
		return;
	n = pg_sys(read, fd, text, sizeof(text) - 1);
	pg_sys(close, fd);
	text[n > 0 ? n : 0] = '\0';
	for (int i = 0; i < 6; i++) {
		while (*p >= '0' && *p <= '9')
			v[i] = v[i] * 10 + (uint64_t)(*p++ - '0');
		p += *p == ' ';
	}
	*resident = v[1] > v[2] ? (v[1] - v[2]) * PG_PAGE_SIZE : 0;
	/* What is ours is reserved, not used. */
	v[5] *= PG_PAGE_SIZE;
	own = pg_mem_mapped();
	*writable = v[5] > own ? v[5] - own : 0;
}

void pg_runtime_publish(void)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);
	struct pgmap_stat st = {.size = sizeof(st)};

	if (!mm || !pg_rt.proc || !pg_load(&pg_rt.armed, acquire))
		return;
	pg_mm_gauges(mm);
	pg_stat_copy(&mm->stat, &st);
	st.copied = pg_uffd_copied(mm->mmu);
	pg_control_publish(pg_rt.proc, &st, &pg_rt.left);
}

static void take_share(struct pgmap_mm *mm)
{
	pg_mm_set_budget(mm, pg_control_share(pg_rt.control, pg_rt.proc));
}

/* From now on memory is managed. On K. False: somebody changes mappings. */
static bool arm(struct pgmap_mm *mm)
{
	/* Partner: change_begin() of the hooks. Who does not see the instance
	 * changes mappings without its lock, and is seen here. */
	if (!pg_load(&pg_rt.mm, seq_cst) || pg_load(&pg_rt.changing, seq_cst))
		return false;
	pg_store(&pg_rt.looked, 1, seq_cst);
	if (!scan(mm))
		return false;
	pg_store(&pg_rt.armed, 1, release);
	take_share(mm);
	/* Before the others look at what was published. */
	pg_runtime_publish();
	if (pg_rt.proc)
		pg_control_managed(pg_rt.control, pg_rt.proc);
	pg_log(PG_LOG_INFO,
	       "process %d: its memory is managed from now on; its part of the "
	       "budget is %lu MB",
	       (int)pg_rt.pid,
	       pg_load(&mm->budget, relaxed) >> (20 - PG_PAGE_SHIFT));
	return true;
}

static void tell_first_eviction(struct pgmap_mm *mm)
{
	static bool told;
	uint64_t n = pg_load(&mm->stat.evictions, relaxed);

	if (told || !n)
		return;
	told = true;
	pg_log(PG_LOG_INFO, "process %d: the first pages have left (%lu)",
	       (int)pg_rt.pid, n);
}

static int arm_job(struct pgmap_mm *mm, void *arg)
{
	(void)arg;
	return pg_load(&pg_rt.armed, relaxed) || arm(mm) ? 0 : -EAGAIN;
}

static void tell_reach(uint64_t reach)
{
	if (pg_rt.proc)
		pg_store(&pg_rt.proc->reach, reach, relaxed);
}

/* Ask the kernel how much can become resident, and how much is. What is added
 * meanwhile is not lost: then the sum stays, until the next time. */
static uint64_t look(uint64_t *resident)
{
	uint64_t reach = pg_load(&pg_rt.reach, relaxed), writable;
	uint64_t coming = pg_load(&pg_rt.coming, seq_cst);

	read_statm(resident, &writable);
	if (pg_cas(&pg_rt.reach, &reach, writable + coming, relaxed))
		reach = writable + coming;
	tell_reach(reach);
	return reach;
}

void pg_adopt_begin(size_t len)
{
	uint64_t budget = pg_rt.control->budget, others, reach, resident;
	struct pgmap_mm *mm;

	if (!len)
		return;
	/* Before statm is read: what another thread is about to map is counted
	 * there or here. */
	pg_fetch_add(&pg_rt.coming, len, seq_cst);
	reach = pg_fetch_add(&pg_rt.reach, len, relaxed) + len;
	if (pg_load(&pg_rt.armed, relaxed) || pg_load(&pg_rt.off, relaxed))
		return;
	tell_reach(reach);
	others = pg_control_reach(pg_rt.control, pg_rt.proc);
	mm = pg_load(&pg_rt.mm, acquire);
	if (reach + others <= (mm ? budget : budget / START_PART))
		return;
	reach = look(&resident);
	if (reach < START_LEAST)
		return;
	/* In a vfork child our threads would end with the child. */
	if (pg_sys(getpid) != pg_rt.pid)
		return;
	if (!mm && reach + others > budget / START_PART)
		start_host();
	mm = pg_load(&pg_rt.mm, acquire);
	/* Once more can be written than there is room for, it may be faster
	 * than all the K can look: manage it from the first touch on. */
	if (!mm || reach + others <= budget)
		return;
	while (pg_host_run(mm, arm_job, NULL))
		pg_yield();
}

static int scan_job(struct pgmap_mm *mm, void *arg)
{
	(void)arg;
	return scan(mm) ? 0 : -EAGAIN;
}

void pg_adopt_end(size_t len, bool managed)
{
	pg_fetch_sub(&pg_rt.coming, len, seq_cst);
	/* Partner: arm(). It looks after it has said so: either it sees what
	 * we mapped, or we see that it may not have. */
	if (!len || managed || !pg_load(&pg_rt.looked, seq_cst))
		return;
	while (pg_host_run(pg_load(&pg_rt.mm, acquire), scan_job, NULL))
		pg_yield();
}

static uint64_t watch_resident(struct pgmap_mm *mm)
{
	uint64_t budget = pg_rt.control->budget;
	uint64_t near = budget - budget / 4, ns, used;

	look(&used);
	if (pg_rt.proc)
		pg_store(&pg_rt.proc->resident, used, relaxed);
	used += pg_control_resident(pg_rt.control, pg_rt.proc);
	if (used < near) {
		ns = (near - used) / FASTEST;
		return ns < MS ? MS : ns > 50u * MS ? 50u * MS : ns;
	}
	return arm(mm) ? MS : MS / 10;
}

/* What /proc/self/stat says: how many threads there are, what the first one
 * will have returned, and whether it has ended. */
static bool read_stat(long *threads, long *status)
{
	char text[512];
	long fd = pg_sys(openat, AT_FDCWD, "/proc/self/stat",
			 O_RDONLY | O_CLOEXEC);
	const char *p;
	bool ended;
	long n;

	*threads = *status = 0;
	if (fd < 0)
		return false;
	n = pg_sys(read, fd, text, sizeof(text) - 1);
	pg_sys(close, fd);
	text[n > 0 ? n : 0] = '\0';
	p = strrchr(text, ')'); /* the name may hold anything */
	if (!p || p[1] != ' ')
		return false;
	ended = p[2] == 'Z';
	for (int field = 2; field < 52 && *p; field++) {
		while (*p && *p != ' ')
			p++;
		p += *p == ' ';
		if (field + 1 == 20)
			for (const char *d = p; *d >= '0' && *d <= '9'; d++)
				*threads = *threads * 10 + (*d - '0');
	}
	while (*p >= '0' && *p <= '9')
		*status = *status * 10 + (*p++ - '0');
	return ended;
}

long pg_adopt_threads(void)
{
	long threads, status;

	read_stat(&threads, &status);
	return threads;
}

/*
 * A process ends when its last thread has called exit(), and F and K never do.
 * So when the first thread is a zombie and there are but the two of us beside
 * it, end for all, with the status that it left.
 */
static void end_with_program(void)
{
	long threads, status;

	if (read_stat(&threads, &status) && threads <= 3) {
		pg_runtime_publish();
		pg_sys(exit_group, status >> 8);
	}
}

uint64_t pg_adopt_tick(void *ctx, struct pgmap_mm *mm)
{
	uint64_t now = pg_now_ns();

	(void)ctx;
	end_with_program();
	/* A child that soon runs another program shares all it has with its
	 * parent: do not make the two shrink for it. */
	if (now < pg_rt.count_from)
		return pg_rt.count_from - now;
	if (!pg_load(&pg_rt.armed, relaxed))
		return pg_load(&pg_rt.off, relaxed) ? 50u * MS
						    : watch_resident(mm);
	take_share(mm);
	tell_first_eviction(mm);
	if (now >= pg_rt.rescan_at && scan(mm)) {
		pg_rt.rescan_at = now + RESCAN_NS;
		if (pg_rt.holds)
			pg_hook_reap();
	}
	pg_runtime_publish();
	return 10u * MS;
}
