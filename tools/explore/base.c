/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * base.c - what stands for src/base in the explorer.
 *
 * Locks, sleeping and waking are single steps here: who waits cannot go on.
 * That the real ones do the same is shown by scenarios of their own, on the
 * futex below. Memory is an arena whose addresses are the same each time.
 */
#include "base/bug.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"

#include <linux/futex.h>
#include <string.h>

#include "explore/engine.h"
#include "explore/sys.h"

#define PC __builtin_return_address(0)
#define NR_IGNORED 32

const char *x_mutant = "";

static struct {
	uintptr_t addr;
	size_t size;
} ignored[NR_IGNORED];
static unsigned int nr_ignored;
static unsigned int fail_in; /* pg_mem_map() calls until one fails */

/* How often a thread wakes up before its time, or for nothing; a loop around
 * a wait that may always do so has no end. When nobody else can run, time goes
 * by as often as it must. */
#define MAX_EARLY 1u
static unsigned int early[X_THREADS];

void x_base_begin(void)
{
	fail_in = 0;
	memset(early, 0, sizeof(early));
}

static struct x_thread *self(void)
{
	return &x.thread[x.me];
}

void x_ignore(const volatile void *p, size_t size)
{
	if (nr_ignored == NR_IGNORED)
		x_fail("too many calls of x_ignore()");
	ignored[nr_ignored].addr = (uintptr_t)p;
	ignored[nr_ignored++].size = size;
}

bool x_is_ignored(uintptr_t addr)
{
	for (unsigned int i = 0; i < nr_ignored; i++)
		if (addr - ignored[i].addr < ignored[i].size)
			return true;
	return false;
}

void x_names_reset(void)
{
	nr_ignored = 0;
	x_forget_names();
}

void x_spurious(bool on)
{
	x.spurious = on;
}

/* ---- Locks ---- */

/* The lock's object; alone, a lock is only looked at. */
static struct x_obj *lock_step(const volatile void *l, enum x_op op,
			       const void *pc)
{
	unsigned int i = x_obj_of((uintptr_t)l, 0);
	struct x_obj *o = &x.obj[i];

	x_access((uintptr_t)l, 4, A_ATOMIC_READ, pc);
	if (x.running && !x_is_ignored((uintptr_t)l)) {
		x_point(op, i, false, pc);
		return o;
	}
	if ((op == OP_LOCK && o->owner >= 0) ||
	    (op == OP_READ_LOCK && o->writers) ||
	    (op == OP_WRITE_LOCK && (o->owner >= 0 || o->readers)))
		x_fail("%s is still locked\n    %s", x_what((uintptr_t)l),
		       x_where(pc));
	return o;
}

static void changed(struct x_obj *o)
{
	unsigned int i = (unsigned int)(o - x.obj);

	o->nr++;
	x_trail(i, true, o->nr);
	x_wrote(i, 0, true);
}

static void check_order(enum pg_lock_rank rank, const void *pc)
{
	for (int r = (int)rank; r < LOCK_NR; r++)
		if (self()->held[r])
			x_fail("lock of rank %d taken with one of rank %d "
			       "held, "
			       "see lock.h\n    %s",
			       (int)rank, r, x_where(pc));
}

static void take(struct x_obj *o, enum pg_lock_rank rank)
{
	o->owner = x.me;
	x_join(&self()->now, &o->held_view);
	self()->held[rank]++;
	changed(o);
}

static void drop(struct x_obj *o, enum pg_lock_rank rank, const void *pc)
{
	if (o->owner != x.me)
		x_fail("%s is unlocked by T%d, which does not hold it\n    %s",
		       x_what(o->addr), x.me, x_where(pc));
	o->owner = -1;
	x_publish(&o->held_view);
	self()->held[rank]--;
	changed(o);
}

static void lock(struct pg_lock *l, enum pg_lock_rank rank, const void *pc)
{
	struct x_obj *o;

	check_order(rank, pc);
	o = lock_step(l, OP_LOCK, pc);
	take(o, rank);
	x_trace(pc, (uintptr_t)l, "lock");
}

static bool trylock(struct pg_lock *l, enum pg_lock_rank rank, const void *pc)
{
	struct x_obj *o = lock_step(l, OP_TRYLOCK, pc);

	if (o->owner >= 0) {
		x_looked((unsigned int)(o - x.obj), o->nr);
		x_trail((unsigned int)(o - x.obj), false, o->nr);
		x_trace(pc, (uintptr_t)l, "trylock fails");
		return false;
	}
	take(o, rank);
	x_trace(pc, (uintptr_t)l, "trylock");
	return true;
}

static void unlock(struct pg_lock *l, enum pg_lock_rank rank, const void *pc)
{
	struct x_obj *o = lock_step(l, OP_UNLOCK, pc);

	drop(o, rank, pc);
	x_trace(pc, (uintptr_t)l, "unlock");
}

static void take_read(struct x_obj *o, enum pg_lock_rank rank)
{
	o->readers |= 1u << x.me;
	x_join(&self()->now, &o->held_view);
	self()->held[rank]++;
	x_looked((unsigned int)(o - x.obj), o->nr);
}

static void read_lock(struct pg_rwlock *l, enum pg_lock_rank rank,
		      const void *pc)
{
	struct x_obj *o;

	check_order(rank, pc);
	o = lock_step(l, OP_READ_LOCK, pc);
	take_read(o, rank);
	x_trail((unsigned int)(o - x.obj), false, o->nr);
	x_trace(pc, (uintptr_t)l, "read lock");
}

static bool read_trylock(struct pg_rwlock *l, enum pg_lock_rank rank,
			 const void *pc)
{
	struct x_obj *o = lock_step(l, OP_READ_TRYLOCK, pc);

	x_trail((unsigned int)(o - x.obj), false, o->nr * 2 + !o->writers);
	if (o->writers) {
		x_looked((unsigned int)(o - x.obj), o->nr);
		x_trace(pc, (uintptr_t)l, "read trylock fails");
		return false;
	}
	take_read(o, rank);
	x_trace(pc, (uintptr_t)l, "read trylock");
	return true;
}

static void read_unlock(struct pg_rwlock *l, enum pg_lock_rank rank,
			const void *pc)
{
	struct x_obj *o = lock_step(l, OP_READ_UNLOCK, pc);
	struct x_view mine;

	if (!(o->readers & 1u << x.me))
		x_fail("%s is unlocked by T%d, which does not hold it\n    %s",
		       x_what(o->addr), x.me, x_where(pc));
	o->readers &= ~(1u << x.me);
	x_publish(&mine);
	x_join(&o->read_view, &mine);
	self()->held[rank]--;
	/* A change to writers; for readers it is none. */
	x_trail((unsigned int)(o - x.obj), false, o->nr);
	x_trace(pc, (uintptr_t)l, "read unlock");
}

static void take_write(struct x_obj *o, enum pg_lock_rank rank)
{
	o->writers |= 1u << x.me;
	x_join(&self()->now, &o->read_view);
	take(o, rank);
}

static void write_lock(struct pg_rwlock *l, enum pg_lock_rank rank,
		       const void *pc)
{
	struct x_obj *o;

	check_order(rank, pc);
	o = lock_step(l, OP_ANNOUNCE, pc);
	o->writers |= 1u << x.me;
	changed(o);
	x_trace(pc, (uintptr_t)l, "write lock wanted: no new readers");
	lock_step(l, OP_WRITE_LOCK, pc);
	take_write(o, rank);
	x_trace(pc, (uintptr_t)l, "write lock");
}

static bool write_trylock(struct pg_rwlock *l, enum pg_lock_rank rank,
			  const void *pc)
{
	struct x_obj *o = lock_step(l, OP_WRITE_TRYLOCK, pc);

	if (o->owner >= 0 || o->readers) {
		x_looked((unsigned int)(o - x.obj), o->nr);
		x_trail((unsigned int)(o - x.obj), false, o->nr);
		x_trace(pc, (uintptr_t)l, "write trylock fails");
		return false;
	}
	take_write(o, rank);
	x_trace(pc, (uintptr_t)l, "write trylock");
	return true;
}

static void write_unlock(struct pg_rwlock *l, enum pg_lock_rank rank,
			 const void *pc)
{
	struct x_obj *o = lock_step(l, OP_WRITE_UNLOCK, pc);

	o->writers &= ~(1u << x.me);
	drop(o, rank, pc);
	x_trace(pc, (uintptr_t)l, "write unlock");
}

/* Instrumented code calls these. */
#define LOCK_CALL(type, name)                                                  \
	void pg_##name(struct type *l, enum pg_lock_rank rank)                 \
	{                                                                      \
		x.quiet = true;                                                \
		name(l, rank, PC);                                             \
		x.quiet = false;                                               \
	}
#define TRYLOCK_CALL(type, name)                                               \
	bool pg_##name(struct type *l, enum pg_lock_rank rank)                 \
	{                                                                      \
		bool got;                                                      \
                                                                               \
		x.quiet = true;                                                \
		got = name(l, rank, PC);                                       \
		x.quiet = false;                                               \
		return got;                                                    \
	}

LOCK_CALL(pg_lock, lock)
TRYLOCK_CALL(pg_lock, trylock)
LOCK_CALL(pg_lock, unlock)
LOCK_CALL(pg_rwlock, read_lock)
TRYLOCK_CALL(pg_rwlock, read_trylock)
LOCK_CALL(pg_rwlock, read_unlock)
LOCK_CALL(pg_rwlock, write_lock)
TRYLOCK_CALL(pg_rwlock, write_trylock)
LOCK_CALL(pg_rwlock, write_unlock)

bool pg_write_held(const struct pg_rwlock *l)
{
	struct x_obj *o;
	bool held;

	x.quiet = true;
	o = lock_step(l, OP_TRYLOCK, PC);
	held = o->owner >= 0;
	x.quiet = false;
	return held;
}

bool pg_lock_held(enum pg_lock_rank rank)
{
	return self()->held[rank] != 0;
}

/* ---- Sleeping and waking ---- */

/* Return: false: its time is over. */
static bool futex_wait(const volatile void *word, uint32_t value, bool timed,
		       const void *pc)
{
	unsigned int i;

	if (!x.running) {
		uint32_t now = *(const volatile uint32_t *)word;

		if (now == value && timed)
			return false;
		if (now == value)
			x_fail("would sleep for ever on %s\n    %s",
			       x_what((uintptr_t)word), x_where(pc));
		return true;
	}
	i = x_obj_of((uintptr_t)word, 4);
	x_point(OP_WAIT, i, false, pc);
	x_access((uintptr_t)word, 4, A_ATOMIC_READ, pc);
	if (x_value_for_futex(i) != value) {
		x_futex_used(i);
		x_trace(pc, (uintptr_t)word, "has changed: does not sleep");
		return true;
	}
	x_futex_used(i);
	if ((timed || x.spurious) && early[x.me] < MAX_EARLY && x_choose(2)) {
		early[x.me]++;
		x_trace(pc, (uintptr_t)word, "%s",
			timed ? "the time is over" : "wakes up by itself");
		return !timed;
	}
	x_trace(pc, (uintptr_t)word, "sleeps");
	x_sleep(i, timed);
	timed = timed && self()->timed_out;
	x_trace(pc, (uintptr_t)word, "%s",
		timed ? "the time is over" : "woken");
	return !timed;
}

static void futex_wake(const volatile void *word, int nr, const void *pc)
{
	unsigned int i;

	if (!x.running)
		return;
	i = x_obj_of((uintptr_t)word, 4);
	x_point(OP_WAKE, i, false, pc);
	x_futex_used(i);
	x_trace(pc, (uintptr_t)word, "wake %s", nr == 1 ? "one" : "all");
	x_rouse(i, nr == 1);
}

void pg_wait(pg_atomic32 *word, uint32_t value, uint64_t timeout_ns)
{
	x.quiet = true;
	futex_wait(word, value, timeout_ns != 0, PC);
	x.quiet = false;
}

void pg_wait_left(pg_atomic32 *word, uint32_t value, uint64_t *left_ns)
{
	bool forever = !*left_ns;

	x.quiet = true;
	if (!futex_wait(word, value, !forever, PC) && !forever)
		*left_ns = 0;
	x.quiet = false;
}

void pg_wake(pg_atomic32 *word)
{
	x.quiet = true;
	futex_wake(word, 0, PC);
	x.quiet = false;
}

void pg_yield(void)
{
	x.quiet = true;
	x_trace(PC, 0, "yield");
	x_spin(PC);
	x.quiet = false;
}

/* The system calls of the real src/base/lock.c; see sys.h. */
long x_sys_futex(volatile void *word, int op, uint32_t value,
		 const void *timeout, ...)
{
	x.quiet = true;
	if (op == FUTEX_WAIT_PRIVATE)
		futex_wait(word, value, timeout != NULL, PC);
	else
		futex_wake(word, value == 1, PC);
	x.quiet = false;
	return 0;
}

long x_sys_sched_yield(const void *none, ...)
{
	(void)none;
	pg_yield();
	return 0;
}

/* ---- Memory ---- */

static bool fails_now(void)
{
	if (fail_in && !--fail_in)
		return true;
	return x.running && x.scenario->fail_alloc && x_choose(2);
}

void *pg_mem_map_aligned(size_t size, size_t align)
{
	void *p = NULL;

	x.quiet = true;
	if (size && !fails_now())
		p = x_alloc(size, align);
	x_trace(PC, (uintptr_t)p, "%s", p ? "map memory" : "no memory");
	x.quiet = false;
	return p;
}

void *pg_mem_map(size_t size)
{
	return pg_mem_map_aligned(size, 4096);
}

void pg_mem_unmap(void *p, size_t size)
{
	x.quiet = true;
	if (p) {
		x_trace(PC, (uintptr_t)p, "unmap memory");
		x_free((uintptr_t)p, size, PC);
	}
	x.quiet = false;
}

/* For everybody at once: the kernel takes the page out of all CPUs. */
void pg_mem_drop(void *p, size_t size)
{
	x.quiet = true;
	if (x.running && size)
		x_point(OP_ALL, 0, false, PC);
	if (size) {
		x_access((uintptr_t)p, size, A_ATOMIC_WRITE, PC);
		x_save((uintptr_t)p, size);
		memset(p, 0, size);
		x_dropped((uintptr_t)p, size);
		x_trace(PC, (uintptr_t)p, "drop memory");
	}
	x.quiet = false;
}

bool pg_mem_is_own(uintptr_t addr, size_t len)
{
	return x_is_alloc(addr, len);
}

unsigned int pg_mem_fail_nth(unsigned int nth)
{
	unsigned int left = fail_in;

	fail_in = nth;
	return left;
}

/* ---- The rest ---- */

_Noreturn void pg_bug(const char *what, const char *file, int line)
{
	x_fail("bug: %s at %s:%d", what, x_short_path(file), line);
}

struct pg_sum pg_hash(const void *p, size_t len)
{
	const unsigned char *b = p;
	uint64_t h = 14695981039346656037u;

	x.quiet = true;
	x_access((uintptr_t)p, len, A_READ, PC);
	x.quiet = false;
	for (size_t i = 0; i < len; i += 61)
		h = (h ^ b[i]) * 1099511628211u;
	return (struct pg_sum){h, 0};
}

uint64_t pg_now_ns(void); /* base/sys.h, which is not for this build */
uint64_t pg_now_ns(void)
{
	return 1;
}

void pg_log(enum pg_log_level level, const char *fmt, ...)
{
	char line[200];
	va_list ap;

	(void)level;
	x.quiet = true;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	x_trace(PC, 0, "log: %s", line);
	x.quiet = false;
}

void pg_log_set(enum pg_log_level level, int fd,
		void (*sink)(const char *line, size_t len))
{
	(void)level;
	(void)fd;
	(void)sink;
}

size_t pg_vformat(char *buf, size_t size, const char *fmt, va_list ap)
{
	int n = vsnprintf(buf, size, fmt, ap);

	if (n < 0 || !size)
		return 0;
	return (size_t)n < size ? (size_t)n : size - 1;
}

size_t pg_format(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	va_start(ap, fmt);
	n = pg_vformat(buf, size, fmt, ap);
	va_end(ap);
	return n;
}

#ifdef PG_MUTATION
bool pg_mutant(const char *name)
{
	return !strcmp(x_mutant, name);
}
#endif
