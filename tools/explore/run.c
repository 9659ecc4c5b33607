/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * run.c - one execution: coroutines, and who of them can go on.
 *
 * A thread runs until its next operation that others may notice, and stops
 * before it. The search picks whose operation happens next.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "explore/engine.h"

#define STACK ((uintptr_t)0x210000000000)
#define STACK_SIZE ((size_t)256 << 10)

struct x_engine x = {.quiet = true};
long x_steps;

static size_t undo_mark;
static struct x_arena_mark arena_mark;
static int ghost_mark[X_NOTES];

/* ---- Coroutines ---- */

void x_switch(void **save, void *load);
__asm__(".text\n"
	".globl x_switch\n"
	".type x_switch, @function\n"
	"x_switch:\n"
	"	push %rbp\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	mov %rsi, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbx\n"
	"	pop %rbp\n"
	"	ret\n"
	".size x_switch, .-x_switch\n"
	".section .note.GNU-stack,\"\",@progbits\n"
	".text\n");

static void to_scheduler(void)
{
	bool quiet = x.quiet;

	x.quiet = true;
	x_switch(&x.thread[x.me].sp, x.scheduler);
	x.quiet = quiet;
}

_Noreturn static void entry(void)
{
	struct x_thread *t = &x.thread[x.me];

	x.quiet = false;
	t->body();
	t->state = X_DONE;
	t->op = OP_NONE;
	to_scheduler();
	abort(); /* nobody goes on with a thread that is done */
}

static void prepare(int i, void (*body)(void))
{
	struct x_thread *t = &x.thread[i];
	char *stack = t->stack;
	void **sp;

	if (!stack) {
		/* At a place of its own: code may hash its stack's address. */
		void *at = (void *)(STACK + (size_t)i * 2 * STACK_SIZE);

		stack = mmap(at, STACK_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			     -1, 0);
		if (stack != at) {
			fprintf(stderr, "pgmap-explore: no memory\n");
			exit(2);
		}
	}
	memset(t, 0, sizeof(*t));
	t->round = 1;
	t->stack = stack;
	t->body = body;
	sp = (void **)(stack + STACK_SIZE);
	*--sp = NULL; /* where a caller would be: aligned as after a call */
	*--sp = (void *)(uintptr_t)entry;
	for (int r = 0; r < 6; r++)
		*--sp = NULL;
	t->sp = sp;
}

/* Let it run to its next operation. */
static void resume(int i)
{
	x.me = i;
	x_switch(&x.scheduler, x.thread[i].sp);
}

bool x_stack_has(uintptr_t addr)
{
	return addr - (uintptr_t)x.thread[x.me].stack < STACK_SIZE;
}

/* ---- For operations ---- */

void x_point(enum x_op op, unsigned int obj, bool seq_cst, const void *pc)
{
	struct x_thread *t = &x.thread[x.me];

	t->op = op;
	t->obj = obj;
	t->seq_cst = seq_cst;
	t->pc = pc;
	to_scheduler();
	t->now.clock[x.me]++;
}

void x_sleep(unsigned int obj, bool timed)
{
	struct x_thread *t = &x.thread[x.me];

	t->state = X_SLEEPS;
	t->op = OP_NONE;
	t->obj = obj;
	t->timed = timed;
	t->timed_out = false;
	to_scheduler();
}

static void learn(uint16_t *to, const uint16_t *from)
{
	for (int i = 0; i < X_CLOCKS; i++)
		if (from[i] > to[i])
			to[i] = from[i];
}

static void rouse(int i)
{
	x.thread[i].state = X_RUNS;
	learn(x.clock[i], x.clock[x.me]);
}

void x_rouse(unsigned int obj, bool one)
{
	int asleep[X_THREADS];
	unsigned int n = 0;

	for (int i = 0; i < x.scenario->nr; i++)
		if (x.thread[i].state == X_SLEEPS && x.thread[i].obj == obj)
			asleep[n++] = i;
	if (one && n) {
		rouse(asleep[x_choose(n)]);
		return;
	}
	while (n)
		rouse(asleep[--n]);
}

/* What this thread knows of @obj since its last pg_yield(). */
static struct x_known *known(unsigned int obj)
{
	struct x_thread *t = &x.thread[x.me];
	struct x_known *k = &t->known[obj];

	if (k->round == t->round)
		return k;
	*k = (struct x_known){.round = t->round};
	return k;
}

/* The first look counts: what came after it, the next round may see. */
void x_looked(unsigned int obj, unsigned int nr)
{
	struct x_known *k = known(obj);

	if (!k->nr)
		k->nr = nr;
}

void x_wrote(unsigned int obj, uint64_t was, bool looked)
{
	struct x_known *k = known(obj);
	unsigned int nr = x.obj[obj].nr;

	if (k->nr ? k->nr != nr - 1 : !looked)
		return;
	k->nr = nr;
	if (!k->wrote)
		k->was = was;
	k->wrote = x.obj[obj].size != 0;
}

/* Has something changed that a thread in pg_yield() has read? What it did
 * itself and undid again is none. */
static bool changed(const struct x_thread *t)
{
	for (unsigned int i = 1; i <= x.nr_objs; i++) {
		const struct x_known *k = &t->known[i];
		const struct x_obj *o = &x.obj[i];

		if (k->round != t->round || !k->nr)
			continue;
		if (o->nr > k->nr ||
		    (k->wrote && o->msg[o->nr - 1]->value != k->was))
			return true;
	}
	return false;
}

void x_spin(const void *pc)
{
	struct x_thread *t = &x.thread[x.me];

	if (!x.running)
		return;
	if (!changed(t)) {
		t->state = X_YIELDS;
		t->op = OP_NONE;
		t->pc = pc;
		to_scheduler();
	}
	t->round++;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

void x_trail(unsigned int obj, bool change, uint64_t what)
{
	struct x_thread *t = &x.thread[x.me];
	struct x_obj *o = &x.obj[obj];

	t->trail = mix(mix(t->trail, o->addr + change), what);
	if (change)
		o->trail = mix(o->trail, mix(t->trail, (uint64_t)x.me));
}

uint64_t x_graph(void)
{
	uint64_t h = 0;

	for (int i = 0; i < x.scenario->nr; i++)
		h += mix(x.thread[i].trail, (uint64_t)i);
	for (unsigned int i = 1; i <= x.nr_objs; i++)
		if (x.obj[i].trail)
			h += mix(x.obj[i].trail, x.obj[i].addr);
	return h;
}

_Noreturn void x_fail(const char *fmt, ...)
{
	va_list ap;

	x.quiet = true;
	va_start(ap, fmt);
	vsnprintf(x.why, sizeof(x.why), fmt, ap);
	va_end(ap);
	x.failed = true;
	x_switch(&x.thread[x.me].sp, x.scheduler);
	abort();
}

unsigned int x_me(void)
{
	return (unsigned int)x.me;
}

_Noreturn void x_fail_check(const char *file, int line, const char *what)
{
	x_fail("%s:%d: not so: %s", x_short_path(file), line, what);
}

int x_note(unsigned int i, int change)
{
	return x.ghost[i] += change;
}

/* ---- Who can go on ---- */

bool x_enabled(int i)
{
	const struct x_thread *t = &x.thread[i];
	const struct x_obj *o = &x.obj[t->obj];

	if (t->state != X_RUNS)
		return false;
	switch (t->op) {
	case OP_LOCK:
		return o->owner < 0;
	case OP_READ_LOCK:
		return o->owner < 0 && !o->writers;
	case OP_WRITE_LOCK:
		return o->owner < 0 && !o->readers;
	default:
		return true;
	}
}

static bool reads_lock(enum x_op op)
{
	return op == OP_READ_LOCK || op == OP_READ_UNLOCK ||
	       op == OP_READ_TRYLOCK;
}

static bool reads(enum x_op op)
{
	return op == OP_READ || op == OP_SEQ_CST_READ;
}

static bool atomic(enum x_op op)
{
	return reads(op) || op == OP_WRITE || op == OP_SEQ_CST_WRITE;
}

/* Does it move the view on that seq_cst operations share? A load does not, if
 * that has seen all stores already. */
static bool shares(enum x_op op, unsigned int obj)
{
	switch (op) {
	case OP_SEQ_CST_WRITE:
	case OP_FENCE:
		return true;
	case OP_SEQ_CST_READ:
	case OP_WAIT:
		return x.obj[obj].not_seq_cst;
	default:
		return false;
	}
}

bool x_dependent(enum x_op a, unsigned int obj_a, enum x_op b,
		 unsigned int obj_b)
{
	if (a == OP_NONE || b == OP_NONE)
		return false;
	if (a == OP_ALL || b == OP_ALL)
		return true;
	/* A fence has to do with that view only. */
	if (a == OP_FENCE || b == OP_FENCE)
		return x.weak && shares(a, obj_a) && shares(b, obj_b);
	if (obj_a != obj_b)
		return false;
	/* Nor does who goes to sleep change the word. */
	if ((reads(a) && (reads(b) || b == OP_WAIT)) ||
	    (reads(b) && a == OP_WAIT))
		return shares(a, obj_a) && shares(b, obj_b);
	/* Who sleeps or is woken is not what the word is. */
	if (a == OP_WAKE || b == OP_WAKE)
		return !atomic(a) && !atomic(b);
	return !(reads_lock(a) && reads_lock(b));
}

static uint32_t enabled(void)
{
	uint32_t set = 0;

	for (int i = 0; i < x.scenario->nr; i++)
		if (x_enabled(i))
			set |= 1u << i;
	return set;
}

/* Those in pg_yield() whose world has changed go on, by the step of @by. */
static void end_yields(int by)
{
	for (int i = 0; i < x.scenario->nr; i++) {
		struct x_thread *t = &x.thread[i];

		if (t->state != X_YIELDS || i == by || !changed(t))
			continue;
		t->state = X_RUNS;
		t->idle = false;
		learn(x.clock[i], x.clock[by]);
	}
}

/* When nobody else can run, who yielded goes on, changed or not: it need not
 * have been a loop. Once, or loops would go round for ever. */
static bool end_a_yield(void)
{
	for (int i = 0; i < x.scenario->nr; i++) {
		struct x_thread *t = &x.thread[i];

		if (t->state != X_YIELDS || t->idle)
			continue;
		t->state = X_RUNS;
		t->idle = true;
		for (int k = 0; k < x.scenario->nr; k++)
			learn(x.clock[i], x.clock[k]);
		return true;
	}
	return false;
}

/* Time passes when nothing else does: so after all that was done. */
static bool end_a_timeout(void)
{
	int i = 0;

	while (i < x.scenario->nr &&
	       !(x.thread[i].state == X_SLEEPS && x.thread[i].timed))
		i++;
	if (i == x.scenario->nr)
		return false;
	x.thread[i].state = X_RUNS;
	x.thread[i].timed_out = true;
	for (int k = 0; k < x.scenario->nr; k++)
		learn(x.clock[i], x.clock[k]);
	return true;
}

static void report_deadlock(void)
{
	size_t n = (size_t)snprintf(x.why, sizeof(x.why),
				    "deadlock: nobody can go on");

	for (int i = 0; i < x.scenario->nr; i++) {
		const struct x_thread *t = &x.thread[i];
		const struct x_obj *o = &x.obj[t->obj];

		if (t->state == X_DONE || n >= sizeof(x.why))
			continue;
		n += (size_t)snprintf(
			x.why + n, sizeof(x.why) - n, "\n    T%d %s %s, %s", i,
			t->state == X_SLEEPS   ? "sleeps on"
			: t->state == X_YIELDS ? "spins"
					       : "waits for the lock",
			t->state == X_YIELDS ? "" : x_what(o->addr),
			x_where(t->pc));
	}
	x.failed = true;
}

/* ---- Executions ---- */

static void begin_threads(void)
{
	x.epoch++;
	x.failed = false;
	x_race_begin();
	x_memory_begin();
	x_base_begin();
	memset(x.clock, 0, sizeof(x.clock));
	memcpy(x.ghost, ghost_mark, sizeof(x.ghost));
	for (int i = 0; i < x.scenario->nr; i++) {
		prepare(i, x.scenario->body[i]);
		x.thread[i].now.clock[i] = 1;
	}
}

/* Alone, not explored. */
static bool run_alone(void (*f)(void))
{
	if (!f)
		return true;
	prepare(X_THREADS, f);
	x.running = false;
	resume(X_THREADS);
	return !x.failed;
}

bool x_begin(const struct x_scenario *s)
{
	x.scenario = s;
	x.epoch++;
	x.failed = false;
	x.spurious = false;
	x_names_reset();
	x_race_begin();
	x_memory_begin();
	x_base_begin();
	memset(x.ghost, 0, sizeof(x.ghost));
	run_alone(s->setup);
	undo_mark = x_saved();
	arena_mark = x_arena_mark();
	memcpy(ghost_mark, x.ghost, sizeof(x.ghost));
	return !x.failed;
}

void x_end(void)
{
	x_restore(0);
	x_arena_restore((struct x_arena_mark){0, 0});
}

static void steps(bool *cut)
{
	int last = -1;

	for (long n = 0; !x.failed; n++) {
		uint32_t on = enabled();
		int alive = 0;

		for (int i = 0; i < x.scenario->nr; i++)
			alive += x.thread[i].state != X_DONE;
		if (!alive)
			return;
		if (!on && (end_a_yield() || end_a_timeout()))
			continue;
		if (!on) {
			report_deadlock();
			return;
		}
		last = x_pick(on, last, n);
		if (last < 0) {
			*cut = true;
			return;
		}
		if (n == X_STEPS) {
			snprintf(x.why, sizeof(x.why),
				 "livelock: more than %d steps", X_STEPS);
			x.failed = true;
			return;
		}
		x_steps++;
		resume(last);
		end_yields(last);
	}
}

bool x_execute(void)
{
	bool cut = false;

	x.quiet = true;
	x_restore(undo_mark);
	x_arena_restore(arena_mark);
	begin_threads();
	if (x.tracing)
		x_trace_begin();
	x_search_begin_execution();
	x.running = true;
	for (int i = 0; i < x.scenario->nr && !x.failed; i++)
		resume(i); /* to its first operation */
	steps(&cut);
	x.running = false;
	if (!cut && !x.failed)
		run_alone(x.scenario->check);
	return !cut;
}
