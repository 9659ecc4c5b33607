/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control.c - the shared range: joining, slots, folding, sums.
 *
 * Most of this runs in the program, at its start and in its fork children, so
 * it uses raw system calls and no state of libc.
 */
#include "runtime/control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"

#define TIMEOUT_NS (2 * 1000000000ull)

/* Of the budget this part is for managed processes, whatever others use. */
#define LEAST_PART 4u

/* The gauges that keep a maximum, and the level each is the maximum of. */
#define PEAKS(X)                                                               \
	X(peak_managed, present + s->away)                                     \
	X(peak_resident, present + s->pool)                                    \
	X(peak_away, away)                                                     \
	X(peak_device_host, device_host)                                       \
	X(peak_device_media, device_media)

static uint32_t nr_slots(const struct pg_control *control)
{
	uint32_t high = pg_load(&control->high, acquire);

	return high < PG_CONTROL_PROCS ? high : PG_CONTROL_PROCS;
}

/* ---- what the kernel says about a process ---- */

/* Read a small file whole. Return: bytes, or a negative errno. */
static long read_file(const char *path, char *buf, size_t len)
{
	long fd = pg_sys(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	long n;

	if (fd < 0)
		return fd;
	n = pg_sys(read, fd, buf, len - 1);
	pg_sys(close, fd);
	if (n >= 0)
		buf[n] = '\0';
	return n;
}

/* Start time and name, from the one line of /proc/PID/stat. The name may hold
 * spaces and parentheses: its end is the last ')'. */
static uint64_t read_stat(int pid, char comm[16])
{
	char path[32], text[512];
	const char *p, *open, *close = NULL;
	uint64_t start = 0;
	long n;

	if (pid)
		pg_format(path, sizeof(path), "/proc/%d/stat", pid);
	else
		pg_format(path, sizeof(path), "/proc/self/stat");
	n = read_file(path, text, sizeof(text));
	if (n <= 0)
		return 0;
	open = memchr(text, '(', (size_t)n);
	for (p = text; p < text + n; p++)
		if (*p == ')')
			close = p;
	if (!open || !close || close < open)
		return 0;
	if (comm) {
		size_t len = (size_t)(close - open - 1);

		len = len < 15 ? len : 15;
		memcpy(comm, open + 1, len);
		comm[len] = '\0';
	}
	p = close + 1;
	for (int field = 2; field < 22 && *p; p++)
		field += *p == ' ';
	while (*p >= '0' && *p <= '9')
		start = start * 10 + (uint64_t)(*p++ - '0');
	return start;
}

uint64_t pg_control_start_time(int pid)
{
	return read_stat(pid, NULL);
}

static bool is_gone(int pid, uint64_t start)
{
	uint64_t now;

	if (pg_sys(kill, pid, 0) == -ESRCH)
		return true;
	now = start ? pg_control_start_time(pid) : 0;
	return start && now && now != start;
}

/* ---- lines for the user ---- */

void pg_control_say(struct pg_control *control, const char *line, size_t len)
{
	uint32_t i = pg_fetch_add(&control->nr_said, 1, relaxed);

	i %= PG_CONTROL_SAID;
	if (len > sizeof(control->said[i].text))
		len = sizeof(control->said[i].text);
	memcpy(control->said[i].text, line, len);
	pg_store(&control->said[i].len, (uint32_t)len, release);
}

size_t pg_control_hear(struct pg_control *control, uint32_t *seen,
		       char text[PG_CONTROL_LINE])
{
	uint32_t n = pg_load(&control->nr_said, relaxed), i, len;

	if (n - *seen > PG_CONTROL_SAID)
		*seen = n - PG_CONTROL_SAID;
	if (*seen == n)
		return 0;
	i = *seen % PG_CONTROL_SAID;
	len = pg_xchg(&control->said[i].len, 0, acquire);
	if (!len || len > sizeof(control->said[i].text))
		return 0; /* not complete yet */
	memcpy(text, control->said[i].text, len);
	++*seen;
	return len;
}

/* ---- slots ---- */

struct pg_control_proc *pg_control_find(const struct pg_control *control,
					int pid)
{
	uint32_t n = nr_slots(control);

	for (uint32_t i = 0; i < n; i++)
		if (pg_load(&control->procs[i].pid, acquire) == (uint32_t)pid)
			return (struct pg_control_proc *)(uintptr_t)&control
				->procs[i];
	return NULL;
}

/* Only one process folds at a time, so that no slot is folded by one while it
 * already belongs to the next. Who died while folding is replaced: a counter
 * moves by an exchange, so folding the rest again counts nothing twice. */
static bool fold_lock(struct pg_control *control)
{
	uint32_t me = (uint32_t)pg_sys(getpid);
	uint64_t end = pg_now_ns() + TIMEOUT_NS;

	for (;;) {
		uint32_t holder = 0;
		struct timespec nap = {0, 100000};

		if (pg_cas(&control->folder, &holder, me, acquire))
			break;
		if (pg_sys(kill, holder, 0) == -ESRCH &&
		    pg_cas(&control->folder, &holder, me, acquire))
			break;
		if (pg_now_ns() > end)
			return false;
		pg_sys(nanosleep, &nap, NULL);
	}
	/* Odd, also after a folder that died half-way left it odd. */
	pg_fetch_or(&control->fold_seq, 1u, acq_rel);
	return true;
}

static void fold_unlock(struct pg_control *control)
{
	pg_fetch_add(&control->fold_seq, 1u, release);
	pg_store(&control->folder, 0, release);
}

static void raise_to(pg_atomic64 *max, uint64_t value)
{
	uint64_t old = pg_load(max, relaxed);

	while (old < value && !pg_cas(max, &old, value, relaxed))
		;
}

/* Add what @from holds to *@to, and leave zero. */
static void take(pg_atomic64 *to, pg_atomic64 *from)
{
	pg_fetch_add(to, pg_xchg(from, 0, relaxed), relaxed);
}

static void fold_stat(struct pg_control_stat *to, struct pg_control_stat *from)
{
#define X(name, level) raise_to(&to->name, pg_load(&from->name, relaxed));
	PEAKS(X)
#undef X
#define X(name, unit, doc) take(&to->name, &from->name);
	PGMAP_COUNTERS(X)
#undef X
#define X(name, unit, doc) pg_store(&from->name, 0, relaxed);
	PGMAP_GAUGES(X)
#undef X
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		take(&to->fault_hist[b], &from->fault_hist[b]);
#define X(name, doc) take(&to->left.name, &from->left.name);
	PGMAP_LEFT_ALONE(X)
#undef X
}

void pg_control_fold(struct pg_control *control, struct pg_control_proc *proc,
		     int pid, uint64_t start)
{
	if (!fold_lock(control))
		return;
	if (pg_load(&proc->pid, acquire) == (uint32_t)pid &&
	    (!start || pg_load(&proc->start, relaxed) == start)) {
		fold_stat(&control->ended.stat, &proc->stat);
		pg_store(&proc->state, PG_CONTROL_JOINED, relaxed);
		pg_store(&proc->pressure, 0, relaxed);
		pg_store(&proc->was_managed, 0, relaxed);
		pg_store(&proc->reach, 0, relaxed);
		pg_store(&proc->resident, 0, relaxed);
		pg_store(&proc->start, 0, relaxed);
		memset(proc->comm, 0, sizeof(proc->comm));
		pg_store(&proc->pid, 0, release);
	}
	fold_unlock(control);
}

bool pg_control_reap(struct pg_control *control)
{
	bool some = false;

	for (uint32_t i = 0; i < PG_CONTROL_PROCS; i++) {
		struct pg_control_proc *p = &control->procs[i];
		uint32_t pid = pg_load(&p->pid, acquire);
		uint64_t start = pg_load(&p->start, acquire);

		if (pid && is_gone((int)pid, start)) {
			pg_control_fold(control, p, (int)pid, start);
			some = true;
		}
	}
	return some;
}

static struct pg_control_proc *take_slot(struct pg_control *control, int pid)
{
	for (uint32_t i = 0; i < PG_CONTROL_PROCS; i++) {
		struct pg_control_proc *p = &control->procs[i];
		uint32_t old = 0, high;

		if (pg_load(&p->pid, relaxed) ||
		    !pg_cas(&p->pid, &old, (uint32_t)pid, acq_rel))
			continue;
		high = pg_load(&control->high, relaxed);
		while (high < i + 1 &&
		       !pg_cas(&control->high, &high, i + 1, release))
			;
		return p;
	}
	return NULL;
}

int pg_control_claim(struct pg_control *control, int pid,
		     struct pg_control_proc **proc)
{
	struct pg_control_proc *p = pg_control_find(control, pid);
	uint32_t was_managed = 0;

	/* After exec this is the same process, or else an earlier one. */
	if (p && pg_load(&p->start, relaxed) == read_stat(0, NULL))
		was_managed = pg_load(&p->was_managed, relaxed);
	else
		pg_fetch_add(&control->nr_procs, 1u, relaxed);
	if (p)
		pg_control_fold(control, p, pid, 0);
	p = take_slot(control, pid);
	if (!p && pg_control_reap(control))
		p = take_slot(control, pid);
	if (!p)
		return -ENOSPC;
	pg_store(&p->was_managed, was_managed, relaxed);
	pg_store(&p->start, read_stat(0, p->comm), release);
	*proc = p;
	return 0;
}

void pg_control_fork_begin(struct pg_control *control)
{
	pg_fetch_add(&control->forking, 1u, seq_cst);
}

void pg_control_fork_end(struct pg_control *control)
{
	pg_fetch_sub(&control->forking, 1u, seq_cst);
}

void pg_control_managed(struct pg_control *control,
			struct pg_control_proc *proc)
{
	pg_store(&proc->state, PG_CONTROL_MANAGED, release);
	if (!pg_xchg(&proc->was_managed, 1, relaxed))
		pg_fetch_add(&control->nr_managed, 1u, relaxed);
}

void pg_control_unmanaged(struct pg_control *control,
			  struct pg_control_proc *proc, int pid,
			  const char *why)
{
	char comm[16] = "?";
	uint32_t taken = 0;

	if (proc)
		pg_store(&proc->state, PG_CONTROL_UNMANAGED, release);
	pg_fetch_add(&control->nr_unmanaged, 1u, relaxed);
	if (!pg_cas(&control->unmanaged_taken, &taken, 1, acq_rel))
		return;
	read_stat(0, comm);
	pg_format(control->unmanaged, sizeof(control->unmanaged), "%s[%d]: %s",
		  comm, pid, why);
	pg_store(&control->unmanaged_taken, 2, release);
}

void pg_control_publish(struct pg_control_proc *proc,
			const struct pgmap_stat *st,
			const struct pgmap_left_alone *left)
{
	struct pg_control_stat *s = &proc->stat;

#define X(name, unit, doc) pg_store(&s->name, st->name, relaxed);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		pg_store(&s->fault_hist[b], st->fault_hist[b], relaxed);
	if (!left)
		return;
#define X(name, doc) pg_store(&s->left.name, left->name, relaxed);
	PGMAP_LEFT_ALONE(X)
#undef X
}

/* ---- sums ---- */

static bool is_managed(const struct pg_control_proc *p)
{
	return pg_load(&p->state, acquire) == PG_CONTROL_MANAGED;
}

static uint64_t managed_resident(const struct pg_control_proc *p)
{
	return pg_load(&p->stat.present, relaxed) +
	       pg_load(&p->stat.pool, relaxed);
}

uint64_t pg_control_resident(struct pg_control *control,
			     const struct pg_control_proc *except)
{
	uint32_t n = nr_slots(control);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct pg_control_proc *p = &control->procs[i];

		if (p == except || !pg_load(&p->pid, relaxed))
			continue;
		sum += is_managed(p) ? managed_resident(p)
				     : pg_load(&p->resident, relaxed);
	}
	return sum;
}

uint64_t pg_control_reach(struct pg_control *control,
			  const struct pg_control_proc *except)
{
	uint32_t n = nr_slots(control);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct pg_control_proc *p = &control->procs[i];

		if (p == except || !pg_load(&p->pid, relaxed))
			continue;
		sum += is_managed(p) ? managed_resident(p)
				     : pg_load(&p->reach, relaxed);
	}
	return sum;
}

uint64_t pg_control_share(struct pg_control *control,
			  const struct pg_control_proc *proc)
{
	uint32_t n = nr_slots(control), users = 1;
	uint64_t others = pg_control_resident(control, proc);
	uint64_t budget = control->budget, fixed = 0, equal;

	for (uint32_t i = 0; i < n; i++) {
		const struct pg_control_proc *p = &control->procs[i];

		if (p == proc || !pg_load(&p->pid, relaxed))
			continue;
		if (!is_managed(p))
			fixed += pg_load(&p->resident, relaxed);
		else if (pg_load(&p->stat.present, relaxed))
			users++;
	}
	/* With less than this nobody gets anywhere. */
	if (fixed > budget - budget / LEAST_PART)
		fixed = budget - budget / LEAST_PART;
	equal = (budget - fixed) / users;
	return others + equal < budget ? budget - others : equal;
}

void pg_control_snapshot(const struct pg_control_proc *proc,
			 struct pgmap_stat *st, struct pgmap_left_alone *left)
{
	const struct pg_control_stat *s = &proc->stat;

	st->size = sizeof(*st);
#define X(name, unit, doc) st->name = pg_load(&s->name, relaxed);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		st->fault_hist[b] = pg_load(&s->fault_hist[b], relaxed);
	if (!left)
		return;
#define X(name, doc) left->name = pg_load(&s->left.name, relaxed);
	PGMAP_LEFT_ALONE(X)
#undef X
}

/* Add to *st, but the peaks: of them the highest. */
static void add_proc(const struct pg_control_proc *proc, struct pgmap_stat *st,
		     struct pgmap_left_alone *left)
{
	const struct pg_control_stat *s = &proc->stat;
#define X(name, level) uint64_t name = st->name;
	PEAKS(X)
#undef X

#define X(name, unit, doc) st->name += pg_load(&s->name, relaxed);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
#define X(name, level)                                                         \
	st->name = pg_load(&s->name, relaxed);                                 \
	st->name = st->name > name ? st->name : name;
	PEAKS(X)
#undef X
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		st->fault_hist[b] += pg_load(&s->fault_hist[b], relaxed);
	if (!left)
		return;
#define X(name, doc) left->name += pg_load(&s->left.name, relaxed);
	PGMAP_LEFT_ALONE(X)
#undef X
}

static void sum_up(const struct pg_control *control, struct pgmap_stat *st,
		   struct pgmap_left_alone *left)
{
	const struct pgmap_stat *s = st;
	uint32_t n = nr_slots(control);

	memset(st, 0, sizeof(*st));
	if (left)
		memset(left, 0, sizeof(*left));
	for (uint32_t i = 0; i < n; i++)
		if (pg_load(&control->procs[i].pid, acquire))
			add_proc(&control->procs[i], st, left);
	add_proc(&control->ended, st, left);
#define X(name, level)                                                         \
	if (st->name < s->level)                                               \
		st->name = s->level;                                           \
	if (st->name < pg_load(&control->name, relaxed))                       \
		st->name = pg_load(&control->name, relaxed);
	PEAKS(X)
#undef X
	st->size = sizeof(*st);
	st->budget = control->budget;
}

void pg_control_total(const struct pg_control *control, struct pgmap_stat *st,
		      struct pgmap_left_alone *left)
{
	/* Folding moves numbers from a slot to the total of ended ones; look
	 * again when it happened meanwhile, but not for ever. */
	for (int i = 0, waited = 0; i < 1000 && waited < 100; i++) {
		uint32_t seq = pg_load(&control->fold_seq, acquire);

		sum_up(control, st, left);
		pg_fence(acquire);
		if (!(seq & 1) && seq == pg_load(&control->fold_seq, relaxed))
			return;
		if (seq & 1) {
			/* Whoever folds may have lost the CPU, or be dead. */
			const struct timespec ms = {.tv_nsec = 1000000};

			pg_sys(nanosleep, &ms, NULL);
			waited++;
		}
	}
}

uint64_t pg_control_sample(struct pg_control *control)
{
	struct pgmap_stat sum = {0};
	const struct pgmap_stat *s = &sum;
	uint32_t n = nr_slots(control);

	for (uint32_t i = 0; i < n; i++) {
		const struct pg_control_proc *p = &control->procs[i];

		if (!pg_load(&p->pid, acquire))
			continue;
		sum.present += pg_load(&p->stat.present, relaxed);
		sum.pool += pg_load(&p->stat.pool, relaxed);
		sum.away += pg_load(&p->stat.away, relaxed);
		sum.device_host += pg_load(&p->stat.device_host, relaxed);
		sum.device_media += pg_load(&p->stat.device_media, relaxed);
	}
#define X(name, level) raise_to(&control->name, s->level);
	PEAKS(X)
#undef X
	raise_to(&control->peak_tree, pg_control_resident(control, NULL));
	return sum.present + sum.away;
}

/* ---- the socket, from the program ---- */

static int set_timeout(long fd, uint64_t end)
{
	uint64_t now = pg_now_ns();
	uint64_t left = end > now ? end - now : 1000;
	struct timeval tv = {(time_t)(left / 1000000000u),
			     (suseconds_t)(left % 1000000000u / 1000u)};
	long ret;

	if (now >= end)
		return -ETIMEDOUT;
	if (!tv.tv_sec && !tv.tv_usec)
		tv.tv_usec = 1; /* zero would mean for ever */
	ret = pg_sys(setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	if (ret == 0)
		ret = pg_sys(setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &tv,
			     sizeof(tv));
	return (int)ret;
}

/* Repeat a call that signals interrupt until it has said something else. */
#define UNTIL(end, fd, ret, call)                                              \
	do {                                                                   \
		ret = set_timeout(fd, end);                                    \
		if (ret == 0)                                                  \
			ret = call;                                            \
	} while (ret == -EINTR);                                               \
	if (ret == -EAGAIN)                                                    \
	ret = -ETIMEDOUT

static int dial(const char *name, size_t name_len, uint64_t end)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	long fd, ret;

	if (!name_len || name_len >= PG_CONTROL_NAME_MAX)
		return -EINVAL;
	memcpy(addr.sun_path + 1, name, name_len);
	fd = pg_sys(socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	UNTIL(end, fd, ret,
	      pg_sys(connect, fd, &addr,
		     offsetof(struct sockaddr_un, sun_path) + 1 + name_len));
	if (ret < 0) {
		pg_sys(close, fd);
		return (int)ret;
	}
	return (int)fd;
}

union fd_message {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

/* One question (with descriptor @send unless -1), one answer (with a
 * descriptor in *@received unless NULL). */
static int ask(const char *name, size_t name_len, uint32_t kind, int send,
	       int *received)
{
	uint64_t end = pg_now_ns() + TIMEOUT_NS;
	struct pg_control_message m = {.magic = PG_CONTROL_MAGIC,
				       .version = PG_CONTROL_VERSION,
				       .struct_size = sizeof(struct pg_control),
				       .kind = kind};
	union fd_message c;
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int fd = dial(name, name_len, end);
	long ret;

	if (fd < 0)
		return fd;
	memset(&c, 0, sizeof(c));
	if (send >= 0) {
		c.header.cmsg_level = SOL_SOCKET;
		c.header.cmsg_type = SCM_RIGHTS;
		c.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.header), &send, sizeof(int));
		msg.msg_control = &c;
		msg.msg_controllen = sizeof(c);
	}
	UNTIL(end, fd, ret, pg_sys(sendmsg, fd, &msg, MSG_NOSIGNAL));
	if (ret < 0)
		goto out;
	memset(&c, 0, sizeof(c));
	msg.msg_control = received ? &c : NULL;
	msg.msg_controllen = received ? sizeof(c) : 0;
	UNTIL(end, fd, ret, pg_sys(recvmsg, fd, &msg, MSG_CMSG_CLOEXEC));
	if (ret < 0)
		goto out;
	if (received && msg.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    c.header.cmsg_level == SOL_SOCKET &&
	    c.header.cmsg_type == SCM_RIGHTS)
		memcpy(received, CMSG_DATA(&c.header), sizeof(int));
	if (ret == 0)
		ret = -ECONNREFUSED; /* it went away without an answer */
	else if (ret != sizeof(m) || m.magic != PG_CONTROL_MAGIC ||
		 m.version != PG_CONTROL_VERSION ||
		 m.struct_size != sizeof(struct pg_control))
		ret = -EPROTO;
	else
		ret = m.status < 0 ? m.status : 0;
out:
	pg_sys(close, fd);
	return (int)ret;
}

/* Pids in the range are those of one namespace; in another one they would
 * name the wrong processes. Without /proc this cannot be told: go on. */
static bool same_pid_ns(const struct pg_control *control)
{
	char text[64];
	uint64_t ino = 0;
	long n = pg_sys(readlinkat, AT_FDCWD, "/proc/self/ns/pid", text,
			sizeof(text));

	for (long i = 0; i < n; i++)
		if (text[i] >= '0' && text[i] <= '9')
			ino = ino * 10 + (uint64_t)(text[i] - '0');
	return n <= 0 || !control->pid_ns || ino == control->pid_ns;
}

int pg_control_join(const char *name, size_t name_len,
		    struct pg_control **control)
{
	struct pg_control *c;
	struct stat st;
	int fd = -1, ret = ask(name, name_len, PG_CONTROL_JOIN, -1, &fd);
	long map = -ENOMEM;

	if (ret == 0 && fd < 0)
		ret = -EPROTO;
	if (ret == 0)
		ret = (int)pg_sys(fstat, fd, &st);
	if (ret == 0 && st.st_size != (off_t)sizeof(*c))
		ret = -EPROTO;
	if (ret == 0) {
		map = pg_sys(mmap, pg_mem_place(sizeof(*c)), sizeof(*c),
			     PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ret = pg_sys_failed(map) ? (int)map : 0;
	}
	if (fd >= 0)
		pg_sys(close, fd);
	if (ret < 0)
		return ret;
	c = (struct pg_control *)map;
	if (c->magic != PG_CONTROL_MAGIC || c->version != PG_CONTROL_VERSION ||
	    c->struct_size != sizeof(*c))
		ret = -EPROTO;
	else if (!same_pid_ns(c))
		ret = -EXDEV;
	if (ret < 0) {
		pg_sys(munmap, map, sizeof(*c));
		return ret;
	}
	*control = c;
	return 0;
}

int pg_control_send_fd(const char *name, size_t name_len, int fd)
{
	return ask(name, name_len, PG_CONTROL_HOLD, fd, NULL);
}
