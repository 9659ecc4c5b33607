/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buffers.c - system calls whose arguments are on pages that are away: each
 * must do what it does when they are there. The classes are those of
 * src/runtime/buffers.c.
 */
#include <alloca.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <ucontext.h>

#include "behaviour.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* Arguments, each far from all others, so that none comes with another. */
#define APART ((size_t)128 << 10)
static char *area;
static size_t used;

static void *room(void)
{
	if (!area)
		area = map(WORK);
	used += APART;
	CHECK(used <= WORK);
	/* An odd place, so that some cross a page. */
	return area + used - APART + (used / APART % 3 == 0 ? PAGE - 8 : 64);
}

static void *copy(const void *from, size_t n)
{
	return memcpy(room(), from, n);
}

__attribute__((format(printf, 1, 2))) static char *string(const char *fmt, ...)
{
	char *s = room();
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s, 4000, fmt, ap);
	va_end(ap);
	return s;
}

/* An output, with something in it, so that it is a page and not a hole. */
static void *output(size_t n)
{
	return memset(room(), 0x5a, n);
}

static void all_away(void)
{
	push_out_range(area, used);
}

static char dir[64];

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/pgmap-buffers-%d", (int)getpid());
	CHECK(!mkdir(dir, 0700));
}

static long call(long nr, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	return syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#define CALL(nr, ...) call(nr, ##__VA_ARGS__, 0l, 0l, 0l, 0l, 0l, 0l)
#define P(p) ((long)(p))

CASE(paths_and_their_structs)
{
	char *file, *other, *sub, *null, *link, *got, *cwd, *name, *value;
	struct stat *st, *lst, *fst;
	struct statx *stx;
	struct statfs *sfs;
	struct timespec *times;
	struct open_how *how;
	char *p[12];
	int fd, in;

	make_dir();
	for (int i = 0; i < 12; i++)
		p[i] = string("%s/file", dir);
	file = string("%s/file", dir);
	other = string("%s/other", dir);
	sub = string("%s/sub", dir);
	link = string("%s/link", dir);
	null = string("/dev/null");
	name = string("user.pgmap");
	value = string("value");
	st = output(sizeof(*st));
	lst = output(sizeof(*lst));
	fst = output(sizeof(*fst));
	stx = output(sizeof(*stx));
	sfs = output(sizeof(*sfs));
	got = output(100);
	cwd = output(4096);
	times = copy(&(struct timespec[2]){{100, 1}, {200, 2}},
		     2 * sizeof(*times));
	how = copy(&(struct open_how){.flags = O_RDONLY}, sizeof(*how));
	all_away();
	fd = (int)CALL(SYS_open, P(p[0]), (long)(O_CREAT | O_RDWR), 0600l);
	CHECK(fd >= 0);
	CHECK(write(fd, "abc", 3) == 3);
	CHECK(!CALL(SYS_stat, P(p[1]), P(st)) && st->st_size == 3);
	CHECK(!CALL(SYS_fstat, (long)fd, P(fst)) && fst->st_ino == st->st_ino);
	CHECK(!statx(AT_FDCWD, p[2], 0, STATX_SIZE, stx) && stx->stx_size == 3);
	CHECK(!symlink(file, link));
	CHECK(!CALL(SYS_lstat, P(link), P(lst)) && S_ISLNK(lst->st_mode));
	CHECK(readlink(link, got, 100) == (ssize_t)strlen(file));
	CHECK(!memcmp(got, file, strlen(file)));
	CHECK(!access(p[3], R_OK));
	CHECK(!chmod(p[4], 0640) && !stat(file, st) &&
	      (st->st_mode & 0777) == 0640);
	CHECK(!truncate(p[5], 10));
	CHECK(!utimensat(AT_FDCWD, p[6], times, 0) && !stat(file, st) &&
	      st->st_mtim.tv_sec == 200);
	CHECK(!statfs(p[7], sfs) && sfs->f_bsize > 0);
	if (!setxattr(p[8], name, value, 6, 0)) {
		memset(got, 0, 100);
		all_away();
		CHECK(getxattr(file, name, got, 100) == 6 &&
		      !strcmp(got, "value"));
		CHECK(listxattr(file, got, 100) > 0);
		CHECK(!removexattr(file, name));
	}
	in = inotify_init1(IN_NONBLOCK);
	CHECK(in >= 0 && inotify_add_watch(in, p[9], IN_ALL_EVENTS) > 0);
	fd = (int)CALL(SYS_openat2, (long)AT_FDCWD, P(null), P(how),
		       (long)sizeof(*how));
	CHECK(fd >= 0 || errno == ENOSYS);
	CHECK(!rename(p[10], other) && !mkdir(sub, 0700));
	CHECK(!chdir(sub) && getcwd(cwd, 4096) == cwd && !strcmp(cwd, sub));
	all_away();
	CHECK(!rmdir(sub) && !unlink(other) && !unlink(link));
	CHECK(access(p[11], F_OK) == -1 && errno == ENOENT);
	CHECK(CALL(SYS_memfd_create, P(name), 0l) >= 0);
	CHECK(!rmdir(dir));
}

/* The string goes on where only its second page is away. */
CASE(a_path_over_two_pages)
{
	char *p = map(WORK), *path = p + MB - 700;

	fill(p, WORK, 1);
	memset(path, '/', 1400);
	strcpy(path + 1400, "dev/null");
	push_out_range(p, WORK);
	*(volatile char *)path = '/'; /* its first page comes back */
	CHECK(open(path, O_RDONLY) >= 0);
	push_out();
	CHECK(!access(path, R_OK));
	CHECK(is_filled(p, MB / 2, 1));
}

CASE(times_and_limits)
{
	struct timespec *req = copy(&(struct timespec){0, 1000}, 16);
	struct timespec *rem = output(16), *now = output(16), *res = output(16);
	struct timeval *tv = output(16);
	struct rusage *ru = output(sizeof(*ru));
	struct rlimit *rl = output(sizeof(*rl)), *rl2 = output(sizeof(*rl2));
	struct sysinfo *si = output(sizeof(*si));
	struct tms *tms = output(sizeof(*tms));
	struct utsname *un = output(sizeof(*un));
	struct itimerval *it = copy(&(struct itimerval){{0, 0}, {1000, 0}},
				    sizeof(*it)),
			 *old = output(sizeof(*old));
	struct itimerspec *its = copy(&(struct itimerspec){{0, 0}, {500, 0}},
				      sizeof(*its)),
			  *cur = output(sizeof(*cur));
	struct sigevent *ev = copy(
		&(struct sigevent){.sigev_notify = SIGEV_NONE}, sizeof(*ev));
	int *id = output(4);
	cpu_set_t *cpus = output(sizeof(*cpus));
	struct sched_param *param = output(sizeof(*param));
	uid_t *r = output(4), *e = output(4), *s = output(4);
	gid_t *groups = output(64 * 4);
	unsigned int *cpu = output(4), *node = output(4);
	struct __user_cap_header_struct *hdr = copy(
		&(struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3,
						   0},
		sizeof(*hdr));
	struct __user_cap_data_struct *data = output(2 * sizeof(*data));
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);

	all_away();
	CHECK(!CALL(SYS_nanosleep, P(req), P(rem)));
	CHECK(!CALL(SYS_clock_nanosleep, 1l, 0l, P(req), P(rem)));
	CHECK(!CALL(SYS_clock_gettime, 1l, P(now)) &&
	      now->tv_nsec < 1000000000);
	/* The vDSO asks the kernel for this one. */
	all_away();
	CHECK(!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, now) &&
	      now->tv_nsec < 1000000000);
	CHECK(!CALL(SYS_clock_getres, 1l, P(res)) && res->tv_nsec == 1);
	CHECK(!CALL(SYS_gettimeofday, P(tv), 0l) && tv->tv_usec < 1000000);
	CHECK(!getrusage(RUSAGE_SELF, ru) && ru->ru_maxrss > 0);
	CHECK(!CALL(SYS_getrlimit, (long)RLIMIT_NOFILE, P(rl)));
	CHECK(!CALL(SYS_prlimit64, 0l, (long)RLIMIT_NOFILE, 0l, P(rl2)));
	CHECK(rl->rlim_cur == rl2->rlim_cur);
	CHECK(!sysinfo(si) && si->totalram > 0);
	CHECK(times(tms) != -1 && tms->tms_utime >= 0);
	CHECK(!uname(un) && !strcmp(un->sysname, "Linux"));
	CHECK(!setitimer(ITIMER_REAL, it, old) && !old->it_value.tv_sec);
	all_away();
	CHECK(!getitimer(ITIMER_REAL, old) && old->it_value.tv_sec > 900);
	CHECK(!CALL(SYS_timer_create, 1l, P(ev), P(id)));
	CHECK(!CALL(SYS_timer_settime, (long)*id, 0l, P(its), 0l));
	all_away();
	CHECK(!CALL(SYS_timer_gettime, (long)*id, P(cur)) &&
	      cur->it_value.tv_sec > 400);
	all_away();
	CHECK(!timerfd_settime(fd, 0, its, cur) && !cur->it_value.tv_sec);
	all_away();
	CHECK(!timerfd_gettime(fd, cur) && cur->it_value.tv_sec > 400);
	CHECK(!sched_getaffinity(0, sizeof(*cpus), cpus) &&
	      CPU_COUNT(cpus) > 0);
	CHECK(!sched_setaffinity(0, sizeof(*cpus), cpus));
	CHECK(!sched_getparam(0, param) && !param->sched_priority);
	CHECK(!getresuid(r, e, s) && *r == getuid());
	CHECK(getgroups(64, groups) >= 0);
	CHECK(!CALL(SYS_getcpu, P(cpu), P(node)) && *cpu < 4096);
	CHECK(!CALL(SYS_capget, P(hdr), P(data)));
}

CASE(reading_and_writing)
{
	char name[] = "/tmp/pgmap-buffersXXXXXX";
	int fd = mkstemp(name), to = mkstemp((char[]){"/tmp/pgmap-bXXXXXX"});
	enum { N = 3 * PAGE + 100 };
	char *a = room(), *b = output(N), *c = output(N), *noise = output(PAGE);
	char *list = output(PAGE);
	struct iovec *iov = room();
	off_t *off = copy(&(off_t){5}, 8), *off2 = copy(&(off_t){0}, 8);
	int dirfd = open("/dev", O_RDONLY | O_DIRECTORY), pipefd[2];
	size_t zeros = 0;

	CHECK(fd >= 0 && to >= 0 && dirfd >= 0);
	unlink(name);
	for (size_t i = 0; i < N; i++)
		a[i] = (char)(i * 31 + i / 256);
	iov[0] = (struct iovec){b, 10};
	iov[1] = (struct iovec){c, N - 10};
	all_away();
	CHECK(write(fd, a, N) == N);
	all_away();
	CHECK(pread(fd, b, N, 0) == N && !memcmp(a, b, N));
	all_away();
	CHECK(pwrite(fd, b, N, N) == N);
	memset(b, 0, N);
	memset(c, 0, N);
	all_away();
	CHECK(preadv(fd, iov, 2, N) == N);
	CHECK(!memcmp(a, b, 10) && !memcmp(a + 10, c, N - 10));
	all_away();
	CHECK(pwritev(fd, iov, 2, 0) == N);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	all_away();
	CHECK(readv(fd, iov, 2) == N && !memcmp(a + 10, c, N - 10));
	CHECK(preadv2(fd, iov, 2, 0, 0) == N);
	all_away();
	CHECK(CALL(SYS_sendfile, (long)to, (long)fd, P(off), 100l) == 100 &&
	      *off == 105);
	all_away();
	CHECK(copy_file_range(fd, off, to, off2, 50, 0) == 50 && *off == 155);
	CHECK(!pipe(pipefd));
	all_away();
	CHECK(splice(fd, off, pipefd[1], NULL, 20, 0) == 20 && *off == 175);
	CHECK(read(pipefd[0], b, 100) == 20 && !memcmp(b, a + 155, 20));
	memset(noise, 0, PAGE);
	all_away();
	CHECK(CALL(SYS_getrandom, P(noise), (long)PAGE, 0l) == PAGE);
	for (size_t i = 0; i < PAGE; i++)
		zeros += !noise[i];
	CHECK(zeros < PAGE / 8);
	CHECK(CALL(SYS_getdents64, (long)dirfd, P(list), (long)PAGE) > 0);
	CHECK(!fcntl(fd, F_SETLK,
		     copy(&(struct flock){.l_type = F_WRLCK}, 32)));
}

static struct msghdr *message(int *passed, char *text, size_t n)
{
	struct iovec *iov =
		copy(&(struct iovec){text, n}, sizeof(struct iovec));
	char *control = output(CMSG_SPACE(sizeof(int)));
	struct msghdr *m = copy(&(struct msghdr){.msg_iov = iov,
						 .msg_iovlen = 1,
						 .msg_control = control},
				sizeof(*m));
	struct cmsghdr *c = (void *)control;

	m->msg_controllen = CMSG_SPACE(sizeof(int));
	if (passed) {
		*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
				      .cmsg_level = SOL_SOCKET,
				      .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(c), passed, sizeof(int));
	}
	return m;
}

CASE(sockets)
{
	struct sockaddr_in any = {.sin_family = AF_INET,
				  .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr_in *a = copy(&any, sizeof(any)), *b, *c, *from;
	socklen_t *len = copy(&(socklen_t){sizeof(any)}, 4), *len2, *len3;
	int *one = copy(&(int){1}, 4), *got = output(4), *pair = output(8);
	int l = socket(AF_INET, SOCK_STREAM, 0), s, t, u, fd;
	char *text = string("hello, world"), *in = output(100);
	struct msghdr *out_msg, *in_msg;
	struct mmsghdr *mm_out, *mm_in;

	b = output(sizeof(any));
	c = output(sizeof(any));
	from = output(sizeof(any));
	len2 = copy(len, 4);
	len3 = copy(len, 4);
	CHECK(l >= 0);
	all_away();
	CHECK(!setsockopt(l, SOL_SOCKET, SO_REUSEADDR, one, 4));
	CHECK(!bind(l, a, sizeof(any)) && !listen(l, 5));
	CHECK(!getsockname(l, a, len) && a->sin_port);
	s = socket(AF_INET, SOCK_STREAM, 0);
	all_away();
	CHECK(!connect(s, a, sizeof(any)));
	t = accept(l, b, len2);
	CHECK(t >= 0 && b->sin_family == AF_INET && *len2 == sizeof(any));
	all_away();
	CHECK(!getpeername(s, c, len3) && c->sin_port == a->sin_port);
	*len3 = 4;
	all_away();
	CHECK(!getsockopt(l, SOL_SOCKET, SO_REUSEADDR, got, len3) && *got == 1);
	all_away();
	CHECK(send(s, text, 12, 0) == 12 && recv(t, in, 100, 0) == 12);
	CHECK(!memcmp(in, text, 12));

	u = socket(AF_INET, SOCK_DGRAM, 0);
	a->sin_port = 0;
	*len = sizeof(any);
	CHECK(!bind(u, a, sizeof(any)) && !getsockname(u, a, len));
	all_away();
	CHECK(sendto(u, text, 12, 0, a, sizeof(any)) == 12);
	*len = sizeof(any);
	all_away();
	CHECK(recvfrom(u, in, 100, 0, from, len) == 12 &&
	      from->sin_port == a->sin_port);

	all_away();
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	s = pair[0];
	t = pair[1];
	out_msg = message(&l, text, 12);
	in_msg = message(NULL, in, 100);
	all_away();
	CHECK(sendmsg(s, out_msg, 0) == 12);
	all_away();
	CHECK(recvmsg(t, in_msg, 0) == 12 && !memcmp(in, text, 12));
	memcpy(&fd, CMSG_DATA((struct cmsghdr *)in_msg->msg_control), 4);
	CHECK(fd > 2 && fd != l && !close(fd));

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	s = pair[0];
	t = pair[1];
	mm_out = output(2 * sizeof(*mm_out));
	mm_in = output(2 * sizeof(*mm_in));
	for (int i = 0; i < 2; i++) {
		mm_out[i].msg_hdr = *message(&l, text, 5 + (size_t)i);
		mm_in[i].msg_hdr = *message(NULL, output(10), 10);
	}
	all_away();
	CHECK(sendmmsg(s, mm_out, 2, 0) == 2 && mm_out[1].msg_len == 6);
	all_away();
	CHECK(recvmmsg(t, mm_in, 2, 0, NULL) == 2 && mm_in[1].msg_len == 6);
	CHECK(!memcmp(mm_in[1].msg_hdr.msg_iov->iov_base, text, 6));
}

CASE(waiting_for_descriptors)
{
	int fd[2], ep = epoll_create1(0);
	struct pollfd *pfd;
	fd_set *r = output(sizeof(*r)), *wr = output(sizeof(*wr));
	struct timeval *tv = copy(&(struct timeval){10, 0}, 16);
	struct timespec *ts = copy(&(struct timespec){10, 0}, 16);
	sigset_t *set = output(sizeof(*set));
	struct epoll_event *ev, *got = output(4 * sizeof(*got));

	CHECK(!pipe(fd) && ep >= 0 && write(fd[1], "x", 1) == 1);
	sigemptyset(set);
	FD_ZERO(r);
	FD_SET(fd[0], r);
	FD_ZERO(wr);
	FD_SET(fd[1], wr);
	pfd = copy(&(struct pollfd){fd[0], POLLIN, 0}, sizeof(*pfd));
	ev = copy(&(struct epoll_event){EPOLLIN, {.u64 = 77}}, sizeof(*ev));
	all_away();
	CHECK(CALL(SYS_poll, P(pfd), 1l, 1000l) == 1 && pfd->revents == POLLIN);
	all_away();
	CHECK(ppoll(pfd, 1, ts, set) == 1 && pfd->revents == POLLIN);
	all_away();
	CHECK(CALL(SYS_select, (long)(fd[1] + 1), P(r), P(wr), 0l, P(tv)) == 2);
	CHECK(FD_ISSET(fd[0], r) && FD_ISSET(fd[1], wr));
	all_away();
	CHECK(pselect(fd[1] + 1, r, wr, NULL, ts, set) == 2);
	all_away();
	CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, fd[0], ev));
	CHECK(epoll_wait(ep, got, 4, 1000) == 1 && got->data.u64 == 77);
	all_away();
	CHECK(epoll_pwait(ep, got, 4, 1000, set) == 1 && got->data.u64 == 77);
}

static volatile sig_atomic_t handled;
static void *handler_sp;

static void on_signal(int sig)
{
	handler_sp = __builtin_frame_address(0);
	handled = sig;
}

CASE(signals)
{
	struct sigaction *sa = room(), *old = output(sizeof(*old));
	sigset_t *set = room(), *was = output(sizeof(*was));
	siginfo_t *info = output(sizeof(*info));
	struct timespec *ts = copy(&(struct timespec){10, 0}, 16);
	union sigval v = {.sival_int = 5};
	struct signalfd_siginfo *si = output(sizeof(*si));
	int fd;

	memset(sa, 0, sizeof(*sa));
	sa->sa_handler = on_signal;
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	all_away();
	CHECK(!sigaction(SIGUSR1, sa, old) && old->sa_handler == SIG_DFL);
	CHECK(!raise(SIGUSR1) && handled == SIGUSR1);
	all_away();
	CHECK(!CALL(SYS_rt_sigprocmask, 0l, P(set), P(was), 8l));
	CHECK(!sigqueue(getpid(), SIGUSR1, v));
	all_away();
	CHECK(!CALL(SYS_rt_sigpending, P(was), 8l) &&
	      sigismember(was, SIGUSR1));
	all_away();
	CHECK(CALL(SYS_rt_sigtimedwait, P(set), P(info), P(ts), 8l) == SIGUSR1);
	CHECK(info->si_value.sival_int == 5);
	all_away();
	fd = signalfd(-1, set, 0);
	CHECK(fd >= 0 && !sigqueue(getpid(), SIGUSR1, v));
	all_away();
	CHECK(read(fd, si, sizeof(*si)) == sizeof(*si) && si->ssi_int == 5);
}

/* The kernel writes the frame of a signal where no call announces it. */
CASE(a_signal_stack_in_memory_that_leaves)
{
	char *p = map(WORK);
	stack_t *ss = room(), *old = output(sizeof(*old));
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};

	fill(p, WORK, 1);
	*ss = (stack_t){.ss_sp = p + MB, .ss_size = 256u << 10};
	push_out();
	CHECK(!sigaltstack(ss, old) && (old->ss_flags & SS_DISABLE));
	CHECK(!sigaction(SIGUSR1, &sa, NULL));
	for (int i = 0; i < 5; i++) {
		push_out();
		handled = 0;
		CHECK(!raise(SIGUSR1) && handled == SIGUSR1);
		CHECK((char *)handler_sp > p + MB &&
		      (char *)handler_sp < p + MB + (256u << 10));
	}
	CHECK(is_filled(p, MB, 1));
}

CASE(children)
{
	int *status = output(4);
	struct rusage *ru = output(sizeof(*ru));
	siginfo_t *info = output(sizeof(*info));
	pid_t pid = fork();

	if (!pid)
		_exit(7);
	all_away();
	CHECK(wait4(pid, status, 0, ru) == pid && WEXITSTATUS(*status) == 7);
	pid = fork();
	if (!pid)
		_exit(8);
	all_away();
	CHECK(!waitid(P_PID, (id_t)pid, info, WEXITED));
	CHECK(info->si_status == 8);
}

CASE(messages_and_semaphores)
{
	struct {
		long type;
		char text[200];
	} *m = output(sizeof(*m)), *n = output(sizeof(*n));
	int q = msgget(IPC_PRIVATE, 0600), s = semget(IPC_PRIVATE, 2, 0600);
	struct sembuf *op = copy(&(struct sembuf){0, 3, 0}, sizeof(*op));
	unsigned short *all = copy((unsigned short[]){5, 6}, 4);
	struct msqid_ds *ds = output(sizeof(*ds));
	char *name = string("/pgmap-%d", (int)getpid());
	struct mq_attr *attr = room();
	char *text = string("text"), *got = output(100);
	unsigned int *prio = output(4);
	mqd_t mq;

	CHECK(q >= 0 && s >= 0);
	m->type = 3;
	memset(m->text, 'x', 200);
	all_away();
	CHECK(!msgsnd(q, m, 200, 0));
	all_away();
	CHECK(msgrcv(q, n, 200, 3, 0) == 200 && !memcmp(n, m, sizeof(*m)));
	CHECK(!msgctl(q, IPC_STAT, ds) && ds->msg_lspid == getpid());
	CHECK(!msgctl(q, IPC_RMID, NULL));
	CHECK(!semctl(s, 0, SETALL, all));
	all_away();
	CHECK(!semop(s, op, 1) && semctl(s, 0, GETVAL) == 8);
	all_away();
	CHECK(!semctl(s, 0, GETALL, all) && all[0] == 8 && all[1] == 6);
	CHECK(!semctl(s, 0, IPC_RMID));
	memset(attr, 0, sizeof(*attr));
	attr->mq_maxmsg = 4;
	attr->mq_msgsize = 64;
	all_away();
	mq = mq_open(name, O_CREAT | O_RDWR, 0600, attr);
	if (mq < 0)
		return; /* no such file system here */
	all_away();
	CHECK(!mq_send(mq, text, 5, 9));
	all_away();
	CHECK(mq_receive(mq, got, 100, prio) == 5 && !strcmp(got, text) &&
	      *prio == 9);
	CHECK(!mq_getattr(mq, attr) && attr->mq_msgsize == 64);
	CHECK(!mq_unlink(name));
}

CASE(ioctls)
{
	int fd[2], master = posix_openpt(O_RDWR | O_NOCTTY), s;
	int *n = output(4);
	struct termios *tio = output(sizeof(*tio));
	struct winsize *ws = copy(&(struct winsize){30, 100, 0, 0}, 8);
	struct ifconf *ifc = room();
	struct ifreq *list = output(40 * sizeof(*list));

	CHECK(!pipe(fd) && write(fd[1], "abc", 3) == 3);
	all_away();
	CHECK(!ioctl(fd[0], FIONREAD, n) && *n == 3);
	if (master >= 0) {
		all_away();
		CHECK(!ioctl(master, TCGETS, tio));
		CHECK(!ioctl(master, TIOCSWINSZ, ws));
		ws->ws_row = 0;
		all_away();
		CHECK(!ioctl(master, TIOCGWINSZ, ws) && ws->ws_row == 30);
	}
	/* With a pointer in the struct. */
	s = socket(AF_INET, SOCK_DGRAM, 0);
	ifc->ifc_len = 40 * (int)sizeof(*list);
	ifc->ifc_req = list;
	all_away();
	CHECK(!ioctl(s, SIOCGIFCONF, ifc));
	CHECK(ifc->ifc_len < (int)sizeof(*list) || list[0].ifr_name[0]);
}

CASE(populating_what_is_away)
{
	char *p = filled(WORK, 1);

	if (madvise(p, 4 * MB, MADV_POPULATE_READ) && errno == EINVAL)
		return; /* Linux before 5.14 */
	push_out();
	CHECK(!madvise(p, 4 * MB, MADV_POPULATE_READ));
	push_out();
	CHECK(!madvise(p, 4 * MB, MADV_POPULATE_WRITE));
	CHECK(is_filled(p, 4 * MB, 1));
}

CASE(what_a_move_leaves_behind)
{
	char *p = filled(WORK, 1), *q;
	int fd[2];

	CHECK(!pipe(fd) && write(fd[1], "abc", 3) == 3);
	q = mremap(p, WORK, WORK, MREMAP_MAYMOVE | 4 /* DONTUNMAP */);
	if (q == MAP_FAILED)
		return; /* Linux before 5.7 */
	CHECK(read(fd[0], p + MB, 10) == 3 && !memcmp(p + MB, "abc", 4));
	CHECK(write(fd[1], p + 2 * MB, 100) == 100);
	CHECK(read(fd[0], q, 100) == 100 && is_zero(q, 96));
	CHECK(is_zero(p + 4 * MB, MB));
}

CASE(copies_within_the_process)
{
	char *p = filled(WORK / 2, 1), *q = filled(WORK / 2, 2);
	struct iovec mine = {q, MB}, theirs = {p, MB};

	push_out();
	CHECK(process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) ==
	      (ssize_t)MB);
	push_out();
	CHECK(is_filled(q, MB, 1));
	push_out();
	CHECK(process_vm_writev(getpid(), &theirs, 1, &mine, 1, 0) ==
	      (ssize_t)MB);
	CHECK(is_filled(p, MB, 1));
}

/* ---- While a call blocks ---- */

static int ends[2];
static char *target;
static _Atomic bool reading;

static void *read_target(void *arg)
{
	struct iovec iov[2] = {{target, 5 * PAGE}, {target + MB, 5 * PAGE}};

	(void)arg;
	reading = true;
	CHECK(readv(ends[0], iov, 2) == 10 * PAGE);
	return NULL;
}

CASE(what_a_blocked_call_uses_stays)
{
	char *from = map(MB);
	pthread_t t;

	target = map(WORK);
	fill(target, WORK, 1);
	fill(from, MB, 7);
	CHECK(!pipe(ends));
	for (int round = 0; round < 3; round++) {
		push_out_range(target, WORK);
		reading = false;
		CHECK(!pthread_create(&t, NULL, read_target, NULL));
		while (!reading)
			usleep(100);
		usleep(20000);
		push_out(); /* what can leave has left, some of it twice */
		push_out();
		CHECK(write(ends[1], from, 10 * PAGE) == 10 * PAGE);
		CHECK(!pthread_join(t, NULL));
		CHECK(!memcmp(target, from, 5 * PAGE));
		CHECK(!memcmp(target + MB, from + 5 * PAGE, 5 * PAGE));
		fill(target, WORK, 1);
	}
}

/* It has blocked since before anything was managed. */
CASE(a_call_that_blocks_when_management_begins)
{
	char *from = map(MB), *p;
	pthread_attr_t attr;
	pthread_t t;

	fill(from, MB, 7);
	target = map(2 * MB); /* nothing of it was ever touched */
	CHECK(!pipe(ends));
	/* Far from the budget, still. */
	CHECK(!pthread_attr_init(&attr));
	CHECK(!pthread_attr_setstacksize(&attr, 256 << 10));
	CHECK(!pthread_create(&t, &attr, read_target, NULL));
	while (!reading)
		usleep(100);
	usleep(20000);
	p = filled(WORK, 1);
	push_out();
	CHECK(write(ends[1], from, 10 * PAGE) == 10 * PAGE);
	CHECK(!pthread_join(t, NULL));
	CHECK(!memcmp(target, from, 5 * PAGE));
	CHECK(!memcmp(target + MB, from + 5 * PAGE, 5 * PAGE));
	push_out();
	CHECK(is_filled(p, WORK, 1));
}

static sigjmp_buf back;

static void jump_back(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

static void *interrupt(void *arg)
{
	pthread_t *t = arg;

	for (int i = 0; i < 50; i++) {
		usleep(1000);
		pthread_kill(*t, SIGUSR1);
	}
	push_out();
	CHECK(write(ends[1], target + MB, 5 * PAGE) == 5 * PAGE);
	CHECK(write(ends[1], target + MB, 5 * PAGE) == 5 * PAGE);
	return NULL;
}

CASE(a_call_that_is_restarted_still_has_its_buffers)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	pthread_t t, me = pthread_self();

	target = filled(WORK, 1);
	CHECK(!pipe(ends) && !sigaction(SIGUSR1, &sa, NULL));
	CHECK(!pthread_create(&t, NULL, interrupt, &me));
	CHECK(read(ends[0], target, 10 * PAGE) > 0);
	CHECK(!memcmp(target, target + MB, PAGE));
	CHECK(!pthread_join(t, NULL) && handled);
}

/* More often than there are slots for calls that hold something. */
CASE(calls_that_are_left_by_a_jump)
{
	enum { TIMES = 10000 };
	struct itimerval it = {{0, 50}, {0, 50}}, off = {{0, 0}, {0, 0}};
	static volatile int jumps;

	target = filled(WORK, 1);
	CHECK(!pipe(ends));
	CHECK(signal(SIGALRM, jump_back) != SIG_ERR);
	if (sigsetjmp(back, 1))
		jumps++;
	if (jumps < TIMES) {
		CHECK(!setitimer(ITIMER_REAL, &it, NULL));
		CHECK(read(ends[0], target + (size_t)jumps % 1000 * PAGE,
			   PAGE) == 0);
	}
	/* It may go off once more before it is. */
	CHECK(!setitimer(ITIMER_REAL, &off, NULL));
	CHECK(jumps >= TIMES);
	/* Nothing of it is held for good. */
	push_out();
	usleep(600000);
	push_out_range(target, WORK);
	CHECK(is_filled(target, WORK, 1));
}

static void *wait_for_ever(void *arg)
{
	(void)arg;
	reading = true;
	CHECK(read(ends[0], target, PAGE) == 0);
	return NULL;
}

CASE(threads_that_are_cancelled_in_a_call)
{
	target = filled(WORK, 1);
	CHECK(!pipe(ends));
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		void *r;

		reading = false;
		CHECK(!pthread_create(&t, NULL, wait_for_ever, NULL));
		while (!reading)
			usleep(100);
		usleep(2000);
		CHECK(!pthread_cancel(t) && !pthread_join(t, &r));
		CHECK(r == PTHREAD_CANCELED);
	}
	push_out();
	CHECK(is_filled(target, WORK, 1));
}

static int shared_file;

/* Each thread has its part of the area, and copies it through a file. */
static void *copy_through_file(void *arg)
{
	size_t part = 2 * MB, mine = (size_t)arg;
	char *p = target + mine * part;

	for (size_t i = 0; i < 60; i++) {
		size_t at = i * 7919 % 400 * PAGE, n = 13 * PAGE + 5;
		off_t where = (off_t)(mine * part + at);

		CHECK(pwrite(shared_file, p + at, n, where) == (ssize_t)n);
		memset(p + at, 0, n);
		CHECK(pread(shared_file, p + at, n, where) == (ssize_t)n);
	}
	return NULL;
}

CASE(many_threads_in_calls_and_forks_beside_them)
{
	char name[] = "/tmp/pgmap-buffersXXXXXX";
	enum { NR = 24 };
	pthread_t t[NR];

	shared_file = mkstemp(name);
	CHECK(shared_file >= 0 && !unlink(name));
	target = filled(WORK, 1);
	for (size_t i = 0; i < NR; i++)
		CHECK(!pthread_create(&t[i], NULL, copy_through_file,
				      (void *)i));
	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			char c[PAGE];

			CHECK(pread(shared_file, c, 1, 0) >= 0);
			_exit(3);
		}
		check_child(pid, 3);
		push_out();
	}
	for (size_t i = 0; i < NR; i++)
		CHECK(!pthread_join(t[i], NULL));
	CHECK(is_filled(target, WORK, 1));
}

/* ---- A stack of ordinary memory ---- */

static ucontext_t main_context, coroutine;

static void on_its_own_stack(void)
{
	char text[256], back_text[256];

	for (int i = 0; i < 200; i++) {
		memset(text, i, sizeof(text));
		CHECK(write(ends[1], text, sizeof(text)) == sizeof(text));
		if (i % 50 == 0)
			push_out();
		CHECK(read(ends[0], back_text, sizeof(text)) == sizeof(text));
		CHECK(!memcmp(text, back_text, sizeof(text)));
		CHECK(!raise(SIGUSR1));
		swapcontext(&coroutine, &main_context);
	}
}

CASE(coroutines)
{
	char *p = filled(WORK, 1);

	fill(p + MB, WORK - MB, 2);
	CHECK(!pipe(ends) && signal(SIGUSR1, on_signal) != SIG_ERR);
	CHECK(!getcontext(&coroutine));
	coroutine.uc_stack.ss_sp = p;
	coroutine.uc_stack.ss_size = MB;
	coroutine.uc_link = &main_context;
	makecontext(&coroutine, on_its_own_stack, 0);
	for (int i = 0; i < 201; i++) {
		swapcontext(&main_context, &coroutine);
		if (i % 50 == 20)
			push_out();
	}
	CHECK(is_filled(p + MB, WORK - MB, 2));
}

/* ---- Calls that never come back ---- */

static sigjmp_buf out;

static void jump_out(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/* More often than there are slots (core/hold.h), from frames of many sizes, so
 * that not each covers the one before. */
CASE(handlers_that_leave_calls_for_good)
{
	sigset_t block, none;
	static char *p;

	if (managed) {
		p = filled(WORK, 1);
		push_out();
	}
	CHECK(signal(SIGUSR1, jump_out) != SIG_ERR);
	CHECK(!sigemptyset(&none) && !sigemptyset(&block));
	CHECK(!sigaddset(&block, SIGUSR1));
	for (volatile int i = 0; i < 20000; i++) {
		char *frame;

		CHECK(!sigprocmask(SIG_BLOCK, &block, NULL) && !raise(SIGUSR1));
		if (sigsetjmp(out, 0))
			continue;
		frame = alloca((size_t)(i % 512) * 64 + 16);
		*(volatile char *)frame = 1;
		sigsuspend(&none);
		CHECK(i < 0); /* the handler jumps out */
	}
	CHECK(!p || is_filled(p, WORK, 1));
}

/* What a call reads through is looked at before the kernel does. */
CASE(protected_memory_is_not_read)
{
	char *p = filled(WORK, 1);
	int null = open("/dev/null", O_WRONLY);

	CHECK(null >= 0 && !mprotect(p + MB, MB, PROT_NONE));
	push_out();
	for (size_t at = MB; at < 2 * MB; at += MB / 4) {
		CHECK(writev(null, (struct iovec *)(void *)(p + at), 1) < 0);
		CHECK(errno == EFAULT);
		CHECK(sendmsg(null, (struct msghdr *)(void *)(p + at), 0) < 0);
		CHECK(ioctl(null, TIOCGWINSZ, p + at) < 0);
		CHECK(prctl(PR_SET_NAME, p + at) < 0 && errno == EFAULT);
	}
	CHECK(!mprotect(p + MB, MB, PROT_READ));
	CHECK(is_filled(p, WORK, 1));
}

CASE(lazily_freed_memory_and_files)
{
	char *p = filled(WORK, 1), *file;
	char name[] = "/tmp/pgmap-bXXXXXX";
	int fd = mkstemp(name);

	CHECK(fd >= 0 && !unlink(name) && !ftruncate(fd, MB));
	file = mmap(NULL, MB, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(file != MAP_FAILED);
	fill(file, MB, 3);
	CHECK(madvise(file, MB, MADV_FREE) < 0 && errno == EINVAL);
	CHECK(is_filled(file, MB, 3));
	CHECK(!madvise(p, MB, MADV_FREE));
	fill(p, MB, 1);
	push_out();
	CHECK(is_filled(p, WORK, 1));
}

CASES_MAIN()
