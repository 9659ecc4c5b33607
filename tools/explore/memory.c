/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.c - atomics as C11 has them.
 *
 * Each atomic keeps every value that it had in this execution, in the order of
 * its stores. A thread's view says how far it is in the history of each: a
 * load may return any value from there on, so an old one too, unless what the
 * thread knows orders the overwriting before the load. A release store keeps
 * the view of its thread with the value, an acquire load joins it. Sequentially
 * consistent operations share one more view.
 *
 * Two things that C11 allows are not produced: a load never returns a value
 * that is stored later (load buffering), and a store is always the last of its
 * atomic's history (never put before one that is there).
 */
#include <string.h>

#include "explore/engine.h"

/* How often in a row a thread may find the same overwritten value: C11 wants
 * stores to become visible in finite time. */
#define MOST_AGAIN 3
#define NR_MSGS 20000u
#define NR_BUCKETS 1024u

enum { RELAXED, CONSUME, ACQUIRE, RELEASE, ACQ_REL, SEQ_CST };

static struct x_msg msgs[NR_MSGS];
static unsigned int nr_msgs;
static struct {
	uint32_t epoch;
	uint16_t obj;
} bucket[NR_BUCKETS];

static const char *const order_name[] = {"relaxed", "acquire", "acquire",
					 "release", "acq_rel", "seq_cst"};

static struct x_thread *self(void)
{
	return &x.thread[x.me];
}

static bool acquires(int order)
{
	return order == CONSUME || order == ACQUIRE || order >= ACQ_REL;
}

static bool releases(int order)
{
	return order >= RELEASE;
}

void x_memory_begin(void)
{
	nr_msgs = 0;
	x.nr_objs = 0;
	memset(&x.seq_cst, 0, sizeof(x.seq_cst));
}

void x_join(struct x_view *to, const struct x_view *from)
{
	for (unsigned int i = 0; i <= x.nr_objs; i++)
		if (from->at[i] > to->at[i])
			to->at[i] = from->at[i];
	for (int i = 0; i < X_CLOCKS; i++)
		if (from->clock[i] > to->clock[i])
			to->clock[i] = from->clock[i];
}

void x_publish(struct x_view *to)
{
	*to = self()->now;
	/* What follows is not part of what was published. */
	self()->now.clock[x.me]++;
}

static struct x_msg *append(struct x_obj *o)
{
	struct x_msg *m;

	if (o->nr == X_MSGS || nr_msgs == NR_MSGS)
		x_fail("too many stores to %s in one execution",
		       x_what(o->addr));
	m = &msgs[nr_msgs++];
	memset(m, 0, sizeof(*m));
	m->writer = -1;
	o->msg[o->nr++] = m;
	return m;
}

static unsigned int hash(uintptr_t addr)
{
	return (unsigned int)((addr * 0x9e3779b97f4a7c15u) >> 54);
}

/* Which words may have an atomic in them. */
static uint32_t word_epoch[4096];

static unsigned int hash_word(uintptr_t addr)
{
	return (unsigned int)(((addr >> 3) * 0x9e3779b97f4a7c15u) >> 52);
}

static unsigned int find(uintptr_t addr)
{
	for (unsigned int b = hash(addr);; b = (b + 1) % NR_BUCKETS) {
		if (bucket[b].epoch != x.epoch)
			return 0;
		if (x.obj[bucket[b].obj].addr == addr)
			return bucket[b].obj;
	}
}

unsigned int x_obj_of(uintptr_t addr, unsigned int size)
{
	unsigned int i = find(addr), b;
	struct x_obj *o = &x.obj[i];

	if (i) {
		if (o->size != size)
			x_fail("%s is used as %u and as %u bytes", x_what(addr),
			       o->size, size);
		return i;
	}
	if (x.nr_objs == X_OBJS)
		x_fail("too many atomics in one execution");
	i = ++x.nr_objs;
	o = &x.obj[i];
	memset(o, 0, sizeof(*o));
	o->addr = addr;
	o->size = size;
	o->owner = -1;
	if (size) {
		append(o);
		o->unread = true;
	}
	if (size)
		word_epoch[hash_word(addr)] = x.epoch;
	for (b = hash(addr); bucket[b].epoch == x.epoch;
	     b = (b + 1) % NR_BUCKETS)
		;
	bucket[b].epoch = x.epoch;
	bucket[b].obj = (uint16_t)i;
	return i;
}

static uint64_t peek(uintptr_t addr, unsigned int size)
{
	const void *p = (const void *)addr;

	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return *(const volatile uint16_t *)p;
	case 4:
		return *(const volatile uint32_t *)p;
	default:
		return *(const volatile uint64_t *)p;
	}
}

static uint64_t cut(uint64_t v, unsigned int size)
{
	return size == 8 ? v : v & (((uint64_t)1 << 8 * size) - 1);
}

static void poke(uintptr_t addr, unsigned int size, uint64_t v)
{
	x_save(addr, size);
	switch (size) {
	case 1:
		*(volatile uint8_t *)addr = (uint8_t)v;
		break;
	case 2:
		*(volatile uint16_t *)addr = (uint16_t)v;
		break;
	case 4:
		*(volatile uint32_t *)addr = (uint32_t)v;
		break;
	default:
		*(volatile uint64_t *)addr = v;
	}
}

static struct x_msg *newest(struct x_obj *o)
{
	struct x_msg *m = o->msg[o->nr - 1];

	if (o->unread)
		m->value = peek(o->addr, o->size);
	o->unread = false;
	return m;
}

static void forget(unsigned int obj)
{
	struct x_obj *o = &x.obj[obj];

	if (o->unread)
		return;
	append(o);
	o->floor = o->nr - 1;
	o->unread = true;
}

void x_overwritten(uintptr_t addr, size_t size)
{
	uintptr_t end = addr + size;

	for (uintptr_t w = addr & ~(uintptr_t)7; w < end; w += 8) {
		if (word_epoch[hash_word(w)] != x.epoch)
			continue;
		for (uintptr_t a = w; a < w + 8 && a < end; a++) {
			unsigned int i = find(a);

			if (i && x.obj[i].size && a + x.obj[i].size > addr)
				forget(i);
		}
	}
}

void x_dropped(uintptr_t addr, size_t size)
{
	for (unsigned int i = 1; i <= x.nr_objs; i++)
		if (x.obj[i].size && x.obj[i].addr >= addr &&
		    x.obj[i].addr < addr + size)
			forget(i);
}

/* ---- Which value ---- */

/*
 * Is the store of @m before the step of this thread in the order that the
 * search keeps, by more than this step's own conflict? If not, the search also
 * visits the execution where the load comes first, and finds the old value to
 * be the newest: then it need not be chosen here.
 */
static bool stale_is_new(const struct x_msg *m)
{
	return x.mode != X_DPOR || m->writer < 0 ||
	       m->event <= x.before[m->writer];
}

static bool too_often(struct x_thread *t, unsigned int obj, unsigned int at)
{
	return t->now.at[obj] == at && t->again[obj] >= MOST_AGAIN;
}

/* Which place a load returns. @unlike: no old one with this value. */
static unsigned int choose_place(unsigned int obj, const uint64_t *unlike)
{
	struct x_thread *t = self();
	struct x_obj *o = &x.obj[obj];
	unsigned int low = t->now.at[obj], at[X_MSGS], n = 0;
	uint8_t name[X_MSGS], all = 1;

	newest(o);
	if (low < o->floor)
		low = o->floor;
	name[n] = 0;
	at[n++] = o->nr - 1;
	for (unsigned int i = o->nr - 1; x.weak && i-- > low;) {
		if ((unlike && o->msg[i]->value == *unlike) ||
		    too_often(t, obj, i))
			continue;
		/* Each has the same name in every kind of search. */
		name[n] = all++;
		if (stale_is_new(o->msg[i + 1]))
			at[n++] = i;
	}
	return at[x_branch(n, name, all)];
}

static void took(unsigned int obj, unsigned int at, int order)
{
	struct x_thread *t = self();
	struct x_msg *m = x.obj[obj].msg[at];

	if (t->now.at[obj] == at && t->again[obj] < UINT8_MAX)
		t->again[obj]++;
	else if (t->now.at[obj] != at)
		t->again[obj] = 1;
	t->now.at[obj] = (uint8_t)at;
	x_trail(obj, false,
		(uint64_t)(m->writer + 1) << 32 | (uint32_t)m->event);
	x_join(&t->acquired, &m->view);
	if (acquires(order))
		x_join(&t->now, &m->view);
}

static void put(unsigned int obj, uint64_t v, int order,
		const struct x_msg *continued)
{
	struct x_thread *t = self();
	struct x_obj *o = &x.obj[obj];
	struct x_msg *m = append(o);

	m->value = cut(v, o->size);
	m->writer = x.me;
	m->event = x.clock[x.me][x.me];
	t->now.at[obj] = (uint8_t)(o->nr - 1);
	t->again[obj] = 0;
	m->view = releases(order) ? t->now : t->released;
	m->view.at[obj] = (uint8_t)(o->nr - 1);
	if (continued) /* the release sequence */
		x_join(&m->view, &continued->view);
	t->now.clock[x.me]++;
	o->not_seq_cst = order != SEQ_CST;
	x_wrote(obj, o->msg[o->nr - 2]->value, continued != NULL);
	x_trail(obj, true, m->value);
	poke(o->addr, o->size, m->value);
}

static void seq_cst_in(unsigned int obj, int order)
{
	struct x_view *now = &self()->now;

	if (order == SEQ_CST && x.seq_cst.at[obj] > now->at[obj])
		now->at[obj] = x.seq_cst.at[obj];
}

static void seq_cst_out(unsigned int obj, int order)
{
	const struct x_view *now = &self()->now;

	if (order == SEQ_CST && now->at[obj] > x.seq_cst.at[obj])
		x.seq_cst.at[obj] = now->at[obj];
}

/* ---- What instrumented code does ---- */

static enum x_op read_op(int order)
{
	return order == SEQ_CST && x.weak ? OP_SEQ_CST_READ : OP_READ;
}

static enum x_op write_op(int order)
{
	return order == SEQ_CST && x.weak ? OP_SEQ_CST_WRITE : OP_WRITE;
}

/* Statistics, and what runs alone. */
static bool direct(uintptr_t addr)
{
	return !x.running || x_is_ignored(addr);
}

uint64_t x_load(uintptr_t addr, unsigned int size, int order, const void *pc)
{
	unsigned int obj, i;
	struct x_msg *m;

	if (direct(addr))
		return peek(addr, size);
	obj = x_obj_of(addr, size);
	x_point(read_op(order), obj, order == SEQ_CST, pc);
	x_access(addr, size, A_ATOMIC_READ, pc);
	seq_cst_in(obj, order);
	i = choose_place(obj, NULL);
	m = x.obj[obj].msg[i];
	took(obj, i, order);
	seq_cst_out(obj, order);
	x_looked(obj, i + 1);
	x_trace(pc, addr, "load %s: 0x%lx%s", order_name[order],
		(unsigned long)m->value,
		i + 1 < x.obj[obj].nr ? ", overwritten by others" : "");
	return m->value;
}

void x_store(uintptr_t addr, unsigned int size, uint64_t v, int order,
	     const void *pc)
{
	unsigned int obj;

	if (direct(addr)) {
		poke(addr, size, v);
		return;
	}
	obj = x_obj_of(addr, size);
	x_point(write_op(order), obj, order == SEQ_CST, pc);
	x_access(addr, size, A_ATOMIC_WRITE, pc);
	newest(&x.obj[obj]);
	put(obj, v, order, NULL);
	seq_cst_out(obj, order);
	x_trace(pc, addr, "store %s: 0x%lx", order_name[order],
		(unsigned long)cut(v, size));
}

static uint64_t compute(enum x_rmw how, uint64_t old, uint64_t v)
{
	switch (how) {
	case RMW_SET:
		return v;
	case RMW_ADD:
		return old + v;
	case RMW_SUB:
		return old - v;
	case RMW_AND:
		return old & v;
	case RMW_OR:
		return old | v;
	case RMW_XOR:
		return old ^ v;
	case RMW_NAND:
		return ~(old & v);
	}
	return 0;
}

uint64_t x_update(uintptr_t addr, unsigned int size, enum x_rmw how, uint64_t v,
		  int order, const void *pc)
{
	static const char *const name[] = {"set", "add", "sub", "and",
					   "or",  "xor", "nand"};
	unsigned int obj;
	struct x_msg *m;
	uint64_t old, new;

	if (direct(addr)) {
		old = peek(addr, size);
		poke(addr, size, compute(how, old, v));
		return old;
	}
	obj = x_obj_of(addr, size);
	x_point(write_op(order), obj, order == SEQ_CST, pc);
	x_access(addr, size, A_ATOMIC_WRITE, pc);
	m = newest(&x.obj[obj]);
	old = m->value;
	new = cut(compute(how, old, v), size);
	took(obj, x.obj[obj].nr - 1, order);
	put(obj, new, order, m);
	seq_cst_out(obj, order);
	x_trace(pc, addr, "%s %s: 0x%lx to 0x%lx", name[how], order_name[order],
		(unsigned long)old, (unsigned long)new);
	return old;
}

uint64_t x_cas(uintptr_t addr, unsigned int size, uint64_t expected, uint64_t v,
	       int order, int failure, const void *pc)
{
	unsigned int obj, i;
	struct x_msg *m;

	expected = cut(expected, size);
	if (direct(addr)) {
		uint64_t old = peek(addr, size);

		if (old == expected)
			poke(addr, size, v);
		return old;
	}
	obj = x_obj_of(addr, size);
	x_point(write_op(order), obj, order == SEQ_CST, pc);
	seq_cst_in(obj, order);
	/* It may fail on an old value, but only succeeds on the newest. */
	i = choose_place(obj, &expected);
	m = x.obj[obj].msg[i];
	x_access(addr, size,
		 m->value == expected ? A_ATOMIC_WRITE : A_ATOMIC_READ, pc);
	if (m->value == expected) {
		took(obj, i, order);
		put(obj, v, order, m);
		x_trace(pc, addr, "cas %s: 0x%lx to 0x%lx", order_name[order],
			(unsigned long)expected, (unsigned long)cut(v, size));
	} else {
		took(obj, i, failure);
		x_looked(obj, i + 1);
		x_trace(pc, addr, "cas fails: 0x%lx, not 0x%lx%s",
			(unsigned long)m->value, (unsigned long)expected,
			i + 1 < x.obj[obj].nr ? ", overwritten by others" : "");
	}
	seq_cst_out(obj, order);
	return m->value;
}

void x_fence(int order, const void *pc)
{
	struct x_thread *t = self();

	if (!x.running)
		return;
	/* Others cannot tell when an acquire or release fence happens. */
	if (order == SEQ_CST)
		x_point(OP_FENCE, 0, true, pc);
	if (acquires(order))
		x_join(&t->now, &t->acquired);
	if (order == SEQ_CST)
		for (unsigned int i = 1; i <= x.nr_objs; i++) {
			seq_cst_in(i, order);
			seq_cst_out(i, order);
		}
	if (releases(order))
		x_publish(&t->released);
	x_trace(pc, 0, "fence %s", order_name[order]);
}

/* ---- Futexes ---- */

/*
 * The kernel compares and goes to sleep in one step, ordered among all that is
 * done to this word's futex. It passes a full barrier before it looks; here
 * its look is a seq_cst load, which is less, and enough.
 */
uint64_t x_value_for_futex(unsigned int obj)
{
	struct x_view *now = &self()->now;
	unsigned int i;

	seq_cst_in(obj, SEQ_CST);
	if (x.obj[obj].futex.at[obj] > now->at[obj])
		now->at[obj] = x.obj[obj].futex.at[obj];
	i = choose_place(obj, NULL);
	took(obj, i, RELAXED);
	seq_cst_out(obj, SEQ_CST);
	return x.obj[obj].msg[i]->value;
}

void x_futex_used(unsigned int obj)
{
	uint8_t *at = &x.obj[obj].futex.at[obj];

	if (self()->now.at[obj] > *at)
		*at = self()->now.at[obj];
}
