/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pss.c - how much memory a command and everything below it uses, seen from
 * outside, many times a second.
 *
 *   pss [--interval-ms N] [--share PERCENT] [--pgmap] -o FILE -- CMD ARGS...
 *
 * A sample is the sum of the Pss, and of its anonymous part, over all
 * processes below this one, which is the reaper of those whose parent died.
 *
 * With --pgmap, CMD is `pgmap run`: it is counted apart from the program, and
 * of the program's memory that part is summed which lies in mappings watched
 * by a userfaultfd ("um" in VmFlags): the managed memory in RAM, buffers
 * included, without asking pgmap. Each sample also carries what pgmap itself
 * counted at that time, and how much it moved while the sample was taken: a
 * page on its way may be seen twice, where it was and where it went.
 *
 * The kernel walks every present page for a sample. The next sample waits so
 * long that sampling takes no more than PERCENT of one CPU (20); FILE says
 * what each sample took. FILE is written line by line, for those who want to
 * watch: columns are named in its first line, all in KB but the times. The
 * last line, "end", is written when CMD has ended.
 *
 * Exit status: CMD's, or 128 and the signal that killed it; 2 when CMD was
 * not started.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <pgmap/run.h>

#define TREE_MAX 4096

struct use {
	uint64_t pss_kb;
	uint64_t anon_kb;
	uint64_t watched_kb;
};

struct sample {
	struct use program;
	struct use supervisor;
	unsigned int nr_procs;
};

struct config {
	unsigned int interval_ms;
	unsigned int share;
	bool pgmap;
	const char *file;
};

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* The whole of a small file of /proc. Return: bytes, or -1. */
static ssize_t slurp(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n, len = 0;

	if (fd < 0)
		return -1;
	while ((n = read(fd, buf + len, size - 1 - (size_t)len)) > 0)
		len += n;
	close(fd);
	buf[len] = 0;
	return len;
}

static size_t add_children_of(pid_t pid, pid_t *tree, size_t n)
{
	char path[64], buf[32768], *p = buf, *end;
	struct dirent *de;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return n;
	while ((de = readdir(dir))) {
		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/children",
			 (int)pid, de->d_name);
		if (slurp(path, buf, sizeof(buf)) <= 0)
			continue;
		for (p = buf; n < TREE_MAX; p = end) {
			long child = strtol(p, &end, 10);

			if (end == p)
				break;
			tree[n++] = (pid_t)child;
		}
	}
	closedir(dir);
	return n;
}

static uint64_t field_kb(const char *text, const char *name)
{
	const char *p = strstr(text, name);

	return p ? strtoull(p + strlen(name), NULL, 10) : 0;
}

static void add_rollup(pid_t pid, struct use *use)
{
	char path[64], buf[4096];

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	if (slurp(path, buf, sizeof(buf)) <= 0)
		return; /* it has just ended */
	use->pss_kb += field_kb(buf, "\nPss:");
	use->anon_kb += field_kb(buf, "\nPss_Anon:");
}

/* One mapping has been read; its last line is @flags. In a mapping of a file,
 * only pages that were written are anonymous. */
static void add_mapping(struct use *use, uint64_t pss, uint64_t anon,
			bool is_file, const char *flags)
{
	use->pss_kb += pss;
	use->anon_kb += !is_file ? pss : anon < pss ? anon : pss;
	if (strstr(flags, " um"))
		use->watched_kb += pss;
}

static void add_smaps(pid_t pid, struct use *use)
{
	static char buf[8u << 20];
	uint64_t pss = 0, anon = 0;
	bool is_file = false;
	char path[64], *line, *next;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	if (slurp(path, buf, sizeof(buf)) <= 0)
		return;
	for (line = buf; (next = strchr(line, '\n')); line = next + 1) {
		*next = 0;
		if (strchr("0123456789abcdef", line[0])) {
			is_file = strchr(line, '/') != NULL;
		} else if (!strncmp(line, "Pss:", 4)) {
			pss = field_kb(line, "Pss:");
		} else if (!strncmp(line, "Anonymous:", 10)) {
			anon = field_kb(line, "Anonymous:");
		} else if (!strncmp(line, "VmFlags:", 8)) {
			add_mapping(use, pss, anon, is_file, line);
		}
	}
}

static void take_sample(pid_t supervisor, struct sample *s)
{
	static pid_t tree[TREE_MAX];
	size_t n = add_children_of(getpid(), tree, 0);

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < n; i++)
		n = add_children_of(tree[i], tree, n);
	for (size_t i = 0; i < n; i++) {
		if (tree[i] == supervisor)
			add_rollup(tree[i], &s->supervisor);
		else if (supervisor > 0)
			add_smaps(tree[i], &s->program);
		else
			add_rollup(tree[i], &s->program);
	}
	s->nr_procs = (unsigned int)n;
}

/* What pgmap counts, once it can be asked. */
static void take_counters(struct pgmap_attach **at, pid_t supervisor,
			  struct pgmap_stat *st)
{
	memset(st, 0, sizeof(*st));
	st->size = sizeof(*st);
	if (!*at && pgmap_attach(supervisor, at))
		*at = NULL;
	if (*at)
		pgmap_attach_total(*at, st);
}

static uint64_t nr_moved(const struct pgmap_stat *st)
{
	return st->evictions + st->loads + st->prefetched + st->busy;
}

static pid_t start(char **argv, const sigset_t *mask)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	fprintf(stderr, "pss: %s: %s\n", argv[0], strerror(errno));
	_exit(2);
}

/* Sleep until @until, or until the command has ended: then 1 and its status. */
static int sleep_or_reap(const sigset_t *wait_for, uint64_t until, pid_t child,
			 int *status)
{
	for (;;) {
		uint64_t now = now_us(), left = until > now ? until - now : 0;
		struct timespec ts = {(time_t)(left / 1000000u),
				      (long)(left % 1000000u * 1000u)};
		int sig = sigtimedwait(wait_for, NULL, &ts), st;
		pid_t pid;

		if (sig > 0 && sig != SIGCHLD)
			kill(child, sig);
		while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
			if (pid == child) {
				*status = st;
				return 1;
			}
		}
		if (sig < 0 && errno == EAGAIN)
			return 0;
	}
}

static long ms_of(struct timeval tv)
{
	return (long)tv.tv_sec * 1000 + (long)tv.tv_usec / 1000;
}

static int watch(const struct config *cfg, FILE *out, pid_t child,
		 const sigset_t *wait_for)
{
	struct pgmap_attach *at = NULL;
	pid_t supervisor = cfg->pgmap ? child : -1;
	uint64_t t0 = now_us(), begin, cost, pause, moved;
	struct pgmap_stat st = {0};
	struct rusage ru;
	struct sample s;
	int status = 0;

	fprintf(out,
		"ms program_pss program_anon program_watched supervisor_pss "
		"supervisor_anon device_host ram metadata "
		"moved procs cost_us\n");
	do {
		begin = now_us();
		if (cfg->pgmap)
			take_counters(&at, supervisor, &st);
		moved = nr_moved(&st);
		take_sample(supervisor, &s);
		if (cfg->pgmap)
			take_counters(&at, supervisor, &st);
		moved = nr_moved(&st) - moved;
		cost = now_us() - begin;
		fprintf(out, "%ju %ju %ju %ju %ju %ju %ju %ju %ju %ju %u %ju\n",
			(uintmax_t)((begin - t0) / 1000),
			(uintmax_t)s.program.pss_kb,
			(uintmax_t)s.program.anon_kb,
			(uintmax_t)s.program.watched_kb,
			(uintmax_t)s.supervisor.pss_kb,
			(uintmax_t)s.supervisor.anon_kb,
			(uintmax_t)st.device_host / 1024,
			(uintmax_t)(st.present + st.pool) / 1024,
			(uintmax_t)st.metadata / 1024, (uintmax_t)moved * 4,
			s.nr_procs, (uintmax_t)cost);
		pause = cost * (100 - cfg->share) / cfg->share;
		if (cost + pause < cfg->interval_ms * 1000u)
			pause = cfg->interval_ms * 1000u - cost;
	} while (
		!sleep_or_reap(wait_for, begin + cost + pause, child, &status));
	pgmap_detach(at);
	getrusage(RUSAGE_CHILDREN, &ru);
	fprintf(out, "end wall_ms=%ju user_ms=%ld sys_ms=%ld status=%d\n",
		(uintmax_t)((now_us() - t0) / 1000), ms_of(ru.ru_utime),
		ms_of(ru.ru_stime), status);
	return status;
}

static int usage(void)
{
	fputs("usage: pss [--interval-ms N] [--share PERCENT] [--pgmap] "
	      "-o FILE -- CMD ARGS...\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{"interval-ms", required_argument, NULL, 'i'},
		{"share", required_argument, NULL, 's'},
		{"pgmap", no_argument, NULL, 'p'},
		{NULL, 0, NULL, 0}};
	struct config cfg = {.interval_ms = 10, .share = 20};
	sigset_t wait_for, before;
	int c, status;
	pid_t child;
	FILE *out;

	while ((c = getopt_long(argc, argv, "+o:", longopts, NULL)) != -1) {
		if (c == 'i')
			cfg.interval_ms = (unsigned int)atoi(optarg);
		else if (c == 's')
			cfg.share = (unsigned int)atoi(optarg);
		else if (c == 'p')
			cfg.pgmap = true;
		else if (c == 'o')
			cfg.file = optarg;
		else
			return usage();
	}
	if (!cfg.file || optind == argc || !cfg.interval_ms || !cfg.share ||
	    cfg.share > 100)
		return usage();
	out = fopen(cfg.file, "we");
	if (!out) {
		fprintf(stderr, "pss: %s: %s\n", cfg.file, strerror(errno));
		return 2;
	}
	setvbuf(out, NULL, _IOLBF, 0);

	sigemptyset(&wait_for);
	sigaddset(&wait_for, SIGCHLD);
	sigaddset(&wait_for, SIGINT);
	sigaddset(&wait_for, SIGTERM);
	sigprocmask(SIG_BLOCK, &wait_for, &before);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	child = start(argv + optind, &before);
	if (child < 0) {
		perror("pss: fork");
		return 2;
	}
	status = watch(&cfg, out, child, &wait_for);
	fclose(out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
