/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * open.c - the one file that knows everything: it opens a device by name,
 * chooses the MMU, starts the threads and joins them to core.
 */
#include "open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <string.h>
#include <sys/uio.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/thread.h"
#include "core/fault.h"
#include "core/mm.h"
#include "driver/driver.h"
#include "mmu/uffd.h"
#include "place.h"

#define RAM_MIN (8ul << 20)
#define RAM_MIN_FOLIOS 32
#define FOLIO_MAX (2u << 20)
#define EVENTS 16
#define TICK_NS 10000000u
/* Until K tries again to wake parked faults. */
#define WAKE_NS 50000u
/* Ticks between two tries of K to evict when nothing can leave. */
#define MOST_REST 63u
/* Faults that F serves at one time for the threads that got the signal. */
#define NR_REQUESTS 16u
/* Requests to break a folio that are worth waking K. */
#define SOME_BREAKS 16u
/* Slots asked of a device: this many times the RAM of the machine. */
#define SLOTS_PER_PAGE_OF_RAM 16u

enum state { STARTING, RUNNING, FAILED, STOPPING };

/* struct request - A fault that is handed to F. */
struct request {
	_Alignas(64) pg_atomic32 state; /* enum request_state; futex */
	struct pg_uffd_event ev;
	enum pg_fault_result result;
};

/* CLAIMED by who asks, which fills it in and says ASKED (release); F says
 * ANSWERED (release); who asked says FREE (release). */
enum request_state { FREE, CLAIMED, ASKED, ANSWERED };

struct host {
	struct pgmap_mm mm; /* first: the one is the other */
	struct pg_mmu *mmu;
	struct pgmap_device *dev;
	struct pgmap_mm_config config;
	char device[256];
	struct pg_host_hooks hooks;
	struct pg_thread fault, evict;
	char *error;
	size_t error_len;
	int status;	   /* of a failed start */
	pg_atomic32 state; /* enum state; release by F, futex */

	/* One request at a time, made by whoever holds ask. */
	struct pg_lock ask; /* LOCK_FORK; may be taken under LOCK_MM, whose
			     * holders never wait for a holder of this */
	int (*fn)(struct pgmap_mm *, void *);
	void *arg;
	int ret;
	pg_atomic32 asked;    /* 1 a request waits; release, acquire by K */
	pg_atomic32 done;     /* 1 it was served; release by K, futex */
	pg_atomic32 kick;     /* bumped to wake K; futex; seq_cst */
	pg_atomic32 asleep;   /* 1: K waits on it, or is about to; seq_cst */
	pg_atomic32 wake;     /* 1: wake all parked faults; seq_cst */
	pg_atomic32 paused;   /* 1: K is at rest until it is 0; futex */
	pg_atomic32 requests; /* bumped to wake F where faults are signals */
	struct request request[NR_REQUESTS];
	int fds[PG_UFFD_FDS]; /* of the MMU, in both tables */
	unsigned int nr_fds;
	int inherited; /* a fork child's: could it open its own? */
	long euid;     /* F's; set once */
	struct pg_place place;
};

static struct host *host_of(struct pgmap_mm *mm)
{
	return (struct host *)mm;
}

static void kick(struct host *h)
{
	pg_fetch_add(&h->kick, 1, seq_cst);
	if (pg_load(&h->asleep, seq_cst))
		pg_wake(&h->kick);
}

static void change_end(struct pgmap_mm *mm)
{
	struct host *h = host_of(mm);

	pg_store(&h->wake, 1, seq_cst);
	kick(h);
}

/* ---- F ---- */

/* Is there something that K should do now? */
static void kick_if_needed(struct host *h)
{
	uint32_t breaks = pg_load(&h->mm.nr_breaks, relaxed) -
			  pg_load(&h->mm.nr_broken, relaxed);

	/* Who faults itself must not wake another for every fault. */
	if ((pg_load(&h->mm.asked, relaxed) ||
	     breaks >= (pg_load(&h->place.leaves, relaxed) ? SOME_BREAKS : 1) ||
	     (!pg_load(&h->place.leaves, relaxed) &&
	      pg_load(&h->mm.pool.room, relaxed) <
		      pg_load(&h->mm.pool.keep, relaxed) / 4 &&
	      pg_mm_used(&h->mm) + 4 * pg_block_pages(&h->mm) >
		      pg_load(&h->mm.budget, relaxed))) &&
	    !pg_load(&h->paused, relaxed))
		kick(h);
}

static void count_fault(struct host *h, uint64_t start)
{
	uint64_t ns = pg_now_ns() - start;

	pg_count(&h->mm.stat, faults, 1);
	pg_count(&h->mm.stat, fault_ns, ns);
	pg_count(&h->mm.stat, fault_hist[pgmap_hist_bucket(ns)], 1);
}

static void serve(struct host *h, const struct pg_uffd_event *ev)
{
	uint64_t start = pg_now_ns();

	switch (pg_fault(&h->mm, ev->va, ev->flags)) {
	case PG_FAULT_PARKED:
		return;
	case PG_FAULT_OOM:
		/* The thread waits; perhaps others give memory back. */
		pg_log(PG_LOG_WARN, "no memory for a page at %p: waiting",
		       (void *)ev->va);
		pg_wait(&h->kick, pg_load(&h->kick, relaxed), TICK_NS);
		pg_mmu_wake(h->mmu, ev->va, 1);
		return;
	default:
		break;
	}
	count_fault(h, start);
	pg_place_served(&h->place, ev->tid);
	kick_if_needed(h);
}

static void serve_faults(struct host *h)
{
	struct pg_uffd_event ev[EVENTS];
	/* Only an instance that can be destroyed must look up now and then. */
	int timeout_ms = h->hooks.tick ? -1 : 100;

	while (pg_load(&h->state, acquire) == RUNNING) {
		int n = pg_uffd_read(h->mmu, ev, EVENTS, 0);

		if (!n) {
			pg_place_before_sleep(&h->place);
			n = pg_uffd_read(h->mmu, ev, EVENTS, timeout_ms);
		}
		if (n < 0)
			pg_bug("cannot read the userfaultfd", __FILE__,
			       __LINE__);
		pg_store(&h->place.busy, 1, relaxed);
		for (int i = 0; i < n; i++)
			serve(h, &ev[i]);
		pg_store(&h->place.busy, 0, relaxed);
	}
}

/* ---- Faults that are signals ---- */

static void serve_request(struct host *h, struct request *r)
{
	if (pg_load(&r->state, acquire) != ASKED)
		return;
	r->result = pg_fault(&h->mm, r->ev.va, r->ev.flags);
	pg_place_served(&h->place, r->ev.tid);
	pg_store(&r->state, ANSWERED, release);
	pg_wake(&r->state);
}

static void serve_requests(struct host *h)
{
	while (pg_load(&h->state, acquire) == RUNNING) {
		uint32_t seen = pg_load(&h->requests, acquire);

		for (size_t i = 0; i < NR_REQUESTS; i++)
			serve_request(h, &h->request[i]);
		pg_wait(&h->requests, seen, 0);
	}
}

static struct request *claim_request(struct host *h, uint32_t tid)
{
	for (uint32_t i = tid;; i++) {
		struct request *r = &h->request[i % NR_REQUESTS];
		uint32_t free = FREE;

		if (!pg_load(&r->state, relaxed) &&
		    pg_cas(&r->state, &free, CLAIMED, acquire))
			return r;
		if (i - tid >= NR_REQUESTS)
			pg_yield();
	}
}

/* Let F do it. */
static enum pg_fault_result hand_over(struct host *h, uintptr_t va,
				      uint32_t flags)
{
	uint32_t tid = (uint32_t)pg_sys(gettid);
	enum pg_fault_result result;

	do {
		struct request *r = claim_request(h, tid);

		r->ev = (struct pg_uffd_event){
			.va = va, .flags = flags, .tid = (int32_t)tid};
		pg_store(&r->state, ASKED, release);
		pg_fetch_add(&h->requests, 1, release);
		pg_wake(&h->requests);
		while (pg_load(&r->state, acquire) == ASKED)
			pg_wait(&r->state, ASKED, 0);
		result = r->result;
		pg_store(&r->state, FREE, release);
		if (result == PG_FAULT_PARKED)
			pg_wait(&h->mm.nobody, 0, WAKE_NS);
	} while (result == PG_FAULT_PARKED);
	return result;
}

/* The CPU we are on, as the vDSO finds it: no TLS, no system call. A hint. */
static int cpu_now(void)
{
	uint32_t limit = 0;
	const uint32_t selector = 0x7b; /* CPU in its low 12 bits */

	__asm__ volatile("lsl %1, %0" : "+r"(limit) : "r"(selector) : "cc");
	return (int)(limit & 0xfff);
}

enum pg_fault_result pg_host_fault(struct pgmap_mm *mm, uintptr_t va,
				   uint32_t flags)
{
	struct host *h = host_of(mm);
	uint64_t start = pg_now_ns();
	enum pg_fault_result result;

	for (;;) {
		result = h->dev->ops.flags & PGMAP_DEV_DESCRIPTORS
				 ? hand_over(h, va, flags)
				 : pg_fault_here(mm, va, flags);
		if (result != PG_FAULT_OOM)
			break;
		/* Our table may have lost a descriptor, F's has not. */
		result = hand_over(h, va, flags);
		if (result != PG_FAULT_OOM)
			break;
		pg_log(PG_LOG_WARN, "no memory for a page at %p: waiting",
		       (void *)va);
		pg_wait(&h->mm.nobody, 0, TICK_NS);
	}
	count_fault(h, start);
	pg_place_signal(&h->place,
			(int)((uintptr_t)__builtin_thread_pointer() >> 6),
			cpu_now());
	kick_if_needed(h);
	return result;
}

/* ---- K ---- */

static void wake_all(struct host *h)
{
	if (!pg_load(&h->wake, relaxed))
		return;
	if (!pg_read_trylock(&h->mm.lock, LOCK_MM))
		return; /* the writer's end kicks us again */
	pg_store(&h->wake, 0, seq_cst);
	for (uint32_t i = 0; i < h->mm.nr_vma; i++) {
		struct pg_vma *v = &h->mm.vma[i];

		pg_mmu_wake(h->mmu, v->start,
			    (v->end - v->start) / PG_PAGE_SIZE);
	}
	pg_read_unlock(&h->mm.lock, LOCK_MM);
}

static void serve_ask(struct host *h)
{
	if (!pg_load(&h->asked, acquire))
		return;
	pg_store(&h->asked, 0, relaxed);
	h->ret = h->fn(&h->mm, h->arg);
	pg_store(&h->done, 1, release);
	pg_wake(&h->done);
	while (pg_load(&h->paused, acquire))
		pg_wait(&h->paused, 1, 0);
}

static bool leaves_eviction(struct host *h)
{
	/* What K itself uses to break a folio comes on top, and is no reason to
	 * evict. */
	return pg_load(&h->place.leaves, relaxed) &&
	       pg_mm_used(&h->mm) <= pg_load(&h->mm.budget, relaxed) +
					     2 * pg_block_pages(&h->mm);
}

static void evict_body(void *arg)
{
	struct host *h = arg;
	uint64_t last = 0, wait = TICK_NS;
	unsigned int rest = 0; /* ticks to wait when nothing can leave */
	unsigned int resting = 0;

	pg_sys(prctl, PR_SET_NAME, "pgmap-evict");
	while (pg_load(&h->state, acquire) != STOPPING) {
		uint32_t seen = pg_load(&h->kick, acquire);
		uint64_t now, look;
		size_t moved;
		bool ahead;

		serve_ask(h);
		wake_all(h);
		moved = resting || leaves_eviction(h) ? 0
						      : pg_evict_ahead(&h->mm);
		/* What comes must not keep what should go from leaving. */
		ahead = !moved &&
			(pg_load_ahead(&h->mm) || pg_break_next(&h->mm));
		if (moved ||
		    pg_mm_used(&h->mm) <= pg_load(&h->mm.budget, relaxed))
			rest = resting = 0;
		else if (!resting && !pg_write_held(&h->mm.lock))
			resting = rest = rest < MOST_REST ? 2 * rest + 1 : rest;
		now = pg_now_ns();
		look = pg_place_look(&h->place, &h->mm.stat, now,
				     pg_uffd_has_event, h->mmu);
		if (now - last >= wait) {
			last = now;
			resting -= resting != 0;
			if (h->hooks.tick)
				wait = h->hooks.tick(h->hooks.ctx, &h->mm);
			pg_mm_gauges(&h->mm);
		}
		if (!moved && !ahead) {
			pg_store(&h->asleep, 1, seq_cst);
			/* Parked faults must not wait for a whole tick because
			 * another writer was there when we looked. */
			pg_wait(&h->kick, seen,
				pg_load(&h->wake, relaxed)	  ? WAKE_NS
				: look > now && look - now < wait ? look - now
								  : wait);
			pg_store(&h->asleep, 0, relaxed);
		}
	}
	/* F has all to take down, and nobody who sees that it does not get on.
	 */
	pg_place_leave(&h->place, pg_now_ns());
}

/* ---- Start ---- */

uint64_t pg_open_slots(void)
{
	struct {
		long uptime;
		unsigned long loads[3], totalram, rest[10];
		unsigned int unit;
		char pad[64];
	} info = {0}; /* struct sysinfo, whose header needs libc */
	uint64_t pages;

	pg_sys(sysinfo, &info);
	pages = info.totalram / PG_PAGE_SIZE * SLOTS_PER_PAGE_OF_RAM;
	if (!pages)
		pages = 1u << 24;
	return pages < UINT32_MAX - 1024 ? pages : UINT32_MAX - 1024;
}

static int open_device(const char *device, struct pgmap_device **dev,
		       char *error, size_t error_len)
{
	const struct pgmap_device_ops *ops;
	struct pgmap_device_args args;
	char name[32], why[200] = "";
	size_t n = 0;
	int ret;

	while (device[n] && device[n] != ':' && n < sizeof(name) - 1) {
		name[n] = device[n];
		n++;
	}
	name[n] = '\0';
	ops = pg_driver_find(name);
	if (!ops) {
		pg_format(
			error, error_len,
			"no device called %s in this build; see `pgmap check`",
			name);
		return -ENODEV;
	}
	args = (struct pgmap_device_args){
		.options = device[n] == ':' ? device + n + 1 : "",
		.nr_slots = pg_open_slots(),
		.error = why,
		.error_len = sizeof(why),
	};
	ret = pg_device_open(ops, &args, pg_fault_migrate_to_ram, dev);
	if (ret)
		pg_format(error, error_len, "device %s: %s", name, why);
	return ret;
}

static int open_mmu(struct host *h)
{
	/* Only the runtime sees a fork. */
	struct pg_uffd_config config = {.nofork = !h->hooks.started,
					.user = h->hooks.holds,
					.signal = h->hooks.signal};

	return pg_uffd_create(&config, &h->mmu, h->error, h->error_len);
}

static int start(struct host *h)
{
	int ret = h->hooks.signal ? 0 : open_mmu(h);

	if (ret)
		return ret;
	ret = open_device(h->device, &h->dev, h->error, h->error_len);
	if (ret)
		goto err_mmu;
	ret = pg_mm_init(&h->mm, h->mmu, h->dev, h->config.ram,
			 h->config.folio_size);
	if (ret) {
		pg_format(h->error, h->error_len, "%s",
			  ret == -EINVAL
				  ? "folio size: a power of two, 4K to 2M"
				  : "no memory for the page tables");
		goto err_dev;
	}
	h->mm.holds = h->hooks.holds;
	h->mm.run = pg_host_run;
	h->mm.change_end = change_end;
	return 0;

err_dev:
	pg_device_close(h->dev);
err_mmu:
	if (!h->hooks.signal)
		pg_uffd_destroy(h->mmu);
	return ret;
}

static void run(struct host *h, int ret)
{
	if (!ret) {
		h->euid = pg_sys(geteuid);
		pg_place_init(&h->place, h->hooks.signal,
			      h->dev->ops.flags & PGMAP_DEV_DESCRIPTORS);
		if (h->hooks.started)
			h->hooks.started(h->hooks.ctx, h->mmu);
		ret = pg_thread_start(&h->evict, evict_body, h, false);
	}
	h->status = ret;
	pg_store(&h->state, ret ? FAILED : RUNNING, release);
	pg_wake(&h->state);
	if (ret)
		return;
	pg_sys(prctl, PR_SET_NAME, "pgmap-fault");
	if (h->hooks.signal)
		serve_requests(h);
	else
		serve_faults(h);
}

static void stop(struct host *h)
{
	pg_thread_join(&h->evict);
	pg_place_fini(&h->place);
	pg_mm_fini(&h->mm);
	pg_device_close(h->dev);
	pg_uffd_destroy(h->mmu);
}

static void fault_body(void *arg)
{
	struct host *h = arg;

	run(h, start(h));
	if (pg_load(&h->state, acquire) == STOPPING)
		stop(h);
}

static int wait_started(struct host *h)
{
	while (pg_load(&h->state, acquire) == STARTING)
		pg_wait(&h->state, STARTING, 0);
	return h->status;
}

/* Start F, which shares the MMU's descriptors if they are open already. */
static int start_f(struct host *h, void (*body)(void *))
{
	if (!h->hooks.signal)
		return pg_thread_start(&h->fault, body, h, true);
	h->nr_fds = pg_uffd_fds(h->mmu, h->fds);
	return pg_thread_start_keeping(&h->fault, body, h, h->fds, h->nr_fds);
}

int pg_host_open(const struct pgmap_mm_config *config,
		 const struct pg_host_hooks *hooks, struct pgmap_mm **mm,
		 char *error, size_t error_len)
{
	struct host *h;
	int ret;

	if (config->size != sizeof(*config) || !config->device ||
	    strlen(config->device) >= sizeof(h->device)) {
		pg_format(error, error_len, "bad configuration");
		return -EINVAL;
	}
	h = pg_mem_map(sizeof(*h));
	if (!h) {
		pg_format(error, error_len, "no memory");
		return -ENOMEM;
	}
	h->config = *config;
	memcpy(h->device, config->device, strlen(config->device) + 1);
	if (hooks)
		h->hooks = *hooks;
	h->error = error;
	h->error_len = error_len;
	ret = h->hooks.signal ? open_mmu(h) : 0;
	if (ret)
		goto err_free;
	ret = start_f(h, fault_body);
	if (ret) {
		pg_format(error, error_len, "cannot start a thread");
	} else {
		ret = wait_started(h);
		if (ret)
			pg_thread_join(&h->fault);
	}
	if (ret) {
		if (h->hooks.signal)
			pg_uffd_destroy(h->mmu);
		goto err_free;
	}
	*mm = &h->mm;
	return 0;

err_free:
	pg_mem_unmap(h, sizeof(*h));
	return ret;
}

bool pg_host_owns_fd(const struct pgmap_mm *mm, unsigned int *first,
		     unsigned int *last)
{
	const struct host *h = (const struct host *)mm;

	for (unsigned int i = 0; i < h->nr_fds; i++) {
		unsigned int fd = (unsigned int)h->fds[i];

		if (fd < *first || fd > *last)
			continue;
		*first = *last = fd;
		return true;
	}
	return false;
}

int pg_open_check(uint64_t ram, uint64_t folio_size, const char *ram_name,
		  const char *folio_name, char *error, size_t error_len)
{
	unsigned long min = RAM_MIN + RAM_MIN_FOLIOS * folio_size;

	if (folio_size < PG_PAGE_SIZE || folio_size > FOLIO_MAX ||
	    (folio_size & (folio_size - 1))) {
		pg_format(error, error_len,
			  "a folio of %lu bytes cannot be: give %s a power of "
			  "two from 4K to 2M",
			  (unsigned long)folio_size, folio_name);
		return -EINVAL;
	}
	if (ram < min) {
		pg_format(error, error_len,
			  "a budget of %lu KB is below what can work with "
			  "folios of %lu KB: give %s at least %luK",
			  (unsigned long)ram >> 10,
			  (unsigned long)folio_size >> 10, ram_name, min >> 10);
		return -EINVAL;
	}
	return 0;
}

int pgmap_mm_create(const struct pgmap_mm_config *config, struct pgmap_mm **mm,
		    char *error, size_t error_len)
{
	const char *why = NULL;
	int ret;

	if (!error || !error_len) {
		error = NULL;
		error_len = 0;
	}
	if (!config || !mm)
		why = "no configuration is given, or no place for the result";
	else if (config->size != sizeof(*config))
		why = "the configuration is of another version: set its size";
	else if (!config->device)
		why = "no device is named: set device to \"NAME[:OPTIONS]\"";
	else if (strlen(config->device) >= sizeof(((struct host *)0)->device))
		why = "the options of the device are too long";
	if (why) {
		pg_format(error, error_len, "%s", why);
		return -EINVAL;
	}
	ret = pg_open_check(config->ram, config->folio_size, "ram",
			    "folio_size", error, error_len);
	if (ret)
		return ret;
	return pg_host_open(config, NULL, mm, error, error_len);
}

/* ---- Requests ---- */

/* Holds ask. */
static int ask(struct host *h, int (*fn)(struct pgmap_mm *, void *), void *arg)
{
	h->fn = fn;
	h->arg = arg;
	pg_store(&h->done, 0, relaxed);
	pg_store(&h->asked, 1, release);
	kick(h);
	while (!pg_load(&h->done, acquire))
		pg_wait(&h->done, 0, 0);
	return h->ret;
}

static void ask_lock(struct host *h)
{
	while (!pg_trylock(&h->ask, LOCK_FORK))
		pg_yield();
}

int pg_host_run(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		void *arg)
{
	struct host *h = host_of(mm);
	int ret;

	ask_lock(h);
	ret = ask(h, fn, arg);
	pg_unlock(&h->ask, LOCK_FORK);
	return ret;
}

static int release_all(struct pgmap_mm *mm, void *arg)
{
	int first_error = 0;

	(void)arg;
	for (uint32_t i = 0; i < mm->nr_vma;) {
		struct pg_vma v = mm->vma[i];
		int ret = pg_mm_release(mm, v.start,
					(v.end - v.start) / PG_PAGE_SIZE);

		if (ret && !first_error)
			first_error = ret;
		if (i < mm->nr_vma && mm->vma[i].start == v.start)
			i++; /* it could not be released */
	}
	return first_error;
}

int pgmap_mm_destroy(struct pgmap_mm *mm)
{
	struct host *h;
	int ret;

	if (!mm)
		return 0;
	h = host_of(mm);
	pgmap_mm_change_begin(mm);
	ret = pg_host_run(mm, release_all, NULL);
	pgmap_mm_change_end(mm);
	pg_store(&h->state, STOPPING, release);
	kick(h);
	pg_thread_join(&h->fault);
	pg_mem_unmap(h, sizeof(*h));
	return ret;
}

/* ---- Fork ---- */

/* A child cannot move what it shares with us. */
static int return_standby(struct pgmap_mm *mm, void *arg)
{
	(void)arg;
	return pg_mm_return_standby(mm, 0, UINTPTR_MAX);
}

static int pause_for_fork(struct pgmap_mm *mm, void *arg)
{
	struct host *h = host_of(mm);
	int ret = pg_device_fork(h->dev, PGMAP_FORK_PREPARE);

	(void)arg;
	if (!ret)
		pg_store(&h->paused, 1, relaxed);
	return ret;
}

static int abort_fork(struct pgmap_mm *mm, void *arg)
{
	(void)arg;
	return pg_device_fork(host_of(mm)->dev, PGMAP_FORK_ABORT);
}

/*
 * A child opens our descriptors again by way of /proc, with the rights of the
 * thread that forks, which may have become less than ours. Without them what
 * is away must come back first.
 */
static bool can_reopen(const struct host *h)
{
	long euid = pg_sys(geteuid);

	if (!(h->dev->ops.flags & PGMAP_DEV_DESCRIPTORS) || euid == 0)
		return true;
	return euid == h->euid && pg_sys(prctl, PR_GET_DUMPABLE) == 1;
}

int pg_host_fork_prepare(struct pgmap_mm *mm)
{
	struct host *h = host_of(mm);
	bool reopen = can_reopen(h);

	/* With LOCK_MM held, F parks what comes and K has nothing to evict. */
	pgmap_mm_change_begin(mm);
	ask_lock(h);
	if (!ask(h, reopen ? return_standby : release_all, NULL) &&
	    !ask(h, pause_for_fork, NULL))
		return 0;
	pg_unlock(&h->ask, LOCK_FORK);
	pgmap_mm_change_end(mm);
	return -EAGAIN;
}

void pg_host_fork_parent(struct pgmap_mm *mm, bool failed)
{
	struct host *h = host_of(mm);

	pg_store(&h->paused, 0, release);
	pg_wake(&h->paused);
	if (failed)
		ask(h, abort_fork, NULL);
	pg_unlock(&h->ask, LOCK_FORK);
	pgmap_mm_change_end(mm);
}

static int put_page(uintptr_t va, void *page)
{
	struct iovec from = {page, PG_PAGE_SIZE};
	struct iovec to = {(void *)va, PG_PAGE_SIZE};
	long n = pg_sys(process_vm_writev, pg_sys(getpid), &from, 1, &to, 1);

	return n == PG_PAGE_SIZE ? 0 : n < 0 ? (int)n : -EFAULT;
}

static void child_body(void *arg)
{
	struct host *h = arg;
	int ret = pg_device_fork(h->dev, PGMAP_FORK_CHILD);

	if (!ret)
		ret = h->hooks.signal
			      ? h->inherited
			      : pg_uffd_inherit(h->mmu, h->error, h->error_len);
	if (!ret)
		ret = pg_mm_watch_again(&h->mm);
	else if (!pg_mm_abandon(&h->mm, put_page))
		ret = 1;
	run(h, ret);
}

int pg_host_fork_child(struct pgmap_mm *mm, bool shares_fds)
{
	struct host *h = host_of(mm);
	char error[256] = "";
	int ret;

	pg_thread_forget(&h->fault);
	pg_thread_forget(&h->evict);
	memset(&h->fault, 0, sizeof(h->fault));
	memset(&h->evict, 0, sizeof(h->evict));
	/* Threads that waited for the lock, or slept on it, are not here. */
	pg_store(&mm->lock.writers, 1, relaxed);
	pg_store(&mm->lock.waiters, 0, relaxed);
	pg_store(&h->paused, 0, relaxed);
	pg_store(&h->asked, 0, relaxed);
	pg_store(&h->wake, 0, relaxed);
	pg_store(&h->state, STARTING, relaxed);
	h->error = error;
	h->error_len = sizeof(error);
	if (h->hooks.signal && shares_fds)
		pg_uffd_leave_fds(h->mmu);
	if (h->hooks.signal)
		h->inherited = pg_uffd_inherit(h->mmu, h->error, h->error_len);
	memset(h->request, 0, sizeof(h->request));
	ret = start_f(h, child_body);
	if (!ret)
		ret = wait_started(h);
	if (ret)
		pg_log(ret < 0 ? PG_LOG_ERROR : PG_LOG_INFO,
		       "process %d, a child, %s: %s", (int)pg_sys(getpid),
		       ret < 0 ? "cannot have its memory and must end"
			       : "runs unmanaged",
		       *error ? error : "device error");
	pg_unlock(&h->ask, LOCK_FORK);
	pgmap_mm_change_end(mm);
	return ret;
}
