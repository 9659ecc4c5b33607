/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sigbus.c - programs with ideas of their own about SIGBUS, about signal masks
 * and about stacks. Where page faults are signals, none of this may matter.
 */
#include "behaviour.h"

#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static char *work;
static volatile sig_atomic_t nr_handled;
static volatile uintptr_t handler_stack;
static volatile int handler_code, handler_pid;
static void *volatile handler_address;

/* Read memory that is mostly away. */
static void look_around(void)
{
	static uint64_t x = 1;

	for (int k = 0; k < 4; k++) {
		size_t i;

		x = x * 6364136223846793005u + 1442695040888963407u;
		i = (x >> 33) % (WORK / PAGE) * 512 + 4;
		CHECK(((uint64_t *)(void *)work)[i] == word_of(1, i));
	}
}

static void on_alarm(int sig)
{
	(void)sig;
	look_around();
	nr_handled++;
}

static void on_bus(int sig, siginfo_t *info, void *context)
{
	int local;

	(void)context;
	CHECK(sig == SIGBUS);
	handler_stack = (uintptr_t)&local;
	handler_code = info->si_code;
	handler_pid = info->si_pid;
	handler_address = info->si_addr;
	look_around();
	nr_handled++;
}

static sigset_t all_but(int sig)
{
	sigset_t set;

	sigfillset(&set);
	if (sig)
		sigdelset(&set, sig);
	return set;
}

static sigset_t only(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return set;
}

static void every_ms(int flags)
{
	struct sigaction sa = {.sa_flags = flags, .sa_mask = all_but(0)};
	struct itimerval tick = {{0, 1000}, {0, 1000}};

	sa.sa_handler = on_alarm;
	CHECK(!sigaction(SIGALRM, &sa, NULL));
	CHECK(!setitimer(ITIMER_REAL, &tick, NULL));
}

static void no_more(void)
{
	struct itimerval never = {{0, 0}, {0, 0}};

	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
}

static void catch_bus(int flags)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO | flags};

	sa.sa_sigaction = on_bus;
	CHECK(!sigaction(SIGBUS, &sa, NULL));
}

/* The second page raises SIGBUS. */
static volatile char *short_file(void)
{
	char name[] = "/tmp/pgmap-test-XXXXXX", *file;
	int fd = mkstemp(name);

	CHECK(fd >= 0 && !unlink(name) && !ftruncate(fd, PAGE));
	file = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(file != MAP_FAILED);
	return file + PAGE;
}

CASE(handlers_that_block_all_signals_and_fault)
{
	work = filled(WORK, 1);
	every_ms(SA_RESTART);
	while (nr_handled < 50)
		push_out();
	no_more();
	CHECK(is_filled(work, WORK, 1));
}

CASE(handlers_that_fault_in_calls_that_wait_with_another_mask)
{
	sigset_t mask = all_but(SIGALRM), blocked = only(SIGALRM);
	struct epoll_event ev;
	int ep = epoll_create1(0), seen = 0;

	work = filled(WORK, 1);
	CHECK(ep >= 0 && !sigprocmask(SIG_BLOCK, &blocked, NULL));
	every_ms(0);
	for (int round = 0; round < 6; round++) {
		push_out();
		CHECK(sigsuspend(&mask) == -1 && errno == EINTR);
		CHECK(nr_handled > seen);
		seen = nr_handled;
		CHECK(ppoll(NULL, 0, NULL, &mask) == -1 && errno == EINTR);
		CHECK(nr_handled > seen);
		seen = nr_handled;
		CHECK(pselect(0, NULL, NULL, NULL, NULL, &mask) == -1 &&
		      errno == EINTR);
		CHECK(nr_handled > seen);
		seen = nr_handled;
		CHECK(epoll_pwait(ep, &ev, 1, -1, &mask) == -1 &&
		      errno == EINTR);
		CHECK(nr_handled > seen);
		seen = nr_handled;
	}
	no_more();
}

CASE(what_was_asked_for_is_what_is_seen)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_RESTART}, old;
	stack_t ss = {.ss_size = 8192}, was;
	sigset_t set = only(SIGBUS), now;

	work = filled(WORK, 1);
	CHECK(!sigaction(SIGBUS, NULL, &old) && old.sa_handler == SIG_DFL);
	sa.sa_sigaction = on_bus;
	sigaddset(&sa.sa_mask, SIGUSR1);
	CHECK(!sigaction(SIGBUS, &sa, &old) && old.sa_handler == SIG_DFL);
	CHECK(!sigaction(SIGBUS, NULL, &old) && old.sa_sigaction == on_bus);
	CHECK((old.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_RESTART));
	CHECK(sigismember(&old.sa_mask, SIGUSR1) &&
	      !sigismember(&old.sa_mask, SIGUSR2));
	sa.sa_mask = all_but(0);
	CHECK(!sigaction(SIGUSR2, &sa, NULL));
	CHECK(!sigaction(SIGUSR2, NULL, &old) &&
	      sigismember(&old.sa_mask, SIGBUS));
	/* libc would touch the address itself. */
	CHECK(syscall(SYS_rt_sigaction, SIGBUS, 16l, 0l, 8l) == -1 &&
	      errno == EFAULT);
	CHECK(syscall(SYS_rt_sigaction, SIGBUS, 0l, 16l, 8l) == -1 &&
	      errno == EFAULT);

	CHECK(!sigprocmask(SIG_BLOCK, &set, &now) &&
	      !sigismember(&now, SIGBUS));
	CHECK(!sigprocmask(0, NULL, &now) && sigismember(&now, SIGBUS));
	CHECK(!sigprocmask(SIG_UNBLOCK, &set, &now) &&
	      sigismember(&now, SIGBUS));
	CHECK(!sigprocmask(0, NULL, &now) && !sigismember(&now, SIGBUS));
	CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 16l, 0l, 8l) == -1 &&
	      errno == EFAULT);

	CHECK(!sigaltstack(NULL, &was) && was.ss_flags == SS_DISABLE);
	ss.ss_sp = malloc(ss.ss_size);
	CHECK(!sigaltstack(&ss, &was) && was.ss_flags == SS_DISABLE);
	CHECK(!sigaltstack(NULL, &was) && was.ss_sp == ss.ss_sp &&
	      was.ss_size == ss.ss_size && !was.ss_flags);
	ss.ss_flags = SS_DISABLE;
	CHECK(!sigaltstack(&ss, NULL));
	CHECK(!sigaltstack(NULL, &was) && was.ss_flags == SS_DISABLE);
	CHECK(is_filled(work, WORK, 1));
}

CASE(sigbus_that_is_sent_comes_when_it_may)
{
	sigset_t set = only(SIGBUS), pending;
	siginfo_t info;

	work = filled(WORK, 1);
	catch_bus(0);
	CHECK(!kill(getpid(), SIGBUS) && nr_handled == 1);
	CHECK(handler_code == SI_USER && handler_pid == getpid());
	CHECK(!sigprocmask(SIG_BLOCK, &set, NULL));
	CHECK(!raise(SIGBUS) && nr_handled == 1);
	CHECK(is_filled(work, WORK, 1) && nr_handled == 1);
	CHECK(!sigpending(&pending) && sigismember(&pending, SIGBUS));
	CHECK(!sigprocmask(SIG_UNBLOCK, &set, NULL) && nr_handled == 2);
	CHECK(handler_code == SI_TKILL);
	CHECK(!sigpending(&pending) && !sigismember(&pending, SIGBUS));
	CHECK(!sigprocmask(SIG_BLOCK, &set, NULL) && !raise(SIGBUS));
	CHECK(sigtimedwait(&set, &info, NULL) == SIGBUS);
	CHECK(info.si_pid == getpid() && nr_handled == 2);
	CHECK(!raise(SIGBUS));
	sigemptyset(&pending);
	CHECK(sigsuspend(&pending) == -1 && errno == EINTR && nr_handled == 3);
	CHECK(!sigprocmask(0, NULL, &pending) && sigismember(&pending, SIGBUS));
}

CASE(sigbus_that_is_ignored_is_ignored)
{
	work = filled(WORK, 1);
	CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
	CHECK(!raise(SIGBUS));
	CHECK(is_filled(work, WORK, 1));
}

static sigjmp_buf back;

static void jump_back(int sig, siginfo_t *info, void *context)
{
	on_bus(sig, info, context);
	siglongjmp(back, 1);
}

/* On alternate stacks that are small, large, and none. */
CASE(handlers_of_sigbus_fault_on_any_stack)
{
	static const size_t sizes[] = {0, 8192, 65536};
	volatile char *bad = short_file();
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK};

	work = filled(WORK, 1);
	sa.sa_sigaction = jump_back;
	for (size_t i = 0; i < 3; i++) {
		stack_t ss = {.ss_size = sizes[i],
			      .ss_flags = sizes[i] ? 0 : SS_DISABLE};

		ss.ss_sp = map(65536);
		CHECK(!sigaltstack(&ss, NULL));
		CHECK(!sigaction(SIGBUS, &sa, NULL));
		for (volatile int n = 0; n < 20; n++) {
			push_out();
			nr_handled = 0;
			if (!sigsetjmp(back, 1)) {
				(void)*bad;
				CHECK(false); /* it went on */
			}
			CHECK(nr_handled == 1);
			CHECK(handler_address == bad);
			CHECK(handler_code == BUS_ADRERR);
		}
		if (sizes[i] == 65536)
			CHECK(handler_stack - (uintptr_t)ss.ss_sp < 65536);
	}
	CHECK(is_filled(work, WORK, 1));
}

CASE_STATUS(a_file_past_its_end, -SIGBUS)
{
	volatile char *bad = short_file();

	work = filled(WORK, 1);
	CHECK(is_filled(work, WORK, 1));
	puts("now");
	fflush(stdout);
	(void)*bad;
}

CASE_STATUS(a_file_past_its_end_while_sigbus_is_blocked, -SIGBUS)
{
	volatile char *bad = short_file();
	sigset_t all = all_but(0);

	work = filled(WORK, 1);
	catch_bus(0);
	CHECK(!sigprocmask(SIG_BLOCK, &all, NULL));
	CHECK(is_filled(work, WORK, 1));
	(void)*bad;
}

CASE_STATUS(a_file_past_its_end_a_second_time, -SIGBUS)
{
	volatile char *bad = short_file();

	work = filled(WORK, 1);
	catch_bus((int)SA_RESETHAND);
	(void)*bad; /* handled, and made again */
}

CASE_STATUS(killed_by_sigbus, -SIGBUS)
{
	work = filled(WORK, 1);
	CHECK(is_filled(work, WORK, 1));
	kill(getpid(), SIGBUS);
}

/* Coroutines that make no calls: nobody learns that they use this memory as
 * stacks, and it leaves as any other. */
#define COROUTINES 64
#define CO_STACK ((size_t)256 << 10)
#define CO_ROUNDS 5
static ucontext_t home, co[COROUTINES];
static jmp_buf at_home, in_co[COROUTINES];
static volatile int co_sum;

static void coroutine(int n)
{
	volatile char mine[CO_STACK - 16 * PAGE];

	for (volatile int round = 0; round < CO_ROUNDS; round++) {
		for (size_t i = 0; i < sizeof(mine); i += PAGE / 2)
			mine[i] = (char)(n + round);
		if (!_setjmp(in_co[n]))
			_longjmp(at_home, 1);
		for (size_t i = 0; i < sizeof(mine); i += PAGE / 2)
			co_sum += mine[i] == (char)(n + round);
	}
	_longjmp(at_home, 1);
}

CASE(coroutines_without_calls_on_managed_stacks)
{
	char *stacks = filled(COROUTINES * CO_STACK, 1);
	volatile int round, n;

	for (n = 0; n < COROUTINES; n++) {
		getcontext(&co[n]);
		co[n].uc_stack.ss_sp = stacks + (size_t)n * CO_STACK;
		co[n].uc_stack.ss_size = CO_STACK;
		makecontext(&co[n], (void (*)(void))coroutine, 1, n);
		if (!_setjmp(at_home))
			swapcontext(&home, &co[n]);
	}
	for (round = 0; round < CO_ROUNDS; round++) {
		push_out();
		for (n = 0; n < COROUTINES; n++)
			if (!_setjmp(at_home))
				_longjmp(in_co[n], 1);
	}
	printf("%d\n", co_sum);
}

#define SMALL_STACK ((size_t)20 << 10)

static void *on_a_small_stack(void *arg)
{
	CHECK(is_filled(work, WORK, 1));
	return arg;
}

CASE(threads_with_small_stacks_that_block_all_signals)
{
	sigset_t all = all_but(0);
	pthread_t t[8];

	work = filled(WORK, 1);
	CHECK(!pthread_sigmask(SIG_BLOCK, &all, NULL));
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++) {
			pthread_attr_t attr;
			char *stack = map(16 * SMALL_STACK);

			CHECK(!pthread_attr_init(&attr));
			CHECK(!pthread_attr_setstack(
				&attr, stack + (size_t)i * SMALL_STACK,
				SMALL_STACK));
			CHECK(!pthread_create(&t[i], &attr, on_a_small_stack,
					      NULL));
		}
		for (int i = 0; i < 8; i++)
			CHECK(!pthread_join(t[i], NULL));
	}
}

CASE(programs_that_close_all_descriptors)
{
	work = filled(WORK, 1);
	for (int fd = 3; fd < 70000; fd++)
		close(fd);
	CHECK(is_filled(work, WORK, 1));
	CHECK(!close_range(3, ~0u, 0) || errno == ENOSYS);
	push_out();
	CHECK(is_filled(work, WORK, 1));
	CHECK(open("/dev/null", O_RDONLY) == 3);
	CHECK(dup2(3, 200) == 200 && !close(200));
}

/* From then on it may read, write and exit, and nothing else. */
CASE(a_child_that_may_only_exit)
{
	pid_t pid;

	work = filled(WORK, 1);
	pid = fork();
	if (!pid) {
		CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
		syscall(SYS_exit, 3);
	}
	check_child(pid, 3);
	CHECK(is_filled(work, WORK, 1));
}

CASE(a_child_that_shares_the_descriptors)
{
	int ends[2];
	pid_t pid;
	char c;

	work = filled(WORK, 1);
	CHECK(!pipe(ends));
	pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0l, 0l, 0l, 0l);
	if (!pid) {
		push_out();
		CHECK(is_filled(work, WORK, 1));
		CHECK(write(ends[1], "x", 1) == 1);
		fill(work, WORK, 2);
		push_out();
		CHECK(is_filled(work, WORK, 2));
		_exit(3);
	}
	CHECK(read(ends[0], &c, 1) == 1);
	push_out();
	CHECK(is_filled(work, WORK, 1));
	check_child(pid, 3);
	push_out();
	CHECK(is_filled(work, WORK, 1));
}

static int own_uffd;
static char *own;

/* Each page gets what its place says. */
static void on_own_fault(int sig, siginfo_t *info, void *context)
{
	static char page[PAGE] __attribute__((aligned(PAGE)));
	uintptr_t at = (uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1);
	struct uffdio_copy copy = {at, (uintptr_t)page, PAGE, 0, 0};

	(void)sig;
	(void)context;
	fill(page, PAGE, 100 + (at - (uintptr_t)own) / PAGE);
	CHECK(!ioctl(own_uffd, UFFDIO_COPY, &copy));
	nr_handled++;
}

CASE(programs_that_serve_faults_by_signal_themselves)
{
	struct uffdio_api api = {UFFD_API, UFFD_FEATURE_SIGBUS, 0};
	struct sigaction sa = {.sa_flags = SA_SIGINFO};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	work = filled(WORK, 1);
	own_uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
	if (own_uffd < 0 || ioctl(own_uffd, UFFDIO_API, &api))
		SKIP("no userfaultfd with signals");
	sa.sa_sigaction = on_own_fault;
	CHECK(!sigaction(SIGBUS, &sa, NULL));
	own = map(4 * MB);
	reg.range.start = (uintptr_t)own;
	reg.range.len = 4 * MB;
	CHECK(!ioctl(own_uffd, UFFDIO_REGISTER, &reg));
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < 4 * MB / PAGE; i++)
			CHECK(is_filled(own + i * PAGE, PAGE, 100 + i));
		CHECK(nr_handled == 4 * MB / PAGE);
		push_out();
	}
	CHECK(is_filled(work, WORK, 1));
}

CASE(a_vfork_child_that_faults)
{
	volatile int seen = 0;
	pid_t pid;

	work = filled(WORK, 1);
	push_out();
	pid = vfork();
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		seen = is_filled(work, WORK, 1);
		_exit(3);
	}
	check_child(pid, 3);
	CHECK(seen);
	CHECK(is_filled(work, WORK, 1));
}

/* The rest is what this one's child prints. */
CASE(what_a_new_program_inherits)
{
	sigset_t now;
	struct sigaction sa;
	pid_t pid;

	work = filled(WORK, 1);
	CHECK(!sigprocmask(0, NULL, &now) && !sigaction(SIGBUS, NULL, &sa));
	printf("blocked %d ignored %d\n", sigismember(&now, SIGBUS),
	       sa.sa_handler == SIG_IGN);
	fflush(stdout);
	if (sigismember(&now, SIGBUS))
		return;
	now = only(SIGBUS);
	CHECK(!sigprocmask(SIG_BLOCK, &now, NULL));
	CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
	pid = fork();
	if (!pid) {
		execv("/proc/self/exe", case_argv);
		_exit(99);
	}
	check_child(pid, 0);
	CHECK(is_filled(work, WORK, 1));
}

CASES_MAIN()
