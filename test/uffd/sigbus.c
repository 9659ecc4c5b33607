/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Faults that are signals: what the kernel is told about SIGBUS, and an
 * instance whose faults this process serves itself.
 *
 * Calls are handed to the hooks as a rewritten libc would do it.
 */
#include "runtime/sigbus.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/mm.h"
#include "runtime/runtime.h"
#include "test.h"

#define PAGE ((size_t)PG_PAGE_SIZE)
#define NR ((size_t)4096)
#define BUDGET ((size_t)10 << 20)
#define BUS ((uint64_t)1 << (SIGBUS - 1))
#define P(x) ((long)(x))

struct action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static struct pg_holds holds;
static struct pg_control control;

/* As the runtime does at its start. cmocka sets its own handler before each
 * test, by a call that no hook sees. */
static void take_over(void)
{
	static struct action ours;

	if (pg_rt.signal) {
		pg_sys(rt_sigaction, SIGBUS, &ours, NULL, 8);
		return;
	}
	pg_rt.pid = getpid();
	pg_rt.control = &control;
	CHECK_EQ(pg_holds_init(&holds), 0);
	CHECK_EQ(pg_ranges_init(&pg_rt.apart, 64), 0);
	pg_rt.holds = &holds;
	CHECK_EQ(pg_sigbus_init(), 0);
	pg_sys(rt_sigaction, SIGBUS, NULL, &ours, 8);
	pg_rt.signal = true;
}

static long hooked(long nr, long a, long b, long c, long d, long e)
{
	struct pg_call call = {.nr = nr, .arg = {a, b, c, d, e}};

	call.sp = (uintptr_t)&call;
	if (pg_hook(&call) == PG_CALL_NATIVE)
		call.ret = pg_sys6(nr, a, b, c, d, e, 0);
	return call.ret;
}

static uint64_t kernel_mask(void)
{
	uint64_t mask = 0;

	pg_sys(rt_sigprocmask, 0, NULL, &mask, 8);
	return mask;
}

TEST(sigbus_is_never_blocked_in_the_kernel)
{
	uint64_t all = ~(uint64_t)0, none = 0, old;

	take_over();
	CHECK_EQ(
		hooked(SYS_rt_sigprocmask, SIG_SETMASK, P(&all), P(&old), 8, 0),
		0);
	CHECK(!(old & BUS) && !(kernel_mask() & BUS));
	CHECK(kernel_mask() >> (SIGUSR1 - 1) & 1);
	CHECK_EQ(hooked(SYS_rt_sigprocmask, SIG_SETMASK, P(&none), P(&old), 8,
			0),
		 0);
	CHECK(old & BUS);
	CHECK_EQ(kernel_mask(), 0);
}

static uint64_t mask_in_handler;

static void note_mask(int sig)
{
	(void)sig;
	mask_in_handler = kernel_mask();
}

void restorer(void);
__asm__("restorer: mov $15, %eax; syscall");

static void set_alarm_handler(void)
{
	struct action a = {(void *)note_mask, 0x04000000, (void *)restorer,
			   ~(uint64_t)0},
		      old;

	CHECK_EQ(hooked(SYS_rt_sigaction, SIGALRM, P(&a), 0, 8, 0), 0);
	CHECK_EQ(hooked(SYS_rt_sigaction, SIGALRM, 0, P(&old), 8, 0), 0);
	CHECK(old.mask & BUS);
	CHECK(old.handler == a.handler);
}

TEST(no_handler_runs_with_sigbus_blocked)
{
	take_over();
	set_alarm_handler();
	CHECK_EQ(raise(SIGALRM), 0);
	CHECK(mask_in_handler >> (SIGUSR1 - 1) & 1);
	CHECK(!(mask_in_handler & BUS));
}

TEST(no_call_waits_with_sigbus_blocked)
{
	struct itimerval soon = {.it_value = {.tv_usec = 1000}};
	uint64_t mask = ~((uint64_t)1 << (SIGALRM - 1));
	struct {
		uint64_t *p;
		size_t len;
	} pair = {&mask, 8};

	take_over();
	set_alarm_handler();
	for (int i = 0; i < 3; i++) {
		long ret;

		mask_in_handler = ~(uint64_t)0;
		CHECK_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
		if (i == 0)
			ret = hooked(SYS_rt_sigsuspend, P(&mask), 8, 0, 0, 0);
		else if (i == 1)
			ret = hooked(SYS_ppoll, 0, 0, 0, P(&mask), 8);
		else {
			struct pg_call call = {.nr = SYS_pselect6,
					       .arg = {[5] = P(&pair)}};

			call.sp = (uintptr_t)&call;
			CHECK_EQ(pg_hook(&call), PG_CALL_DONE);
			ret = call.ret;
		}
		CHECK_EQ(ret, -EINTR);
		CHECK(!(mask_in_handler & BUS));
	}
}

static volatile sig_atomic_t nr_bus;

static void on_bus(int sig)
{
	(void)sig;
	nr_bus++;
}

TEST(what_is_sent_while_it_is_blocked_comes_later)
{
	struct action a = {.handler = (void *)on_bus};
	uint64_t bus = BUS, pending = 0;

	take_over();
	CHECK_EQ(hooked(SYS_rt_sigaction, SIGBUS, P(&a), 0, 8, 0), 0);
	nr_bus = 0;
	CHECK_EQ(raise(SIGBUS), 0);
	CHECK_EQ(nr_bus, 1);
	CHECK_EQ(hooked(SYS_rt_sigprocmask, SIG_BLOCK, P(&bus), 0, 8, 0), 0);
	CHECK_EQ(raise(SIGBUS), 0);
	CHECK_EQ(nr_bus, 1);
	CHECK_EQ(hooked(SYS_rt_sigpending, P(&pending), 8, 0, 0, 0), 0);
	CHECK(pending & BUS);
	CHECK_EQ(hooked(SYS_rt_sigprocmask, SIG_UNBLOCK, P(&bus), 0, 8, 0), 0);
	CHECK_EQ(nr_bus, 2);
}

TEST(a_thread_has_an_alternate_stack_that_it_does_not_see)
{
	stack_t kernel, seen;

	take_over();
	CHECK_EQ(pg_sys(sigaltstack, NULL, &kernel), 0);
	CHECK(!(kernel.ss_flags & SS_DISABLE));
	CHECK(kernel.ss_size >= PG_HOST_STACK);
	CHECK_EQ(hooked(SYS_sigaltstack, 0, P(&seen), 0, 0, 0), 0);
	CHECK_EQ(seen.ss_flags, SS_DISABLE);
}

/* ---- an instance ---- */

static struct pgmap_mm *mm;
static char *area;

static uint64_t tick(void *ctx, struct pgmap_mm *m)
{
	(void)ctx;
	(void)m;
	return 10000000;
}

static int adopt(struct pgmap_mm *m, void *arg)
{
	return pg_mm_adopt(m, (uintptr_t)arg, NR);
}

static void fill(uint64_t seed)
{
	for (size_t i = 0; i < NR; i++)
		for (size_t k = 0; k < PAGE; k += 512)
			*(volatile uint64_t *)(void *)(area + i * PAGE + k) =
				seed * NR + i;
}

static bool is_filled(uint64_t seed)
{
	for (size_t i = 0; i < NR; i++)
		for (size_t k = 0; k < PAGE; k += 512)
			if (*(volatile uint64_t *)(void *)(area + i * PAGE +
							   k) != seed * NR + i)
				return false;
	return true;
}

static void open_world(void)
{
	static const struct pg_host_hooks hooks = {
		.tick = tick, .holds = &holds, .signal = true};
	struct pgmap_mm_config config = {
		.size = sizeof(config),
		.ram = BUDGET,
		.device = "lz4",
		.folio_size = 64 << 10,
	};
	char error[256] = "";

	take_over();
	if (mm)
		return;
	if (pg_host_open(&config, &hooks, &mm, error, sizeof(error))) {
		print_message("%s\n", error);
		SKIP("no userfaultfd");
	}
	pg_store(&pg_rt.mm, mm, release);
	area = mmap(NULL, NR * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED);
	pgmap_mm_change_begin(mm);
	CHECK_EQ(pg_host_run(mm, adopt, area), 0);
	pgmap_mm_change_end(mm);
	pg_store(&pg_rt.armed, 1, release);
}

TEST(a_thread_serves_its_own_faults)
{
	open_world();
	fill(1);
	CHECK(is_filled(1));
	CHECK(pg_load(&mm->stat.faults, relaxed) > 0);
	CHECK(pg_load(&mm->stat.evictions, relaxed) > 0);
}

TEST(faults_are_served_while_the_program_has_all_signals_blocked)
{
	uint64_t all = ~(uint64_t)0, none = 0;

	open_world();
	fill(2);
	CHECK_EQ(hooked(SYS_rt_sigprocmask, SIG_SETMASK, P(&all), 0, 8, 0), 0);
	CHECK(is_filled(2));
	CHECK_EQ(hooked(SYS_rt_sigprocmask, SIG_SETMASK, P(&none), 0, 8, 0), 0);
}

static int own_fd;
static volatile int nr_own;

static void on_own_fault(int sig, siginfo_t *info, void *context)
{
	static uint64_t page[512] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {(uintptr_t)info->si_addr & ~(PAGE - 1),
				   (uintptr_t)page, PAGE, 0, 0};

	(void)sig;
	(void)context;
	page[0] = 42;
	pg_sys(ioctl, own_fd, UFFDIO_COPY, &copy);
	nr_own++;
}

TEST(what_the_program_watches_itself_is_its_to_fill)
{
	struct uffdio_api api = {UFFD_API, UFFD_FEATURE_SIGBUS, 0};
	const size_t nr = 16; /* so many are managed */
	struct uffdio_register reg = {
		{0, nr * PAGE}, UFFDIO_REGISTER_MODE_MISSING, 0};
	struct action new = {(void *)on_own_fault, SA_SIGINFO, NULL, 0}, old;
	volatile uint64_t *p;

	open_world();
	own_fd = (int)pg_sys(userfaultfd, O_CLOEXEC | 1);
	if (own_fd < 0 || ioctl(own_fd, UFFDIO_API, &api))
		SKIP("no userfaultfd with signals");
	reg.range.start = (uint64_t)hooked(SYS_mmap, 0, (long)(nr * PAGE), 3,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1);
	p = (void *)reg.range.start;
	CHECK(pg_mm_find(mm, (uintptr_t)p));
	CHECK_EQ(hooked(SYS_rt_sigaction, SIGBUS, P(&new), P(&old), 8, 0), 0);
	CHECK_EQ(hooked(SYS_ioctl, own_fd, UFFDIO_REGISTER, P(&reg), 0, 0), 0);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(p[i * 512], 42);
	CHECK_EQ(nr_own, nr);
	CHECK_EQ(hooked(SYS_rt_sigaction, SIGBUS, P(&old), 0, 8, 0), 0);
	CHECK_EQ(hooked(SYS_munmap, P(p), (long)(nr * PAGE), 0, 0, 0), 0);
	close(own_fd);
}

/* The stack pointer lies in memory that is away, and is used. */
static void on_managed_stack(char *top)
{
	__asm__ volatile("mov %%rsp, %%rbx\n\t"
			 "mov %0, %%rsp\n\t"
			 "push %%rax\n\t"
			 "pop %%rax\n\t"
			 "mov %%rbx, %%rsp"
			 :
			 : "r"(top)
			 : "rbx", "memory");
}

TEST(a_stack_may_be_away)
{
	open_world();
	fill(3);
	for (size_t i = 1; i < NR; i += 97)
		on_managed_stack(area + i * PAGE);
	/* Up to 8 bytes below each were used. */
	for (size_t i = 1; i < NR; i += 97)
		CHECK_EQ(*(volatile uint64_t *)(void *)(area + i * PAGE),
			 3 * NR + i);
}

TEST(the_program_cannot_close_our_descriptors)
{
	int fd = open("/dev/null", O_RDONLY), nr_open = 0;
	unsigned int first = 0, last = ~0u;

	open_world();
	fill(4);
	CHECK(pg_host_owns_fd(mm, &first, &last));
	CHECK_EQ(hooked(SYS_close, (long)first, 0, 0, 0, 0), -EBADF);
	CHECK_EQ(hooked(SYS_dup2, fd, (long)first, 0, 0, 0), -EBADF);
	CHECK_EQ(hooked(SYS_dup3, (long)first, 100, 0, 0, 0), -EBADF);
	CHECK_EQ(hooked(SYS_close_range, 3, (long)~0u, 0, 0, 0), 0);
	CHECK_EQ(fcntl(fd, F_GETFD), -1);
	for (int i = 3; i < 5000; i++)
		nr_open += fcntl(i, F_GETFD) >= 0;
	CHECK_EQ(nr_open, 4);
	CHECK(is_filled(4));
}

/* Without them F serves what this thread cannot. */
TEST(lost_descriptors_do_not_lose_a_page)
{
	unsigned int first = 0, last = ~0u;

	open_world();
	fill(5);
	if (fork() == 0)
		_exit(0); /* it must not have ours */
	wait(NULL);
	for (unsigned int n = 0; n < 4; n++) {
		CHECK(pg_host_owns_fd(mm, &first, &last));
		CHECK_EQ(close((int)first), 0);
		first++;
		last = ~0u;
	}
	CHECK(is_filled(5));
	fill(6);
	CHECK(is_filled(6));
}

TEST_MAIN()
