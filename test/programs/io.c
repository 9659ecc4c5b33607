/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io.c - system calls, pipes and devices that use memory which is away.
 */
#include "behaviour.h"

#include <linux/futex.h>
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>

static int temporary_file(int flags)
{
	const char *dir = getenv("TMPDIR");
	char name[PATH_MAX];
	int fd, again;

	snprintf(name, sizeof(name), "%s/pgmap-test-XXXXXX",
		 dir ? dir : "/var/tmp");
	fd = mkstemp(name);
	CHECK(fd >= 0);
	again = open(name, O_RDWR | O_CLOEXEC | flags);
	CHECK(!unlink(name));
	close(fd);
	return again;
}

static void write_all(int fd, const char *p, size_t size)
{
	while (size) {
		ssize_t n = write(fd, p, size);

		CHECK(n > 0);
		p += n;
		size -= (size_t)n;
	}
}

static void read_all(int fd, char *p, size_t size)
{
	while (size) {
		ssize_t n = read(fd, p, size);

		CHECK(n > 0);
		p += n;
		size -= (size_t)n;
	}
}

CASE(write_and_read_of_more_than_the_budget)
{
	char *p = filled(WORK, 1), *q = filled(WORK, 2);
	int fd = temporary_file(0);

	CHECK(fd >= 0);
	CHECK(write(fd, p, WORK) == (ssize_t)WORK);
	push_out();
	CHECK(pread(fd, q, WORK, 0) == (ssize_t)WORK);
	CHECK(is_filled(q, WORK, 1));
	CHECK(is_filled(p, WORK, 1));
}

CASE(vectors_of_pages_all_over)
{
	enum { NR = 512 };
	static struct iovec iov[NR];
	char *p = filled(WORK, 1);
	int fd = temporary_file(0);

	for (size_t i = 0; i < NR; i++)
		iov[i] = (struct iovec){p + (i * 7919 % NR) * 24 * PAGE + 8,
					PAGE - 16};
	CHECK(pwritev(fd, iov, NR, 0) == (ssize_t)(NR * (PAGE - 16)));
	for (size_t i = 0; i < NR; i++)
		memset(iov[i].iov_base, 0x55, iov[i].iov_len);
	push_out();
	CHECK(preadv(fd, iov, NR, 0) == (ssize_t)(NR * (PAGE - 16)));
	CHECK(is_filled(p, WORK, 1));
}

struct stream {
	int fd;
	char *p;
};

static void *send_it(void *arg)
{
	struct stream *s = arg;
	size_t left = WORK;

	for (char *p = s->p; left;) {
		struct iovec iov[2] = {{p, 1000}, {p + 1000, PAGE - 1000}};
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
		ssize_t n = sendmsg(s->fd, &msg, 0);

		CHECK(n > 0);
		p += n;
		left -= (size_t)n;
		if (left < PAGE)
			break;
	}
	write_all(s->fd, s->p + WORK - left, left);
	return NULL;
}

static void stream_through(int in, int out)
{
	char *p = filled(WORK, 1), *q = filled(WORK, 2);
	struct stream s = {in, p};
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, send_it, &s));
	for (size_t done = 0; done < WORK;) {
		ssize_t n = recv(out, q + done, WORK - done, 0);

		CHECK(n > 0);
		done += (size_t)n;
	}
	CHECK(!pthread_join(t, NULL));
	CHECK(is_filled(q, WORK, 1));
	CHECK(is_filled(p, WORK, 1));
}

CASE(send_and_receive_on_a_socket)
{
	int fd[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	stream_through(fd[0], fd[1]);
}

static void *feed(void *arg)
{
	struct stream *s = arg;

	write_all(s->fd, s->p, WORK);
	return NULL;
}

CASE(pipe_between_threads)
{
	char *p = filled(WORK, 1), *q = filled(WORK, 2);
	struct stream s = {.p = p};
	int fd[2];
	pthread_t t;

	CHECK(!pipe(fd));
	s.fd = fd[1];
	CHECK(!pthread_create(&t, NULL, feed, &s));
	read_all(fd[0], q, WORK);
	CHECK(!pthread_join(t, NULL));
	CHECK(is_filled(q, WORK, 1));
}

CASE(process_vm_readv_and_writev)
{
	char *p = filled(WORK, 1), *q = map(WORK);
	struct iovec theirs = {p, WORK / 2}, mine = {q, WORK / 2};
	pid_t pid, parent = getpid();

	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		/* Of the parent, into the child, and back. */
		CHECK(process_vm_readv(parent, &mine, 1, &theirs, 1, 0) ==
		      (ssize_t)(WORK / 2));
		CHECK(is_filled(q, WORK / 2, 1));
		fill(q, WORK / 2, 2);
		CHECK(process_vm_writev(parent, &mine, 1, &theirs, 1, 0) ==
		      (ssize_t)(WORK / 2));
		_exit(1);
	}
	check_child(pid, 1);
	CHECK(is_filled(p, WORK / 2, 2));
	push_out();
	CHECK(process_vm_readv(parent, &mine, 1, &theirs, 1, 0) ==
	      (ssize_t)(WORK / 2));
	CHECK(is_filled(q, WORK / 2, 2));
}

/* Each kind of argument lies on a page of its own that is away. */
CASE(small_arguments_of_many_calls)
{
	char *p = filled(WORK, 1);
	struct pollfd *pfd = (void *)(p + MB);
	struct stat *st = (void *)(p + 2 * MB);
	struct timespec *ts = (void *)(p + 3 * MB);
	char *path = p + 4 * MB;
	int *fd = (void *)(p + 5 * MB), *waiting = (void *)(p + 6 * MB);
	struct rlimit *limit = (void *)(p + 7 * MB);
	struct utsname *name = (void *)(p + 8 * MB);
	sigset_t *set = (void *)(p + 9 * MB);
	char *noise = p + 10 * MB, *cwd = p + 14 * MB;
	socklen_t *len = (void *)(p + 15 * MB);
	int *error = (void *)(p + 16 * MB), *status = (void *)(p + 17 * MB);
	pid_t pid;

	strcpy(path, "/dev/null");
	push_out();
	CHECK(!stat(path, st));
	CHECK(S_ISCHR(st->st_mode));
	push_out();
	CHECK(open(path, O_RDONLY) >= 0);
	CHECK(!clock_gettime(CLOCK_MONOTONIC, ts) && ts->tv_nsec < 1000000000);
	CHECK(!syscall(SYS_clock_gettime, CLOCK_REALTIME, ts));
	push_out();
	CHECK(!pipe(fd));
	CHECK(write(fd[1], path, 10) == 10);
	push_out();
	CHECK(!ioctl(fd[0], FIONREAD, waiting) && *waiting == 10);
	pfd->fd = fd[0];
	pfd->events = POLLIN;
	push_out();
	CHECK(poll(pfd, 1, 1000) == 1 && pfd->revents == POLLIN);
	CHECK(!getrlimit(RLIMIT_NOFILE, limit) && limit->rlim_cur > 0);
	CHECK(!uname(name) && !strcmp(name->sysname, "Linux"));
	CHECK(!sigprocmask(SIG_BLOCK, NULL, set));
	for (size_t i = 0; i < 4 * MB - 256; i += 256)
		CHECK(getrandom(noise + i, 200, 0) == 200);
	CHECK(getcwd(cwd, 4096) == cwd && cwd[0] == '/');
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	*len = sizeof(*error);
	push_out();
	CHECK(!getsockopt(fd[0], SOL_SOCKET, SO_ERROR, error, len));
	CHECK(*error == 0 && *len == sizeof(*error));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		_exit(5);
	push_out();
	CHECK(waitpid(pid, status, 0) == pid && WEXITSTATUS(*status) == 5);
	CHECK(is_filled(p, MB, 1));
}

static _Atomic uint32_t *word;

static void *wake_later(void *arg)
{
	(void)arg;
	usleep(20000);
	push_out();
	*word = 1;
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	return NULL;
}

CASE(futex_on_a_page_that_leaves)
{
	char *p = filled(WORK, 1);
	pthread_t t;

	word = (void *)(p + 8 * MB);
	for (int n = 0; n < 5; n++) {
		*word = 0;
		push_out();
		CHECK(!pthread_create(&t, NULL, wake_later, NULL));
		while (!*word)
			syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, NULL,
				NULL, 0);
		CHECK(!pthread_join(t, NULL));
	}
	CHECK(is_filled(p, 8 * MB, 1));
}

static void *push_out_always(void *arg)
{
	while (!*(_Atomic bool *)arg)
		push_out();
	return NULL;
}

CASE(direct_io_while_pages_leave)
{
	static _Atomic bool stop;
	char *p = filled(WORK, 1), *q = map(WORK);
	int fd = temporary_file(O_DIRECT);
	pthread_t t;

	if (fd < 0)
		SKIP("no O_DIRECT where temporary files are");
	CHECK(!pthread_create(&t, NULL, push_out_always, &stop));
	for (size_t i = 0; i < WORK; i += 256 * 1024)
		CHECK(pwrite(fd, p + i, 256 * 1024, (off_t)i) == 256 * 1024);
	for (size_t i = 0; i < WORK; i += 256 * 1024)
		CHECK(pread(fd, q + i, 256 * 1024, (off_t)i) == 256 * 1024);
	stop = true;
	CHECK(!pthread_join(t, NULL));
	CHECK(is_filled(q, WORK, 1));
	CHECK(is_filled(p, WORK, 1));
}

/* Queue @n reads or writes of 128 KB each and wait for all. */
static void ring_io(struct io_uring *ring, int fd, char *p, size_t first,
		    size_t n, bool is_read, bool fixed)
{
	const unsigned int size = 128 * 1024;

	for (size_t i = first; i < first + n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
		char *buf = p + i * size;
		uint64_t off = i * size;

		CHECK(sqe);
		if (is_read && fixed)
			io_uring_prep_read_fixed(sqe, fd, buf, size, off, 0);
		else if (is_read)
			io_uring_prep_read(sqe, fd, buf, size, off);
		else if (fixed)
			io_uring_prep_write_fixed(sqe, fd, buf, size, off, 0);
		else
			io_uring_prep_write(sqe, fd, buf, size, off);
	}
	CHECK(io_uring_submit(ring) == (int)n);
	push_out();
	for (size_t i = 0; i < n; i++) {
		struct io_uring_cqe *cqe;

		CHECK(!io_uring_wait_cqe(ring, &cqe));
		CHECK(cqe->res == (int)size);
		io_uring_cqe_seen(ring, cqe);
	}
}

static void ring_both_ways(bool fixed, int flags)
{
	size_t size = fixed ? 8 * MB : WORK;
	char *p = filled(WORK, 1);
	struct iovec iov = {p, size};
	struct io_uring r;
	int fd = temporary_file(flags);

	if (fd < 0)
		SKIP("no O_DIRECT where temporary files are");
	if (io_uring_queue_init(64, &r, 0))
		SKIP("no io_uring");
	if (fixed)
		CHECK(!io_uring_register_buffers(&r, &iov, 1));
	for (int n = 0; n < 3; n++) {
		uint64_t seed = (uint64_t)n + 5;

		fill(p, size, seed);
		push_out();
		for (size_t i = 0; i < size / (128 * 1024); i += 32)
			ring_io(&r, fd, p, i, 32, false, fixed);
		fill(p, size, 99);
		push_out();
		/* The device writes into pages that must stay where they are,
		 * however much other memory is wanted. */
		for (size_t i = 0; i < size / (128 * 1024); i += 32)
			ring_io(&r, fd, p, i, 32, true, fixed);
		CHECK(is_filled(p, size, seed));
		push_out();
		CHECK(is_filled(p, size, seed));
	}
	io_uring_queue_exit(&r);
	CHECK(close(fd) == 0);
}

CASE(io_uring_into_pages_that_are_away)
{
	ring_both_ways(false, 0);
}

CASE(io_uring_direct)
{
	ring_both_ways(false, O_DIRECT);
}

CASE(io_uring_with_registered_buffers)
{
	ring_both_ways(true, 0);
}

CASE(io_uring_direct_with_registered_buffers)
{
	ring_both_ways(true, O_DIRECT);
}

/* A pipe holds pages by reference; who reads it later sees them as they were,
 * although the pages left and what held them was used for others. */
CASE(N61_vmsplice_then_evict)
{
	enum { NR = 16 };
	char *p = filled(WORK, 1), *q = malloc(NR * PAGE);
	int fd[2];

	CHECK(!pipe(fd));
	for (size_t i = 0; i + NR * PAGE <= WORK;
	     i += WORK / 20 / PAGE * PAGE) {
		struct iovec iov = {p + i, NR * PAGE};

		CHECK(vmsplice(fd[1], &iov, 1, 0) == NR * PAGE);
		push_out();
		push_out();
		read_all(fd[0], q, NR * PAGE);
		CHECK(!memcmp(q, p + i, NR * PAGE));
		for (size_t k = 0; k < NR * PAGE / 8; k += 4)
			CHECK(((uint64_t *)(void *)q)[k] ==
			      word_of(1, i / 8 + k));
	}
	CHECK(is_filled(p, WORK, 1));
}

CASE(N61_vmsplice_then_write)
{
	enum { NR = 16 };
	char *p = filled(WORK, 1), *q = malloc(NR * PAGE);
	struct iovec iov = {p, NR * PAGE};
	int fd[2];

	/* Without SPLICE_F_GIFT the pipe and the program share the page. */
	CHECK(!pipe(fd));
	CHECK(vmsplice(fd[1], &iov, 1, 0) == NR * PAGE);
	push_out();
	fill(p, NR * PAGE, 2);
	push_out();
	read_all(fd[0], q, NR * PAGE);
	CHECK(is_filled(q, NR * PAGE, 2));
	CHECK(is_filled(p, NR * PAGE, 2));
}

CASE(private_file_mappings)
{
	char *p = filled(WORK, 1), *m;
	int fd = temporary_file(0);

	write_all(fd, p, WORK);
	m = mmap(NULL, WORK, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(m != MAP_FAILED);
	CHECK(is_filled(m, WORK, 1));
	fill(m, WORK / 2, 2);
	push_out();
	CHECK(is_filled(m, WORK / 2, 2));
	CHECK(pread(fd, p, WORK, 0) == (ssize_t)WORK);
	CHECK(is_filled(p, WORK, 1));
}

CASE(bad_pointers_are_still_efault)
{
	char *p = filled(WORK, 1);
	int fd[2];

	CHECK(!munmap(p + MB, MB));
	CHECK(!pipe(fd));
	CHECK(write(fd[1], p, 100) == 100);
	CHECK(read(fd[0], p + MB, 10) == -1 && errno == EFAULT);
	CHECK(write(fd[1], p + MB, 10) == -1 && errno == EFAULT);
	CHECK(!mprotect(p, MB, PROT_READ));
	push_out();
	CHECK(read(fd[0], p + 4 * PAGE, 10) == -1 && errno == EFAULT);
	CHECK(write(fd[1], p + 8 * PAGE, 10) == 10);
	CHECK(is_filled(p, MB, 1));
}

CASES_MAIN()
