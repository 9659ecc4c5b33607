/* SPDX-License-Identifier: BSD-3-Clause */
#include "place.h"

#include <linux/prctl.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/sys.h"
#include "base/thread.h"

/* Between two looks: when nothing happens, and when faults come. */
#define CALM_NS 10000000u
#define LOOK_NS 2000000u
/* Fewer faults in LOOK_NS are not worth anything. */
#define FEW 8u
/* For how long F runs as any thread after it has starved. */
#define REST_NS 100000000u
#define MOST_REST_NS 10000000000u
/* A flush is dear that takes longer, on most of so many tries. A processor
 * takes 1 to 2 us to interrupt another one, a virtual one 5 to 10. */
#define DEAR_NS 4000u
#define TRIES 15u
/* Who waits for it while others may be interrupted as well: less is dear. */
#define DEAR_IN_SIGNAL_NS 2000u

static bool set_policy(int tid, int policy)
{
	const int priority = 0;

	return !pg_sys(sched_setscheduler, tid, policy, &priority);
}

static void try_idle(void *arg)
{
	bool *can = arg;

	*can = set_policy(0, SCHED_IDLE) && set_policy(0, SCHED_NORMAL);
}

/* Who may become SCHED_IDLE may not always come back (RLIMIT_NICE,
 * CAP_SYS_NICE), so a thread that is not needed tries it. */
static bool can_idle(void)
{
	struct pg_thread t = {0};
	bool can = false;

	if (pg_thread_start(&t, try_idle, &can, false))
		return false;
	pg_thread_join(&t);
	return can;
}

void pg_place_init(struct pg_place *p, bool signals)
{
	*p = (struct pg_place){
		.fault_tid = (int)pg_sys(gettid),
		.can_idle = !signals && can_idle(),
		.cpu = -1,
		.rest = REST_NS,
		.signals = signals,
	};
}

void pg_place_fini(struct pg_place *p)
{
	if (p->scratch)
		pg_mem_unmap(p->scratch, PG_PAGE_SIZE);
	p->scratch = NULL;
}

/* The CPU that @tid last ran on, from /proc; -1 when not known. */
static int cpu_of(int tid)
{
	char path[64], text[512];
	long fd, n;
	char *p;

	pg_format(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = pg_sys(openat, -100, path, 0, 0);
	if (fd < 0)
		return -1;
	n = pg_sys(read, fd, text, sizeof(text) - 1);
	pg_sys(close, fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	/* The name may hold anything; the fields follow the last ')'. */
	p = text + n;
	while (p > text && *p != ')')
		p--;
	for (int field = 2; field < 39; field++) {
		while (*p && *p != ' ')
			p++;
		if (!*p)
			return -1;
		p++;
	}
	n = 0;
	while (*p >= '0' && *p <= '9' && n < (long)PG_PLACE_CPUS)
		n = n * 10 + (*p++ - '0');
	return n < (long)PG_PLACE_CPUS ? (int)n : -1;
}

/* @cpu: -1: wherever it may. */
static bool set_cpu(const struct pg_place *p, int tid, int cpu)
{
	unsigned long mask[PG_PLACE_CPUS / 64] = {0};

	if (cpu < 0)
		memcpy(mask, p->any, sizeof(mask));
	else
		mask[cpu / 64] = 1ul << (cpu % 64);
	if (pg_sys(sched_setaffinity, tid, sizeof(mask), mask) >= 0)
		return true;
	if (cpu >= 0)
		return false;
	/* The process may have got other CPUs altogether. */
	memset(mask, 0xff, sizeof(mask));
	return pg_sys(sched_setaffinity, tid, sizeof(mask), mask) >= 0;
}

static void set_idle(struct pg_place *p, bool idle)
{
	if (idle != p->idle &&
	    set_policy(p->fault_tid, idle ? SCHED_IDLE : SCHED_NORMAL))
		p->idle = idle;
}

static void set_beside(struct pg_place *p, bool beside)
{
	if (beside == p->beside || (!beside && pg_mutant("evictor_stays")))
		return;
	if (set_cpu(p, 0, beside ? p->cpu : -1))
		p->beside = beside;
}

/* Where may both run, as long as neither was put anywhere? */
static void look_where(struct pg_place *p)
{
	if (pg_sys(sched_getaffinity, p->fault_tid, sizeof(p->any), p->any) < 0)
		memset(p->any, 0xff, sizeof(p->any));
}

/* F and, if it is there too, K. */
static void follow(struct pg_place *p, int cpu)
{
	if (p->cpu < 0)
		look_where(p);
	if (cpu < 0 || cpu == p->cpu || !set_cpu(p, p->fault_tid, cpu))
		return;
	p->cpu = cpu;
	if (p->beside)
		set_cpu(p, 0, cpu);
}

void pg_place_leave(struct pg_place *p)
{
	set_idle(p, false);
	set_beside(p, false);
	if (p->cpu >= 0 && !pg_mutant("fault_thread_stays") &&
	    set_cpu(p, p->fault_tid, -1))
		p->cpu = -1;
}

static void measure_flush(struct pg_place *p)
{
	uint64_t start;

	if (p->nr_flushes == TRIES)
		return;
	if (!p->scratch)
		p->scratch = pg_mem_map(PG_PAGE_SIZE);
	if (!p->scratch)
		return;
	*(volatile char *)p->scratch = 1;
	start = pg_now_ns();
	pg_sys(madvise, p->scratch, PG_PAGE_SIZE, MADV_DONTNEED);
	p->nr_dear += pg_now_ns() - start >
		      (p->signals ? DEAR_IN_SIGNAL_NS : DEAR_NS);
	p->nr_flushes++;
}

static bool flush_is_dear(const struct pg_place *p)
{
	return p->nr_flushes == TRIES && p->nr_dear > TRIES / 2;
}

/* Nobody takes a fault, and nobody has for a whole turn. */
static void rest_from_idle(struct pg_place *p, uint64_t now)
{
	set_idle(p, false);
	p->idle_from = now + p->rest;
	p->rest *= pg_mutant("rests_are_alike") ? 1 : 2;
	if (p->rest > MOST_REST_NS)
		p->rest = MOST_REST_NS;
}

static void look_at_signals(struct pg_place *p, uint64_t served, uint64_t ahead,
			    bool one)
{
	uint32_t cpu = pg_load(&p->at_cpu, relaxed);
	bool singles = ahead < served || pg_mutant("streams_are_left_alone");
	bool leaves;

	if (singles && !p->beside)
		measure_flush(p);
	leaves = singles && flush_is_dear(p);
	pg_store(&p->leaves, leaves, relaxed);
	if (leaves && one && cpu < PG_PLACE_CPUS)
		follow(p, (int)cpu);
	set_beside(p, leaves && one && p->cpu >= 0);
}

uint64_t pg_place_look(struct pg_place *p, const struct pg_stat *st,
		       uint64_t now, bool (*waiting)(struct pg_mmu *),
		       struct pg_mmu *mmu)
{
	uint32_t served, others;
	uint64_t ahead;
	bool waits, one, singles;

	if (now < p->look_at)
		return p->look_at;
	served = pg_load(&p->served, relaxed) - p->was_served;
	others = pg_load(&p->others, relaxed) - p->was_others;
	ahead = pg_load(&st->prefetched, relaxed) - p->was_ahead;
	waits = p->idle && !served &&
		(pg_load(&p->busy, relaxed) || waiting(mmu));
	p->was_served += served;
	p->was_others += others;
	p->was_ahead += ahead;
	if (waits && (p->was_waiting || pg_mutant("first_wait_is_starving")) &&
	    !pg_mutant("f_may_starve"))
		rest_from_idle(p, now);
	p->was_waiting = waits;
	if (served < FEW) {
		if (!waits && !pg_mutant("idle_for_ever") && !p->signals)
			pg_place_leave(p);
		p->look_at = now + (p->idle ? LOOK_NS : CALM_NS);
		return p->look_at;
	}
	one = others <= served / 8 || pg_mutant("idle_for_many");
	if (p->signals) {
		look_at_signals(p, served, ahead, one);
		p->look_at = now + LOOK_NS;
		return p->look_at;
	}
	singles = one &&
		  (ahead < served || pg_mutant("evictor_is_beside_streams"));
	follow(p, cpu_of((int)pg_load(&p->tid, relaxed)));
	set_idle(p, one && p->can_idle && now >= p->idle_from);
	if (singles && !p->beside)
		measure_flush(p);
	set_beside(p, singles && p->idle && flush_is_dear(p));
	p->look_at = now + LOOK_NS;
	return p->look_at;
}
