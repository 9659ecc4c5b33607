/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * explore.h - what a scenario of the explorer is, and what it may ask for.
 *
 * A scenario is a world and a few threads that use the real code of src/core
 * in it. Its files are compiled with the same instrumentation as the core, so
 * everything its threads do is explored, too. setup() runs once, before the
 * search; after each execution memory is put back as setup() left it. check()
 * runs when all threads have returned. Both run alone.
 *
 * To write one:
 *  - put it in scenario_<concept>.c, which meson.build lists, and name it by
 *    the sentence that it shows, with the rules in front, like a test;
 *  - make the smallest world that can go wrong in setup(): one page, one map.
 *    world.h has one; name its words with x_name();
 *  - let each of two or three threads do one thing. Each step more multiplies
 *    the executions. A loop that waits must call pg_yield() or pg_wait();
 *  - say what must hold with X_CHECK(), where it must hold: what a holder may
 *    touch he writes as plain memory, and who is not kept apart from him is a
 *    data race. What the threads believe goes to x_note(), which orders
 *    nothing; an atomic of your own does, and would hide mistakes;
 *  - see that it fails: add a line "MUTANT explore NAME" to
 *    test/mutations.txt, and read what `pgmap explore --mutate MUTANT NAME`
 *    prints in a mutation build;
 *  - it must be complete in a few seconds. If it is not, take a thread or a
 *    step away, x_ignore() what is only counted, and set a bound only if
 *    nothing else helps.
 */
#ifndef EXPLORE_H
#define EXPLORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define X_THREADS 5

/** enum x_kind - What a scenario is for: the library, the memory model, the
 * explorer itself, to see a report. */
enum x_kind { X_LIBRARY, X_LITMUS, X_SELF, X_EXAMPLE };

/** struct x_scenario - @name: a test's name. @nr: threads. */
struct x_scenario {
	const char *name;
	const char *what;
	int nr;
	void (*setup)(void);
	void (*body[X_THREADS])(void);
	void (*check)(void);
	bool strong;	 /* loads see the newest value only */
	bool fail_alloc; /* each allocation by a thread fails, too */
	/* Not 0: all interleavings would take too long; unless asked to, only
	 * explore those with so many preemptions. */
	int bound;
	enum x_kind kind;
	/* Of a litmus test: does C11 allow what check() calls a failure? And
	 * if so, is it known not to be produced? */
	bool allowed, limit;
	bool generated;
	struct x_scenario *next;
};

/** X_SCENARIO() - Define and register one; at file level. */
#define X_SCENARIO(id, ...)                                                    \
	static struct x_scenario scenario_##id = {.name = #id, __VA_ARGS__};   \
	__attribute__((constructor)) static void register_##id(void)           \
	{                                                                      \
		x_register(&scenario_##id);                                    \
	}                                                                      \
	_Static_assert(1, "")

void x_register(struct x_scenario *s);

/** x_me() - The number of this thread; of one that runs alone: X_THREADS. */
unsigned int x_me(void);

/** x_choose() - Try each of 0 .. @n - 1 here. */
unsigned int x_choose(unsigned int n);

/** x_fail() - This execution is wrong. Does not return. */
_Noreturn void x_fail(const char *fmt, ...)
	__attribute__((format(printf, 1, 2)));
_Noreturn void x_fail_check(const char *file, int line, const char *what);
#define X_CHECK(cond)                                                          \
	do {                                                                   \
		if (!(cond))                                                   \
			x_fail_check(__FILE__, __LINE__, #cond);               \
	} while (0)

/** x_note() - What the threads really hold: notes that order nothing, are no
 * data race, and start as setup() leaves them. x_note() adds to one.
 * Return: its new value. */
int x_note(unsigned int i, int change);

/** x_ignore() - Atomics in [@p, @p + @size) decide nothing (statistics), or
 * locks there guard things of which one is as good as another (free buffers),
 * with no other step inside: do not explore their order. */
void x_ignore(const volatile void *p, size_t size);
/** x_name() - Call that part of memory so in reports. */
void x_name(const volatile void *p, size_t size, const char *name);
/** x_spurious() - From now on pg_wait() may return early. */
void x_spurious(bool on);

#endif
