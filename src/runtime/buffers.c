/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buffers.c - see buffers.h.
 *
 * One table: for each call, which arguments are pointers, and at how much. No
 * difference is made between what the kernel reads and what it writes, as a
 * page that is there serves both. A pointer that is none (NULL, a number, an
 * address where nothing is) does no harm: only managed pages are ever looked
 * at. So an argument that is a pointer for some commands only is listed as one.
 *
 * For what is behind a pointer that this file does not know (a driver's ioctl,
 * a call newer than the table), every word that is a managed address counts as
 * a pointer, to GUESS bytes.
 */
#include "runtime/buffers.h"

#include <asm/ioctl.h>
#include <errno.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/mutant.h"
#include "core/mm.h"
#include "runtime/runtime.h"

#define GUESS ((size_t)64 << 10)
/* Of a struct with pointers in it that is not known. */
#define UNKNOWN 512u

enum how {
	END,
	BYTES,	       /* .n */
	LENGTH,	       /* argument .len, and .n bytes more */
	TIMES,	       /* argument .len, .n bytes each */
	BITS,	       /* argument .len bits, in whole words */
	PAGES,	       /* a byte for each page of argument .len bytes */
	AT,	       /* the uint32_t at argument .len */
	STRING,	       /* up to a NUL */
	STRINGS,       /* pointers to strings, up to a NULL, and the strings */
	VECTOR,	       /* argument .len struct iovec, and what is in them */
	MESSAGE,       /* a struct msghdr, and what is in it */
	MESSAGES,      /* argument .len struct mmsghdr, and what is in them */
	NESTED,	       /* .n bytes with pointers in them */
	NESTED_LENGTH, /* argument .len bytes with pointers in them */
};

struct part {
	uint8_t arg, how, len;
	uint16_t n;
};

#define NR_PARTS 5
struct buffers {
	struct part part[NR_PARTS];
};

/* clang-format off */
#define B(a, n)    {a, BYTES, 0, n}
#define L(a, l)    {a, LENGTH, l, 0}
#define M(a, l)    {a, LENGTH, l, 8} /* a message with its type before it */
#define A(a, l, n) {a, TIMES, l, n}
#define F(a, l)    {a, BITS, l, 0}
#define P(a, l)    {a, AT, l, 0}
#define S(a)       {a, STRING, 0, 0}
#define SS(a)      {a, STRINGS, 0, 0}
#define V(a, l)    {a, VECTOR, l, 0}
#define H(a)       {a, MESSAGE, 0, 0}
#define HH(a, l)   {a, MESSAGES, l, 0}
#define X(a, n)    {a, NESTED, 0, n}
#define XL(a, l)   {a, NESTED_LENGTH, l, 0}
#define ADDRESS 128 /* struct sockaddr_storage */
#define TIME 16
#define INFO 128    /* siginfo_t */
#define USAGE 144   /* struct rusage */
#define STAT 144

/* By number, as some are newer than the headers. What is not listed has no
 * buffers, up to the last. Of those marked (*) hook.c does more. */
static const struct buffers calls[] = {
	[0 /* read */] = {{L(1, 2)}},
	[1 /* write */] = {{L(1, 2)}},
	[2 /* open */] = {{S(0)}},
	[4 /* stat */] = {{S(0), B(1, STAT)}},
	[5 /* fstat */] = {{B(1, STAT)}},
	[6 /* lstat */] = {{S(0), B(1, STAT)}},
	[7 /* poll */] = {{A(0, 1, 8)}},
	[13 /* rt_sigaction */] = {{B(1, 32), B(2, 32)}},
	[14 /* rt_sigprocmask */] = {{B(1, 8), B(2, 8)}},
	[16 /* ioctl */] = {{X(2, 0)}}, /* see find_ioctl() */
	[17 /* pread64 */] = {{L(1, 2)}},
	[18 /* pwrite64 */] = {{L(1, 2)}},
	[19 /* readv */] = {{V(1, 2)}},
	[20 /* writev */] = {{V(1, 2)}},
	[21 /* access */] = {{S(0)}},
	[22 /* pipe */] = {{B(0, 8)}},
	[23 /* select */] = {{F(1, 0), F(2, 0), F(3, 0), B(4, TIME)}},
	[27 /* mincore */] = {{{2, PAGES, 1, 0}}},
	[31 /* shmctl */] = {{B(2, 112)}},
	[35 /* nanosleep */] = {{B(0, TIME), B(1, TIME)}},
	[36 /* getitimer */] = {{B(1, 32)}},
	[38 /* setitimer */] = {{B(1, 32), B(2, 32)}},
	[40 /* sendfile */] = {{B(2, 8)}},
	[42 /* connect */] = {{L(1, 2)}},
	[43 /* accept */] = {{B(1, ADDRESS), B(2, 4)}},
	[44 /* sendto */] = {{L(1, 2), L(4, 5)}},
	[45 /* recvfrom */] = {{L(1, 2), B(4, ADDRESS), B(5, 4)}},
	[46 /* sendmsg */] = {{H(1)}},
	[47 /* recvmsg */] = {{H(1)}},
	[49 /* bind */] = {{L(1, 2)}},
	[51 /* getsockname */] = {{B(1, ADDRESS), B(2, 4)}},
	[52 /* getpeername */] = {{B(1, ADDRESS), B(2, 4)}},
	[53 /* socketpair */] = {{B(3, 8)}},
	[54 /* setsockopt */] = {{XL(3, 4)}}, /* (*) */
	[55 /* getsockopt */] = {{P(3, 4), B(4, 4), X(3, 64)}},
	/* 56 clone, 57 fork: (*) */
	[59 /* execve */] = {{S(0), SS(1), SS(2)}},
	[61 /* wait4 */] = {{B(1, 4), B(3, USAGE)}},
	[63 /* uname */] = {{B(0, 390)}},
	[65 /* semop */] = {{A(1, 2, 6)}},
	[66 /* semctl */] = {{B(3, 64000)}}, /* SEMMSL values at most */
	[69 /* msgsnd */] = {{M(1, 2)}},
	[70 /* msgrcv */] = {{M(1, 2)}},
	[71 /* msgctl */] = {{B(2, 120)}},
	[72 /* fcntl */] = {{B(2, 32)}},
	[76 /* truncate */] = {{S(0)}},
	[78 /* getdents */] = {{L(1, 2)}},
	[79 /* getcwd */] = {{L(0, 1)}},
	[80 /* chdir */] = {{S(0)}},
	[82 /* rename */] = {{S(0), S(1)}},
	[83 /* mkdir */] = {{S(0)}},
	[84 /* rmdir */] = {{S(0)}},
	[85 /* creat */] = {{S(0)}},
	[86 /* link */] = {{S(0), S(1)}},
	[87 /* unlink */] = {{S(0)}},
	[88 /* symlink */] = {{S(0), S(1)}},
	[89 /* readlink */] = {{S(0), L(1, 2)}},
	[90 /* chmod */] = {{S(0)}},
	[92 /* chown */] = {{S(0)}},
	[94 /* lchown */] = {{S(0)}},
	[96 /* gettimeofday */] = {{B(0, TIME), B(1, 8)}},
	[97 /* getrlimit */] = {{B(1, 16)}},
	[98 /* getrusage */] = {{B(1, USAGE)}},
	[99 /* sysinfo */] = {{B(0, 112)}},
	[100 /* times */] = {{B(0, 32)}},
	[101 /* ptrace */] = {{X(3, UNKNOWN)}},
	[103 /* syslog */] = {{L(1, 2)}},
	[115 /* getgroups */] = {{A(1, 0, 4)}},
	[116 /* setgroups */] = {{A(1, 0, 4)}},
	[118 /* getresuid */] = {{B(0, 4), B(1, 4), B(2, 4)}},
	[120 /* getresgid */] = {{B(0, 4), B(1, 4), B(2, 4)}},
	[125 /* capget */] = {{B(0, 8), B(1, 24)}},
	[126 /* capset */] = {{B(0, 8), B(1, 24)}},
	[127 /* rt_sigpending */] = {{B(0, 8)}},
	[128 /* rt_sigtimedwait */] = {{B(0, 8), B(1, INFO), B(2, TIME)}},
	[129 /* rt_sigqueueinfo */] = {{B(2, INFO)}},
	[130 /* rt_sigsuspend */] = {{B(0, 8)}},
	[131 /* sigaltstack */] = {{B(0, 24), B(1, 24)}}, /* (*) */
	[132 /* utime */] = {{S(0), B(1, 16)}},
	[133 /* mknod */] = {{S(0)}},
	[134 /* uselib */] = {{S(0)}},
	[136 /* ustat */] = {{B(1, 32)}},
	[137 /* statfs */] = {{S(0), B(1, 120)}},
	[138 /* fstatfs */] = {{B(1, 120)}},
	[139 /* sysfs */] = {{S(1), B(2, 256)}},
	[142 /* sched_setparam */] = {{B(1, 4)}},
	[143 /* sched_getparam */] = {{B(1, 4)}},
	[144 /* sched_setscheduler */] = {{B(2, 4)}},
	[148 /* sched_rr_get_interval */] = {{B(1, TIME)}},
	[154 /* modify_ldt */] = {{L(1, 2)}},
	[155 /* pivot_root */] = {{S(0), S(1)}},
	[156 /* _sysctl */] = {{X(0, 80)}},
	[157 /* prctl */] = {{X(1, 512), X(2, 256), B(3, 256), B(4, 256)}}, /* (*) */
	[158 /* arch_prctl */] = {{B(1, 8)}},
	[159 /* adjtimex */] = {{B(0, 208)}},
	[160 /* setrlimit */] = {{B(1, 16)}},
	[161 /* chroot */] = {{S(0)}},
	[163 /* acct */] = {{S(0)}},
	[164 /* settimeofday */] = {{B(0, TIME), B(1, 8)}},
	[165 /* mount */] = {{S(0), S(1), S(2), B(4, 4096)}},
	[166 /* umount2 */] = {{S(0)}},
	[167 /* swapon */] = {{S(0)}},
	[168 /* swapoff */] = {{S(0)}},
	[169 /* reboot */] = {{S(3)}},
	[170 /* sethostname */] = {{L(0, 1)}},
	[171 /* setdomainname */] = {{L(0, 1)}},
	[175 /* init_module */] = {{L(0, 1), S(2)}},
	[176 /* delete_module */] = {{S(0)}},
	[179 /* quotactl */] = {{S(1), B(3, 4096)}},
	[188 /* setxattr */] = {{S(0), S(1), L(2, 3)}},
	[189 /* lsetxattr */] = {{S(0), S(1), L(2, 3)}},
	[190 /* fsetxattr */] = {{S(1), L(2, 3)}},
	[191 /* getxattr */] = {{S(0), S(1), L(2, 3)}},
	[192 /* lgetxattr */] = {{S(0), S(1), L(2, 3)}},
	[193 /* fgetxattr */] = {{S(1), L(2, 3)}},
	[194 /* listxattr */] = {{S(0), L(1, 2)}},
	[195 /* llistxattr */] = {{S(0), L(1, 2)}},
	[196 /* flistxattr */] = {{L(1, 2)}},
	[197 /* removexattr */] = {{S(0), S(1)}},
	[198 /* lremovexattr */] = {{S(0), S(1)}},
	[199 /* fremovexattr */] = {{S(1)}},
	[201 /* time */] = {{B(0, 8)}},
	[202 /* futex */] = {{B(0, 4), B(3, TIME), B(4, 4)}},
	[203 /* sched_setaffinity */] = {{L(2, 1)}},
	[204 /* sched_getaffinity */] = {{L(2, 1)}},
	/* 206 io_setup to 210: (*) */
	[212 /* lookup_dcookie */] = {{L(1, 2)}},
	[217 /* getdents64 */] = {{L(1, 2)}},
	/* 218 set_tid_address: (*) */
	[220 /* semtimedop */] = {{A(1, 2, 6), B(3, TIME)}},
	[222 /* timer_create */] = {{B(1, 64), B(2, 4)}},
	[223 /* timer_settime */] = {{B(2, 32), B(3, 32)}},
	[224 /* timer_gettime */] = {{B(1, 32)}},
	[227 /* clock_settime */] = {{B(1, TIME)}},
	[228 /* clock_gettime */] = {{B(1, TIME)}},
	[229 /* clock_getres */] = {{B(1, TIME)}},
	[230 /* clock_nanosleep */] = {{B(2, TIME), B(3, TIME)}},
	[232 /* epoll_wait */] = {{A(1, 2, 12)}},
	[233 /* epoll_ctl */] = {{B(3, 12)}},
	[235 /* utimes */] = {{S(0), B(1, 32)}},
	[237 /* mbind */] = {{F(3, 4)}},
	[238 /* set_mempolicy */] = {{F(1, 2)}},
	[239 /* get_mempolicy */] = {{B(0, 4), F(1, 2), B(3, 1)}},
	[240 /* mq_open */] = {{S(0), B(3, 64)}},
	[241 /* mq_unlink */] = {{S(0)}},
	[242 /* mq_timedsend */] = {{L(1, 2), B(4, TIME)}},
	[243 /* mq_timedreceive */] = {{L(1, 2), B(3, 4), B(4, TIME)}},
	[244 /* mq_notify */] = {{X(1, 64)}},
	[245 /* mq_getsetattr */] = {{B(1, 64), B(2, 64)}},
	[246 /* kexec_load */] = {{X(2, UNKNOWN)}},
	[247 /* waitid */] = {{B(2, INFO), B(4, USAGE)}},
	[248 /* add_key */] = {{S(0), S(1), L(2, 3)}},
	[249 /* request_key */] = {{S(0), S(1), S(2)}},
	[250 /* keyctl */] = {{X(1, UNKNOWN), X(2, UNKNOWN), X(3, UNKNOWN), S(4)}},
	[254 /* inotify_add_watch */] = {{S(1)}},
	[256 /* migrate_pages */] = {{F(2, 1), F(3, 1)}},
	[257 /* openat */] = {{S(1)}},
	[258 /* mkdirat */] = {{S(1)}},
	[259 /* mknodat */] = {{S(1)}},
	[260 /* fchownat */] = {{S(1)}},
	[261 /* futimesat */] = {{S(1), B(2, 32)}},
	[262 /* newfstatat */] = {{S(1), B(2, STAT)}},
	[263 /* unlinkat */] = {{S(1)}},
	[264 /* renameat */] = {{S(1), S(3)}},
	[265 /* linkat */] = {{S(1), S(3)}},
	[266 /* symlinkat */] = {{S(0), S(2)}},
	[267 /* readlinkat */] = {{S(1), L(2, 3)}},
	[268 /* fchmodat */] = {{S(1)}},
	[269 /* faccessat */] = {{S(1)}},
	[270 /* pselect6 */] = {{F(1, 0), F(2, 0), F(3, 0), B(4, TIME), X(5, 16)}},
	[271 /* ppoll */] = {{A(0, 1, 8), B(2, TIME), B(3, 8)}},
	[273 /* set_robust_list */] = {{B(0, 24)}}, /* (*) */
	[274 /* get_robust_list */] = {{B(1, 8), B(2, 8)}},
	[275 /* splice */] = {{B(1, 8), B(3, 8)}},
	[278 /* vmsplice */] = {{A(1, 2, 16)}}, /* (*) */
	[279 /* move_pages */] = {{A(2, 1, 8), A(3, 1, 4), A(4, 1, 4)}},
	[280 /* utimensat */] = {{S(1), B(2, 32)}},
	[281 /* epoll_pwait */] = {{A(1, 2, 12), B(4, 8)}},
	[282 /* signalfd */] = {{L(1, 2)}},
	[286 /* timerfd_settime */] = {{B(2, 32), B(3, 32)}},
	[287 /* timerfd_gettime */] = {{B(1, 32)}},
	[288 /* accept4 */] = {{B(1, ADDRESS), B(2, 4)}},
	[289 /* signalfd4 */] = {{L(1, 2)}},
	[293 /* pipe2 */] = {{B(0, 8)}},
	[295 /* preadv */] = {{V(1, 2)}},
	[296 /* pwritev */] = {{V(1, 2)}},
	[297 /* rt_tgsigqueueinfo */] = {{B(3, INFO)}},
	[298 /* perf_event_open */] = {{B(0, 256)}},
	[299 /* recvmmsg */] = {{HH(1, 2), B(4, TIME)}},
	[301 /* fanotify_mark */] = {{S(4)}},
	[302 /* prlimit64 */] = {{B(2, 16), B(3, 16)}},
	[303 /* name_to_handle_at */] = {{S(1), B(2, 136), B(3, 8)}},
	[304 /* open_by_handle_at */] = {{B(1, 136)}},
	[305 /* clock_adjtime */] = {{B(1, 208)}},
	[307 /* sendmmsg */] = {{HH(1, 2)}},
	[309 /* getcpu */] = {{B(0, 4), B(1, 4)}},
	/* The other side may be this process, too. */
	[310 /* process_vm_readv */] = {{V(1, 2), V(3, 4)}},
	[311 /* process_vm_writev */] = {{V(1, 2), V(3, 4)}},
	[312 /* kcmp */] = {{B(4, 12)}},
	[313 /* finit_module */] = {{S(1)}},
	[314 /* sched_setattr */] = {{B(1, 64)}},
	[315 /* sched_getattr */] = {{L(1, 2)}},
	[316 /* renameat2 */] = {{S(1), S(3)}},
	[317 /* seccomp */] = {{X(2, 16)}},
	[318 /* getrandom */] = {{L(0, 1)}},
	[319 /* memfd_create */] = {{S(0)}},
	[320 /* kexec_file_load */] = {{L(3, 2)}},
	[321 /* bpf */] = {{XL(1, 2)}},
	[322 /* execveat */] = {{S(1), SS(2), SS(3)}},
	[326 /* copy_file_range */] = {{B(1, 8), B(3, 8)}},
	[327 /* preadv2 */] = {{V(1, 2)}},
	[328 /* pwritev2 */] = {{V(1, 2)}},
	[332 /* statx */] = {{S(1), B(4, 256)}},
	/* 334 rseq: (*) */
	[424 /* pidfd_send_signal */] = {{B(2, INFO)}},
	/* 425 io_uring_setup to 427: (*) */
	[428 /* open_tree */] = {{S(1)}},
	[429 /* move_mount */] = {{S(1), S(3)}},
	[430 /* fsopen */] = {{S(0)}},
	[431 /* fsconfig */] = {{S(2), S(3), L(3, 4)}},
	[433 /* fspick */] = {{S(1)}},
	/* 435 clone3: (*) */
	[437 /* openat2 */] = {{S(1), L(2, 3)}},
	[439 /* faccessat2 */] = {{S(1)}},
	[440 /* process_madvise */] = {{A(1, 2, 16)}},
	[441 /* epoll_pwait2 */] = {{A(1, 2, 12), B(3, TIME), B(4, 8)}},
	[442 /* mount_setattr */] = {{S(1), L(3, 4)}},
	[443 /* quotactl_fd */] = {{B(3, 4096)}},
	[444 /* landlock_create_ruleset */] = {{L(0, 1)}},
	[445 /* landlock_add_rule */] = {{B(2, 16)}},
	[449 /* futex_waitv */] = {{X(0, 128 * 24), B(3, TIME)}},
	[451 /* cachestat */] = {{B(1, 16), B(2, 40)}},
	[452 /* fchmodat2 */] = {{S(1)}},
	[454 /* futex_wake */] = {{B(0, 4)}},
	[455 /* futex_wait */] = {{B(0, 4), B(4, TIME)}},
	[456 /* futex_requeue */] = {{X(0, 48)}},
	[457 /* statmount */] = {{B(0, 64), L(1, 2)}},
	[458 /* listmount */] = {{B(0, 64), A(1, 2, 8)}},
	[459 /* lsm_get_self_attr */] = {{P(1, 2), B(2, 4)}},
	[460 /* lsm_set_self_attr */] = {{L(1, 2)}},
	[461 /* lsm_list_modules */] = {{P(0, 1), B(1, 4)}},
	[462 /* mseal, the last that is known */] = {{{0}}},
};
/* A call that is newer than the table. */
static const struct buffers newer = {{X(0, UNKNOWN), X(1, UNKNOWN),
	X(2, UNKNOWN), X(3, UNKNOWN), X(4, UNKNOWN)}};
/* clang-format on */

#define NR_CALLS (sizeof(calls) / sizeof(calls[0]))

bool pg_buffers_has(long nr)
{
	return nr >= 0 &&
	       ((size_t)nr >= NR_CALLS || calls[nr].part[0].how != END);
}

unsigned int pg_buffers_holds(long nr)
{
	if (nr < 0 || (size_t)nr >= NR_CALLS)
		return 1;
	for (size_t i = 0; i < NR_PARTS; i++)
		switch (calls[nr].part[i].how) {
		case STRINGS:
		case VECTOR:
		case MESSAGE:
		case MESSAGES:
			return PG_BUFFERS_HOLDS;
		default:
			break;
		}
	return 1;
}

/* ---- reading what arguments point at ---- */

struct finder {
	struct pgmap_mm *mm;
	const struct pg_call *call;
	struct pg_hold *h;
	unsigned int nr;
};

/* The kernel looks at the mask before it looks at what to do with it; at 0
 * there is none. */
static bool mapped(uintptr_t p)
{
	return p && pg_sys(rt_sigprocmask, -1, p & ~(uintptr_t)7, NULL, 8) !=
			    -EFAULT;
}

/* On the program's thread: see pg_hook_hold(). */
static bool readable_once_there(struct pgmap_mm *mm, uintptr_t at)
{
	struct pg_hold h;
	bool yes;

	pg_hold_init(&h);
	pg_hold_add(&h, at, 1);
	pg_hook_hold(&h);
	yes = mapped(at);
	pg_hold_drop(mm->holds, &h);
	return yes;
}

bool pg_buffers_readable(struct pgmap_mm *mm, uintptr_t p, size_t len)
{
	uintptr_t at = p & ~(uintptr_t)(PG_PAGE_SIZE - 1), end = p + len;

	if (end < p)
		return false;
	for (; at < end; at += PG_PAGE_SIZE) {
		if (mapped(at))
			continue;
		if (!mm || pg_mm_next_managed(mm, at) != at)
			return false;
		/* It is away, or it is protected. */
		if (mm->holds && !readable_once_there(mm, at))
			return false;
	}
	return true;
}

bool pg_buffers_read(struct pgmap_mm *mm, const struct pg_call *call, void *to,
		     uintptr_t p, size_t len)
{
	uintptr_t top = (call->sp | (PG_PAGE_SIZE - 1)) + 1;

	/* The page of the stack pointer needs no look. */
	if (!pg_mutant("bad_pointers_are_followed") &&
	    (p < call->sp || p >= top || len > top - p) &&
	    !pg_buffers_readable(mm, p, len))
		return false;
	memcpy(to, (const void *)p, len);
	return true;
}

static bool read_user(const struct finder *f, void *to, uintptr_t p, size_t len)
{
	return pg_buffers_read(f->mm, f->call, to, p, len);
}

static void add(const struct finder *f, uintptr_t p, size_t len)
{
	unsigned int i = 0;

	while (i + 1 < f->nr && f->h[i].nr == PG_HOLD_OTHERS)
		i++;
	pg_hold_add(&f->h[i], p, len);
}

/* ---- the kinds ---- */

/* A path ends before PATH_MAX, most in their first page. The second is asked
 * for only if it is there, or if the string reaches it. */
static void find_string(const struct finder *f, uintptr_t p)
{
	uintptr_t next = (p | (PG_PAGE_SIZE - 1)) + 1;

	if (!p)
		return;
	add(f, p, next - p);
	while (f->mm && pg_mm_next_managed(f->mm, next) == next) {
		uintptr_t page =
			p > next - PG_PAGE_SIZE ? p : next - PG_PAGE_SIZE;

		if (!pg_buffers_readable(f->mm, page, 1) ||
		    memchr((const void *)page, 0, next - page))
			return;
		add(f, next, PG_PAGE_SIZE);
		next += PG_PAGE_SIZE;
		if (next - p > (size_t)PATH_MAX * 33) /* MAX_ARG_STRLEN */
			return;
	}
	/* Not managed, so far: it may be adopted while the call blocks. */
	if (!pg_mutant("strings_end_with_their_page"))
		add(f, next, PATH_MAX);
}

static void find_strings(const struct finder *f, uintptr_t p)
{
	uintptr_t string = 1;

	for (; p && string; p += sizeof(string)) {
		add(f, p, sizeof(string));
		if (!read_user(f, &string, p, sizeof(string)))
			return;
		find_string(f, string);
	}
}

static void find_vector(const struct finder *f, uintptr_t p, size_t nr)
{
	struct iovec v[16];
	size_t n;

	if (nr > IOV_MAX)
		return; /* the kernel refuses it */
	add(f, p, nr * sizeof(*v));
	for (size_t i = 0; i < nr && !pg_mutant("vectors_are_not_looked_into");
	     i += n) {
		n = nr - i < 16 ? nr - i : 16;
		if (!read_user(f, v, p + i * sizeof(*v), n * sizeof(*v)))
			return;
		for (size_t k = 0; k < n; k++)
			add(f, (uintptr_t)v[k].iov_base, v[k].iov_len);
	}
}

static void find_message(const struct finder *f, uintptr_t p)
{
	struct msghdr m;

	add(f, p, sizeof(m));
	if (!read_user(f, &m, p, sizeof(m)))
		return;
	add(f, (uintptr_t)m.msg_name, ADDRESS);
	if (!pg_mutant("control_data_is_forgotten"))
		add(f, (uintptr_t)m.msg_control, m.msg_controllen);
	find_vector(f, (uintptr_t)m.msg_iov, m.msg_iovlen);
}

static void find_nested(const struct finder *f, uintptr_t p, size_t len)
{
	uintptr_t at = (p + 7) & ~(uintptr_t)7, end = p + len, word;

	add(f, p, len);
	if (!f->mm || end < p)
		return;
	for (; at + 8 <= end; at += 8) {
		uintptr_t stop;

		/* Once for each page. */
		if (at == ((p + 7) & ~(uintptr_t)7) || at % PG_PAGE_SIZE == 0)
			if (!pg_buffers_readable(f->mm, at, 8))
				return;
		memcpy(&word, (const void *)at, sizeof(word));
		if (word < PG_PAGE_SIZE || word >> 47 ||
		    pg_mm_next_managed(f->mm, word & ~(uintptr_t)(PG_PAGE_SIZE -
								  1)) > word)
			continue;
		/* Not beyond what is managed there. */
		for (stop = word | (PG_PAGE_SIZE - 1);
		     stop - word < GUESS &&
		     pg_mm_next_managed(f->mm, stop + 1) == stop + 1;
		     stop += PG_PAGE_SIZE)
			;
		add(f, word, stop - word);
	}
}

#define SG_IO 0x2285
/* With an array behind the struct: struct fiemap, struct file_dedupe_range,
 * struct fsmap_head. */
#define IOC_FIEMAP 0xc020660bu
#define IOC_DEDUPE 0xc0189436u
#define IOC_FSMAP 0xc0c0583bu
#define KINDS_WITHOUT_SIZE 256u

/* What the number of an ioctl says is the size of its argument; old ones say
 * nothing. Of those whose argument has more behind it, some are known. */
static void find_ioctl(const struct finder *f)
{
	unsigned int cmd = (unsigned int)f->call->arg[1];
	uintptr_t p = (uintptr_t)f->call->arg[2];
	size_t size = _IOC_SIZE(cmd);
	uint64_t w[11];

	if (_IOC_DIR(cmd) == _IOC_NONE || !size)
		size = KINDS_WITHOUT_SIZE;
	if (p < PG_PAGE_SIZE)
		return;
	if (_IOC_TYPE(cmd) == UFFDIO &&
	    !pg_mutant("what_is_to_be_watched_is_filled")) {
		/* The ranges that it names are not used, but for the source of
		 * a copy, and what is absent there is to stay absent. */
		add(f, p, size);
		if (cmd == UFFDIO_COPY && read_user(f, w, p, 24))
			add(f, w[1], w[2]);
		return;
	}
	find_nested(f, p, size);
	if (cmd == IOC_FIEMAP && read_user(f, w, p, 32))
		add(f, p + 32, (w[3] & UINT32_MAX) * 56);
	if (cmd == IOC_DEDUPE && read_user(f, w, p, 24))
		add(f, p + 24, (w[2] & UINT16_MAX) * 32);
	if (cmd == IOC_FSMAP && read_user(f, w, p, 16))
		add(f, p + 192, (w[1] & UINT32_MAX) * 64);
	if (cmd == SG_IO && read_user(f, w, p, 88)) {
		/* struct sg_io_hdr: dxfer_len, dxferp */
		add(f, w[2], (uint32_t)(w[1] >> 32));
	}
}

static void find_part(const struct finder *f, const struct part *part)
{
	uintptr_t p = (uintptr_t)f->call->arg[part->arg];
	size_t n = (size_t)f->call->arg[part->len];
	uint32_t at;

	switch (part->how) {
	case BYTES:
		add(f, p, part->n);
		break;
	case LENGTH:
		add(f, p, pg_mutant("one_page_is_enough") ? 1 : n + part->n);
		break;
	case TIMES:
		add(f, p, (n & UINT32_MAX) * part->n);
		break;
	case BITS:
		add(f, p, (n & UINT32_MAX) / 8 + 8);
		break;
	case PAGES:
		add(f, p, n / PG_PAGE_SIZE + 1);
		break;
	case AT:
		if (read_user(f, &at, (uintptr_t)f->call->arg[part->len], 4))
			add(f, p, at);
		break;
	case STRING:
		find_string(f, p);
		break;
	case STRINGS:
		find_strings(f, p);
		break;
	case VECTOR:
		find_vector(f, p, n);
		break;
	case MESSAGE:
		find_message(f, p);
		break;
	case MESSAGES:
		for (size_t i = 0; i < n && i < IOV_MAX; i++) {
			find_message(f, p + i * sizeof(struct mmsghdr));
			add(f, p + i * sizeof(struct mmsghdr),
			    sizeof(struct mmsghdr));
		}
		break;
	case NESTED:
		find_nested(f, p, part->n);
		break;
	case NESTED_LENGTH:
		find_nested(f, p, n & UINT32_MAX);
		break;
	default:
		break;
	}
}

void pg_buffers_find(struct pgmap_mm *mm, const struct pg_call *call,
		     struct pg_hold *h, unsigned int nr)
{
	const struct finder f = {mm, call, h, nr};
	const struct buffers *b =
		(size_t)call->nr < NR_CALLS ? &calls[call->nr] : &newer;

	if (call->nr == SYS_ioctl) {
		find_ioctl(&f);
		return;
	}
	for (size_t i = 0; i < NR_PARTS && b->part[i].how != END; i++)
		find_part(&f, &b->part[i]);
}
