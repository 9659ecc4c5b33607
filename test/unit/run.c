/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parent of a tree, without the runtime: this program starts itself under
 * pgmap_run(), and the copy asks the parent for things as a runtime does.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/userfaultfd.h>
#include <pgmap/pgmap.h>
#include <pgmap/run.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/control.h"

/* What the copy does; its return value is the exit status. Pipes inherited
 * from the test: the copy writes to 10 and reads from 11. */
#define TO_TEST 10
#define FROM_TEST 11

static struct pg_control *control;
static struct pg_control_proc *slot;

static const char *name(void)
{
	return getenv(PG_CONTROL_ENV);
}

static int join(void)
{
	int ret = pg_control_join(name(), strlen(name()), &control);

	return ret ? ret : pg_control_claim(control, getpid(), &slot);
}

static int does_nothing(void)
{
	return 0;
}

static int counts(void)
{
	struct pgmap_stat st = {.faults = 4, .peak_resident = 123};
	struct pgmap_left_alone left = {.small = 4096};
	int status;
	pid_t pid;

	if (join())
		return 1;
	pg_control_managed(control, slot);
	pg_control_publish(slot, &st, &left);
	pid = fork();
	if (pid == 0) {
		if (pg_control_claim(control, getpid(), &slot))
			_exit(1);
		pg_control_publish(slot, &st, &left);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status ? 2 : 7;
}

static int is_unmanaged(void)
{
	if (join())
		return 1;
	pg_control_unmanaged(control, slot, getpid(), "it has\na reason");
	return 0;
}

static int make_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		return -1;
	return fd;
}

static volatile int touched;

static void *touch(void *page)
{
	touched = 1 + *(volatile char *)page;
	return NULL;
}

/* With the last descriptor gone the page would read as zero at once. */
static int closes_its_userfaultfd(void)
{
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec nap = {0, 300000000};
	int fd = make_uffd();
	pthread_t t;

	if (fd < 0)
		return 77;
	reg.range.start = (uintptr_t)page;
	reg.range.len = 4096;
	if (join() || ioctl(fd, UFFDIO_REGISTER, &reg))
		return 1;
	if (pg_control_send_fd(name(), strlen(name()), fd))
		return 2;
	close(fd);
	if (pthread_create(&t, NULL, touch, page))
		return 3;
	nanosleep(&nap, NULL);
	return touched ? 4 : 0;
}

/* A process may start over by exec: each time a descriptor, none too many. */
static int sends_many(void)
{
	if (join())
		return 1;
	for (int i = 0; i < 50; i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			int fd = make_uffd();

			_exit(fd < 0 ? 77
				     : pg_control_send_fd(name(),
							  strlen(name()),
							  fd) != 0);
		}
		waitpid(pid, &status, 0);
		if (status)
			return WEXITSTATUS(status);
	}
	return 0;
}

static int sends_something_else(void)
{
	int fd = open("/dev/null", O_RDONLY);

	if (join())
		return 1;
	if (pg_control_send_fd(name(), strlen(name()), fd) != -EBADF)
		return 2;
	return pg_control_send_fd(name(), strlen(name()), -1) != -EBADF;
}

static int dial(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path + 1, name(), strlen(name()));
	if (connect(fd, (const struct sockaddr *)&addr,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				strlen(name()))))
		_exit(3);
	return fd;
}

/* Then silence from more peers than the parent keeps, and still it serves. */
static int talks_nonsense(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 200; i++) {
		char junk[512];
		size_t len = (size_t)(test_random(&seed) % sizeof(junk));
		struct pg_control_message m = {
			.magic = PG_CONTROL_MAGIC,
			.version = (uint32_t)test_random(&seed) % 3,
			.struct_size = sizeof(struct pg_control),
			.kind = (uint32_t)test_random(&seed) % 5};
		int fd = dial();

		for (size_t k = 0; k < len; k++)
			junk[k] = (char)test_random(&seed);
		if (i % 2)
			(void)!send(fd, junk, len, MSG_NOSIGNAL);
		else
			(void)!send(fd, &m, sizeof(m), MSG_NOSIGNAL);
		close(fd);
	}
	for (int i = 0; i < 100; i++)
		dial();
	return join() ? 1 : 0;
}

static int tells_its_name(void)
{
	char c;

	if (write(TO_TEST, name(), strlen(name())) < 0)
		return 1;
	return read(FROM_TEST, &c, 1) == 1 ? 0 : 2;
}

static int stays_behind(void)
{
	struct timespec nap = {0, 50000000};
	int pid, failed;
	char c;

	if (join())
		return 1;
	pg_control_fork_begin(control);
	if (fork())
		return 0;
	setsid();
	nanosleep(&nap, NULL);
	failed = pg_control_claim(control, getpid(), &slot);
	pg_control_fork_end(control);
	/* The one who started us is gone when the test writes. */
	if (failed || read(FROM_TEST, &c, 1) != 1 || join())
		_exit(1);
	pid = getpid();
	(void)!write(TO_TEST, &pid, sizeof(pid));
	(void)!read(FROM_TEST, &c, 1);
	_exit(0);
}

static const struct {
	const char *name;
	int (*body)(void);
} bodies[] = {
#define B(f)                                                                   \
	{                                                                      \
#f, f                                                          \
	}
	B(does_nothing),	   B(counts),	      B(is_unmanaged),
	B(closes_its_userfaultfd), B(sends_many),     B(sends_something_else),
	B(talks_nonsense),	   B(tells_its_name), B(stays_behind),
#undef B
};

__attribute__((constructor)) static void be_the_copy(void)
{
	const char *what = getenv("PGMAP_TEST_COPY");

	for (size_t i = 0; what && i < sizeof(bodies) / sizeof(bodies[0]); i++)
		if (!strcmp(bodies[i].name, what))
			_exit(bodies[i].body());
}

/* pgmap_mm_create() refuses what pgmap_run() refuses, in one line. */
static void refused(const struct pgmap_mm_config *config, const char *words)
{
	struct pgmap_mm *mm;
	char error[256] = "";

	CHECK_EQ(pgmap_mm_create(config, &mm, error, sizeof(error)), -EINVAL);
	if (!strstr(error, words))
		print_message("'%s' lacks '%s'\n", error, words);
	CHECK(strstr(error, words));
	CHECK(!strchr(error, '\n'));
	CHECK_EQ(pgmap_mm_create(config, &mm, NULL, 0), -EINVAL);
}

TEST(a_bad_configuration_of_an_instance_is_refused_with_the_way_out)
{
	const struct pgmap_mm_config good = {.size = sizeof(good),
					     .ram = 16 << 20,
					     .device = "mirror",
					     .folio_size = 65536};
	struct pgmap_mm_config c = good;

	refused(NULL, "no configuration");
	c.size = 1;
	refused(&c, "set its size");
	c = good;
	c.device = NULL;
	refused(&c, "no device is named");
	c = good;
	c.ram = 4 << 20;
	refused(&c, "give ram at least 10240K");
	c = good;
	c.folio_size = 12345;
	refused(&c, "power of two");
	CHECK_EQ(pgmap_mm_create(&good, NULL, NULL, 0), -EINVAL);
}

/* Any library can stand for the runtime: the copy does its work itself. */
static int some_library(struct dl_phdr_info *info, size_t size, void *out)
{
	(void)size;
	if (!strstr(info->dlpi_name, "libcmocka"))
		return 0;
	snprintf(out, 4096, "%s", info->dlpi_name);
	return 1;
}

static struct pgmap_run_result run(const char *what)
{
	static char self[] = "/proc/self/exe";
	char *argv[] = {self, NULL}, library[4096] = "", error[256] = "";
	struct pgmap_run_config config = {.size = sizeof(config),
					  .ram = 64 << 20,
					  .device = "mirror",
					  .folio_size = 65536,
					  .log_level = 1,
					  .preload = library,
					  .argv = argv};
	struct pgmap_run_result result = {.size = sizeof(result)};
	char path[4096];
	ssize_t n = readlink(self, path, sizeof(path) - 1);
	int ret;

	CHECK(n > 0);
	path[n] = '\0';
	argv[0] = path;
	dl_iterate_phdr(some_library, library);
	setenv("PGMAP_TEST_COPY", what, 1);
	ret = pgmap_run(&config, &result, error, sizeof(error));
	unsetenv("PGMAP_TEST_COPY");
	if (ret == -EPERM)
		SKIP(error);
	if (ret)
		print_message("%s\n", error);
	CHECK_EQ(ret, 0);
	return result;
}

static int status_of(const char *what)
{
	struct pgmap_run_result r = run(what);

	CHECK(WIFEXITED(r.status));
	if (WEXITSTATUS(r.status) == 77)
		SKIP("no userfaultfd in this test");
	return WEXITSTATUS(r.status);
}

TEST(what_processes_count_is_in_the_result)
{
	struct pgmap_run_result r = run("counts");

	CHECK_EQ(WEXITSTATUS(r.status), 7);
	CHECK_EQ(r.nr_procs, 2);
	CHECK_EQ(r.nr_managed, 1);
	CHECK_EQ(r.total.faults, 8);
	CHECK_EQ(r.total.peak_resident, 123);
	CHECK_EQ(r.total.budget, 64 << 20);
	CHECK_EQ(r.left.small, 8192);
	assert_string_equal(r.unmanaged, "");
}

TEST(a_program_without_the_runtime_is_reported)
{
	struct pgmap_run_result r = run("does_nothing");

	CHECK_EQ(r.status, 0);
	CHECK_EQ(r.nr_procs, 1);
	CHECK(strstr(r.unmanaged, "did not start"));
}

TEST(a_process_that_cannot_be_managed_is_reported_in_one_line)
{
	struct pgmap_run_result r = run("is_unmanaged");

	CHECK(strstr(r.unmanaged, "]: it has"));
	CHECK(!strchr(r.unmanaged, '\n'));
}

TEST(absent_pages_do_not_become_zeros_when_the_program_closes_the_descriptor)
{
	CHECK_EQ(status_of("closes_its_userfaultfd"), 0);
}

TEST(a_dead_process_gives_its_descriptors_back)
{
	/* More than one process may have at a time, one after the other. */
	CHECK_EQ(status_of("sends_many"), 0);
}

TEST(only_a_userfaultfd_is_held)
{
	CHECK_EQ(status_of("sends_something_else"), 0);
}

TEST(nonsense_on_the_socket_stops_nobody)
{
	CHECK_EQ(status_of("talks_nonsense"), 0);
}

static void make_pipes(int out[2], int in[2])
{
	CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
	CHECK_EQ(pipe2(in, O_CLOEXEC), 0);
	CHECK_EQ(dup2(out[1], TO_TEST), TO_TEST);
	CHECK_EQ(dup2(in[0], FROM_TEST), FROM_TEST);
}

static void close_pipes(int out[2], int in[2])
{
	for (int i = 0; i < 2; i++) {
		close(out[i]);
		close(in[i]);
	}
	close(TO_TEST);
	close(FROM_TEST);
}

TEST(a_process_outside_the_tree_gets_nothing)
{
	int out[2], in[2], status;
	pid_t stranger;

	make_pipes(out, in);
	stranger = fork();
	if (stranger == 0) {
		struct pg_control *c;
		char buf[PG_CONTROL_NAME_MAX];
		ssize_t n = read(out[0], buf, sizeof(buf));
		int a = pg_control_join(buf, (size_t)n, &c);
		int b = pg_control_send_fd(buf, (size_t)n, 0);

		(void)!write(in[1], "x", 1);
		_exit(a == -EPERM && b == -EPERM ? 0 : 1);
	}
	CHECK_EQ(status_of("tells_its_name"), 0);
	waitpid(stranger, &status, 0);
	CHECK_EQ(status, 0);
	close_pipes(out, in);
}

TEST(a_daemon_is_served_after_the_program_has_ended)
{
	struct pgmap_attach *at;
	struct pgmap_proc_stat ps = {.size = sizeof(ps)};
	int out[2], in[2], pid = 0;
	struct timespec nap = {0, 20000000};
	struct pollfd answer;

	make_pipes(out, in);
	answer = (struct pollfd){.fd = out[0], .events = POLLIN};
	CHECK_EQ(status_of("stays_behind"), 0);
	CHECK_EQ(write(in[1], "x", 1), 1);
	CHECK_EQ(poll(&answer, 1, 5000), 1);
	CHECK_EQ(read(out[0], &pid, sizeof(pid)), (ssize_t)sizeof(pid));
	CHECK_EQ(pgmap_attach(pid, &at), 0);
	CHECK_EQ(pgmap_attach_proc(at, 0, &ps), 0);
	CHECK_EQ(ps.pid, pid);
	CHECK(ps.alive);
	CHECK_EQ(pgmap_attach_proc(at, 1, &ps), -ENOENT);
	CHECK_EQ(write(in[1], "x", 1), 1);
	/* Who stays behind sees that it has ended, and frees its slot. */
	for (int i = 0; i < 250 && !pgmap_attach_proc(at, 0, &ps); i++)
		nanosleep(&nap, NULL);
	CHECK_EQ(pgmap_attach_proc(at, 0, &ps), -ENOENT);
	pgmap_detach(at);
	close_pipes(out, in);
}

TEST(sizes_of_another_version_are_refused)
{
	struct pgmap_run_config config = {.size = 8};
	struct pgmap_run_result result = {.size = sizeof(result)};
	struct pgmap_device_info info = {.size = sizeof(info) + 8};
	struct pgmap_machine machine = {.size = 0};
	char error[64];

	CHECK_EQ(pgmap_run(&config, &result, error, sizeof(error)), -EINVAL);
	config.size = sizeof(config);
	result.size = 8;
	CHECK_EQ(pgmap_run(&config, &result, error, sizeof(error)), -EINVAL);
	CHECK_EQ(pgmap_device_info_get(0, &info), -EINVAL);
	CHECK_EQ(pgmap_machine_get(&machine), -EINVAL);
}

TEST_MAIN()
