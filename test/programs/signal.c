/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * signal.c - signals that meet faults, and faults that meet signals.
 */
#include "behaviour.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>

static char *work;
static volatile sig_atomic_t nr_handled;
static volatile uintptr_t handler_stack;

static void every_ms(void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_flags = flags};
	struct itimerval tick = {{0, 1000}, {0, 1000}};

	sa.sa_handler = handler;
	CHECK(!sigaction(SIGALRM, &sa, NULL));
	CHECK(!setitimer(ITIMER_REAL, &tick, NULL));
}

static void no_more(void)
{
	struct itimerval never = {{0, 0}, {0, 0}};

	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
}

/* A handler that reads memory that may be away; not the word on which the
 * interrupted code works. */
static void look_around(int sig)
{
	static uint64_t x = 1;
	int local;

	(void)sig;
	handler_stack = (uintptr_t)&local;
	for (int k = 0; k < 4; k++) {
		size_t i;

		x = x * 6364136223846793005u + 1442695040888963407u;
		i = (x >> 33) % (WORK / PAGE) * 512 + 4;
		CHECK(((uint64_t *)(void *)work)[i] == word_of(1, i));
	}
	nr_handled++;
}

CASE(handlers_that_fault)
{
	work = filled(WORK, 1);
	every_ms(look_around, SA_RESTART);
	for (int n = 0; n < 4; n++)
		CHECK(is_filled(work, WORK, 1));
	while (nr_handled < 20)
		push_out();
	no_more();
	CHECK(is_filled(work, WORK, 1));
}

CASE(N62_fault_in_a_handler_on_an_alternate_stack)
{
	size_t size = 256 * 1024;
	stack_t ss = {.ss_size = size};

	work = filled(WORK, 1);
	ss.ss_sp = map(size);
	CHECK(!sigaltstack(&ss, NULL));
	every_ms(look_around, SA_RESTART | SA_ONSTACK);
	while (nr_handled < 50)
		push_out();
	no_more();
	CHECK(handler_stack > (uintptr_t)ss.ss_sp &&
	      handler_stack < (uintptr_t)ss.ss_sp + size);
	CHECK(is_filled(work, WORK, 1));
}

/* The kernel itself writes the frame onto a stack that may be away. */
CASE(alternate_stack_in_the_middle_of_a_large_range)
{
	stack_t ss = {.ss_size = 128 * 1024};

	work = filled(WORK, 1);
	ss.ss_sp = work + WORK - 8 * MB;
	CHECK(!sigaltstack(&ss, NULL));
	for (int n = 0; n < 10; n++) {
		struct sigaction sa = {.sa_flags = SA_ONSTACK};

		push_out();
		sa.sa_handler = look_around;
		CHECK(!sigaction(SIGUSR1, &sa, NULL));
		CHECK(!raise(SIGUSR1));
		CHECK(nr_handled == n + 1);
		CHECK(handler_stack > (uintptr_t)ss.ss_sp &&
		      handler_stack < (uintptr_t)ss.ss_sp + ss.ss_size);
	}
	CHECK(is_filled(work, WORK - 8 * MB, 1));
}

CASE(N62_fault_while_all_signals_are_blocked)
{
	sigset_t all, before;
	char *p = filled(WORK, 1);

	sigfillset(&all);
	CHECK(!sigprocmask(SIG_BLOCK, &all, &before));
	CHECK(is_filled(p, WORK, 1));
	fill(p, WORK, 2);
	push_out();
	CHECK(is_filled(p, WORK, 2));
	CHECK(!sigprocmask(SIG_SETMASK, &before, NULL));
}

CASE(fault_while_sigbus_and_sigsegv_are_ignored)
{
	char *p = filled(WORK, 1);

	CHECK(signal(SIGBUS, SIG_IGN) != SIG_ERR);
	CHECK(signal(SIGSEGV, SIG_IGN) != SIG_ERR);
	CHECK(is_filled(p, WORK, 1));
}

static sigjmp_buf back;
static void *volatile bad_address;
static volatile int bad_signal;

static void jump_back(int sig, siginfo_t *info, void *context)
{
	(void)context;
	bad_signal = sig;
	bad_address = info->si_addr;
	siglongjmp(back, 1);
}

CASE(sigbus_of_the_program_is_its_own)
{
	char name[] = "/tmp/pgmap-test-XXXXXX", *file;
	struct sigaction sa = {.sa_flags = SA_SIGINFO};
	int fd = mkstemp(name);

	work = filled(WORK, 1);
	CHECK(fd >= 0 && !unlink(name));
	CHECK(!ftruncate(fd, PAGE));
	file = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(file != MAP_FAILED);
	sa.sa_sigaction = jump_back;
	CHECK(!sigaction(SIGBUS, &sa, NULL));
	for (int n = 0; n < 100; n++) {
		if (!sigsetjmp(back, 1)) {
			(void)*(volatile char *)(file + 2 * PAGE);
			CHECK(false); /* it went on */
		}
		CHECK(bad_signal == SIGBUS && bad_address == file + 2 * PAGE);
	}
	CHECK(is_filled(work, WORK, 1));
}

CASE(siglongjmp_out_of_handlers)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO};

	work = filled(WORK, 1);
	CHECK(!mprotect(work, PAGE, PROT_NONE));
	sa.sa_sigaction = jump_back;
	CHECK(!sigaction(SIGSEGV, &sa, NULL));
	for (size_t n = 1; n < 3000; n++) {
		size_t i = n * 997 % (WORK / PAGE - 1) * 512 + 512;

		if (!sigsetjmp(back, 1)) {
			(void)*(volatile char *)work;
			CHECK(false); /* it went on */
		}
		CHECK(bad_signal == SIGSEGV && bad_address == work);
		CHECK(((uint64_t *)(void *)work)[i] == word_of(1, i));
	}
}

static void count(int sig)
{
	(void)sig;
	nr_handled++;
}

static void *kick(void *arg)
{
	usleep(30000);
	CHECK(!pthread_kill(*(pthread_t *)arg, SIGUSR2));
	return NULL;
}

CASE(interrupted_calls_are_interrupted)
{
	struct sigaction sa = {0};
	pthread_t self = pthread_self(), t;
	struct timespec second = {5, 0};
	char *p = filled(WORK, 1);
	int pipefd[2];

	sa.sa_handler = count;
	CHECK(!sigaction(SIGUSR2, &sa, NULL));
	CHECK(!pipe(pipefd));
	CHECK(!pthread_create(&t, NULL, kick, &self));
	CHECK(read(pipefd[0], p, 100) == -1 && errno == EINTR);
	CHECK(!pthread_join(t, NULL));
	CHECK(!pthread_create(&t, NULL, kick, &self));
	CHECK(nanosleep(&second, (struct timespec *)(void *)(p + MB)) == -1 &&
	      errno == EINTR);
	CHECK(!pthread_join(t, NULL));
	CHECK(nr_handled == 2);
	CHECK(is_filled(p, MB, 1));
}

static _Atomic int nr_waiting;

static void *wait_for_signals(void *arg)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (int n = 0; n < 50; n++) {
		nr_waiting++;
		CHECK(!sigwait(&set, &sig) && sig == SIGUSR1);
		CHECK(((uint64_t *)arg)[n * 65536] ==
		      word_of(1, (size_t)n * 65536));
	}
	return NULL;
}

CASE(signals_to_the_process_go_to_its_own_threads)
{
	sigset_t set;
	pthread_t t;

	/* A thread of the runtime that took one would make it get lost. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	work = filled(WORK, 1);
	CHECK(!pthread_sigmask(SIG_BLOCK, &set, NULL));
	CHECK(!pthread_create(&t, NULL, wait_for_signals, work));
	for (int n = 1; n <= 50; n++) {
		while (nr_waiting < n)
			usleep(50);
		CHECK(!kill(getpid(), SIGUSR1));
	}
	CHECK(!pthread_join(t, NULL));
	CHECK(is_filled(work, WORK, 1));
}

CASE_STATUS(killed_by_sigkill, -SIGKILL)
{
	(void)filled(WORK, 1);
	kill(getpid(), SIGKILL);
	pause();
}

CASE_STATUS(killed_by_sigterm, -SIGTERM)
{
	(void)filled(WORK, 1);
	raise(SIGTERM);
}

CASE_STATUS(killed_by_sigsegv, -SIGSEGV)
{
	char *p = filled(WORK, 1);

	CHECK(!munmap(p, MB));
	*(volatile char *)p = 1;
}

CASE_STATUS(killed_by_abort, -SIGABRT)
{
	(void)filled(WORK, 1);
	abort();
}

CASES_MAIN()
