/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sigbus.c - see sigbus.h.
 *
 * What can go wrong is the frame: the kernel writes it before any code of ours
 * runs, and if it cannot, the process ends.
 * - A thread starts on a stack that is not managed, without an alternate one;
 *   at its first call that we see (libc makes some before any code of the
 *   program) it gets ours. From then on its stack may be any memory.
 * - While it runs on an alternate stack of the program, which is not managed
 *   either, the frame comes there. So the program's is used only if there is
 *   room for two frames and what a handler needs; else the kernel keeps ours,
 *   which is larger, and the program is told that it has its own.
 * - A vfork child has its parent's, who sleeps.
 *
 * The handler runs with all signals blocked, so that no handler of the program
 * interrupts it while it holds a lock; and none of ours is held by a thread
 * that touches memory of the program.
 */
#include "runtime/sigbus.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/mem.h"
#include "base/mutant.h"
#include "core/mm.h"
#include "runtime/buffers.h"
#include "runtime/runtime.h"

#define NR_THREADS_LOG2 12
#define NR_THREADS (1u << NR_THREADS_LOG2)
/* Stacks for the work of those who come on a stack of the program's. */
#define NR_WORK 16u
#define STACK ((size_t)64 << 10)
/* What a program's alternate stack must have. */
#define THEIRS_LEAST ((size_t)16 << 10)
/* Below this the kernel refuses it. */
#define THEIRS_MIN 2048u
#define BUS ((uint64_t)1 << (SIGBUS - 1))
#define ALL (~(uint64_t)0)
#define SA_RESTORER_ 0x04000000ul
/* Of the error code of a page fault: it was a store. */
#define ERROR_WRITE 2

_Static_assert(STACK >= PG_HOST_STACK + ((size_t)12 << 10), "guard and frame");

/* struct sigaction as the kernel has it. */
struct action {
	uintptr_t handler;
	unsigned long flags;
	uintptr_t restorer;
	uint64_t mask;
};

/* struct thread - One of the program; its own but @key. Its number is that of
 * its stack. */
struct thread {
	/* Thread pointer; 0: never used, GONE: not now. acq_rel */
	_Alignas(64) pg_atomic64 key;
	bool blocked; /* SIGBUS, as the program believes */
	bool pending; /* @info came while it was */
	int32_t tid;
	/* The latest SIGBUS that was not ours: it must come twice. */
	uintptr_t addr, ip;
	stack_t theirs; /* the alternate stack that the program believes in */
	siginfo_t info;
};
#define GONE 1u

/* struct fault - One that is served on another stack. */
struct fault {
	struct pgmap_mm *mm;
	uintptr_t va;
	uint32_t flags;
	enum pg_fault_result result;
};

static struct {
	struct thread *thread; /* [NR_THREADS], by hash */
	char *stacks;	       /* [NR_THREADS + NR_WORK] */
	pg_atomic32 work;      /* bit: that one is in use; acquire, release */
	struct pg_lock lock;   /* LOCK_LEAF: action */
	struct action action;  /* of the program for SIGBUS */
	pg_atomic64 masked;    /* bit: that signal's handler runs with SIGBUS
				* blocked, the program believes; relaxed */
	pg_atomic32 given_up;  /* relaxed */
} bus;

/* Of sigbus_entry.S. */
void pg_sigbus_return(void);
void pg_sigbus_call_on(void *top, void (*fn)(void *arg), void *arg);

static uint64_t set_mask(int how, uint64_t mask)
{
	uint64_t old = 0;

	pg_sys(rt_sigprocmask, how, &mask, &old, sizeof(old));
	return old;
}

/* ---- threads ---- */

static uint32_t hash(uintptr_t tp)
{
	return (uint32_t)((tp >> 6) * 0x9e3779b97f4a7c15u >>
			  (64 - NR_THREADS_LOG2));
}

static struct thread *find(uintptr_t tp)
{
	uint32_t at = hash(tp);

	for (uint32_t n = 0; n < NR_THREADS; n++) {
		struct thread *t = &bus.thread[(at + n) % NR_THREADS];
		uint64_t key = pg_load(&t->key, acquire);

		if (key == tp)
			return t;
		if (!key)
			break;
	}
	return NULL;
}

/* NULL: it has come on its way past us, or there were too many. */
static struct thread *me(void)
{
	return find((uintptr_t)__builtin_thread_pointer());
}

static char *stack_of(uint32_t i)
{
	return bus.stacks + i * STACK;
}

/* Is @sp in one of our stacks, with room for the work of a fault below it? A
 * handler of the program may run there and fault, too. */
static bool has_room(uintptr_t sp)
{
	uintptr_t at = sp - (uintptr_t)bus.stacks;

	return at < (NR_THREADS + NR_WORK) * STACK &&
	       at % STACK >= PG_PAGE_SIZE + PG_HOST_STACK;
}

static void use_our_stack(const struct thread *t)
{
	const stack_t ss = {
		.ss_sp = stack_of((uint32_t)(t - bus.thread)) + PG_PAGE_SIZE,
		.ss_size = STACK - PG_PAGE_SIZE,
	};

	if (!pg_mutant("threads_get_no_stack"))
		pg_sys(sigaltstack, &ss, NULL);
}

static struct thread *claim(uintptr_t tp)
{
	uint32_t at = hash(tp);

	for (uint32_t n = 0; n < NR_THREADS; n++) {
		struct thread *t = &bus.thread[(at + n) % NR_THREADS];
		uint64_t key = pg_load(&t->key, relaxed);

		if (key <= GONE && pg_cas(&t->key, &key, tp, acq_rel))
			return t;
	}
	return NULL;
}

void pg_sigbus_thread(void)
{
	uintptr_t tp = (uintptr_t)__builtin_thread_pointer();
	struct thread *t = find(tp);
	uint64_t mask;

	if (t || tp <= GONE)
		return;
	/* No handler of the program in between: it would make calls, too. */
	mask = set_mask(SIG_SETMASK, ALL & ~BUS);
	t = claim(tp);
	if (t) {
		t->blocked = t->pending = false;
		t->tid = (int32_t)pg_sys(gettid);
		t->addr = t->ip = 0;
		t->theirs = (stack_t){.ss_flags = SS_DISABLE};
		/* Behind it lies another's. */
		pg_sys(mprotect, stack_of((uint32_t)(t - bus.thread)),
		       PG_PAGE_SIZE, PROT_NONE);
		use_our_stack(t);
	}
	set_mask(SIG_SETMASK, mask);
}

void pg_sigbus_expect(uintptr_t tp)
{
	struct thread *t = find(tp);

	if (t)
		pg_store(&t->key, GONE, release);
}

/* A vfork child and the like: it has actions of its own, and what is here is
 * its parent's. */
static bool is_other_process(void)
{
	return pg_sys(getpid) != pg_rt.pid;
}

_Noreturn void pg_sigbus_exit(int status)
{
	struct thread *t = me();

	/* A program that filters its calls may allow no other any more; but
	 * then nothing is managed, and the stack may stay its. What a vfork
	 * child finds is its parent's. */
	if (t && !pg_load(&pg_rt.off, relaxed) && !is_other_process()) {
		/* From here on nothing touches memory, so its stack may be
		 * another's. */
		set_mask(SIG_SETMASK, ALL);
		pg_store(&t->key, GONE, release);
	}
	for (;;)
		pg_sys(exit, status);
}

void pg_sigbus_forked(void)
{
	struct thread *own = me();

	for (uint32_t i = 0; i < NR_THREADS; i++)
		if (&bus.thread[i] != own &&
		    pg_load(&bus.thread[i].key, relaxed))
			pg_store(&bus.thread[i].key, GONE, relaxed);
	if (own) {
		own->pending = false;
		own->tid = (int32_t)pg_sys(gettid);
	}
	pg_store(&bus.work, 0, relaxed);
	memset(&bus.lock, 0, sizeof(bus.lock));
}

/* ---- stacks for work ---- */

static uint32_t claim_work(void)
{
	uint32_t busy = pg_load(&bus.work, relaxed);

	for (;;) {
		uint32_t bit = ~busy & (busy + 1);

		if (bit >> NR_WORK || !bit) {
			pg_yield();
			busy = pg_load(&bus.work, relaxed);
		} else if (pg_cas(&bus.work, &busy, busy | bit, acquire)) {
			return (uint32_t)__builtin_ctz(bit);
		}
	}
}

/* All signals are blocked but those of faults. */
static void run_elsewhere(void (*fn)(void *arg), void *arg)
{
	uint32_t i = claim_work();

	pg_sigbus_call_on(stack_of(NR_THREADS + i) + STACK, fn, arg);
	pg_fetch_and(&bus.work, ~(1u << i), release);
}

/* ---- the handler ---- */

static void act(const struct action *a)
{
	pg_sys(rt_sigaction, SIGBUS, a, NULL, sizeof(a->mask));
}

static void on_sigbus(int sig, siginfo_t *info, void *context);

/* @flags: of the program's; whether calls go on after a SIGBUS is its. */
static void take_over(unsigned long flags, uintptr_t handler)
{
	const struct action a = {
		.handler = (uintptr_t)on_sigbus,
		.flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER_ |
			 (handler <= (uintptr_t)SIG_IGN ? SA_RESTART
							: flags & SA_RESTART),
		.restorer = (uintptr_t)pg_sigbus_return,
		.mask = ALL,
	};

	act(&a);
}

static void default_action(void)
{
	const struct action a = {.handler = (uintptr_t)SIG_DFL};

	act(&a);
}

static void send_again(siginfo_t *info)
{
	pg_sys(rt_tgsigqueueinfo, pg_sys(getpid), pg_sys(gettid), SIGBUS, info);
}

static void unblocked(struct thread *t)
{
	siginfo_t info = t->info;

	if (!t->pending)
		return;
	t->pending = false;
	send_again(&info);
}

/* The program's idea of its action; one that is for once is gone then. */
static struct action action_for(bool once)
{
	struct action a;

	pg_lock(&bus.lock, LOCK_LEAF);
	a = bus.action;
	if (once && a.handler > (uintptr_t)SIG_IGN && a.flags & SA_RESETHAND)
		bus.action.handler = (uintptr_t)SIG_DFL;
	pg_unlock(&bus.lock, LOCK_LEAF);
	return a;
}

/* As the kernel would: on this stack, with its mask. It may never return. */
static void call_theirs(struct thread *t, siginfo_t *info, ucontext_t *uc)
{
	struct action a = action_for(true);
	uint64_t mask;

	memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
	if (t && t->blocked)
		mask |= BUS;
	memcpy(&uc->uc_sigmask, &mask, sizeof(mask));
	mask |= a.mask;
	if (!(a.flags & SA_NODEFER))
		mask |= BUS;
	if (t)
		t->blocked = mask & BUS;
	set_mask(SIG_SETMASK, mask & ~BUS);
	((void (*)(int, siginfo_t *, void *))a.handler)(SIGBUS, info, uc);
	set_mask(SIG_SETMASK, ALL);
	memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
	if (t) {
		t->blocked = mask & BUS;
		if (!t->blocked)
			unblocked(t);
	}
	mask &= ~BUS;
	memcpy(&uc->uc_sigmask, &mask, sizeof(mask));
}

/* Of an access that nobody can serve. Blocked or ignored it ends the process
 * all the same. */
static void deliver_fault(struct thread *t, siginfo_t *info, ucontext_t *uc)
{
	struct action a = action_for(false);

	if (a.handler > (uintptr_t)SIG_IGN && !(t && t->blocked))
		call_theirs(t, info, uc);
	else
		/* The access is made again, and ends the process as it would
		 * have ended without us. */
		default_action();
}

/* Another thread that takes what this one has blocked, as the kernel would
 * have found it. */
static bool pass_on(const siginfo_t *info)
{
	if (info->si_code == SI_TKILL)
		return false;
	for (uint32_t i = 0; i < NR_THREADS; i++) {
		struct thread *t = &bus.thread[i];

		if (pg_load(&t->key, acquire) > GONE && !t->blocked &&
		    !pg_sys(tgkill, pg_sys(getpid), t->tid, SIGBUS))
			return true;
	}
	return false;
}

/* Somebody sent it. */
static void deliver_sent(struct thread *t, siginfo_t *info, ucontext_t *uc)
{
	struct action a = action_for(false);

	if (t && t->blocked && !pg_mutant("blocked_signals_are_delivered")) {
		if (pass_on(info))
			return;
		if (!t->pending)
			t->info = *info;
		t->pending = true;
		return;
	}
	if (a.handler == (uintptr_t)SIG_IGN)
		return;
	if (a.handler > (uintptr_t)SIG_IGN) {
		call_theirs(t, info, uc);
		return;
	}
	default_action();
	send_again(info);
}

static void serve(void *arg)
{
	struct fault *f = arg;

	f->result = pg_host_fault(f->mm, f->va, f->flags);
}

/* An access to a page that is away. Return: is it served? */
static enum pg_fault_result serve_access(const siginfo_t *info,
					 const ucontext_t *uc)
{
	struct fault f = {
		.mm = pg_load(&pg_rt.mm, acquire),
		.va = (uintptr_t)info->si_addr,
	};

	if (uc->uc_mcontext.gregs[REG_ERR] & ERROR_WRITE)
		f.flags = PG_FAULT_WRITE;
	/* We would fill what the program means to fill itself. */
	if (!f.mm ||
	    (pg_apart_foreign(f.va) && !pg_mutant("foreign_faults_are_served")))
		return PG_FAULT_FOREIGN;
	if (has_room((uintptr_t)__builtin_frame_address(0)))
		serve(&f);
	else
		run_elsewhere(serve, &f);
	return f.result;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uintptr_t ip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	uintptr_t addr = (uintptr_t)info->si_addr;
	enum pg_fault_result r = PG_FAULT_LOST;
	struct thread *t;

	(void)sig;
	if (info->si_code == BUS_ADRERR) {
		r = serve_access(info, uc);
		if (r == PG_FAULT_DONE)
			return;
	}
	t = me();
	if (info->si_code <= 0 || info->si_code == SI_KERNEL) {
		deliver_sent(t, info, uc);
		return;
	}
	/* What was ours when the signal was raised may just have been unmapped,
	 * or released: see what the access does now. */
	if (r == PG_FAULT_FOREIGN && t && (t->addr != addr || t->ip != ip)) {
		t->addr = addr;
		t->ip = ip;
		return;
	}
	if (t)
		t->addr = t->ip = 0;
	deliver_fault(t, info, uc);
}

/* ---- calls ---- */

static long make(const struct pg_call *c)
{
	return pg_sys6(c->nr, c->arg[0], c->arg[1], c->arg[2], c->arg[3],
		       c->arg[4], c->arg[5]);
}

static bool get(const struct pg_call *c, void *to, long p, size_t len)
{
	return p && pg_buffers_read(pg_load(&pg_rt.mm, acquire), c, to,
				    (uintptr_t)p, len);
}

static int call_sigprocmask(struct pg_call *c)
{
	struct thread *t = me();
	struct pg_call made = *c;
	bool was = t && t->blocked, now = was;
	uint64_t set, old;

	if (c->arg[3] != sizeof(set) ||
	    (c->arg[1] && !get(c, &set, c->arg[1], sizeof(set))))
		return PG_CALL_NATIVE; /* the kernel knows which error */
	if (c->arg[1]) {
		switch ((int)c->arg[0]) {
		case SIG_BLOCK:
			now = was || set & BUS;
			break;
		case SIG_UNBLOCK:
			now = was && !(set & BUS);
			break;
		default:
			now = set & BUS;
		}
		if (!pg_mutant("sigbus_can_be_blocked"))
			set &= ~BUS;
		made.arg[1] = (long)&set;
	}
	c->ret = make(&made);
	if (c->ret)
		return PG_CALL_DONE;
	if (c->arg[2] && was) {
		/* The kernel has just written there. */
		memcpy(&old, (void *)c->arg[2], sizeof(old));
		old |= BUS;
		memcpy((void *)c->arg[2], &old, sizeof(old));
	}
	if (t) {
		t->blocked = now;
		if (was && !now)
			unblocked(t);
	}
	return PG_CALL_DONE;
}

static void swap_action(const struct action *to, struct action *old)
{
	uint64_t mask = set_mask(SIG_SETMASK, ALL & ~BUS);

	pg_lock(&bus.lock, LOCK_LEAF);
	*old = bus.action;
	if (to) {
		bus.action = *to;
		take_over(to->flags, to->handler);
	}
	pg_unlock(&bus.lock, LOCK_LEAF);
	set_mask(SIG_SETMASK, mask);
}

static int call_sigaction(struct pg_call *c)
{
	uint64_t bit = (uint64_t)1 << ((c->arg[0] - 1) & 63), masked;
	struct pg_call made = *c;
	struct action new, old;
	bool other;

	if (c->arg[3] != sizeof(new.mask) || c->arg[0] < 1 || c->arg[0] > 64 ||
	    c->arg[0] == SIGKILL || c->arg[0] == SIGSTOP ||
	    (c->arg[1] && !get(c, &new, c->arg[1], sizeof(new))))
		return PG_CALL_NATIVE;
	other = is_other_process();
	if (c->arg[0] == SIGBUS) {
		/* The kernel looks whether there is room for the answer. */
		made.arg[1] = 0;
		c->ret = make(&made);
		if (c->ret)
			return PG_CALL_DONE;
		swap_action(c->arg[1] && !other ? &new : NULL, &old);
		if (c->arg[2])
			memcpy((void *)c->arg[2], &old, sizeof(old));
		return PG_CALL_DONE;
	}
	masked = pg_load(&bus.masked, relaxed);
	if (c->arg[1]) {
		made.arg[1] = (long)&new;
		if (!other && new.mask & BUS)
			pg_fetch_or(&bus.masked, bit, relaxed);
		else if (!other)
			pg_fetch_and(&bus.masked, ~bit, relaxed);
		if (!pg_mutant("handlers_block_sigbus"))
			new.mask &= ~BUS;
	}
	c->ret = make(&made);
	if (!c->ret && c->arg[2] && masked & bit) {
		memcpy(&old, (void *)c->arg[2], sizeof(old));
		old.mask |= BUS;
		memcpy((void *)c->arg[2], &old, sizeof(old));
	}
	return PG_CALL_DONE;
}

/* A call that waits with another mask: argument @arg, of argument @arg + 1
 * bytes; or @arg is the address of such a pair. */
static int call_with_mask(struct pg_call *c, unsigned int arg, bool is_pair)
{
	struct thread *t = me();
	struct pg_call made = *c;
	struct {
		uint64_t *p;
		size_t len;
	} pair = {(uint64_t *)c->arg[arg], sizeof(uint64_t)};
	bool was = t && t->blocked;
	uint64_t mask;

	if (is_pair && !get(c, &pair, c->arg[arg], sizeof(pair)))
		return PG_CALL_NATIVE;
	if (!is_pair)
		pair.len = (size_t)c->arg[arg + 1];
	if (pair.len != sizeof(mask) ||
	    !get(c, &mask, (long)pair.p, sizeof(mask)))
		return PG_CALL_NATIVE;
	if (t)
		t->blocked = mask & BUS;
	if (t && t->pending && !t->blocked) {
		unblocked(t);
		t->blocked = was;
		c->ret = -EINTR;
		return PG_CALL_DONE;
	}
	if (!pg_mutant("masks_of_waits_are_passed"))
		mask &= ~BUS;
	pair.p = &mask;
	made.arg[arg] = is_pair ? (long)&pair : (long)&mask;
	c->ret = make(&made);
	if (t)
		t->blocked = was;
	return PG_CALL_DONE;
}

static int call_sigtimedwait(struct pg_call *c)
{
	struct thread *t = me();
	uint64_t set;

	if (!t || !t->pending || c->arg[3] != sizeof(set) ||
	    !get(c, &set, c->arg[0], sizeof(set)) || !(set & BUS))
		return PG_CALL_NATIVE;
	t->pending = false;
	if (c->arg[1])
		memcpy((void *)c->arg[1], &t->info, sizeof(t->info));
	c->ret = SIGBUS;
	return PG_CALL_DONE;
}

static int call_sigpending(struct pg_call *c)
{
	const struct thread *t = me();
	uint64_t set = 0;

	c->ret = make(c);
	if (c->ret || !t || !t->pending || c->arg[1] < (long)sizeof(set))
		return PG_CALL_DONE;
	memcpy(&set, (void *)c->arg[0], sizeof(set));
	set |= BUS;
	memcpy((void *)c->arg[0], &set, sizeof(set));
	return PG_CALL_DONE;
}

static bool is_in(uintptr_t sp, const stack_t *ss)
{
	return !(ss->ss_flags & SS_DISABLE) &&
	       sp - (uintptr_t)ss->ss_sp < ss->ss_size;
}

static int call_sigaltstack(struct pg_call *c)
{
	struct thread *t = me();
	struct pg_call made = *c;
	stack_t new, old;

	if (!t || (c->arg[0] && !get(c, &new, c->arg[0], sizeof(new))))
		return PG_CALL_NATIVE;
	old = t->theirs;
	if (is_in(c->sp, &old))
		old.ss_flags |= SS_ONSTACK;
	/* The kernel looks whether there is room for the answer. */
	made.arg[0] = 0;
	c->ret = make(&made);
	if (c->ret)
		return PG_CALL_DONE;
	if (c->arg[0]) {
		if (new.ss_flags & SS_DISABLE || new.ss_size >= THEIRS_LEAST ||
		    new.ss_size < THEIRS_MIN) {
			made.arg[0] = c->arg[0];
			made.arg[1] = 0;
			c->ret = make(&made);
			if (c->ret)
				return PG_CALL_DONE;
		}
		if (new.ss_flags & SS_DISABLE)
			new = (stack_t){.ss_flags = SS_DISABLE};
		t->theirs = new;
		t->theirs.ss_flags &= ~SS_ONSTACK;
		if (new.ss_flags & SS_DISABLE || new.ss_size < THEIRS_LEAST)
			use_our_stack(t);
	}
	if (c->arg[1])
		memcpy((void *)c->arg[1], &old, sizeof(old));
	return PG_CALL_DONE;
}

int pg_sigbus_call(struct pg_call *c)
{
	if (pg_load(&bus.given_up, relaxed) && c->nr != SYS_rt_sigaction)
		return PG_CALL_NATIVE;
	switch (c->nr) {
	case SYS_rt_sigprocmask:
		return call_sigprocmask(c);
	case SYS_rt_sigaction:
		return call_sigaction(c);
	case SYS_rt_sigsuspend:
		return call_with_mask(c, 0, false);
	case SYS_ppoll:
		return call_with_mask(c, 3, false);
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		return call_with_mask(c, 4, false);
	case SYS_pselect6:
		return call_with_mask(c, 5, true);
	case SYS_rt_sigtimedwait:
		return call_sigtimedwait(c);
	case SYS_rt_sigpending:
		return call_sigpending(c);
	case SYS_sigaltstack:
		return call_sigaltstack(c);
	default:
		return PG_CALL_NATIVE;
	}
}

void pg_sigbus_exec(bool undo)
{
	const struct action ignore = {.handler = (uintptr_t)SIG_IGN};
	const struct thread *t = me();

	/* What is caught becomes the default. */
	if (bus.action.handler == (uintptr_t)SIG_IGN) {
		if (undo)
			take_over(0, (uintptr_t)SIG_IGN);
		else
			act(&ignore);
	}
	if (t && t->blocked)
		set_mask(undo ? SIG_UNBLOCK : SIG_BLOCK, BUS);
}

void pg_sigbus_give_up(void)
{
	const struct thread *t = me();

	pg_store(&bus.given_up, 1, relaxed);
	if (t && t->blocked)
		set_mask(SIG_BLOCK, BUS);
}

int pg_sigbus_init(void)
{
	struct thread *t;

	bus.thread = pg_mem_map(NR_THREADS * sizeof(*bus.thread));
	bus.stacks = pg_mem_map((NR_THREADS + NR_WORK) * STACK);
	if (!bus.thread || !bus.stacks) {
		pg_mem_unmap(bus.thread, NR_THREADS * sizeof(*bus.thread));
		pg_mem_unmap(bus.stacks, (NR_THREADS + NR_WORK) * STACK);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < NR_WORK; i++)
		pg_sys(mprotect, stack_of(NR_THREADS + i), PG_PAGE_SIZE,
		       PROT_NONE);
	pg_sys(rt_sigaction, SIGBUS, NULL, &bus.action,
	       sizeof(bus.action.mask));
	take_over(bus.action.flags, bus.action.handler);
	pg_sigbus_thread();
	t = me();
	if (set_mask(SIG_UNBLOCK, BUS) & BUS && t)
		t->blocked = true;
	return 0;
}
