/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The system-call layer in a live process: this program rewrites its own
 * libc, its own ld.so and, for what libc's code cannot show, itself.
 */
#include "runtime/syscall.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <immintrin.h>
#include <link.h>
#include <malloc.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/atomic.h"
#include "runtime/syscall_entry.h"
#include "test.h"

#define PAGE 4096ul
#define BIG (8ul << 20) /* malloc asks for a mapping of its own */

/* --- sites of our own ---------------------------------------------------- */

/*
 * Each does munmap(rdi, rsi) and leaves everything as the system call left
 * it; site_tail() adds one to the result. The three forms that a site can have:
 * one instruction before, several before, and what comes after.
 */
__asm__(".pushsection .text\n"
	".macro site name\n"
	".globl \\name\n.type \\name, @function\n\\name: .cfi_startproc\n"
	".endm\n"
	".macro site_end name\n"
	"ret\n.cfi_endproc\n.size \\name, . - \\name\n"
	".endm\n"
	"site site_head\n"
	"	mov $11, %eax\n"
	"	syscall\n"
	"site_end site_head\n"
	"site site_head_of_two\n"
	"	mov %rdi, %rdi\n"
	"	push $11\n"
	"	pop %rax\n"
	"	syscall\n"
	"site_end site_head_of_two\n"
	"site site_tail\n"
	"	mov $11, %eax\n"
	"	jmp 1f\n"
	"	nop\n"
	"1:	syscall\n"
	"	lea 1(%rax), %rax\n"
	"site_end site_tail\n"
	/* Returns how many of the 16 words below the stack changed. */
	"site site_with_red_zone\n"
	"	.set i, 1\n"
	"	.rept 16\n"
	"	movq $i * 0x1010101, -8 * i(%rsp)\n"
	"	.set i, i + 1\n"
	"	.endr\n"
	"	mov $11, %eax\n"
	"	syscall\n"
	"	xor %eax, %eax\n"
	"	.set i, 1\n"
	"	.rept 16\n"
	"	xor %ecx, %ecx\n"
	"	cmpq $i * 0x1010101, -8 * i(%rsp)\n"
	"	setne %cl\n"
	"	add %ecx, %eax\n"
	"	.set i, i + 1\n"
	"	.endr\n"
	"site_end site_with_red_zone\n"
	".globl sites_end\nsites_end:\n"
	".popsection");
long site_head(void *p, size_t n);
long site_head_of_two(void *p, size_t n);
long site_tail(void *p, size_t n);
long site_with_red_zone(void *p, size_t n);
void sites_end(void);

/*
 * call_with_registers: load all registers from regs_in, call
 * regs_in.function, store all registers to regs_out.
 */
struct registers {
	uint64_t gpr[15]; /* rax rcx rdx rbx rbp rsi rdi r8 .. r15 */
	uint64_t flags;
	uint64_t function;
};
extern struct registers regs_in, regs_out;
extern uint8_t vector_in[], vector_out[];
struct registers regs_in, regs_out;
uint8_t vector_in[4096] __attribute__((aligned(64)));
uint8_t vector_out[4096] __attribute__((aligned(64)));
void call_with_registers(void);
#define REGS_EACH(DO)                                                          \
	DO(0, rax)                                                             \
	DO(1, rcx)                                                             \
	DO(2, rdx)                                                             \
	DO(3, rbx)                                                             \
	DO(4, rbp)                                                             \
	DO(5, rsi)                                                             \
	DO(6, rdi)                                                             \
	DO(7, r8)                                                              \
	DO(8, r9)                                                              \
	DO(9, r10)                                                             \
	DO(10, r11)                                                            \
	DO(11, r12)                                                            \
	DO(12, r13)                                                            \
	DO(13, r14)                                                            \
	DO(14, r15)
#define LOAD(i, reg) "	mov regs_in+8*" #i "(%rip), %" #reg "\n"
#define STORE(i, reg) "	mov %" #reg ", regs_out+8*" #i "(%rip)\n"
__asm__(".pushsection .text\n"
	".globl call_with_registers\n"
	"call_with_registers:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	mov $0xe7, %eax\n	xor %edx, %edx\n"
	"	xrstor vector_in(%rip)\n"
	"	push regs_in+8*15(%rip)\n	popfq\n" REGS_EACH(
		LOAD) "	call *regs_in+8*16(%rip)\n" REGS_EACH(STORE) "	pushfq"
								     "\n"
								     "	pop "
								     "regs_out+"
								     "8*15(%"
								     "rip)\n"
								     "	cld\n"
								     "	mov "
								     "$0xe7, "
								     "%eax\n"
								     "	xor "
								     "%edx, "
								     "%edx\n"
								     "	xsave "
								     "vector_"
								     "out(%rip)"
								     "\n"
								     "	pop "
								     "%r15\n"
								     "	pop "
								     "%r14\n"
								     "	pop "
								     "%r13\n"
								     "	pop "
								     "%r12\n"
								     "	pop "
								     "%rbp\n"
								     "	pop "
								     "%rbx\n"
								     "	ret\n"
								     ".popsecti"
								     "on");

/* --- install, remove ----------------------------------------------------- */

enum { LIBC, LDSO, SELF, NR_OBJECTS };

static struct object {
	const char *part_of_name;
	char path[256];
	uintptr_t base;
	struct pg_site_list list;
	struct pg_syscall_patch patch;
} objects[NR_OBJECTS] = {{.part_of_name = "libc.so.6"},
			 {.part_of_name = "ld-linux"},
			 {.part_of_name = ""}};

static int find_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *name = info->dlpi_name;

	(void)size;
	(void)arg;
	for (int i = 0; i < NR_OBJECTS; i++) {
		struct object *o = &objects[i];

		if (i == SELF ? *name : !strstr(name, o->part_of_name))
			continue;
		o->base = info->dlpi_addr;
		snprintf(o->path, sizeof(o->path), "%s",
			 i == SELF ? "/proc/self/exe" : name);
	}
	return 0;
}

/* Of this program only the sites that are there to be rewritten: the hooks
 * below must not see their own calls. */
static void keep_own_sites(struct object *o)
{
	struct pg_site_list *l = &o->list;
	uint32_t n = 0;

	for (uint32_t i = 0; i < l->nr_sites; i++) {
		uintptr_t at = o->base + l->sites[i].offset;

		if (at >= (uintptr_t)site_head && at < (uintptr_t)sites_end)
			l->sites[n++] = l->sites[i];
	}
	CHECK_EQ(n, 4);
	l->nr_sites = n;
}

/* Find the sites of all three objects, once. */
static void find_sites(void)
{
	if (objects[SELF].base)
		return;
	mallopt(M_MMAP_THRESHOLD, BIG / 2); /* not to grow by itself */
	dl_iterate_phdr(find_object, NULL);
	for (int i = 0; i < NR_OBJECTS; i++)
		CHECK_EQ(pg_site_find(objects[i].path, false, &objects[i].list),
			 0);
	keep_own_sites(&objects[SELF]);
}

static void uninstall(void)
{
	pg_syscall_set_hook(NULL);
	for (int i = 0; i < NR_OBJECTS; i++)
		if (objects[i].patch.list) {
			pg_syscall_remove(&objects[i].patch);
			objects[i].patch.list = NULL;
		}
}

static void install(pg_call_hook_t hook)
{
	uninstall(); /* what a failed test left */
	find_sites();
	for (int i = 0; i < NR_OBJECTS; i++) {
		struct object *o = &objects[i];

		CHECK_EQ(pg_syscall_install(o->base, &o->list, &o->patch), 0);
	}
	pg_syscall_set_hook(hook);
}

/* --- hooks --------------------------------------------------------------- */

static pg_atomic64 seen[512];

static void count(const struct pg_call *c)
{
	if (c->nr >= 0 && c->nr < 512)
		pg_fetch_add(&seen[c->nr], 1, relaxed);
}

/* How often @nr was seen since the last look. */
static unsigned long taken(long nr)
{
	return pg_xchg(&seen[nr], 0, relaxed);
}

static int count_and_let_through(struct pg_call *c)
{
	count(c);
	return PG_CALL_NATIVE;
}

/* Make each call in C that can be made there; fork-like clones above all. */
static int count_and_make(struct pg_call *c)
{
	struct clone_args {
		uint64_t flags;
	} *args = (void *)c->arg[0];

	count(c);
	if (c->nr == SYS_exit_group || c->nr == SYS_execve ||
	    c->nr == SYS_execveat ||
	    (c->nr == SYS_clone && (c->arg[0] & CLONE_VM)) ||
	    (c->nr == SYS_clone3 && (args->flags & CLONE_VM)))
		return PG_CALL_NATIVE;
	if (c->nr == SYS_clone && c->arg[1]) {
		c->ret = pg_sys(clone, c->arg[0], 0, c->arg[2], c->arg[3],
				c->arg[4]);
		if (c->ret == 0)
			c->sp = (uintptr_t)c->arg[1];
		return PG_CALL_DONE;
	}
	c->ret = pg_sys6(c->nr, c->arg[0], c->arg[1], c->arg[2], c->arg[3],
			 c->arg[4], c->arg[5]);
	return PG_CALL_DONE;
}

static const pg_call_hook_t both_hooks[] = {count_and_let_through,
					    count_and_make};

/* --- memory -------------------------------------------------------------- */

static void ask_for_memory_in_every_way(void)
{
	char *p, *q;
	long r;

	p = malloc(BIG);
	CHECK(p != NULL);
	CHECK(taken(SYS_mmap) >= 1);
	memset(p, 1, BIG);
	p = realloc(p, 2 * BIG);
	CHECK(p != NULL && p[BIG - 1] == 1);
	CHECK(taken(SYS_mremap) >= 1);
	free(p);
	CHECK(taken(SYS_munmap) >= 1);

	p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	CHECK_EQ(taken(SYS_mmap), 1);
	p[0] = 7;
	CHECK_EQ(mprotect(p, PAGE, PROT_READ), 0);
	CHECK_EQ(taken(SYS_mprotect), 1);
	CHECK_EQ(madvise(p + PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(posix_madvise(p, PAGE, POSIX_MADV_WILLNEED), 0);
	CHECK_EQ(taken(SYS_madvise), 2);
	CHECK_EQ(mlock(p, PAGE) | munlock(p, PAGE) | mlock2(p, PAGE, 0) |
			 munlockall(),
		 0);
	CHECK_EQ(taken(SYS_mlock), 2); /* mlock2 without flags is mlock */
	CHECK_EQ(taken(SYS_munlock), 1);
	CHECK_EQ(taken(SYS_munlockall), 1);
	q = mremap(p, 4 * PAGE, 2 * PAGE, 0);
	CHECK(q == p && p[0] == 7);
	CHECK_EQ(taken(SYS_mremap), 1);
	CHECK_EQ(munmap(p, 2 * PAGE), 0);
	CHECK_EQ(taken(SYS_munmap), 1);

	q = sbrk(0);
	CHECK(sbrk((intptr_t)PAGE) == q);
	q[0] = 1;
	CHECK(sbrk(-(intptr_t)PAGE) == q + PAGE);
	CHECK(taken(SYS_brk) >= 2);

	r = syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	CHECK(r > 0);
	CHECK_EQ(taken(SYS_mmap), 1);
	/* of the number the kernel looks at 32 bits */
	CHECK_EQ(syscall(SYS_munmap | 1l << 32, r, PAGE), 0);
	CHECK_EQ(taken(SYS_munmap), 1);

	errno = 0;
	CHECK_EQ(munmap((void *)1, PAGE), -1);
	CHECK_EQ(errno, EINVAL);
	CHECK(mmap(NULL, 0, 0, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	      MAP_FAILED);
	CHECK_EQ(errno, EINVAL);
}

TEST(every_way_to_ask_for_memory_is_seen_and_works)
{
	for (size_t i = 0; i < 2; i++) {
		install(both_hooks[i]);
		memset(seen, 0, sizeof(seen));
		ask_for_memory_in_every_way();
		uninstall();
	}
}

TEST(calls_that_nobody_wants_are_not_shown)
{
	const long others[] = {SYS_getpid, SYS_gettid, SYS_close,
			       SYS_futex,  SYS_read,   480};
	char registers[64] = "";
	int on = 1, n, s = socket(AF_INET, SOCK_DGRAM, 0);

	install(count_and_let_through);
	memset(seen, 0, sizeof(seen));
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		syscall(others[i], -1, -1, -1, -1, -1, -1);
		CHECK_EQ(taken(others[i]), 0);
	}
	CHECK_EQ(ioctl(s, FIONREAD, &n), 0);
	CHECK_EQ(syscall(SYS_ioctl, s, FIONREAD, &n), 0);
	CHECK_EQ(taken(SYS_ioctl), 0);
	CHECK_EQ(ioctl(s, UFFDIO_REGISTER_NR, registers), -1);
	CHECK_EQ(syscall(SYS_ioctl, s, UFFDIO_REGISTER_NR, registers), -1);
	CHECK_EQ(taken(SYS_ioctl), 2);
	CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	setsockopt(s, IPPROTO_IP, OPTION_ZEROCOPY, &on, sizeof(on));
	CHECK_EQ(taken(SYS_setsockopt), 0);
	setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on));
	CHECK_EQ(taken(SYS_setsockopt), 1);
	pg_syscall_set_hook(NULL);
	CHECK_EQ(munmap(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0),
			PAGE),
		 0);
	CHECK_EQ(taken(SYS_mmap), 0);
	uninstall();
	close(s);
}

TEST(ld_so_asks_through_the_hook_when_it_loads_a_library)
{
	void *lib;

	install(count_and_make);
	memset(seen, 0, sizeof(seen));
	lib = dlopen("libthread_db.so.1", RTLD_LAZY);
	CHECK(lib != NULL);
	CHECK(dlsym(lib, "td_init") != NULL);
	CHECK(taken(SYS_mmap) >= 3);
	dlclose(lib);
	CHECK(taken(SYS_munmap) >= 1);
	uninstall();
}

/* --- processes ----------------------------------------------------------- */

static int status_of(pid_t pid)
{
	int status = -1;

	CHECK(pid > 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What a child does: all of it must work there too. */
static void child_of_fork(void)
{
	char *p = malloc(BIG);

	if (!p)
		_exit(1);
	memset(p, 2, BIG);
	free(p);
	_exit(system("exit 5") == 5 << 8 && taken(SYS_mmap) ? 42 : 2);
}

static void child_on_a_stack(void)
{
	_exit(43);
}

static void start_processes_in_every_way(void)
{
	static uintptr_t stack[4096] __attribute__((aligned(16)));
	char *args[] = {(char *)(uintptr_t) "true", NULL};
	char line[16] = "";
	FILE *f;
	pid_t pid;

	pid = fork();
	if (pid == 0)
		child_of_fork();
	CHECK_EQ(status_of(pid), 42);
	CHECK_EQ(taken(SYS_clone), 1);
	pid = _Fork();
	if (pid == 0)
		child_of_fork();
	CHECK_EQ(status_of(pid), 42);
	CHECK_EQ(taken(SYS_clone), 1);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		child_of_fork();
	CHECK_EQ(status_of(pid), 42);
	CHECK_EQ(taken(SYS_clone), 1);
	pid = (pid_t)syscall(SYS_fork);
	if (pid == 0)
		child_of_fork();
	CHECK_EQ(status_of(pid), 42);
	CHECK_EQ(taken(SYS_fork), 1);
	/* The child returns from syscall() on the new stack. */
	stack[4000] = (uintptr_t)child_on_a_stack;
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, &stack[4000], 0, 0, 0);
	CHECK_EQ(status_of(pid), 43);
	CHECK_EQ(taken(SYS_clone), 1);
	pid = vfork();
	if (pid == 0) {
		execv("/bin/true", args);
		_exit(1);
	}
	CHECK_EQ(status_of(pid), 0);
	CHECK_EQ(taken(SYS_execve), 1); /* same memory */
	CHECK_EQ(posix_spawn(&pid, "/bin/true", NULL, NULL, args, environ), 0);
	CHECK_EQ(status_of(pid), 0);
	CHECK_EQ(taken(SYS_clone3), 1);
	CHECK_EQ(taken(SYS_execve), 1);
	CHECK_EQ(posix_spawn(&pid, "/nowhere", NULL, NULL, args, environ),
		 ENOENT);
	CHECK_EQ(system("exit 3"), 3 << 8);
	CHECK(taken(SYS_clone3) >= 2);
	f = popen("echo hello", "r");
	CHECK(f != NULL);
	CHECK(fgets(line, sizeof(line), f) != NULL);
	CHECK_EQ(strcmp(line, "hello\n"), 0);
	CHECK_EQ(pclose(f), 0);
}

TEST(processes_start_in_every_way)
{
	for (size_t i = 0; i < 2; i++) {
		install(both_hooks[i]);
		memset(seen, 0, sizeof(seen));
		start_processes_in_every_way();
		uninstall();
	}
}

/* --- threads ------------------------------------------------------------- */

static void *add_one(void *arg)
{
	return (char *)arg + 1;
}

static int on_own_stack(void *arg)
{
	*(int *)arg = 1;
	return 0;
}

TEST(a_thousand_threads_start_and_end)
{
	static char stack[65536] __attribute__((aligned(16)));
	int done = 0;
	pid_t tid;

	install(count_and_make);
	memset(seen, 0, sizeof(seen));
	for (uintptr_t i = 0; i < 1000; i++) {
		pthread_t t;
		void *ret;

		CHECK_EQ(pthread_create(&t, NULL, add_one, (void *)i), 0);
		CHECK_EQ(pthread_join(t, &ret), 0);
		CHECK_EQ((uintptr_t)ret, i + 1);
	}
	CHECK_EQ(taken(SYS_clone3), 1000);
	tid = clone(on_own_stack, stack + sizeof(stack),
		    CLONE_VM | CLONE_VFORK | SIGCHLD, &done);
	CHECK(tid > 0);
	CHECK_EQ(status_of(tid), 0);
	CHECK_EQ(done, 1);
	CHECK_EQ(taken(SYS_clone), 1);
	uninstall();
}

static void note_cleanup(void *arg)
{
	pg_fetch_add((pg_atomic64 *)arg, 1, relaxed);
}

static pg_atomic64 cleanups, laps;

static void *map_for_ever(void *type)
{
	int old;

	pthread_setcanceltype((int)(intptr_t)type, &old);
	pthread_cleanup_push(note_cleanup, &cleanups);
	for (;;) {
		void *p = mmap(NULL, PAGE, PROT_READ,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		munmap(p, PAGE);
		pg_fetch_add(&laps, 1, relaxed);
		pthread_testcancel();
	}
	pthread_cleanup_pop(0);
	return NULL;
}

TEST(threads_are_cancelled_while_they_map_and_unmap)
{
	const intptr_t types[] = {PTHREAD_CANCEL_DEFERRED,
				  PTHREAD_CANCEL_ASYNCHRONOUS};

	install(count_and_make);
	pg_store(&cleanups, 0, relaxed);
	for (int i = 0; i < 200; i++) {
		uint64_t lap = pg_load(&laps, relaxed);
		pthread_t t;
		void *ret;

		CHECK_EQ(pthread_create(&t, NULL, map_for_ever,
					(void *)types[i % 2]),
			 0);
		while (pg_load(&laps, relaxed) < lap + 3)
			sched_yield();
		CHECK_EQ(pthread_cancel(t), 0);
		CHECK_EQ(pthread_join(t, &ret), 0);
		CHECK(ret == PTHREAD_CANCELED);
	}
	CHECK_EQ(pg_load(&cleanups, relaxed), 200);
	uninstall();
}

/* --- signals ------------------------------------------------------------- */

static sigjmp_buf jump;

static void leave(int sig)
{
	(void)sig;
	siglongjmp(jump, 1);
}

static int interrupted_hook(struct pg_call *c)
{
	if (c->nr == SYS_munmap && c->arg[1] == (long)(3 * PAGE))
		pg_sys(tgkill, getpid(), gettid(), SIGUSR1);
	return count_and_make(c);
}

TEST(a_handler_may_leave_a_hook_by_longjmp)
{
	volatile int left = 0;
	char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	signal(SIGUSR1, leave);
	install(interrupted_hook);
	for (int i = 0; i < 100; i++) {
		if (sigsetjmp(jump, 1) == 0)
			munmap(p, 3 * PAGE);
		else
			left++;
	}
	CHECK_EQ(left, 100);
	p[0] = 1; /* the call was never made */
	uninstall();
	signal(SIGUSR1, SIG_DFL);
	CHECK_EQ(munmap(p, 3 * PAGE), 0);
}

static pg_atomic64 ticks;

static void map_in_handler(int sig)
{
	int saved = errno;
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)sig;
	if (p != MAP_FAILED) {
		p[0] = 1;
		munmap(p, PAGE);
		pg_fetch_add(&ticks, 1, relaxed);
	}
	errno = saved;
}

static pg_atomic64 stop, mistakes;

static void *hammer(void *arg)
{
	unsigned char mark = (unsigned char)(uintptr_t)arg;

	while (!pg_load(&stop, relaxed)) {
		unsigned char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		memset(p, mark, 4 * PAGE);
		if (madvise(p, PAGE, MADV_DONTNEED) || p[0] != 0 ||
		    p[PAGE] != mark || p[4 * PAGE - 1] != mark ||
		    munmap(p, 4 * PAGE))
			pg_fetch_add(&mistakes, 1, relaxed);
		pg_fetch_add(&laps, 1, relaxed);
	}
	return NULL;
}

TEST(signals_may_arrive_all_the_time)
{
	struct sigaction sa = {.sa_handler = map_in_handler,
			       .sa_flags = SA_RESTART};
	struct itimerval on = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
	struct timespec half_a_second = {0, 500 * 1000 * 1000};
	pthread_t t[2];

	for (size_t h = 0; h < 2; h++) {
		install(both_hooks[h]);
		memset(seen, 0, sizeof(seen));
		pg_store(&stop, 0, relaxed);
		pg_store(&laps, 0, relaxed);
		pg_store(&ticks, 0, relaxed);
		sigaction(SIGALRM, &sa, NULL);
		setitimer(ITIMER_REAL, &on, NULL);
		for (uintptr_t i = 0; i < 2; i++)
			pthread_create(&t[i], NULL, hammer, (void *)(i + 1));
		while (nanosleep(&half_a_second, &half_a_second))
			;
		pg_store(&stop, 1, relaxed);
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		setitimer(ITIMER_REAL, &off, NULL);
		half_a_second.tv_nsec = 500 * 1000 * 1000;
		CHECK_EQ(pg_load(&mistakes, relaxed), 0);
		CHECK(pg_load(&ticks, relaxed) > 50);
		/* and one per thread, for its stack */
		CHECK_EQ(taken(SYS_madvise), pg_load(&laps, relaxed) + 2);
		uninstall();
	}
}

/* --- registers and stack ------------------------------------------------- */

#define UPPER 0x44u /* AVX, ZMM_Hi256 */
static bool has_avx512;

__attribute__((target("avx"))) static void trash_avx(void)
{
	__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0\n"
			 "vinsertf128 $1, %%xmm0, %%ymm0, %%ymm0\n"
			 ".irp r,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			 "vmovaps %%ymm0, %%ymm\\r\n"
			 ".endr"
			 :
			 :
			 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
			   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
}

__attribute__((target("avx512f"))) static void trash_avx512(void)
{
	__asm__ volatile("vpternlogd $255, %%zmm31, %%zmm31, %%zmm31\n"
			 ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,"
			 "18,19,20,21,22,23,24,25,26,27,28,29,30\n"
			 "vmovaps %%zmm31, %%zmm\\r\n"
			 ".endr\n"
			 ".irp r,0,1,2,3,4,5,6,7\n"
			 "kxnorw %%k\\r, %%k\\r, %%k\\r\n"
			 ".endr"
			 :
			 :
			 : "memory");
}

/* Use every register that C may use. */
static int rude_hook(struct pg_call *c)
{
	unsigned int csr = 0x7fc0;
	uint64_t flags;

	__asm__ volatile("pushfq\n	pop %0" : "=r"(flags));
	if (flags & 0x400) /* C expects the direction to be up */
		return PG_CALL_NATIVE;
	count(c);
	if (__builtin_cpu_supports("avx"))
		trash_avx();
	if (has_avx512)
		trash_avx512();
	__asm__ volatile("ldmxcsr %0\n" : : "m"(csr));
	for (int i = 0; i < 6; i++)
		c->arg[i] = -1;
	c->ret = -4321;
	__asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15", "memory");
	return PG_CALL_DONE;
}

/* Fill a part of vector_in with random bytes, or with zeros. */
static void fill_part(uint32_t part, uint64_t *seed)
{
	uint32_t size, offset, c, d;

	__asm__("cpuid"
		: "=a"(size), "=b"(offset), "=c"(c), "=d"(d)
		: "a"(0xd), "c"(part));
	if (!(0xe7u >> part & 1) || offset + size > sizeof(vector_in))
		return;
	for (size_t i = offset; i < offset + size; i++)
		vector_in[i] = seed ? (uint8_t)test_random(seed) : 0;
}

static void fill_registers(uint64_t *seed, long (*site)(void *, size_t))
{
	uint32_t xcr0;

	/* legacy part: control words as they are by default, no x87 values */
	memset(vector_in, 0, sizeof(vector_in));
	__asm__ volatile("xsave %0" : "+m"(vector_in) : "a"(0xe7), "d"(0));
	for (size_t i = 160; i < 416; i++)
		vector_in[i] = (uint8_t)test_random(seed);
	for (uint32_t part = 2; part < 8; part++)
		fill_part(part, seed);
	/* Parts in use: all that the CPU has switched on, or all but the
	 * upper halves (AVX and ZMM_Hi256). */
	__asm__ volatile("xgetbv" : "=a"(xcr0) : "c"(0) : "rdx");
	xcr0 &= 0xe7;
	has_avx512 = (xcr0 & 0xe0) == 0xe0;
	if (test_random(seed) & 1) {
		xcr0 &= ~UPPER;
		fill_part(2, NULL);
		fill_part(6, NULL);
	}
	memcpy(vector_in + 512, &xcr0, sizeof(xcr0));
	for (size_t i = 0; i < 15; i++)
		regs_in.gpr[i] = test_random(seed);
	/* CF PF AF ZF SF DF OF */
	regs_in.flags = 0x202 | (test_random(seed) & 0xcd5);
	regs_in.function = (uintptr_t)site;
}

TEST(a_hooked_call_changes_no_register_but_rax_rcx_r11)
{
	long (*const sites[])(void *, size_t) = {site_head, site_head_of_two,
						 site_tail};
	const uint8_t kinds[] = {PG_SITE_HEAD, PG_SITE_HEAD, PG_SITE_TAIL};
	const pg_call_hook_t hooks[] = {rude_hook, NULL};
	const long results[] = {-4321, -EINVAL};
	uint64_t seed = test_seed();

	find_sites();
	for (size_t i = 0; i < 3; i++) {
		const struct pg_site_list *l = &objects[SELF].list;
		uint64_t at = (uintptr_t)sites[i] - objects[SELF].base;
		bool found = false;

		for (uint32_t k = 0; k < l->nr_sites; k++)
			if (l->sites[k].offset >= at &&
			    l->sites[k].offset < at + 16)
				found = l->sites[k].kind == kinds[i];
		CHECK(found);
	}
	for (int round = 0; round < 600; round++) {
		size_t h = (size_t)round & 1;

		fill_registers(&seed, sites[round % 3]);
		install(hooks[h]);
		memset(seen, 0, sizeof(seen));
		call_with_registers();
		if (h == 0)
			CHECK_EQ(taken(SYS_munmap), 1);
		uninstall();
		CHECK_EQ((long)regs_out.gpr[0], results[h] + (round % 3 == 2));
		for (size_t i = 2; i < 15; i++)
			if (i != 10) /* r11 */
				CHECK_EQ(regs_out.gpr[i], regs_in.gpr[i]);
		CHECK_EQ(regs_out.flags, regs_in.flags);
		/* control words; registers; the parts beyond SSE */
		CHECK_EQ(memcmp(vector_out, vector_in, 5), 0);
		CHECK_EQ(memcmp(vector_out + 24, vector_in + 24, 4), 0);
		CHECK_EQ(memcmp(vector_out + 32, vector_in + 32, 384), 0);
		CHECK_EQ(memcmp(vector_out + 576, vector_in + 576,
				sizeof(vector_in) - 576),
			 0);
		/* clean upper halves stay clean: else SSE code is slow */
		CHECK_EQ(vector_out[512] & UPPER, vector_in[512] & UPPER);
	}
}

TEST(a_hooked_call_leaves_the_red_zone_alone)
{
	install(rude_hook);
	memset(seen, 0, sizeof(seen));
	CHECK_EQ(site_with_red_zone((void *)1, 1), 0);
	CHECK_EQ(taken(SYS_munmap), 1);
	pg_syscall_set_hook(count_and_let_through);
	CHECK_EQ(site_with_red_zone((void *)1, 1), 0);
	CHECK_EQ(taken(SYS_munmap), 1);
	uninstall();
}

static uintptr_t hook_sp;

static int note_stack(struct pg_call *c)
{
	uintptr_t used = c->sp - (uintptr_t)__builtin_frame_address(0);

	if (used > hook_sp)
		hook_sp = used;
	return PG_CALL_NATIVE;
}

TEST(a_hooked_call_uses_less_stack_than_it_says)
{
	hook_sp = 0;
	install(note_stack);
	for (int i = 0; i < 8; i++) { /* from every alignment */
		char *volatile room = __builtin_alloca(16);

		munmap(room + 1, 1);
	}
	uninstall();
	print_message("# stack in front of the hook: %zu, said: %zu\n",
		      (size_t)hook_sp, pg_syscall_stack());
	CHECK(hook_sp > 128);
	CHECK(hook_sp <= pg_syscall_stack());
	CHECK(pg_syscall_stack() < 3072);
}

static void *frames[16];
static int nr_frames;

static int walk_stack(struct pg_call *c)
{
	(void)c;
	nr_frames = backtrace(frames, 16);
	return PG_CALL_NATIVE;
}

TEST(an_unwinder_walks_from_the_hook_to_the_caller)
{
	bool munmap_is_there = false, caller_is_there = false;
	Dl_info info;

	backtrace(frames, 16); /* loads what it needs */
	install(walk_stack);
	munmap((void *)1, 1);
	uninstall();
	for (int i = 0; i < nr_frames; i++) {
		if (!dladdr(frames[i], &info))
			continue;
		if (info.dli_sname && strstr(info.dli_sname, "munmap"))
			munmap_is_there = true;
		if (munmap_is_there &&
		    (uintptr_t)info.dli_fbase == objects[SELF].base)
			caller_is_there = true;
	}
	CHECK(munmap_is_there);
	CHECK(caller_is_there);
}

/* --- what is refused, what is restored ----------------------------------- */

static bool text_is_original(const struct object *o)
{
	for (uint32_t i = 0; i < o->list.nr_sites; i++) {
		const struct pg_site *s = &o->list.sites[i];

		if (s->kind != PG_SITE_NONE &&
		    memcmp((void *)(o->base + s->offset), s->bytes, s->len))
			return false;
	}
	return true;
}

static bool has_writable_code(void)
{
	char line[512];
	bool found = false;
	FILE *f = fopen("/proc/self/maps", "r");

	CHECK(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, " rwx"))
			found = true;
	fclose(f);
	return found;
}

TEST(remove_puts_every_byte_back_and_no_page_is_writable_code)
{
	for (int i = 0; i < 20; i++) {
		install(count_and_let_through);
		CHECK(!text_is_original(&objects[LIBC]));
		CHECK(!text_is_original(&objects[LDSO]));
		CHECK(!has_writable_code());
		uninstall();
		CHECK(text_is_original(&objects[LIBC]));
		CHECK(text_is_original(&objects[LDSO]));
	}
}

TEST(another_object_than_that_of_the_list_is_left_alone)
{
	struct object *o = &objects[SELF];
	static struct pg_site_list list;
	struct pg_syscall_patch patch;

	find_sites();
	list = o->list;
	list.id[3] ^= 1;
	CHECK_EQ(pg_syscall_install(o->base, &list, &patch), -ESTALE);
	list = o->list;
	list.sites[list.nr_sites - 1].bytes[1] ^= 1;
	CHECK_EQ(pg_syscall_install(o->base, &list, &patch), -ESTALE);
	list = o->list;
	list.sites[0].offset = 1u << 31;
	CHECK_EQ(pg_syscall_install(o->base, &list, &patch), -ESTALE);
	CHECK(text_is_original(o));
}

static void *wait_for_stop(void *arg)
{
	while (!pg_load(&stop, relaxed))
		sched_yield();
	return arg;
}

TEST(a_process_with_other_threads_is_left_alone)
{
	struct object *o = &objects[LIBC];
	struct pg_syscall_patch patch;
	pthread_t t;

	find_sites();
	pg_store(&stop, 0, relaxed);
	CHECK_EQ(pthread_create(&t, NULL, wait_for_stop, NULL), 0);
	CHECK_EQ(pg_syscall_install(o->base, &o->list, &patch), -EBUSY);
	pg_store(&stop, 1, relaxed);
	pthread_join(t, NULL);
	CHECK(text_is_original(o));
}

TEST_MAIN()
