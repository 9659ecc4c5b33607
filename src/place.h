/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * place.h - on which CPUs the fault thread F and the evicting thread K run.
 *
 * To wake a thread on another CPU costs several times what serving a fault
 * costs, twice for each fault. So where one thread of the program faults, F
 * runs on its CPU, with the scheduling policy SCHED_IDLE: a CPU that has
 * nothing else to do counts as idle, so the kernel lets the program go on right
 * there, in place of F, and not on another one. When something else ran there
 * in between, the program is on another CPU, and its next fault finds F asleep:
 * so before it sleeps, F looks where the program is, and follows.
 *
 * F would starve beside others that compute. K sees a fault that nobody takes,
 * and then F runs as any thread for a while, longer each time.
 *
 * K works on another CPU, in parallel. But each page that it takes, and each
 * that F brings meanwhile, interrupts the CPU of the other one, to flush its
 * TLB. Where that is dear (it is measured), and pages come and go one by one,
 * K leaves eviction to F: a flush then interrupts nobody.
 *
 * Neither where pages come from a disk. A wake-up is little beside that, and F
 * would wait twice, for the disk and then for its turn on the CPU: half the
 * speed, measured. And who evicts waits as well.
 *
 * Where faults are signals there is no F to place, and K leaves eviction to the
 * threads that fault. What else it does, it does beside the one that does, if
 * it is one.
 *
 * What this costs a program that does not fault: nothing; both run anywhere,
 * as any thread.
 */
#ifndef PG_PLACE_H
#define PG_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "core/stat.h"
#include "mmu/mmu.h"

#define PG_PLACE_CPUS 1024u

struct pg_place {
	/* F writes, K reads; all relaxed: they are hints. */
	pg_atomic32 tid;    /* whose fault was the last */
	pg_atomic32 served; /* faults */
	pg_atomic32 others; /* of them, of another thread than the one before */
	pg_atomic32 busy;   /* 1: F has a message */

	/* K writes, F reads; seq_cst, partners in place.c. */
	pg_atomic32 idle;      /* 1: F is SCHED_IDLE */
	pg_atomic32 fault_cpu; /* where F was put; -1: anywhere; relaxed */

	bool signals;	    /* faults are signals; set once */
	bool waits;	    /* who loads or stores waits for a disk; set once */
	pg_atomic32 leaves; /* 1: K leaves eviction to others; relaxed */
	pg_atomic32 at_cpu; /* of the last fault, with signals; relaxed */

	int fault_tid; /* F; set once */
	/* K writes before it sets idle, F reads after it saw it. */
	unsigned long any[PG_PLACE_CPUS / 64]; /* where both may run */

	/* K only. */
	bool can_idle;	     /* F may become SCHED_IDLE and come back */
	int beside;	     /* the CPU that K was put on; -1: none */
	uint64_t look_at;    /* when to look again, ns */
	uint64_t over_at;    /* when to leave unless faults come, ns */
	uint64_t idle_from;  /* not before: F has starved */
	uint64_t rest;	     /* for how long, the last time, ns */
	uint64_t idle_since; /* since when F is as it is */
	uint64_t waits_since;
	uint32_t was_served, was_others;
	uint64_t was_ahead; /* prefetched pages */
	char *scratch;	    /* a page, to measure with */
	unsigned int nr_flushes, nr_dear;
};

/** pg_place_init() - @signals: faults are signals. @waits: to load or store a
 * page takes the time of a disk: K never leaves that to others, and F runs as
 * any thread. Context: F, before there is a K. */
void pg_place_init(struct pg_place *p, bool signals, bool waits);
void pg_place_fini(struct pg_place *p);

/** pg_place_served() - Context: F, after a fault of thread @tid. */
static inline void pg_place_served(struct pg_place *p, int tid)
{
	uint32_t last = pg_load(&p->tid, relaxed);

	if (last != (uint32_t)tid) {
		pg_store(&p->tid, (uint32_t)tid, relaxed);
		pg_store(&p->others, pg_load(&p->others, relaxed) + 1, relaxed);
	}
	pg_store(&p->served, pg_load(&p->served, relaxed) + 1, relaxed);
}

/** pg_place_signal() - The same, on the thread itself, whose number is @me. */
static inline void pg_place_signal(struct pg_place *p, int me, int cpu)
{
	if (pg_load(&p->at_cpu, relaxed) != (uint32_t)cpu)
		pg_store(&p->at_cpu, (uint32_t)cpu, relaxed);
	pg_place_served(p, me);
}

/** pg_place_before_sleep() - There is no fault: is the thread that had the last
 * one on another CPU? Then go there. Context: F. */
void pg_place_before_sleep(struct pg_place *p);

/**
 * pg_place_look() - Look how things go and put F and K where they should be.
 * Context: K. @waiting: Does a fault wait for F? Asked only if it matters.
 * Return: the time at which to call again, ns.
 */
uint64_t pg_place_look(struct pg_place *p, const struct pg_stat *st,
		       uint64_t now, bool (*waiting)(struct pg_mmu *),
		       struct pg_mmu *mmu);

/** pg_place_leave() - Let F and K run anywhere, as any thread. Context: K. */
void pg_place_leave(struct pg_place *p, uint64_t now);

#endif
