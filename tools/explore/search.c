/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * search.c - which executions of a scenario are run.
 *
 * An execution is a list of choices: whose step is next, and what x_choose()
 * returns. A depth-first search keeps that list and changes its last choice
 * that has something left to try. Source-DPOR (Abdulla, Aronis, Jonsson,
 * Sagonas 2014) with sleep sets tries another thread at a step only if that
 * reverses two steps that conflict: one execution of each class is enough.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "explore/engine.h"

#define MOST_CHOICES 8000
#define MOST_RACES 64
#define PCT_DEPTH 3
/* How many executions between looks at the clock. */
#define CLOCK_EVERY 255

/* One choice. */
static struct node {
	bool is_data;	/* x_choose(), else a thread */
	uint8_t n;	/* is_data: how many */
	uint8_t chosen; /* which, or who */
	int8_t last;	/* the thread that ran before */
	uint16_t preemptions;
	uint32_t enabled, asleep, done, wanted; /* sets of threads */
} node[MOST_CHOICES];
static int depth, length;

/* One step of this execution. */
static struct event {
	int thread, node;
	enum x_op op;
	unsigned int obj;
	uint16_t number; /* among the steps of its thread */
	uint16_t clock[X_CLOCKS];
} event[X_STEPS + 1];
static int nr_events;

static struct x_search how;
static uint32_t asleep;	  /* threads whose next step was explored elsewhere */
static int first_changed; /* choices before it are as in the last execution */
static int preemptions;
static long longest;
static uint64_t rng;
static int priority[X_THREADS], change_at[PCT_DEPTH];
static char schedule[X_SCHEDULE];
static size_t scheduled;
static const char *replay;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t draw(uint32_t n)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return (uint32_t)((rng * 0x2545f4914f6cdd1du) >> 33) % n;
}

static void note_choice(char c)
{
	if (scheduled + 1 < sizeof(schedule))
		schedule[scheduled++] = c;
	schedule[scheduled] = '\0';
}

void x_search_begin_execution(void)
{
	depth = 0;
	nr_events = 0;
	preemptions = 0;
	asleep = 0;
	scheduled = 0;
	schedule[0] = '\0';
	replay = how.replay;
	if (how.mode != X_PCT)
		return;
	for (int i = 0; i < X_THREADS; i++)
		priority[i] = PCT_DEPTH + i;
	for (int i = x.scenario->nr - 1; i > 0; i--) {
		int k = (int)draw((uint32_t)i + 1), p = priority[i];

		priority[i] = priority[k];
		priority[k] = p;
	}
	for (int i = 0; i < PCT_DEPTH; i++)
		change_at[i] = (int)draw(longest ? (uint32_t)longest : 50);
}

/* ---- Choices of data ---- */

/* In a schedule a number is a letter; z is 25 and more, and another follows. */
#define LAST_LETTER 25u

static void note_number(unsigned int v)
{
	for (; v >= LAST_LETTER; v -= LAST_LETTER)
		note_choice('z');
	note_choice((char)('a' + v));
}

static unsigned int replay_number(void)
{
	unsigned int v = 0;

	for (; *replay == 'z'; replay++)
		v += LAST_LETTER;
	if (*replay >= 'a' && *replay < 'z')
		return v + (unsigned int)(*replay++ - 'a');
	if (*replay || v)
		x_fail("the schedule does not fit this program");
	return 0;
}

static unsigned int choose(unsigned int n)
{
	struct node *d;

	if (n <= 1)
		return 0;
	if (how.mode == X_PCT || how.mode == X_RANDOM)
		return draw(n);
	if (depth == MOST_CHOICES)
		x_fail("too many choices in one execution");
	d = &node[depth];
	if (depth++ == length) {
		length++;
		*d = (struct node){.is_data = true, .n = (uint8_t)n};
	}
	return d->chosen;
}

unsigned int x_branch(unsigned int n, const uint8_t *name, unsigned int all)
{
	unsigned int c = 0;

	if (all <= 1 || !x.running)
		return 0;
	if (how.mode == X_REPLAY) {
		unsigned int v = replay_number();

		while (c < n && name[c] != v)
			c++;
		if (c == n)
			x_fail("the schedule does not fit this program");
	} else {
		c = choose(n);
	}
	note_number(name[c]);
	return c;
}

unsigned int x_choose(unsigned int n)
{
	uint8_t name[UINT8_MAX];
	unsigned int c;

	if (n > UINT8_MAX)
		x_fail("too many choices at once");
	for (unsigned int i = 0; i < n; i++)
		name[i] = (uint8_t)i;
	c = x_branch(n, name, n);
	x_trail(0, false, c);
	return c;
}

/* ---- Source-DPOR ---- */

static bool knows(const uint16_t *clock, const struct event *e)
{
	return e->number <= clock[e->thread];
}

/*
 * The step of @p after event @j conflicts with it: see to it that the steps
 * that do not depend on @j, then the step of @p, are tried before it. One
 * thread that can begin that sequence is enough.
 */
static void reverse(int j, int p, const uint16_t *clock)
{
	struct node *n = &node[event[j].node];
	uint32_t can_begin = 0, seen = 0;

	for (int k = j + 1; k <= nr_events; k++) {
		int t = k == nr_events ? p : event[k].thread;
		const uint16_t *c = k == nr_events ? clock : event[k].clock;
		bool first = true;

		if (k < nr_events && knows(c, &event[j]))
			continue;
		if (seen & 1u << t)
			continue;
		seen |= 1u << t;
		for (int g = j + 1; g < k && first; g++)
			first = event[g].thread == t ||
				knows(event[g].clock, &event[j]) ||
				!knows(c, &event[g]);
		if (first)
			can_begin |= 1u << t;
	}
	if (can_begin & n->wanted)
		return;
	can_begin &= n->enabled;
	if (!can_begin) /* it could not go on there: try all */
		n->wanted |= n->enabled;
	else
		n->wanted |=
			can_begin & 1u << p ? 1u << p : can_begin & -can_begin;
}

/* How @release of a lock began; the race that could have gone the other way. */
static int begin_of(int release, enum x_op waiting)
{
	const struct event *e = &event[release];

	for (int i = release - 1; i >= 0; i--) {
		const struct event *b = &event[i];

		if (b->thread != e->thread || b->obj != e->obj)
			continue;
		switch (b->op) {
		case OP_LOCK:
		case OP_TRYLOCK:
		case OP_READ_LOCK:
		case OP_READ_TRYLOCK:
		case OP_WRITE_TRYLOCK:
		case OP_ANNOUNCE:
			return i;
		case OP_WRITE_LOCK:
			if (waiting != OP_READ_LOCK)
				return i;
			break;
		default:
			break;
		}
	}
	return -1;
}

static bool waits(enum x_op op)
{
	return op == OP_LOCK || op == OP_READ_LOCK || op == OP_WRITE_LOCK;
}

static bool releases(enum x_op op)
{
	return op == OP_UNLOCK || op == OP_READ_UNLOCK || op == OP_WRITE_UNLOCK;
}

/* Thread @p makes its step: note it, and what it conflicts with. */
static void happen(int p)
{
	const struct x_thread *t = &x.thread[p];
	struct event *e = &event[nr_events];
	uint16_t *clock = x.clock[p];
	int race[MOST_RACES], nr_races = 0;

	memcpy(x.before, clock, sizeof(x.before));
	for (int j = nr_events - 1; j >= 0; j--) {
		const struct event *o = &event[j];
		int r = j;

		if (o->thread == p || knows(clock, o) ||
		    !x_dependent(o->op, o->obj, t->op, t->obj))
			continue;
		if (waits(t->op) && releases(o->op)) {
			r = begin_of(j, t->op);
			if (r >= 0 && knows(clock, &event[r]))
				r = -1;
		}
		if (r >= 0 && nr_races < MOST_RACES)
			race[nr_races++] = r;
		for (int i = 0; i < X_CLOCKS; i++)
			if (o->clock[i] > clock[i])
				clock[i] = o->clock[i];
	}
	/* What was so in the last execution was dealt with in it. */
	if (how.mode == X_DPOR && depth > first_changed)
		for (int i = 0; i < nr_races; i++)
			reverse(race[i], p, clock);
	e->thread = p;
	e->node = depth - 1;
	e->op = t->op;
	e->obj = t->obj;
	e->number = ++clock[p];
	memcpy(e->clock, clock, sizeof(e->clock));
	nr_events++;
}

/* ---- Choices of a thread ---- */

static int pick_by_priority(uint32_t enabled, long step)
{
	for (int again = 0;; again++) {
		int best = -1;

		for (int i = 0; i < x.scenario->nr; i++)
			if (enabled & 1u << i &&
			    (best < 0 || priority[i] > priority[best]))
				best = i;
		if (again == PCT_DEPTH)
			return best;
		if (change_at[again] == step)
			priority[best] = again;
	}
}

static int pick_replayed(uint32_t enabled, int last)
{
	int t;

	if (!*replay)
		return last >= 0 && enabled & 1u << last
			       ? last
			       : __builtin_ctz(enabled);
	t = *replay++ - '0';
	if (t >= 0 && t < x.scenario->nr && enabled & 1u << t)
		return t;
	snprintf(x.why, sizeof(x.why),
		 "the schedule does not fit this program");
	x.failed = true;
	return -1;
}

static int pick_next(uint32_t enabled, int last)
{
	bool sleeps = how.mode == X_ALL || how.mode == X_DPOR;
	struct node *n = &node[depth];
	int p;

	if (depth == MOST_CHOICES) {
		snprintf(x.why, sizeof(x.why),
			 "too many choices in one execution");
		x.failed = true;
		return -1;
	}
	if (depth == length) {
		uint32_t open = enabled & ~(sleeps ? asleep : 0);

		if (!open)
			return -1; /* each of them was explored elsewhere */
		*n = (struct node){.enabled = enabled,
				   .asleep = asleep,
				   .last = (int8_t)last,
				   .preemptions = (uint16_t)preemptions};
		n->chosen = (uint8_t)(last >= 0 && open & 1u << last
					      ? last
					      : __builtin_ctz(open));
		n->wanted = 1u << n->chosen;
		length++;
	}
	if (n->is_data || n->enabled != enabled) {
		fprintf(stderr, "pgmap-explore: bug: an execution is not "
				"repeatable\n");
		abort();
	}
	depth++;
	p = n->chosen;
	happen(p);
	if (sleeps) {
		uint32_t z = n->asleep | n->done;

		asleep = 0;
		for (int i = 0; i < x.scenario->nr; i++)
			if (i != p && z & 1u << i &&
			    !x_dependent(x.thread[i].op, x.thread[i].obj,
					 x.thread[p].op, x.thread[p].obj))
				asleep |= 1u << i;
	}
	return p;
}

int x_pick(uint32_t enabled, int last, long step)
{
	int p;

	if (how.mode == X_RANDOM) {
		do
			p = (int)draw((uint32_t)x.scenario->nr);
		while (!(enabled & 1u << p));
	} else if (how.mode == X_PCT) {
		p = pick_by_priority(enabled, step);
	} else if (how.mode == X_REPLAY) {
		p = pick_replayed(enabled, last);
	} else {
		p = pick_next(enabled, last);
	}
	if (p < 0)
		return p;
	if (how.mode >= X_PCT)
		x.clock[p][p]++;
	if (last >= 0 && p != last && enabled & 1u << last)
		preemptions++;
	note_choice((char)('0' + p));
	return p;
}

/* The next list of choices; false: there is none. */
static bool next(void)
{
	while (length) {
		struct node *n = &node[length - 1];
		uint32_t left;

		first_changed = length - 1;
		if (n->is_data) {
			if (++n->chosen < n->n)
				return true;
			length--;
			continue;
		}
		n->done |= 1u << n->chosen;
		left = n->enabled & ~n->done;
		if (how.mode == X_DPOR)
			left &= n->wanted & ~n->asleep;
		else if (how.mode == X_ALL)
			left &= ~n->asleep;
		else if (n->last >= 0 && n->enabled & 1u << n->last &&
			 n->preemptions >= how.bound)
			left = 0;
		if (left) {
			n->chosen = (uint8_t)__builtin_ctz(left);
			return true;
		}
		length--;
	}
	return false;
}

void x_explore(const struct x_scenario *s, const struct x_search *search,
	       struct x_result *r)
{
	double began = now();
	bool more = true;

	memset(r, 0, sizeof(*r));
	how = *search;
	x.mode = how.mode;
	x.weak = how.weak && !s->strong;
	rng = how.seed * 2 + 1;
	length = 0;
	first_changed = 0;
	longest = 0;
	x_steps = 0;
	if (!x_begin(s)) {
		r->found = true;
		snprintf(r->why, sizeof(r->why), "setup: %s", x.why);
		more = false;
	}
	while (more) {
		long before = x_steps;

		if (x_execute())
			r->executions++;
		else
			r->pruned++;
		if (x_steps - before > longest)
			longest = x_steps - before;
		if (how.each)
			how.each();
		else if (x.failed) {
			r->found = true;
			snprintf(r->why, sizeof(r->why), "%s", x.why);
			snprintf(r->replay, sizeof(r->replay), "%s", schedule);
			break;
		}
		if (how.mode == X_REPLAY)
			break;
		if (how.mode == X_PCT || how.mode == X_RANDOM)
			more = r->executions < how.executions;
		else
			more = next();
		r->finished = !more;
		r->complete =
			!more &&
			(how.mode == X_ALL || how.mode == X_DPOR ||
			 (how.mode == X_BOUND && how.bound == X_NO_BOUND));
		if (!((r->executions + r->pruned) & CLOCK_EVERY) &&
		    how.limit_s > 0 && now() - began > how.limit_s)
			break;
	}
	x_end();
	r->steps = x_steps;
	r->longest = longest;
	r->seconds = now() - began;
}
