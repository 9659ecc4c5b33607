/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * explore.h - what a scenario of the explorer is, and what it may ask for.
 *
 * A scenario is a world and a few threads that use the real code of src/core
 * in it. Its files are compiled with the same instrumentation as the core, so
 * everything its threads do is explored, too. setup() runs once, before the
 * search; after each execution memory is put back as setup() left it. check()
 * runs when all threads have returned. Both run alone.
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

/** x_choose() - Try each of 0 .. @n - 1 here. */
unsigned int x_choose(unsigned int n);

/** x_fail() - This execution is wrong. Does not return. */
_Noreturn void x_fail(const char *fmt, ...)
	__attribute__((format(printf, 1, 2)));
#define X_CHECK(cond)                                                          \
	do {                                                                   \
		if (!(cond))                                                   \
			x_fail("%s:%d: not so: %s", __FILE__, __LINE__,        \
			       #cond);                                         \
	} while (0)

/** x_ghost - What the threads really hold: notes that order nothing, are no
 * data race, and start as setup() leaves them. x_note() adds to one.
 * Return: its new value. */
int x_note(unsigned int i, int change);

/** x_ignore() - Atomics in [@p, @p + @size) decide nothing (statistics): do
 * not explore their order. */
void x_ignore(const volatile void *p, size_t size);
/** x_name() - Call that part of memory so in reports. */
void x_name(const volatile void *p, size_t size, const char *name);
/** x_spurious() - From now on pg_wait() may return early. */
void x_spurious(bool on);

#endif
