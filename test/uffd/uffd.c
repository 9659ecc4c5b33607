/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of src/mmu/uffd.c on the real MMU.
 *
 * A "world" is an instance with one watched range, pool memory of the same
 * size, and a fault thread that stands in for core: page i of the range is
 * either in place or in page i of the pool.
 */
#include "mmu/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/thread.h"
#include "test.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define TSAN 1
#else
#define TSAN 0
#endif
#if TSAN || defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define OWN_MALLOC 1
#else
#define OWN_MALLOC 0
#endif

#define PAGE ((size_t)PG_PAGE_SIZE)
#define MAX_PAGES 1024u

static const struct pg_uffd_config plain_config;
static const struct pg_uffd_config copy_config = {
	.mask = PG_UFFD_FEATURE_MOVE,
};
static const struct pg_uffd_config user_config = {.user = true};
static const struct pg_uffd_config event_config = {.events = true};

struct world {
	struct pg_mmu *m;
	struct pg_uffd_config config;
	char *va;
	size_t nr;
	char *pool;
	struct pg_thread server;
	struct pg_lock lock; /* the pages: LOCK_PT */
	bool away[MAX_PAGES];
	uint32_t faults[MAX_PAGES];   /* lock */
	struct pg_uffd_event last;    /* lock */
	struct pg_uffd_event log[64]; /* lock: events */
	uint32_t nr_log;
	pg_atomic32 hold; /* 1: the server must not read; 2: it does not */
	pg_atomic32 stop;
	pg_atomic32 up; /* 1: the server runs; 2: it could not start */
	void (*command)(struct world *w);
	pg_atomic32 command_set; /* the server runs it and clears this */
	bool own_files;
	bool inherit;
	int error;
	char text[256];
};

/* Static, because what the server uses must not be malloc memory. */
static struct world the_world;

static void fail_if(bool bad, const char *what)
{
	if (bad)
		pg_bug(what, __FILE__, __LINE__);
}

static void nap(void)
{
	struct timespec t = {.tv_nsec = 200000};

	nanosleep(&t, NULL);
}

/* ----- the stand-in for core ----- */

static void forget_pages(struct world *w, uintptr_t va, size_t nr)
{
	size_t first = (va - (uintptr_t)w->va) / PAGE;

	for (size_t i = first; i < first + nr && i < w->nr; i++) {
		if (w->away[i])
			w->m->ops->pool_drop(w->m, w->pool + i * PAGE, 1);
		w->away[i] = false;
	}
}

static void serve(struct world *w, const struct pg_uffd_event *ev)
{
	size_t i = (ev->va - (uintptr_t)w->va) / PAGE, done;
	int ret;

	if (ev->kind != PG_UFFD_FAULT) {
		fail_if(w->nr_log >= 64, "too many events");
		w->log[w->nr_log++] = *ev;
		if (ev->kind == PG_UFFD_REMOVE)
			forget_pages(w, ev->va, ev->nr);
		return;
	}
	if (i < w->nr) {
		w->faults[i]++;
		w->last = *ev;
	}
	if (i < w->nr && w->away[i]) {
		ret = w->m->ops->give(w->m, ev->va, w->pool + i * PAGE, 1,
				      &done);
		w->away[i] = ret != 0;
	} else {
		ret = w->m->ops->zero(w->m, ev->va, 1, &done);
	}
	/* EAGAIN: an event is unread; the thread faults again. */
	fail_if(ret && ret != -EEXIST && ret != -EAGAIN && ret != -ENOENT,
		"cannot serve a fault");
	w->m->ops->wake(w->m, ev->va, 1);
}

static void server_main(void *arg)
{
	struct world *w = arg;
	struct pg_uffd_event ev[8];

	if (w->own_files || w->inherit) {
		w->error = w->inherit
				   ? pg_uffd_inherit(w->m, w->text,
						     sizeof(w->text))
				   : pg_uffd_create(&w->config, &w->m, w->text,
						    sizeof(w->text));
		pg_store(&w->up, w->error ? 2 : 1, release);
		if (w->error)
			return;
	}
	while (!pg_load(&w->stop, acquire)) {
		int n;

		if (pg_load(&w->hold, acquire)) {
			uint32_t asked = 1;

			/* It may just be over. */
			pg_cas(&w->hold, &asked, 2, release);
			pg_yield();
			continue;
		}
		n = pg_uffd_read(w->m, ev, 8, 5);
		fail_if(n < 0, "cannot read");
		pg_lock(&w->lock, LOCK_PT);
		for (int i = 0; i < n; i++)
			serve(w, &ev[i]);
		pg_unlock(&w->lock, LOCK_PT);
		if (pg_load(&w->command_set, acquire)) {
			w->command(w);
			pg_store(&w->command_set, 0, release);
		}
	}
}

static void hold(struct world *w)
{
	pg_store(&w->hold, 1, release);
	while (pg_load(&w->hold, acquire) != 2)
		nap();
}

static void go_on(struct world *w)
{
	pg_store(&w->hold, 0, release);
}

/* Wait until a thread waits for the server, who holds. */
static void wait_for_message(struct world *w)
{
	struct pollfd pfd = {.fd = pg_uffd_fd(w->m), .events = POLLIN};

	CHECK_EQ(poll(&pfd, 1, 5000), 1);
}

static void on_server(struct world *w, void (*command)(struct world *w))
{
	w->command = command;
	pg_store(&w->command_set, 1, release);
	while (pg_load(&w->command_set, acquire))
		nap();
}

static char *map_at(size_t align, size_t nr)
{
	size_t len = nr * PAGE;
	char *p = mmap(NULL, len + align, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *a;

	CHECK(p != MAP_FAILED);
	a = (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
	if (a > p)
		munmap(p, (size_t)(a - p));
	munmap(a + len, (size_t)(p + align - a));
	return a;
}

/* An instance and nothing else. Skips the test where there is no permission. */
static struct world *world_new(const struct pg_uffd_config *config)
{
	struct world *w = &the_world;
	int ret;

	if (pg_load(&w->server.tid, acquire)) { /* the last test failed */
		pg_store(&w->hold, 0, release);
		pg_store(&w->stop, 1, release);
		pg_thread_join(&w->server);
	}
	memset(w, 0, sizeof(*w));
	w->config = *config;
	ret = pg_uffd_create(config, &w->m, w->text, sizeof(w->text));
	if (ret)
		SKIP(w->text);
	if (!(config->mask & PG_UFFD_FEATURE_MOVE) &&
	    !pg_uffd_features(w->m)->move) {
		pg_uffd_destroy(w->m);
		SKIP("this kernel has no UFFDIO_MOVE (Linux 6.8)");
	}
	return w;
}

/* The same with a range of @nr pages, page i filled with @i + 1 in each word,
 * watched, and the pool. */
static struct world *world_with(const struct pg_uffd_config *config, size_t nr)
{
	struct world *w = world_new(config);

	w->nr = nr;
	w->va = map_at((size_t)2 << 20, nr);
	for (size_t i = 0; i < nr * PAGE / 8; i++)
		((uint64_t *)(void *)w->va)[i] = i * 8 / PAGE + 1;
	w->pool = w->m->ops->pool_map(w->m, nr);
	CHECK(w->pool);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)w->va, nr), 0);
	return w;
}

static void serve_faults(struct world *w)
{
	CHECK_EQ(pg_thread_start(&w->server, server_main, w, w->own_files), 0);
}

static void world_end(struct world *w)
{
	pg_store(&w->stop, 1, release);
	pg_thread_join(&w->server);
	pg_uffd_destroy(w->m);
	munmap(w->va, w->nr * PAGE);
}

static uintptr_t page(const struct world *w, size_t i)
{
	return (uintptr_t)w->va + i * PAGE;
}

static uint64_t word(const char *p)
{
	return *(const volatile uint64_t *)(const volatile void *)p;
}

static void check_pages(const char *p, size_t first, size_t nr)
{
	for (size_t i = first; i < first + nr; i++) {
		CHECK_EQ(word(p + i * PAGE), i + 1);
		CHECK_EQ(word(p + i * PAGE + PAGE - 8), i + 1);
	}
}

/* Send pages away, as the evictor would. */
static int evict(struct world *w, size_t first, size_t nr, size_t *done)
{
	int ret;

	pg_lock(&w->lock, LOCK_PT);
	ret = w->m->ops->take(w->m, page(w, first), w->pool + first * PAGE, nr,
			      done);
	for (size_t i = first; i < first + *done; i++)
		w->away[i] = true;
	pg_unlock(&w->lock, LOCK_PT);
	return ret;
}

static void evict_all(struct world *w)
{
	size_t done;

	CHECK_EQ(evict(w, 0, w->nr, &done), 0);
	CHECK_EQ(done, w->nr);
}

static uint32_t faults(struct world *w, size_t i)
{
	uint32_t n;

	pg_lock(&w->lock, LOCK_PT);
	n = w->faults[i];
	pg_unlock(&w->lock, LOCK_PT);
	return n;
}

/* The last fault as core would see it. */
static struct pg_uffd_event last_fault(struct world *w)
{
	struct pg_uffd_event ev;

	pg_lock(&w->lock, LOCK_PT);
	ev = w->last;
	pg_unlock(&w->lock, LOCK_PT);
	return ev;
}

static uint32_t nr_events(struct world *w)
{
	uint32_t n;

	pg_lock(&w->lock, LOCK_PT);
	n = w->nr_log;
	pg_unlock(&w->lock, LOCK_PT);
	return n;
}

static size_t count_present(struct world *w, uintptr_t va, size_t nr)
{
	uint64_t bits[MAX_PAGES / 64];
	size_t n = 0;

	CHECK_EQ(w->m->ops->present(w->m, va, nr, bits), 0);
	for (size_t i = 0; i < nr; i++)
		n += bits[i / 64] >> (i % 64) & 1;
	return n;
}

static size_t huge_kb(const char *va)
{
	char line[256];
	FILE *f = fopen("/proc/self/smaps", "r");
	uintptr_t start, end;
	bool in = false;
	size_t kb = 0, n;

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in = start <= (uintptr_t)va && (uintptr_t)va < end;
		if (in && sscanf(line, "AnonHugePages: %zu", &n) == 1)
			kb += n;
	}
	fclose(f);
	return kb;
}

static bool huge_page_of_2_mb(void)
{
	char *p = map_at((size_t)2 << 20, 512);
	bool is;

	madvise(p, 512 * PAGE, MADV_HUGEPAGE);
	p[0] = 1;
	is = huge_kb(p);
	munmap(p, 512 * PAGE);
	return is;
}

/* Run @f in a child; return its exit status, or minus the signal. */
static int in_child(int (*f)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		alarm(20);
		_exit(f());
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* ----- opening ----- */

static int probe_as_nobody(void)
{
	struct pg_uffd_features f;
	struct pg_mmu *m;
	char text[256] = "";
	int ret;

	/* Dumpable, or /proc/self stays root's. */
	if (setgid(65534) || setuid(65534) || prctl(PR_SET_DUMPABLE, 1))
		return 2;
	ret = pg_uffd_probe(&f, text, sizeof(text));
	if (f.kernel)
		return 3;
	/* Linux before 5.11 has nothing for those without permission. */
	if ((ret && ret != -EPERM) || !strstr(text, pg_uffd_permission_hint) ||
	    !strstr(text, "vm.unprivileged_userfaultfd=1") ||
	    !strstr(text, "/dev/userfaultfd") || strchr(text, '\n'))
		return 4;
	text[0] = '\0';
	if (pg_uffd_create(&plain_config, &m, text, sizeof(text)) != -EPERM ||
	    !text[0])
		return 5;
	if (ret)
		return 0;
	if (pg_uffd_create(&user_config, &m, text, sizeof(text)) || text[0] ||
	    pg_uffd_features(m)->kernel)
		return 6;
	pg_uffd_destroy(m);
	return 0;
}

TEST(without_permission_the_error_says_how_to_get_it)
{
	int ret;

	if (geteuid())
		SKIP("needs root to become somebody without permission");
	ret = in_child(probe_as_nobody);
	if (ret == 3)
		SKIP("here everybody may use userfaultfd");
	CHECK_EQ(ret, 0);
}

TEST(without_permission_user_accesses_are_served_and_calls_get_EFAULT)
{
	struct world *w = world_with(&user_config, 8);
	size_t done;
	int fd[2];

	CHECK(!pg_uffd_features(w->m)->kernel);
	CHECK_EQ(pipe(fd), 0);
	serve_faults(w);
	CHECK_EQ(evict(w, 0, 8, &done), 0);
	CHECK_EQ(write(fd[1], w->va + PAGE, 16), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(word(w->va + PAGE), 2);
	CHECK_EQ(write(fd[1], w->va + PAGE, 16), 16);
	check_pages(w->va, 0, 8);
	close(fd[0]);
	close(fd[1]);
	world_end(w);
}

TEST(probe_says_what_create_finds)
{
	const struct pg_uffd_features *has;
	struct pg_uffd_features f;
	char text[256] = "x";
	struct world *w = world_new(&plain_config);

	CHECK_EQ(pg_uffd_probe(&f, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	has = pg_uffd_features(w->m);
	CHECK_EQ(f.bits, has->bits);
	CHECK_EQ(f.device, has->device);
	CHECK_EQ(f.move, has->move);
	CHECK_EQ(f.poison, has->poison);
	CHECK_EQ(f.events, has->events);
	CHECK(f.kernel && f.wp && has->kernel && has->wp);
	pg_uffd_destroy(w->m);
}

TEST(a_kernel_that_can_neither_move_nor_protect_is_refused)
{
	const struct pg_uffd_config config = {
		.mask = PG_UFFD_FEATURE_MOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	struct pg_mmu *m;
	char text[256] = "";

	pg_uffd_destroy(world_new(&plain_config)->m);
	CHECK_EQ(pg_uffd_create(&config, &m, text, sizeof(text)), -EOPNOTSUPP);
	CHECK(strstr(text, "Linux"));
}

TEST(create_survives_the_failure_of_each_of_its_calls)
{
	char text[256];
	struct pg_mmu *m;
	unsigned int n, failed = 0;

	pg_uffd_destroy(world_new(&plain_config)->m);
	for (n = 1;; n++) {
		int ret;

		pg_uffd_fail_nth(n, -EIO);
		ret = pg_uffd_create(&plain_config, &m, text, sizeof(text));
		if (pg_uffd_fail_nth(0, 0))
			break;
		CHECK_EQ(ret, -EIO);
		CHECK(text[0]);
		failed++;
	}
	pg_uffd_destroy(m);
	CHECK(failed >= 3);
	for (n = 1; n <= 2; n++) {
		pg_mem_fail_nth(n);
		CHECK_EQ(pg_uffd_create(&plain_config, &m, text, sizeof(text)),
			 -ENOMEM);
		CHECK(text[0]);
	}
	pg_mem_fail_nth(0);
}

/* ----- watching and faults ----- */

static void check_missing(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, 16);

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(word(w->va + 3 * PAGE), 4);
	CHECK_EQ(faults(w, 3), 1);
	CHECK_EQ(last_fault(w).flags, 0);
	if (pg_uffd_features(w->m)->bits & UFFD_FEATURE_THREAD_ID)
		CHECK_EQ(last_fault(w).tid, syscall(SYS_gettid));
	*(volatile char *)(w->va + 5 * PAGE + 100) = 42;
	CHECK_EQ(faults(w, 5), 1);
	CHECK_EQ(last_fault(w).flags, PG_FAULT_WRITE);
	CHECK_EQ(w->va[5 * PAGE + 100], 42);
	CHECK_EQ(word(w->va + 5 * PAGE), 6);
	CHECK_EQ(faults(w, 4), 0);
	world_end(w);
}

TEST(a_touch_of_an_absent_page_is_a_fault_with_its_page_kind_and_thread)
{
	check_missing(&plain_config);
}

TEST(the_same_with_copies)
{
	check_missing(&copy_config);
}

TEST(unwatched_absent_pages_read_as_zeros)
{
	struct world *w = world_with(&plain_config, 16);
	size_t done;

	CHECK_EQ(evict(w, 2, 4, &done), 0);
	w->m->ops->unwatch(w->m, (uintptr_t)w->va, 16);
	CHECK_EQ(word(w->va + 2 * PAGE), 0);
	check_pages(w->va, 6, 10);
	world_end(w);
}

TEST(without_a_runtime_a_fork_child_never_reads_zeros)
{
	const struct pg_uffd_config config = {.nofork = true};
	struct world *w = world_with(&config, 16);
	size_t done;
	int status;
	pid_t pid;

	CHECK_EQ(evict(w, 2, 4, &done), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		_exit(word(w->va + 2 * PAGE) == 0 ? 1 : 2);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(WTERMSIG(status), SIGSEGV);
	/* What is watched no more goes to children again. */
	w->m->ops->unwatch(w->m, (uintptr_t)w->va, 16);
	pid = fork();
	if (pid == 0)
		_exit(word(w->va + 8 * PAGE) == 9 ? 0 : 2);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	world_end(w);
}

static void *touch(void *p)
{
	return (void *)(uintptr_t)word(p);
}

TEST(unwatching_wakes_who_waits)
{
	struct world *w = world_with(&plain_config, 16);
	pthread_t t;
	void *got;

	evict_all(w);
	CHECK_EQ(pthread_create(&t, NULL, touch, w->va), 0);
	wait_for_message(w);
	w->m->ops->unwatch(w->m, (uintptr_t)w->va, 16);
	pthread_join(t, &got);
	CHECK_EQ((uintptr_t)got, 0);
	world_end(w);
}

TEST(unwatching_leaves_out_what_cannot_be_watched)
{
	struct world *w = world_with(&plain_config, 64);
	int fd = open("/proc/self/exe", O_RDONLY);

	evict_all(w);
	CHECK(mmap(w->va + 17 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED,
		   fd, 0) == w->va + 17 * PAGE);
	close(fd);
	w->m->ops->unwatch(w->m, (uintptr_t)w->va, 64);
	for (size_t i = 0; i < 64; i++)
		if (i != 17) /* would hang if it were still watched */
			CHECK_EQ(word(w->va + i * PAGE), 0);
	world_end(w);
}

TEST(a_hole_or_a_file_is_not_watched)
{
	struct world *w = world_with(&plain_config, 16);
	char *p = map_at(PAGE, 16);
	int fd = open("/proc/self/exe", O_RDONLY);

	munmap(p + 4 * PAGE, 4 * PAGE);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p, 16), -ENOMEM);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p + 4 * PAGE, 4), -ENOMEM);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p + 6 * PAGE, 4), -ENOMEM);
	CHECK(mmap(p + 4 * PAGE, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED,
		   fd, 0) != MAP_FAILED);
	close(fd);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p, 16), -EINVAL);
	/* Nobody serves: a touch would hang if anything were watched. */
	CHECK_EQ(word(p), 0);
	CHECK_EQ(word(p + 15 * PAGE), 0);
	munmap(p, 16 * PAGE);
	world_end(w);
}

TEST(N56_memory_that_somebody_else_watches_is_refused_and_stays_theirs)
{
	struct world *w = world_with(&plain_config, 16);
	char *p = map_at(PAGE, 16);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register r = {
		.range = {.start = (uintptr_t)p + 4 * PAGE, .len = PAGE},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_zeropage z = {.range = r.range};
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	struct uffd_msg msg;
	pthread_t t;

	if (fd < 0)
		SKIP("no permission for the system call");
	CHECK_EQ(ioctl(fd, UFFDIO_API, &api), 0);
	CHECK_EQ(ioctl(fd, UFFDIO_REGISTER, &r), 0);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p, 16), -EBUSY);
	CHECK_EQ(word(p), 0); /* would hang if it were watched */
	CHECK_EQ(word(p + 15 * PAGE), 0);
	CHECK_EQ(pthread_create(&t, NULL, touch, p + 4 * PAGE), 0);
	CHECK_EQ(poll(&pfd, 1, 5000), 1);
	CHECK_EQ(read(fd, &msg, sizeof(msg)), sizeof(msg));
	CHECK_EQ(msg.arg.pagefault.address, (uintptr_t)p + 4 * PAGE);
	CHECK_EQ(ioctl(fd, UFFDIO_ZEROPAGE, &z), 0);
	pthread_join(t, NULL);
	close(fd);
	munmap(p, 16 * PAGE);
	world_end(w);
}

/* ----- taking and giving ----- */

static void check_both_ways(const struct pg_uffd_config *config, size_t nr)
{
	struct world *w = world_with(config, nr);
	size_t done;

	for (int round = 0; round < 3; round++) {
		evict_all(w);
		CHECK_EQ(count_present(w, (uintptr_t)w->va, nr), 0);
		CHECK_EQ(count_present(w, (uintptr_t)w->pool, nr), nr);
		check_pages(w->pool, 0, nr);
		CHECK_EQ(w->m->ops->give(w->m, (uintptr_t)w->va, w->pool, nr,
					 &done),
			 0);
		CHECK_EQ(done, nr);
		CHECK_EQ(count_present(w, (uintptr_t)w->va, nr), nr);
		CHECK_EQ(count_present(w, (uintptr_t)w->pool, nr), 0);
		check_pages(w->va, 0, nr);
	}
	CHECK_EQ(pg_uffd_copied(w->m),
		 config->mask & PG_UFFD_FEATURE_MOVE ? 6 * nr : 0);
	world_end(w);
}

TEST(pages_go_out_and_come_back_by_move)
{
	check_both_ways(&plain_config, 1);
	check_both_ways(&plain_config, 16);
	check_both_ways(&plain_config, 777);
}

TEST(pages_go_out_and_come_back_by_copy)
{
	check_both_ways(&copy_config, 1);
	check_both_ways(&copy_config, 16);
	check_both_ways(&copy_config, 777);
}

TEST(a_huge_page_stays_huge_both_ways)
{
	struct world *w = world_new(&plain_config);
	size_t done;

	w->nr = 512;
	w->va = map_at((size_t)2 << 20, 512);
	madvise(w->va, 512 * PAGE, MADV_HUGEPAGE);
	memset(w->va, 7, 512 * PAGE);
	if (huge_kb(w->va) != 2048) {
		world_end(w);
		SKIP("no huge page to be had");
	}
	w->pool = w->m->ops->pool_map(w->m, 512);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)w->va, 512), 0);
	evict_all(w);
	CHECK_EQ(huge_kb(w->pool), 2048);
	CHECK_EQ(w->pool[511 * PAGE], 7);
	CHECK_EQ(w->m->ops->give(w->m, (uintptr_t)w->va, w->pool, 512, &done),
		 0);
	CHECK_EQ(huge_kb(w->va), 2048);
	/* A part of it works as well. */
	CHECK_EQ(evict(w, 100, 3, &done), 0);
	CHECK_EQ(count_present(w, (uintptr_t)w->va, 512), 509);
	CHECK_EQ(w->pool[102 * PAGE], 7);
	world_end(w);
}

static void check_hole(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, 16);
	size_t done;

	CHECK_EQ(evict(w, 5, 2, &done), 0);
	check_pages(w->pool, 5, 2);
	/* A buffer has no page in it when it is handed to take. */
	w->m->ops->pool_drop(w->m, w->pool + 5 * PAGE, 2);
	CHECK_EQ(evict(w, 0, 16, &done), -ENOENT);
	CHECK_EQ(done, 5);
	CHECK_EQ(evict(w, 6, 10, &done), -ENOENT);
	CHECK_EQ(done, 0);
	CHECK_EQ(evict(w, 7, 9, &done), 0);
	CHECK_EQ(done, 9);
	check_pages(w->pool, 0, 5);
	check_pages(w->pool, 7, 9);
	world_end(w);
}

TEST(take_stops_at_a_hole_and_goes_on_behind_it)
{
	check_hole(&plain_config);
	check_hole(&copy_config);
}

TEST(take_stops_at_a_pinned_page_and_goes_on_behind_it)
{
	struct world *w = world_with(&plain_config, 16);
	struct io_uring_params params = {0};
	struct iovec iov = {.iov_base = w->va + 6 * PAGE, .iov_len = PAGE};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	size_t done;

	if (ring < 0) {
		world_end(w);
		SKIP("no io_uring to pin a page with");
	}
	CHECK_EQ(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS,
			 &iov, 1),
		 0);
	CHECK_EQ(evict(w, 0, 16, &done), -EBUSY);
	CHECK_EQ(done, 6);
	CHECK_EQ(evict(w, 7, 9, &done), 0);
	CHECK_EQ(done, 9);
	CHECK_EQ(word(w->va + 6 * PAGE), 7);
	close(ring);
	/* Unpinned it moves, but io_uring lets go in its own time. */
	for (int i = 0; evict(w, 6, 1, &done) == -EBUSY && i < 20000; i++)
		nap();
	CHECK_EQ(done, 1);
	check_pages(w->pool, 0, 16);
	world_end(w);
}

TEST(take_leaves_alone_what_the_buffer_holds)
{
	struct world *w = world_with(&plain_config, 4);
	size_t done;

	w->pool[PAGE] = 9;
	CHECK_EQ(evict(w, 0, 4, &done), -EEXIST);
	CHECK_EQ(done, 1);
	CHECK_EQ(w->pool[PAGE], 9);
	check_pages(w->va, 1, 3);
	world_end(w);
}

static void check_fork_shared(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, 256);
	size_t done;
	int go[2], status;
	char c = 0;
	pid_t pid;

	CHECK_EQ(pipe(go), 0);
	pid = fork();
	if (pid == 0) {
		/* The child keeps what was there at the fork. */
		close(go[1]);
		if (read(go[0], &c, 1) != 1)
			_exit(1);
		for (size_t i = 0; i < 256; i++)
			if (word(w->va + i * PAGE) != i + 1)
				_exit(2);
		_exit(0);
	}
	close(go[0]);
	CHECK_EQ(evict(w, 0, 256, &done), 0);
	CHECK_EQ(done, 256);
	check_pages(w->pool, 0, 256);
	for (size_t i = 0; i < 256; i++)
		w->pool[i * PAGE] = 99;
	CHECK_EQ(write(go[1], &c, 1), 1);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	close(go[1]);
	world_end(w);
}

TEST(pages_shared_by_a_fork_are_taken_and_the_child_keeps_its_own)
{
	check_fork_shared(&plain_config);
	check_fork_shared(&copy_config);
}

TEST(pages_are_taken_after_the_child_has_gone)
{
	struct world *w = world_with(&plain_config, 16);
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	evict_all(w);
	check_pages(w->pool, 0, 16);
	world_end(w);
}

TEST(pool_pages_shared_by_a_fork_are_given_as_copies)
{
	struct world *w = world_with(&plain_config, 16);
	size_t done;
	pid_t pid;

	evict_all(w);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	CHECK_EQ(w->m->ops->give(w->m, (uintptr_t)w->va, w->pool, 16, &done),
		 0);
	CHECK_EQ(done, 16);
	CHECK_EQ(pg_uffd_copied(w->m), 16);
	check_pages(w->va, 0, 16);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 16), 0);
	world_end(w);
}

TEST(locked_pages_stay_and_read_only_and_inaccessible_ones_are_copied)
{
	struct world *w = world_with(&plain_config, 16);
	size_t done;

	CHECK_EQ(syscall(SYS_mlock, w->va + 4 * PAGE, PAGE), 0);
	CHECK_EQ(evict(w, 0, 16, &done), -EINVAL);
	CHECK_EQ(done, 4);
	CHECK_EQ(mprotect(w->va + 8 * PAGE, PAGE, PROT_READ), 0);
	CHECK_EQ(mprotect(w->va + 12 * PAGE, PAGE, PROT_NONE), 0);
	CHECK_EQ(evict(w, 5, 11, &done), 0);
	CHECK_EQ(done, 11);
	CHECK(pg_uffd_copied(w->m) >= 2);
	check_pages(w->pool, 5, 11);
	CHECK_EQ(count_present(w, (uintptr_t)w->va, 16), 1);
	CHECK_EQ(word(w->va + 4 * PAGE), 5);
	world_end(w);
}

TEST(locked_pages_are_not_copied_out)
{
	struct world *w = world_with(&copy_config, 16);
	size_t done;

	CHECK_EQ(syscall(SYS_mlock, w->va + 4 * PAGE, PAGE), 0);
	CHECK_EQ(evict(w, 0, 16, &done), -EINVAL);
	CHECK_EQ(done, 4);
	/* Nobody serves: this would hang on a page that stayed protected. */
	for (size_t i = 4; i < 16; i++)
		*(volatile char *)(w->va + i * PAGE) = (char)(i + 1);
	world_end(w);
}

static void check_give_everywhere(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, 20);
	size_t done;

	evict_all(w);
	CHECK_EQ(mprotect(w->va + 4 * PAGE, 4 * PAGE, PROT_READ), 0);
	CHECK_EQ(mprotect(w->va + 8 * PAGE, 4 * PAGE, PROT_NONE), 0);
	CHECK_EQ(
		syscall(SYS_mlock2, w->va + 16 * PAGE, 4 * PAGE, MLOCK_ONFAULT),
		0);
	CHECK_EQ(w->m->ops->give(w->m, (uintptr_t)w->va, w->pool, 20, &done),
		 0);
	CHECK_EQ(done, 20);
	CHECK_EQ(mprotect(w->va + 8 * PAGE, 4 * PAGE, PROT_READ), 0);
	check_pages(w->va, 0, 20);
	if (!config->mask) /* out 0, in 12 */
		CHECK_EQ(pg_uffd_copied(w->m), 12);
	world_end(w);
}

TEST(pages_are_given_to_read_only_inaccessible_and_locked_memory)
{
	check_give_everywhere(&plain_config);
	check_give_everywhere(&copy_config);
}

static void check_give_errors(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, 16);
	size_t done;

	evict_all(w);
	CHECK_EQ(w->m->ops->zero(w->m, page(w, 3), 1, &done), 0);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 0), w->pool, 16, &done),
		 -EEXIST);
	CHECK_EQ(done, 3);
	w->m->ops->pool_drop(w->m, w->pool + 6 * PAGE, 1);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 4), w->pool + 4 * PAGE, 12,
				 &done),
		 -EFAULT);
	CHECK_EQ(done, 2);
	CHECK_EQ(count_present(w, page(w, 6), 1), 0);
	munmap(w->va + 10 * PAGE, PAGE);
	CHECK_EQ(
		w->m->ops->give(w->m, page(w, 7), w->pool + 7 * PAGE, 9, &done),
		-ENOENT);
	CHECK_EQ(done, 3);
	CHECK_EQ(w->m->ops->zero(w->m, page(w, 10), 1, &done), -ENOENT);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 11), w->pool + 11 * PAGE, 5,
				 &done),
		 0);
	CHECK_EQ(done, 5);
	check_pages(w->va, 11, 5);
	CHECK_EQ(word(w->va + 3 * PAGE), 0);
	world_end(w);
}

TEST(give_stops_at_a_present_page_an_empty_buffer_and_unmapped_memory)
{
	check_give_errors(&plain_config);
	check_give_errors(&copy_config);
}

TEST(zeroed_pages_are_private_and_fault_no_more)
{
	struct world *w = world_with(&plain_config, 700);
	size_t done;

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(w->m->ops->zero(w->m, (uintptr_t)w->va, 700, &done), 0);
	CHECK_EQ(done, 700);
	for (size_t i = 0; i < 700; i++) {
		CHECK_EQ(word(w->va + i * PAGE), 0);
		w->va[i * PAGE] = (char)i;
		CHECK_EQ(faults(w, i), 0);
	}
	CHECK_EQ(word(w->va + 2 * PAGE), 2);
	CHECK_EQ(w->m->ops->zero(w->m, page(w, 2), 1, &done), -EEXIST);
	CHECK_EQ(done, 0);
	world_end(w);
}

TEST(zero_goes_on_over_the_edge_of_a_mapping)
{
	struct world *w = world_with(&plain_config, 64);
	size_t done;

	evict_all(w);
	CHECK_EQ(mprotect(w->va + 13 * PAGE, 10 * PAGE, PROT_READ), 0);
	CHECK_EQ(w->m->ops->zero(w->m, (uintptr_t)w->va, 64, &done), 0);
	CHECK_EQ(done, 64);
	CHECK_EQ(count_present(w, (uintptr_t)w->va, 64), 64);
	world_end(w);
}

TEST(present_tells_pages_from_holes)
{
	struct world *w = world_with(&plain_config, 1000);
	uint64_t bits[MAX_PAGES / 64];
	uint64_t seed = test_seed();
	bool there[1000];
	size_t done;

	for (size_t i = 0; i < 1000; i++) {
		there[i] = test_random(&seed) & 1;
		if (!there[i])
			CHECK_EQ(evict(w, i, 1, &done), 0);
	}
	memset(bits, 0xaa, sizeof(bits));
	CHECK_EQ(w->m->ops->present(w->m, (uintptr_t)w->va, 1000, bits), 0);
	for (size_t i = 0; i < 1000; i++)
		CHECK_EQ(bits[i / 64] >> (i % 64) & 1, there[i]);
	world_end(w);
}

TEST(the_pool_takes_stores_without_a_fault_and_gives_its_pages_back)
{
	struct world *w = world_with(&event_config, 16);

	/* Nobody reads: a fault or an event of the pool would hang. */
	w->pool[3 * PAGE] = 1;
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 16), 1);
	CHECK_EQ(w->m->ops->pool_fill(w->m, w->pool, 16), 0);
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 16), 16);
	CHECK_EQ(w->pool[3 * PAGE], 1);
	w->m->ops->pool_drop(w->m, w->pool, 8);
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 16), 8);
	CHECK_EQ(word(w->pool + 3 * PAGE), 0);
	w->m->ops->pool_unmap(w->m, w->pool, 16);
	CHECK(!pg_mem_is_own((uintptr_t)w->pool, 16 * PAGE));
	CHECK_EQ((uintptr_t)w->m->ops->pool_map(w->m, 1) % ((size_t)2 << 20),
		 0);
	CHECK(!w->m->ops->pool_map(w->m, 0));
	CHECK(!w->m->ops->pool_map(w->m, SIZE_MAX / 2));
	world_end(w);
}

TEST(a_buffer_as_large_as_a_huge_page_is_one_and_moves_whole)
{
	struct world *w = world_with(&plain_config, 512);
	size_t done;

	CHECK_EQ(w->m->ops->pool_fill(w->m, w->pool, 512), 0);
	if (!huge_page_of_2_mb())
		SKIP("no huge pages");
	CHECK_EQ(huge_kb(w->pool), 2048);
	/* Only what was asked for. */
	w->m->ops->pool_drop(w->m, w->pool, 512);
	CHECK_EQ(w->m->ops->pool_fill(w->m, w->pool, 16), 0);
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 512), 16);
	w->m->ops->pool_drop(w->m, w->pool, 512);
	w->pool[0] = 1;
	CHECK_EQ(count_present(w, (uintptr_t)w->pool, 512), 1);
	w->m->ops->pool_drop(w->m, w->pool, 512);
	/* There and back. */
	CHECK_EQ(w->m->ops->pool_fill(w->m, w->pool, 512), 0);
	memset(w->pool, 9, 512 * PAGE);
	madvise(w->va, 512 * PAGE, MADV_DONTNEED);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 0), w->pool, 512, &done), 0);
	CHECK_EQ(done, 512);
	CHECK_EQ(huge_kb(w->va), 2048);
	CHECK_EQ(w->m->ops->take(w->m, page(w, 0), w->pool, 512, &done), 0);
	CHECK_EQ(huge_kb(w->pool), 2048);
	CHECK_EQ(w->pool[511 * PAGE], 9);
	pg_uffd_destroy(w->m);
	munmap(w->va, w->nr * PAGE);
}

/* ----- lost stores ----- */

#define RACE_PAGES 8u

struct writer {
	struct world *w;
	uint64_t sum;
	pg_atomic32 stop;
};

static void *write_words(void *arg)
{
	struct writer *wr = arg;

	for (; !pg_load(&wr->stop, relaxed); wr->sum++) {
		size_t at = wr->sum % RACE_PAGES * PAGE + wr->sum % 500 * 8;

		++*(volatile uint64_t *)(void *)(wr->w->va + at);
	}
	return NULL;
}

static void check_no_lost_store(const struct pg_uffd_config *config)
{
	struct world *w = world_with(config, RACE_PAGES);
	struct writer wr = {.w = w};
	uint64_t end = pg_now_ns() + 700000000u, sum = 0, moved = 0;
	uint64_t seed = test_seed();
	pthread_t t;

	memset(w->va, 0, RACE_PAGES * PAGE);
	serve_faults(w);
	CHECK_EQ(pthread_create(&t, NULL, write_words, &wr), 0);
	while (pg_now_ns() < end) {
		size_t first = test_random(&seed) % RACE_PAGES, done;
		int ret = evict(w, first, RACE_PAGES - first, &done);

		fail_if(ret && ret != -ENOENT, "take failed");
		moved += done;
		if (test_random(&seed) % 8 == 0)
			nap();
	}
	pg_store(&wr.stop, 1, relaxed);
	pthread_join(t, NULL);
	for (size_t i = 0; i < RACE_PAGES * PAGE / 8; i++)
		sum += ((volatile uint64_t *)(void *)w->va)[i];
	CHECK_EQ(sum, wr.sum);
	CHECK(moved > 100);
	CHECK(wr.sum > 1000);
	world_end(w);
}

TEST(N14_no_store_is_lost_when_pages_are_moved_out)
{
	check_no_lost_store(&plain_config);
}

TEST(N14_no_store_is_lost_when_pages_are_copied_out)
{
	check_no_lost_store(&copy_config);
}

static void *write_word(void *p)
{
	*(volatile uint64_t *)p = 77;
	return NULL;
}

/* Whoever goes to sleep when the page has just gone gets no other wake-up. */
TEST(N14_a_store_to_what_is_on_its_way_out_is_told_as_a_fault)
{
	struct world *w = world_with(&copy_config, 8);
	struct uffdio_writeprotect arg = {
		.range = {.start = page(w, 3), .len = PAGE},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct pg_uffd_event ev;
	pthread_t t;

	memset(w->va, 0, 8 * PAGE);
	CHECK_EQ(ioctl(pg_uffd_fd(w->m), UFFDIO_WRITEPROTECT, &arg), 0);
	CHECK_EQ(pthread_create(&t, NULL, write_word, w->va + 3 * PAGE), 0);
	CHECK_EQ(pg_uffd_read(w->m, &ev, 1, 5000), 1);
	CHECK_EQ(ev.kind, PG_UFFD_FAULT);
	CHECK_EQ(ev.va, page(w, 3));
	CHECK_EQ(ev.flags, PG_FAULT_WRITE);
	arg.mode = 0;
	CHECK_EQ(ioctl(pg_uffd_fd(w->m), UFFDIO_WRITEPROTECT, &arg), 0);
	pthread_join(t, NULL);
	CHECK_EQ(word(w->va + 3 * PAGE), 77);
	world_end(w);
}

TEST(N14_no_store_is_lost_when_pages_are_copied_out_and_events_are_on)
{
	const struct pg_uffd_config config = {.events = true,
					      .mask = PG_UFFD_FEATURE_MOVE};
	struct world *w = world_with(&config, 16);
	size_t done;

	serve_faults(w);
	for (int i = 0; i < 50; i++) {
		int ret;

		while ((ret = w->m->ops->take(w->m, page(w, 4), w->pool, 8,
					      &done)) == -EAGAIN)
			nap();
		CHECK_EQ(ret, 0);
		CHECK_EQ(done, 8);
		while ((ret = w->m->ops->give(w->m, page(w, 4), w->pool, 8,
					      &done)) == -EAGAIN)
			nap();
		CHECK_EQ(ret, 0);
		check_pages(w->va, 4, 8);
		w->m->ops->pool_drop(w->m, w->pool, 8);
	}
	CHECK_EQ(nr_events(w), 0); /* our own zaps are nobody's business */
	world_end(w);
}

/* ----- who faults, and where ----- */

TEST(system_calls_find_absent_pages)
{
	struct world *w = world_with(&plain_config, 64);
	char *buf = map_at(PAGE, 16);
	struct iovec to = {.iov_base = buf, .iov_len = 16 * PAGE};
	struct iovec from = {.iov_base = w->va + 40 * PAGE,
			     .iov_len = 16 * PAGE};
	int p[2];

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(pipe(p), 0);
	/* write(2) from absent pages, read(2) into absent pages. */
	CHECK_EQ(write(p[1], w->va + PAGE, 4 * PAGE), 4 * PAGE);
	CHECK_EQ(read(p[0], w->va + 11 * PAGE, 2 * PAGE), 2 * PAGE);
	CHECK_EQ(word(w->va + 11 * PAGE), 2);
	CHECK_EQ(word(w->va + 12 * PAGE), 3);
	CHECK_EQ(word(w->va + 13 * PAGE), 14);
	CHECK_EQ(process_vm_readv(getpid(), &to, 1, &from, 1, 0), 16 * PAGE);
	for (size_t i = 0; i < 16; i++)
		CHECK_EQ(word(buf + i * PAGE), 41 + i);
	close(p[0]);
	close(p[1]);
	munmap(buf, 16 * PAGE);
	world_end(w);
}

/* One write by io_uring. Return: its result, or -ENOSYS without io_uring. */
static int uring_write(int fd, const void *buf, uint32_t len)
{
	struct io_uring_params p = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &p);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char *sq, *cq;
	int ret;

	if (ring < 0)
		return -ENOSYS;
	sq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		  IORING_OFF_SQ_RING);
	cq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		  IORING_OFF_CQ_RING);
	sqe = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		   IORING_OFF_SQES);
	CHECK(sq != MAP_FAILED && cq != MAP_FAILED && sqe != MAP_FAILED);
	*sqe = (struct io_uring_sqe){.opcode = IORING_OP_WRITE,
				     .fd = fd,
				     .addr = (uintptr_t)buf,
				     .len = len};
	((uint32_t *)(void *)(sq + p.sq_off.array))[0] = 0;
	((uint32_t *)(void *)(sq + p.sq_off.tail))[0] = 1;
	CHECK_EQ(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS,
			 NULL, 0),
		 1);
	cqe = (struct io_uring_cqe *)(void *)(cq + p.cq_off.cqes);
	ret = cqe->res;
	munmap(sq, PAGE);
	munmap(cq, PAGE);
	munmap(sqe, PAGE);
	close(ring);
	return ret;
}

TEST(io_uring_finds_absent_pages)
{
	struct world *w = world_with(&plain_config, 16);
	int p[2], ret;

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(pipe(p), 0);
	ret = uring_write(p[1], w->va + 2 * PAGE, 2 * PG_PAGE_SIZE);
	if (ret == -ENOSYS) {
		world_end(w);
		SKIP("no io_uring");
	}
	CHECK_EQ(ret, 2 * PAGE);
	CHECK_EQ(read(p[0], w->va + 8 * PAGE, 2 * PAGE), 2 * PAGE);
	CHECK_EQ(word(w->va + 9 * PAGE), 4);
	close(p[0]);
	close(p[1]);
	world_end(w);
}

TEST(a_debugger_gets_an_error_for_an_absent_page_and_does_not_hang)
{
	struct world *w = world_with(&plain_config, 16);
	int fd = open("/proc/self/mem", O_RDONLY);
	uint64_t v;

	evict_all(w);
	CHECK(fd >= 0);
	CHECK_EQ(pread(fd, &v, sizeof(v), (off_t)page(w, 3)), -1);
	CHECK_EQ(errno, EIO);
	close(fd);
	world_end(w);
}

static pg_atomic32 nr_signals;

static void on_signal(int sig)
{
	(void)sig;
	pg_fetch_add(&nr_signals, 1, seq_cst);
}

static void catch_usr1(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	pg_store(&nr_signals, 0, seq_cst);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
}

TEST(a_signal_is_handled_while_its_thread_waits_for_a_page)
{
	struct world *w;
	pthread_t t;
	void *got;

	if (TSAN)
		SKIP("TSan puts handlers off until a system call");
	w = world_with(&plain_config, 16);
	evict_all(w);
	catch_usr1();
	serve_faults(w);
	hold(w);
	CHECK_EQ(pthread_create(&t, NULL, touch, w->va + 3 * PAGE), 0);
	wait_for_message(w);
	for (uint32_t i = 1; i <= 3; i++) {
		CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
		for (int k = 0; pg_load(&nr_signals, seq_cst) < i; k++) {
			CHECK(k < 20000);
			nap();
		}
	}
	go_on(w);
	pthread_join(t, &got);
	CHECK_EQ((uintptr_t)got, 4);
	world_end(w);
}

struct reading {
	int fd;
	char *to;
	long got;
};

static void *read_page(void *arg)
{
	struct reading *r = arg;

	r->got = read(r->fd, r->to, PAGE);
	return NULL;
}

TEST(a_system_call_that_waits_for_a_page_is_not_broken_by_a_signal)
{
	struct world *w = world_with(&plain_config, 16);
	struct reading r = {.to = w->va + 3 * PAGE};
	int p[2];
	pthread_t t;

	evict_all(w);
	CHECK_EQ(pipe(p), 0);
	r.fd = p[0];
	CHECK_EQ(write(p[1], w->m, PAGE), PAGE);
	catch_usr1();
	serve_faults(w);
	hold(w);
	CHECK_EQ(pthread_create(&t, NULL, read_page, &r), 0);
	wait_for_message(w);
	CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
	for (int i = 0; i < 50; i++)
		nap();
	CHECK_EQ(pg_load(&nr_signals, seq_cst), 0);
	go_on(w);
	pthread_join(t, NULL);
	CHECK_EQ(r.got, PAGE);
	CHECK_EQ(pg_load(&nr_signals, seq_cst), 1);
	assert_memory_equal(r.to, w->m, PAGE);
	close(p[0]);
	close(p[1]);
	world_end(w);
}

static char *signal_page;
static uint64_t signal_word;

static void touch_in_handler(int sig)
{
	(void)sig;
	signal_word = word(signal_page);
}

TEST(N62_faults_are_served_with_sigbus_blocked_and_in_a_signal_handler)
{
	struct world *w = world_with(&plain_config, 16);
	char *stack = map_at(PAGE, 16);
	stack_t ss = {.ss_sp = stack, .ss_size = 16 * PAGE}, old;
	struct sigaction sa = {.sa_handler = touch_in_handler,
			       .sa_flags = SA_ONSTACK};
	sigset_t all, mask;

	evict_all(w);
	serve_faults(w);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &mask);
	CHECK_EQ(word(w->va + PAGE), 2);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);

	sigaltstack(&ss, &old);
	sigaction(SIGUSR1, &sa, NULL);
	signal_page = w->va + 9 * PAGE;
	raise(SIGUSR1);
	CHECK_EQ(signal_word, 10);
	sigaltstack(&old, NULL);
	munmap(stack, 16 * PAGE);
	world_end(w);
}

/* Fill the heap, send it away, and let malloc and free find their lists. */
TEST(N62_faults_are_served_inside_malloc)
{
	enum { N = 4000 };
	struct world *w;
	static char *chunk[N];
	uintptr_t low, high;
	uint32_t before = 0, after = 0;
	size_t done;

	if (OWN_MALLOC)
		SKIP("not with the malloc of a sanitizer");
	w = world_with(&plain_config, 4);
	for (size_t i = 0; i < N; i++) {
		chunk[i] = malloc(1000);
		memset(chunk[i], (int)i, 1000);
	}
	for (size_t i = 0; i < N; i += 2)
		free(chunk[i]);
	low = ((uintptr_t)chunk[100] + PAGE) & ~(PAGE - 1);
	high = ((uintptr_t)chunk[N - 99]) & ~(PAGE - 1);
	if (high < low || (high - low) / PAGE > MAX_PAGES ||
	    high - low < 100 * PAGE) {
		world_end(w);
		SKIP("this malloc does not keep its chunks in one heap");
	}
	munmap(w->va, w->nr * PAGE);
	w->va = (char *)low;
	w->nr = (high - low) / PAGE;
	w->pool = w->m->ops->pool_map(w->m, w->nr);
	CHECK_EQ(w->m->ops->watch(w->m, low, w->nr), 0);
	serve_faults(w);
	/* From here to the check nothing may print. */
	CHECK_EQ(evict(w, 0, w->nr, &done), 0);
	before = w->nr == done;
	for (size_t i = 0; i < N; i += 2)
		chunk[i] = malloc(990 + i % 16);
	for (size_t i = 0; i < N; i++)
		if (i % 2)
			after += (unsigned char)chunk[i][999] != (i & 255);
	for (size_t i = 0; i < N; i++)
		free(chunk[i]);
	CHECK(before);
	CHECK_EQ(after, 0);
	/* Bring everything back before the heap loses its server. */
	for (size_t i = 0; i < w->nr; i++)
		word(w->va + i * PAGE);
	w->m->ops->unwatch(w->m, low, w->nr);
	pg_lock(&w->lock, LOCK_PT);
	w->nr = 0;
	pg_unlock(&w->lock, LOCK_PT);
	world_end(w);
}

static void *hammer(void *arg)
{
	struct world *w = arg;
	uintptr_t bad = 0;

	for (size_t k = 0; k < 20 * w->nr; k++) {
		size_t i = k * 7 % w->nr;

		bad += word(w->va + i * PAGE) != i + 1;
	}
	return (void *)bad;
}

TEST(four_threads_fault_the_same_pages)
{
	struct world *w = world_with(&plain_config, 64);
	uint32_t total = 0;
	pthread_t t[4];
	void *bad;
	size_t done;

	serve_faults(w);
	evict_all(w);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, hammer, w), 0);
	for (int k = 0; k < 200; k++)
		evict(w, (size_t)k % 64, 64 - (size_t)k % 64, &done);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &bad);
		CHECK_EQ((uintptr_t)bad, 0);
	}
	for (size_t i = 0; i < 64; i++)
		total += faults(w, i);
	CHECK(total >= 64);
	world_end(w);
}

/* ----- poison ----- */

static sigjmp_buf bus;
static void *volatile bus_addr;
static volatile int bus_code;

static void on_bus(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	bus_addr = si->si_addr;
	bus_code = si->si_code;
	siglongjmp(bus, 1);
}

TEST(a_poisoned_page_is_sigbus_with_the_address_and_efault)
{
	struct world *w = world_with(&plain_config, 16);
	struct sigaction sa = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
	struct sigaction old;
	bool survived = false;
	int p[2];

	if (!pg_uffd_features(w->m)->poison) {
		CHECK_EQ(w->m->ops->poison(w->m, page(w, 3), 1), -EOPNOTSUPP);
		world_end(w);
		SKIP("this kernel has no UFFDIO_POISON (Linux 6.6)");
	}
	CHECK_EQ(w->m->ops->poison(w->m, page(w, 3), 1), -EEXIST);
	evict_all(w);
	CHECK_EQ(w->m->ops->poison(w->m, page(w, 3), 2), 0);
	sigaction(SIGBUS, &sa, &old);
	bus_addr = NULL;
	if (!sigsetjmp(bus, 1)) {
		word(w->va + 4 * PAGE + 64);
		survived = true;
	}
	sigaction(SIGBUS, &old, NULL);
	CHECK(!survived);
	CHECK_EQ((uintptr_t)bus_addr & ~(PAGE - 1), page(w, 4));
	CHECK(bus_code == BUS_ADRERR || bus_code == BUS_MCEERR_AR);
	CHECK_EQ(pipe(p), 0);
	CHECK_EQ(write(p[1], "x", 1), 1);
	CHECK_EQ(read(p[0], w->va + 3 * PAGE, 1), -1);
	CHECK_EQ(errno, EFAULT);
	close(p[0]);
	close(p[1]);
	world_end(w);
}

TEST(where_poison_is_missing_it_says_so)
{
	const struct pg_uffd_config config = {.mask = PG_UFFD_FEATURE_POISON};
	struct world *w = world_with(&config, 4);

	evict_all(w);
	CHECK_EQ(w->m->ops->poison(w->m, page(w, 3), 1), -EOPNOTSUPP);
	world_end(w);
}

/* ----- events ----- */

struct changing {
	struct world *w;
	int (*change)(struct world *w);
	int ret;
};

static void *change_main(void *arg)
{
	struct changing *c = arg;

	c->ret = c->change(c->w);
	return NULL;
}

static int do_dontneed(struct world *w)
{
	return madvise(w->va + 4 * PAGE, 3 * PAGE, MADV_DONTNEED);
}

static int do_munmap(struct world *w)
{
	return munmap(w->va + 4 * PAGE, 3 * PAGE);
}

static char *remap_to;

static int do_mremap(struct world *w)
{
	return mremap(w->va + 4 * PAGE, 3 * PAGE, 3 * PAGE,
		      MREMAP_MAYMOVE | MREMAP_FIXED, remap_to) != remap_to;
}

static struct world *event_world(void)
{
	struct world *w = world_with(&event_config, 16);

	if (!pg_uffd_features(w->m)->events) {
		world_end(w);
		SKIP("this kernel sends no events");
	}
	serve_faults(w);
	return w;
}

static void check_event(int (*change)(struct world *),
			enum pg_uffd_event_kind kind, uintptr_t to, uint32_t nr)
{
	struct world *w = event_world();

	CHECK_EQ(change(w), 0);
	/* The call may return before the server has looked at what it read. */
	for (int i = 0; nr_events(w) < nr && i < 20000; i++)
		nap();
	CHECK_EQ(nr_events(w), nr);
	CHECK_EQ(w->log[0].kind, kind);
	CHECK_EQ(w->log[0].va, page(w, 4));
	CHECK_EQ(w->log[0].nr, 3);
	CHECK_EQ(w->log[0].to, to);
	if (nr > 1) {
		CHECK_EQ(w->log[1].kind, PG_UFFD_UNMAP);
		CHECK_EQ(w->log[1].va, page(w, 4));
		CHECK_EQ(w->log[1].nr, 3);
	}
	world_end(w);
}

TEST(madvise_munmap_and_mremap_are_events)
{
	remap_to = map_at(PAGE, 3);
	check_event(do_dontneed, PG_UFFD_REMOVE, 0, 1);
	check_event(do_munmap, PG_UFFD_UNMAP, 0, 1);
	check_event(do_mremap, PG_UFFD_REMAP, (uintptr_t)remap_to, 2);
	munmap(remap_to, 3 * PAGE);
}

TEST(while_an_event_is_unread_give_and_zero_are_eagain)
{
	struct world *w = event_world();
	struct changing c = {.w = w, .change = do_dontneed};
	size_t done = 7;
	pthread_t t;

	CHECK_EQ(evict(w, 0, 2, &done), 0);
	hold(w);
	CHECK_EQ(pthread_create(&t, NULL, change_main, &c), 0);
	wait_for_message(w);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 0), w->pool, 2, &done), -EAGAIN);
	CHECK_EQ(done, 0);
	CHECK_EQ(w->m->ops->zero(w->m, page(w, 0), 2, &done), -EAGAIN);
	CHECK_EQ(done, 0);
	go_on(w);
	pthread_join(t, NULL);
	CHECK_EQ(c.ret, 0);
	CHECK_EQ(w->m->ops->give(w->m, page(w, 0), w->pool, 2, &done), 0);
	check_pages(w->va, 0, 2);
	world_end(w);
}

TEST(N57_what_is_taken_while_madvise_waits_reads_as_zeros_afterwards)
{
	struct world *w = event_world();
	struct changing c = {.w = w, .change = do_dontneed};
	size_t done;
	pthread_t t;

	hold(w);
	CHECK_EQ(pthread_create(&t, NULL, change_main, &c), 0);
	wait_for_message(w);
	/* madvise sleeps between its event and the zap; the pages go away. */
	CHECK_EQ(evict(w, 4, 3, &done), 0);
	CHECK_EQ(done, 3);
	go_on(w);
	pthread_join(t, NULL);
	for (size_t i = 4; i < 7; i++)
		CHECK_EQ(word(w->va + i * PAGE), 0);
	CHECK_EQ(word(w->va + 7 * PAGE), 8);
	world_end(w);
}

/* ----- the descriptor ----- */

static void command_evict(struct world *w)
{
	size_t done;

	w->error = w->m->ops->watch(w->m, (uintptr_t)w->va, w->nr);
	w->pool = w->m->ops->pool_map(w->m, w->nr);
	if (!w->error && w->pool)
		w->error = evict(w, 0, w->nr, &done);
}

static int close_everything(void)
{
	struct world *w = &the_world;

	memset(w, 0, sizeof(*w));
	w->own_files = true;
	w->nr = 16;
	w->va = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < 16; i++)
		w->va[i * PAGE] = (char)(i + 1);
	if (pg_thread_start(&w->server, server_main, w, true))
		return 1;
	while (!pg_load(&w->up, acquire))
		nap();
	if (w->error)
		return 2;
	on_server(w, command_evict);
	if (w->error || !w->pool)
		return 3;
	if (syscall(SYS_close_range, 3, ~0u, 0))
		return 4;
	for (size_t i = 0; i < 16; i++)
		if (w->va[i * PAGE] != (char)(i + 1) || faults(w, i) != 1)
			return 5;
	return 0;
}

TEST(N58_pages_come_back_after_the_program_closed_all_descriptors)
{
	pg_uffd_destroy(world_new(&plain_config)->m);
	CHECK_EQ(in_child(close_everything), 0);
}

/* ----- fork ----- */

static int child_inherits(void)
{
	struct world *w = &the_world;

	pg_thread_forget(&w->server);
	go_on(w);
	w->inherit = true;
	pg_store(&w->up, 0, relaxed);
	/* Descriptors of the parent must be of no use to us. */
	syscall(SYS_close_range, 3, ~0u, 0);
	if (pg_thread_start(&w->server, server_main, w, false))
		return 1;
	while (!pg_load(&w->up, acquire))
		nap();
	if (w->error)
		return 2;
	if (w->m->ops->watch(w->m, (uintptr_t)w->va, w->nr))
		return 3;
	for (size_t i = 0; i < w->nr; i++) {
		if (word(w->va + i * PAGE) != i + 1)
			return 4;
		w->va[i * PAGE + 8] = 77;
	}
	for (int round = 0; round < 2; round++) {
		size_t done;

		if (evict(w, 0, w->nr, &done) || done != w->nr)
			return 5;
		for (size_t i = 0; i < w->nr; i++)
			if (word(w->va + i * PAGE) != i + 1 ||
			    w->va[i * PAGE + 8] != 77)
				return 6;
	}
	return 0;
}

static int child_forgets(void)
{
	struct world *w = &the_world;
	char *pool = w->pool;

	pg_thread_forget(&w->server);
	pg_uffd_forget(w->m);
	if (pg_mem_is_own((uintptr_t)pool, PAGE) ||
	    pg_mem_is_own((uintptr_t)w->m, PAGE))
		return 1;
	/* The descriptors are still those of the parent. */
	return fcntl(3, F_GETFD) < 0 ? 2 : 0;
}

static void check_inherit(const struct pg_uffd_config *config)
{
	struct world *w;
	size_t done;

	if (TSAN)
		SKIP("TSan starts no thread in a child of many threads");
	w = world_with(config, 64);
	CHECK_EQ(evict(w, 0, 32, &done), 0);
	serve_faults(w);
	hold(w);
	CHECK_EQ(in_child(child_inherits), 0);
	CHECK_EQ(in_child(child_forgets), 0);
	go_on(w);
	check_pages(w->va, 0, 64);
	CHECK_EQ(word(w->va + 8), 1);
	world_end(w);
}

TEST(a_forked_child_inherits_what_is_away)
{
	check_inherit(&plain_config);
}

TEST(a_forked_child_inherits_what_is_away_with_copies)
{
	check_inherit(&copy_config);
}

/* ----- failures of the kernel ----- */

/* Some of everything. Where a call failed, contents must be where they were,
 * or where they went; and the same again must work. */
static bool some_of_everything(struct world *w, int error)
{
	size_t took, gave, done;
	int ret;

	ret = w->m->ops->take(w->m, page(w, 2), w->pool, 12, &took);
	if (ret && ret != error)
		return false;
	for (size_t i = 0; i < 12; i++)
		if (word(i < took ? w->pool + i * PAGE
				  : w->va + (2 + i) * PAGE) != i + 3)
			return false;
	for (size_t i = took; i < 12; i++) /* hangs if left protected */
		*(volatile char *)(w->va + (2 + i) * PAGE) = (char)(i + 3);
	ret = w->m->ops->give(w->m, page(w, 2), w->pool, took, &gave);
	if (ret && ret != error)
		return false;
	if (!ret && gave != took)
		return false;
	ret = w->m->ops->give(w->m, page(w, 2 + gave), w->pool + gave * PAGE,
			      took - gave, &done);
	if ((ret && ret != error) || (!ret && done != took - gave))
		return false;
	w->m->ops->pool_drop(w->m, w->pool, 16);
	ret = w->m->ops->take(w->m, page(w, 15), w->pool, 1, &took);
	if (ret)
		return ret == error;
	ret = w->m->ops->zero(w->m, page(w, 15), 1, &done);
	if (ret == error)
		ret = w->m->ops->zero(w->m, page(w, 15), 1, &done);
	return !ret && done == 1;
}

static void check_failures(const struct pg_uffd_config *config)
{
	static const int errors[] = {-ENOMEM, -EAGAIN, -EIO};

	for (size_t e = 0; e < 3; e++) {
		unsigned int n, left = 0;

		for (n = 1; !left; n++) {
			struct world *w = world_with(config, 16);

			pg_uffd_fail_nth(n, errors[e]);
			fail_if(!some_of_everything(w, errors[e]),
				"wrong after a failure");
			left = pg_uffd_fail_nth(0, 0);
			check_pages(w->va, 0, 15);
			world_end(w);
			CHECK(n < 100);
		}
		CHECK(n > 5);
	}
}

TEST(nothing_is_lost_when_any_call_of_the_kernel_fails)
{
	check_failures(&plain_config);
	check_failures(&copy_config);
}

TEST(a_failed_watch_watches_nothing)
{
	struct world *w = world_with(&plain_config, 16);
	char *p = map_at(PAGE, 4);

	pg_uffd_fail_nth(1, -ENOMEM);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p, 4), -ENOMEM);
	pg_uffd_fail_nth(1, -EPERM);
	CHECK_EQ(w->m->ops->watch(w->m, (uintptr_t)p, 4), -EINVAL);
	CHECK_EQ(pg_uffd_fail_nth(0, 0), 0);
	CHECK_EQ(word(p), 0); /* hangs if it is watched */
	munmap(p, 4 * PAGE);
	world_end(w);
}

TEST(a_failed_pool_map_leaves_nothing_behind)
{
	struct world *w = world_new(&plain_config);

	pg_uffd_fail_nth(1, -ENOMEM);
	CHECK(!w->m->ops->pool_map(w->m, 16));
	CHECK_EQ(pg_uffd_fail_nth(0, 0), 0);
	pg_mem_fail_nth(1);
	CHECK(!w->m->ops->pool_map(w->m, 16));
	w->pool = w->m->ops->pool_map(w->m, 16);
	CHECK(w->pool);
	pg_uffd_destroy(w->m);
	CHECK(!pg_mem_is_own((uintptr_t)w->pool, 16 * PAGE));
}

/* ----- facts that others rely on ----- */

TEST(N61_a_page_that_a_pipe_still_reads_keeps_its_bytes_if_it_is_dropped)
{
	struct world *w = world_with(&plain_config, 16);
	struct iovec iov = {.iov_base = w->va + 3 * PAGE, .iov_len = PAGE};
	uint64_t got[PAGE / 8];
	size_t done;
	int p[2];

	CHECK_EQ(pipe(p), 0);
	CHECK_EQ(vmsplice(p[1], &iov, 1, 0), PAGE);
	/* A plain reference does not hold the page in place. */
	CHECK_EQ(evict(w, 3, 1, &done), 0);
	w->m->ops->pool_drop(w->m, w->pool + 3 * PAGE, 1);
	CHECK_EQ(w->m->ops->pool_fill(w->m, w->pool, 16), 0);
	memset(w->pool, 0xee, 16 * PAGE);
	CHECK_EQ(read(p[0], got, PAGE), PAGE);
	for (size_t i = 0; i < PAGE / 8; i++)
		CHECK_EQ(got[i], 4);
	close(p[0]);
	close(p[1]);
	world_end(w);
}

TEST(a_futex_call_finds_an_absent_word_when_it_waits)
{
	struct world *w = world_with(&plain_config, 16);
	struct timespec t = {.tv_nsec = 1};

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(syscall(SYS_futex, w->va + 2 * PAGE, FUTEX_WAIT_PRIVATE, 3, &t,
			 NULL, 0),
		 -1);
	CHECK_EQ(errno, ETIMEDOUT);
	CHECK_EQ(syscall(SYS_futex, w->va + 3 * PAGE, FUTEX_WAIT_PRIVATE, 3, &t,
			 NULL, 0),
		 -1);
	CHECK_EQ(errno, EAGAIN);
	world_end(w);
}

/* A limit of the kernel: what a futex call does to a word without sleeping
 * finds no absent page. When this fails the limit is gone. */
TEST(a_futex_call_that_changes_an_absent_word_gets_efault)
{
	struct world *w = world_with(&plain_config, 16);
	uint32_t other = 0;

	evict_all(w);
	serve_faults(w);
	CHECK_EQ(syscall(SYS_futex, &other, FUTEX_WAKE_OP_PRIVATE, 1, 1,
			 w->va + 2 * PAGE,
			 FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0)),
		 -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(syscall(SYS_futex, w->va + 2 * PAGE, FUTEX_LOCK_PI_PRIVATE, 0,
			 NULL, NULL, 0),
		 -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(word(w->va + 2 * PAGE), 3);
	world_end(w);
}

TEST_MAIN()
