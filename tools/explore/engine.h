/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine.h - what the files of the explorer share.
 *
 *   run.c     coroutines, one execution: who may go on, who does
 *   search.c  which executions: source-DPOR, bounded preemption, random
 *   memory.c  atomics: C11 release/acquire views, fences, seq_cst
 *   race.c    plain accesses: data races, freed memory, undo
 *   tsan.c    what instrumented code calls
 *   base.c    what stands for src/base: locks, futex, memory
 *   report.c  schedules for people
 *
 * One process, one execution at a time: all state is in globals.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdio.h>

#include "explore/explore.h"

#define X_OBJS 255u  /* atomics and locks of one execution */
#define X_MSGS 250u  /* values that one atomic had */
#define X_STEPS 3000 /* more is a livelock */
#define X_SCHEDULE (4 * X_STEPS)
#define X_CLOCKS 6 /* the threads, and room to align */
#define X_NOTES 64u

enum x_op {
	OP_NONE, /* start, or go on after a sleep */
	OP_READ,
	OP_SEQ_CST_READ,
	OP_WRITE,
	OP_SEQ_CST_WRITE,
	OP_FENCE, /* seq_cst */
	OP_ALL,	  /* a barrier of all CPUs */
	OP_LOCK,
	OP_TRYLOCK,
	OP_UNLOCK,
	OP_READ_LOCK,
	OP_READ_TRYLOCK,
	OP_READ_UNLOCK,
	OP_ANNOUNCE, /* a writer wants it: no new readers */
	OP_WRITE_LOCK,
	OP_WRITE_TRYLOCK,
	OP_WRITE_UNLOCK,
	OP_WAIT,
	OP_WAKE
};

/* Where a thread is in the history of each atomic, and which part of each
 * thread's past it knows. */
struct x_view {
	uint8_t at[X_OBJS + 1];
	uint16_t clock[X_CLOCKS];
};

/* One value of an atomic. */
struct x_msg {
	uint64_t value;
	int writer; /* thread, -1: not by an explored store */
	int event;  /* number of its store among the writer's events */
	struct x_view view;
};

/* An atomic, or a lock: whatever operations conflict over. */
struct x_obj {
	uintptr_t addr;
	unsigned int size;
	/* An atomic. */
	unsigned int nr, floor; /* values; older than floor: for nobody. Of a
				 * lock: changes */
	bool unread;		/* the newest value is still to be read */
	bool not_seq_cst;	/* the newest store is not */
	struct x_msg *msg[X_MSGS];
	struct x_view futex; /* of those who slept on or woke it */
	/* A lock. */
	int owner;
	uint32_t readers, writers; /* holding; holding or announced */
	struct x_view held_view, read_view;
	uint64_t trail; /* a hash of who changed it in turn */
};

/* What a thread has seen of an object: its changes up to @nr. */
struct x_known {
	unsigned int round, nr;
	bool wrote;   /* and changed it itself, */
	uint64_t was; /* which was this before */
};

enum x_state { X_RUNS, X_SLEEPS, X_YIELDS, X_DONE };

struct x_thread {
	void *sp;
	char *stack;
	enum x_state state;
	void (*body)(void);
	/* What it will do next. */
	enum x_op op;
	unsigned int obj;
	bool seq_cst;
	bool timed; /* sleeps, but not for ever */
	bool timed_out;
	bool idle; /* yielded, and went on though nothing had changed */
	const void *pc;
	/* Memory model. */
	struct x_view now, acquired, released;
	uint8_t again[X_OBJS + 1]; /* times that it read that value */
	/* Since its last pg_yield(). */
	unsigned int round;
	struct x_known known[X_OBJS + 1];
	uint64_t trail;		/* a hash of what it did; see x_graph() */
	unsigned char held[32]; /* locks by rank */
	/* For reports. */
	unsigned int depth;
	const void *frame[64];
};

enum x_mode { X_BOUND, X_ALL, X_DPOR, X_PCT, X_RANDOM, X_REPLAY };

struct x_engine {
	const struct x_scenario *scenario;
	struct x_thread thread[X_THREADS + 1];
	void *scheduler; /* its stack pointer */
	int me;		 /* thread that runs; X_THREADS: setup or check */
	bool running;	 /* threads run: explore */
	bool quiet;	 /* the engine itself runs */
	bool tracing;
	bool spurious;
	enum x_mode mode;
	bool weak; /* loads may be stale */

	bool failed;
	char why[580];

	struct x_obj obj[X_OBJS + 1];
	unsigned int nr_objs; /* obj[0] is not used */
	struct x_view seq_cst;

	/* The dependency clocks of DPOR. */
	uint16_t clock[X_THREADS][X_CLOCKS];
	uint16_t
		before[X_CLOCKS]; /* of the thread that runs, before its step */

	uint32_t epoch; /* of this execution */
	int ghost[X_NOTES];
};

extern struct x_engine x;

/* run.c */
void x_point(enum x_op op, unsigned int obj, bool seq_cst, const void *pc);
/** x_sleep() - Until x_rouse(), which wakes all sleepers or @one of them. */
void x_sleep(unsigned int obj, bool timed);
void x_rouse(unsigned int obj, bool one);
/** x_looked() - The thread found @obj as it was after @nr changes; its first
 * look since its last pg_yield() counts. */
void x_looked(unsigned int obj, unsigned int nr);
/** x_wrote() - It has just changed @obj, which was @was. @looked: it saw that.
 */
void x_wrote(unsigned int obj, uint64_t was, bool looked);
/** x_trail() - The thread did something to @obj, or found @what. */
void x_trail(unsigned int obj, bool change, uint64_t what);
/** x_spin() - Until somebody changes what this thread has read. */
void x_spin(const void *pc);
/** x_begin() - Run setup(). False: it failed. */
bool x_begin(const struct x_scenario *s);
/** x_execute() - One execution. Return: false: it was cut, another is the
 * same. */
bool x_execute(void);
/** x_end() - Put memory back as it was before x_begin(). */
void x_end(void);
bool x_enabled(int t);
bool x_dependent(enum x_op a, unsigned int obj_a, enum x_op b,
		 unsigned int obj_b);

/* search.c: asked by run.c. */
/** x_pick() - Who goes on; -1: cut this execution. */
int x_pick(uint32_t enabled, int last, long step);
void x_search_begin_execution(void);

struct x_search {
	enum x_mode mode;
	int bound;	 /* X_BOUND: preemptions */
	long executions; /* X_PCT, X_RANDOM */
	uint64_t seed;
	double limit_s;
	bool weak;
	const char *replay;
	void (*each)(void); /* called after each execution; then go on, also
			     * after one that failed */
};

struct x_result {
	/* @finished: as far as it was asked to go. */
	bool found, complete, finished;
	long executions, pruned, steps, longest;
	double seconds;
	char why[600];
	char replay[X_SCHEDULE];
};

void x_explore(const struct x_scenario *s, const struct x_search *how,
	       struct x_result *r);
/** x_branch() - x_choose() for what is not part of x_graph(). @name: what each
 * of the @n is called in a schedule, a number below @all. */
unsigned int x_branch(unsigned int n, const uint8_t *name, unsigned int all);
#define X_NO_BOUND 30000
extern long x_steps;
/** x_graph() - A hash of what was read from what, and of the order of the
 * writes and locks, in the last execution. */
uint64_t x_graph(void);

/* memory.c */
enum x_rmw { RMW_SET, RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR, RMW_NAND };
void x_memory_begin(void);
uint64_t x_load(uintptr_t addr, unsigned int size, int order, const void *pc);
void x_store(uintptr_t addr, unsigned int size, uint64_t v, int order,
	     const void *pc);
uint64_t x_update(uintptr_t addr, unsigned int size, enum x_rmw how, uint64_t v,
		  int order, const void *pc);
/** x_cas() - Return: the value found. */
uint64_t x_cas(uintptr_t addr, unsigned int size, uint64_t expected, uint64_t v,
	       int order, int failure, const void *pc);
void x_fence(int order, const void *pc);
/** x_obj_of() - The number of the object at @addr; size 0: a lock. */
unsigned int x_obj_of(uintptr_t addr, unsigned int size);
void x_join(struct x_view *to, const struct x_view *from);
/** x_sync() - Make @to know what the thread knows, and count its clock on. */
void x_publish(struct x_view *to);
/** x_overwritten() - [@addr, @addr + @size) changes by plain stores. */
void x_overwritten(uintptr_t addr, size_t size);
/** x_dropped() - It became zeros for everybody at once. */
void x_dropped(uintptr_t addr, size_t size);
/** x_value_for_futex() - What a thread that goes to sleep finds. */
uint64_t x_value_for_futex(unsigned int obj);
void x_futex_used(unsigned int obj);

/* race.c */
enum x_access { A_READ, A_WRITE, A_ATOMIC_READ, A_ATOMIC_WRITE };
void x_race_begin(void);
void x_access(uintptr_t addr, size_t size, enum x_access kind, const void *pc);
/** x_save() - The bytes will change: note what they were. */
void x_save(uintptr_t addr, size_t size);
size_t x_saved(void);
/** x_restore() - Back to when x_saved() was @mark. */
void x_restore(size_t mark);
void *x_alloc(size_t size, size_t align);
void x_free(uintptr_t addr, size_t size, const void *pc);
bool x_is_alloc(uintptr_t addr, size_t size);
/* Allocations are undone apart from bytes. */
struct x_arena_mark {
	size_t used, nr;
};
struct x_arena_mark x_arena_mark(void);
void x_arena_restore(struct x_arena_mark m);
/** x_stack_has() - Is it on the stack of the thread that runs? */
bool x_stack_has(uintptr_t addr);
bool x_is_ignored(uintptr_t addr);

/* base.c */
void x_base_begin(void);

/* report.c */
void x_trace_begin(void);
/** x_trace() - A line of the schedule. */
#define x_trace(...)                                                           \
	do {                                                                   \
		if (x.tracing)                                                 \
			x_trace_line(__VA_ARGS__);                             \
	} while (0)
void x_trace_line(const void *pc, uintptr_t addr, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void x_trace_plain(const void *pc, uintptr_t addr, size_t size,
		   enum x_access kind);
/** x_trace_conflict() - The pc of the last such access by @thread to one of
 * these bytes; NULL if no trace is kept. */
const void *x_trace_conflict(int thread, uintptr_t addr, size_t size,
			     enum x_access kind);
/** x_where() - "function file:line" of @pc, while a trace is kept. Return: one
 * of a few buffers in turn. */
const char *x_where(const void *pc);
/** x_short_path() - @path from the last folder of ours in it. */
const char *x_short_path(const char *path);
/** x_what() - A name for an address. Return: as x_where(). */
const char *x_what(uintptr_t addr);
/** x_trace_print() - @all: also what only one thread has to do with. */
void x_trace_print(FILE *to, bool all);
void x_forget_names(void);
void x_names_reset(void);

extern const char *x_mutant;

#endif
