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
#define LOOK_NS 4000000u
/* Fewer faults in LOOK_NS are not worth anything. */
#define FEW 8u
/* Faults come in bursts: only after so long without they are over. */
#define OVER_NS 200000000u
/* A fault that waits so long waits for a CPU that does other things. Less, and
 * it may be the host that does. */
#define STARVING_NS 15000000u
/* For how long F runs as any thread after it has starved: twice as long each
 * time, if it is soon after the last. */
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

void pg_place_init(struct pg_place *p, bool signals, bool waits)
{
	*p = (struct pg_place){
		.fault_tid = (int)pg_sys(gettid),
		.can_idle = !signals &&
			    (!waits || pg_mutant("idle_beside_a_disk")) &&
			    can_idle(),
		.fault_cpu = (uint32_t)-1,
		.beside = -1,
		.signals = signals,
		.waits = waits,
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

/* Where may it run, and F, as long as neither was put anywhere? */
static void look_where(struct pg_place *p)
{
	if (pg_sys(sched_getaffinity, 0, sizeof(p->any), p->any) < 0)
		memset(p->any, 0xff, sizeof(p->any));
}

static void put_fault_thread(struct pg_place *p, int cpu)
{
	if (set_cpu(p, p->fault_tid, cpu))
		pg_store(&p->fault_cpu, (uint32_t)cpu, relaxed);
}

void pg_place_before_sleep(struct pg_place *p)
{
	int cpu;

	/* Partner: the store in set_idle(). */
	if (!pg_load(&p->idle, seq_cst) || pg_mutant("fault_thread_sits"))
		return;
	cpu = cpu_of((int)pg_load(&p->tid, relaxed));
	if (cpu < 0 || cpu == (int)pg_load(&p->fault_cpu, relaxed))
		return;
	put_fault_thread(p, cpu);
	/* Either K undoes this, or we see that it wants it undone. */
	if (!pg_load(&p->idle, seq_cst))
		put_fault_thread(p, -1);
}

static void set_idle(struct pg_place *p, bool idle, uint64_t now)
{
	if (idle == pg_load(&p->idle, relaxed) ||
	    !set_policy(p->fault_tid, idle ? SCHED_IDLE : SCHED_NORMAL))
		return;
	p->idle_since = now;
	if (idle)
		look_where(p);
	pg_store(&p->idle, idle, seq_cst);
	if (!idle && !pg_mutant("fault_thread_stays"))
		put_fault_thread(p, -1);
}

static void set_beside(struct pg_place *p, int cpu)
{
	if (cpu == p->beside || (cpu < 0 && pg_mutant("evictor_stays")))
		return;
	if (p->beside < 0)
		look_where(p);
	if (set_cpu(p, 0, cpu))
		p->beside = cpu;
}

void pg_place_leave(struct pg_place *p, uint64_t now)
{
	set_idle(p, false, now);
	set_beside(p, -1);
	pg_store(&p->leaves, 0, relaxed);
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
	return (!p->waits || pg_mutant("others_wait_for_the_disk")) &&
	       p->nr_flushes == TRIES && p->nr_dear > TRIES / 2;
}

/* Nobody takes a fault, and nobody has for a whole turn. */
static void rest_from_idle(struct pg_place *p, uint64_t now)
{
	bool soon = now - p->idle_since < p->rest;

	if (!p->rest || (!soon && !pg_mutant("rests_only_grow")) ||
	    pg_mutant("rests_are_alike"))
		p->rest = REST_NS;
	else if (p->rest < MOST_REST_NS)
		p->rest *= 2;
	pg_place_leave(p, now);
	p->idle_from = now + p->rest;
}

static void look_at_signals(struct pg_place *p, bool singles, bool one)
{
	uint32_t cpu = pg_load(&p->at_cpu, relaxed);
	bool leaves;

	if (singles)
		measure_flush(p);
	leaves = singles && flush_is_dear(p);
	pg_store(&p->leaves, leaves, relaxed);
	set_beside(p, leaves && one && cpu < PG_PLACE_CPUS ? (int)cpu : -1);
}

static void look_at_fault_thread(struct pg_place *p, bool singles, bool one,
				 uint64_t now)
{
	set_idle(p, one && p->can_idle && now >= p->idle_from, now);
	if (singles && one)
		measure_flush(p);
	pg_store(&p->leaves,
		 singles && pg_load(&p->idle, relaxed) && flush_is_dear(p),
		 relaxed);
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
	waits = pg_load(&p->idle, relaxed) && !served &&
		(pg_load(&p->busy, relaxed) || waiting(mmu));
	p->was_served += served;
	p->was_others += others;
	p->was_ahead += ahead;
	if (!waits)
		p->waits_since = now;
	else if ((now - p->waits_since >= STARVING_NS ||
		  pg_mutant("first_wait_is_starving")) &&
		 !pg_mutant("f_may_starve"))
		rest_from_idle(p, now);
	if (served >= FEW) {
		one = others <= served / 8 || pg_mutant("idle_for_many");
		singles = ahead < served || pg_mutant("streams_are_left_alone");
		if (p->signals)
			look_at_signals(p, singles, one);
		else
			look_at_fault_thread(p, singles, one, now);
		p->over_at = now + OVER_NS;
	} else if ((now >= p->over_at || pg_mutant("a_pause_is_the_end")) &&
		   !waits && !pg_mutant("idle_for_ever")) {
		pg_place_leave(p, now);
	}
	p->look_at =
		now + (served >= FEW || pg_load(&p->idle, relaxed) ? LOOK_NS
								   : CALM_NS);
	return p->look_at;
}
