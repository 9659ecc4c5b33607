/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One piece of work under pgmap and under a peer, by turns, and the ratio pair
 * by pair: machines are noisy, and a noise that lasts hits both of a pair.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "beside.h"
#include "number_in.h"
#include "out.h"

#define METRICS_MAX 8
#define RUNS_MAX 32
#define WORK "pgmap-work"
#define KILLS_MAX 3

/* What one run of the work printed. */
struct result {
	unsigned int nr;
	struct {
		char name[24], unit[12];
		double value;
	} metric[METRICS_MAX];
	char sum[20];
	double seconds;
};

static volatile sig_atomic_t stopped;
static volatile pid_t child;

static void stop(int sig)
{
	stopped = sig;
	if (child > 0)
		kill(child, SIGTERM);
}

static const char *peer_name(enum peer_kind kind)
{
	static const char *const names[] = {"no limit", "swap", "zram"};

	return names[kind];
}

static double seconds(void)
{
	return bench_ms(CLOCK_MONOTONIC) / 1000;
}

static void read_line(struct result *r, const char *line)
{
	if (r->nr < METRICS_MAX &&
	    sscanf(line, "metric %23s %11s %lf", r->metric[r->nr].name,
		   r->metric[r->nr].unit, &r->metric[r->nr].value) == 3)
		r->nr++;
	else
		sscanf(line, "sum %19s", r->sum);
}

/* Return: 0, or -1 and @why. What the program says on stderr is for the user.
 */
static int run(char *const *argv, const struct peer *peer, struct result *r,
	       char *why, size_t why_len)
{
	double began = seconds();
	int out[2], status;
	char line[128];
	FILE *f;

	*r = (struct result){0};
	if (pipe2(out, O_CLOEXEC)) {
		snprintf(why, why_len, "no pipe: %s", strerror(errno));
		return -1;
	}
	child = fork();
	if (!child) {
		dup2(out[1], 1);
		if (peer && peer_enter(peer)) {
			fprintf(stderr, "pgmap: bench: %s: %s\n", peer->group,
				strerror(errno));
			_exit(126);
		}
		execv(argv[0], argv);
		fprintf(stderr, "pgmap: bench: %s: %s\n", argv[0],
			strerror(errno));
		_exit(127);
	}
	close(out[1]);
	f = fdopen(out[0], "re");
	while (f && fgets(line, sizeof(line), f))
		read_line(r, line);
	if (f)
		fclose(f);
	while (child > 0 && waitpid(child, &status, 0) != child)
		if (errno != EINTR)
			break;
	child = 0;
	r->seconds = seconds() - began;
	if (WIFEXITED(status) && !WEXITSTATUS(status) && r->nr && r->sum[0])
		return 0;
	if (WIFSIGNALED(status))
		snprintf(why, why_len, "was killed by signal %d",
			 WTERMSIG(status));
	else
		snprintf(why, why_len, "ended with status %d",
			 WEXITSTATUS(status));
	return -1;
}

struct run_all {
	const struct compare *c;
	char work[PATH_MAX], graph[64];
	char size[24], ram[24], folio[24];
	struct peer peer;
	uint64_t swapped; /* pages, by the peer's runs */
	uint64_t kills;	  /* runs of the peer's that were done again */
	struct result ours[RUNS_MAX], theirs[RUNS_MAX];
};

static uint64_t pages_swapped_out(void)
{
	return number_in("/proc/vmstat", "pswpout");
}

static int run_ours(struct run_all *a, struct result *r)
{
	char why[80];
	char *argv[] = {(char[]){"/proc/self/exe"},
			(char[]){"run"},
			(char[]){"--quiet"},
			(char[]){"--ram"},
			a->ram,
			(char[]){"--folio"},
			a->folio,
			(char[]){"--device"},
			(char *)(uintptr_t)a->c->device,
			(char[]){"--fault"},
			(char *)(uintptr_t)a->c->fault,
			(char[]){"--"},
			a->work,
			(char *)(uintptr_t)a->c->work,
			a->size,
			a->graph[0] ? a->graph : NULL,
			NULL};

	if (!run(argv, NULL, r, why, sizeof(why)))
		return 0;
	if (!stopped)
		fprintf(stderr, "pgmap: bench: %s under pgmap %s\n", a->c->work,
			why);
	return -1;
}

/* The kernel may kill for memory although swap is free; that is its peer's
 * own doing, told at the end, and the run is done again. */
static int run_theirs(struct run_all *a, struct result *r)
{
	char *argv[] = {a->work, (char *)(uintptr_t)a->c->work, a->size,
			a->graph[0] ? a->graph : NULL, NULL};
	uint64_t out = pages_swapped_out();
	char why[80];

	for (int i = 0; i < KILLS_MAX && !stopped; i++) {
		uint64_t kills = peer_kills(&a->peer);

		if (!run(argv, &a->peer, r, why, sizeof(why))) {
			a->swapped += pages_swapped_out() - out;
			return 0;
		}
		if (peer_kills(&a->peer) == kills)
			break;
		a->kills++;
		fprintf(stderr,
			"pgmap: bench: the kernel killed %s under %s for want "
			"of memory; once more\n",
			a->c->work, peer_name(a->c->peer));
	}
	if (!stopped)
		fprintf(stderr, "pgmap: bench: %s under %s %s\n", a->c->work,
			peer_name(a->c->peer), why);
	return -1;
}

/* More of it is better: all but times. */
static bool more_is_better(const char *unit)
{
	return strcmp(unit, "us") && strcmp(unit, "s");
}

struct spread {
	double median, min, max;
};

static struct spread spread_of(double *v, unsigned int n)
{
	qsort(v, n, sizeof(*v), bench_by_value);
	return (struct spread){v[n / 2], v[0], v[n - 1]};
}

/* What one metric came to: ours, theirs, how many times better we are. */
static void sum_up(const struct run_all *a, unsigned int m, struct spread *ours,
		   struct spread *theirs, struct spread *ratio)
{
	double v[3][RUNS_MAX];

	for (unsigned int i = 0; i < a->c->runs; i++) {
		double o = a->ours[i].metric[m].value;
		double t = a->theirs[i].metric[m].value;

		v[0][i] = o;
		v[1][i] = t;
		v[2][i] = more_is_better(a->ours[i].metric[m].unit) ? o / t
								    : t / o;
	}
	*ours = spread_of(v[0], a->c->runs);
	*theirs = spread_of(v[1], a->c->runs);
	*ratio = spread_of(v[2], a->c->runs);
}

static void print_table(const struct run_all *a)
{
	char size[OUT_LEN], ram[OUT_LEN], swapped[OUT_LEN];
	const struct compare *c = a->c;

	printf("%s: %s in %s, device %s, --fault %s; medians (min-max), pairs: "
	       "%u\n",
	       c->work, out_bytes(size, c->size), out_bytes(ram, c->ram),
	       c->device, c->fault, c->runs);
	printf("%-12s %-6s %26s %26s   times better\n", "", "", "pgmap",
	       peer_name(c->peer));
	for (unsigned int m = 0; m < a->ours[0].nr; m++) {
		struct spread o, t, r;

		sum_up(a, m, &o, &t, &r);
		printf("%-12s %-6s %9.4g (%6.4g-%6.4g) %9.4g (%6.4g-%6.4g)   "
		       "%.2f (%.2f-%.2f)\n",
		       a->ours[0].metric[m].name, a->ours[0].metric[m].unit,
		       o.median, o.min, o.max, t.median, t.min, t.max, r.median,
		       r.min, r.max);
	}
	if (c->peer != PEER_NONE)
		printf("%s wrote %s out; both computed the same\n",
		       peer_name(c->peer),
		       out_bytes(swapped, a->swapped * 4096));
	if (a->kills)
		printf("%" PRIu64 " runs of %s were killed for want of memory "
		       "and done again\n",
		       a->kills, peer_name(c->peer));
}

static void json_spread(struct out_json *o, const char *key, struct spread s)
{
	struct out_json *j = out_json_object(o, key);

	out_json_real(j, "median", s.median);
	out_json_real(j, "min", s.min);
	out_json_real(j, "max", s.max);
}

static int print_json(const struct run_all *a)
{
	struct out_json *j = out_json_new();
	const struct compare *c = a->c;

	if (!j)
		return 1;
	out_json_string(j, "work", c->work);
	out_json_u64(j, "size", c->size);
	out_json_u64(j, "ram", c->ram);
	out_json_string(j, "device", c->device);
	out_json_string(j, "fault", c->fault);
	out_json_u64(j, "folio", c->folio);
	out_json_string(j, "against", peer_name(c->peer));
	out_json_u64(j, "pairs", c->runs);
	out_json_u64(j, "peer_swapped_out", a->swapped * 4096);
	out_json_u64(j, "peer_killed", a->kills);
	for (unsigned int m = 0; m < a->ours[0].nr; m++) {
		struct out_json *e = out_json_append(j, "metrics");
		struct spread o, t, r;

		sum_up(a, m, &o, &t, &r);
		out_json_string(e, "name", a->ours[0].metric[m].name);
		out_json_string(e, "unit", a->ours[0].metric[m].unit);
		json_spread(e, "pgmap", o);
		json_spread(e, "peer", t);
		json_spread(e, "times_better", r);
	}
	return out_json_write(j, stdout) ? 1 : 0;
}

static bool same(const struct result *a, const struct result *b)
{
	return a->nr == b->nr && !strcmp(a->sum, b->sum);
}

static void progress(const struct run_all *a, unsigned int i, const char *who)
{
	if (isatty(2))
		fprintf(stderr, "\r%s: pair %u of %u, %-10s\r", a->c->work,
			i + 1, a->c->runs, who);
}

static int run_pairs(struct run_all *a)
{
	for (unsigned int i = 0; i < a->c->runs; i++) {
		/* Who begins changes: the second finds the machine warm. */
		for (unsigned int k = 0; k < 2; k++) {
			bool ours = (i + k) % 2 == 0;

			progress(a, i, ours ? "pgmap" : peer_name(a->c->peer));
			if (ours ? run_ours(a, &a->ours[i])
				 : run_theirs(a, &a->theirs[i]))
				return 1;
		}
		if (!same(&a->ours[i], &a->theirs[i]) ||
		    !same(&a->ours[i], &a->ours[0])) {
			fprintf(stderr,
				"pgmap: bench: %s computed %s under pgmap and "
				"%s under %s\n",
				a->c->work, a->ours[i].sum, a->theirs[i].sum,
				peer_name(a->c->peer));
			return 1;
		}
	}
	/* A third of what does not fit: else the two were not put to the
	 * same test. */
	if (a->c->peer != PEER_NONE && a->c->size > a->c->ram &&
	    a->swapped * 4096 < (a->c->size - a->c->ram) / 3) {
		fprintf(stderr,
			"pgmap: bench: %s wrote only %" PRIu64 " MB out: was "
			"its limit not in force?\n",
			peer_name(a->c->peer), a->swapped * 4096 >> 20);
		return 1;
	}
	return 0;
}

static int make_graph(struct run_all *a)
{
	char *argv[] = {a->work, (char[]){"make-graph"}, a->size, a->graph,
			NULL};
	const char *tmp = getenv("TMPDIR");
	int status = 1;

	snprintf(a->graph, sizeof(a->graph), "%.40s/pgmap-graph-%d",
		 tmp ? tmp : "/var/tmp", (int)getpid());
	child = fork();
	if (!child) {
		execv(argv[0], argv);
		_exit(127);
	}
	while (child > 0 && waitpid(child, &status, 0) != child)
		;
	child = 0;
	return status ? -1 : 0;
}

int bench_compare(const struct compare *c)
{
	static struct run_all a;
	struct sigaction act = {.sa_handler = stop};
	int ret = 1;

	a = (struct run_all){.c = c};
	snprintf(a.size, sizeof(a.size), "%" PRIu64, c->size);
	snprintf(a.ram, sizeof(a.ram), "%" PRIu64, c->ram);
	snprintf(a.folio, sizeof(a.folio), "%" PRIu64, c->folio);
	if (beside(a.work, sizeof(a.work), WORK))
		return 2;
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	if (!strcmp(c->work, "bfs") && make_graph(&a))
		goto out;
	if (peer_open(&a.peer, c->peer, c->ram, c->size))
		goto out;
	ret = run_pairs(&a);
	peer_close(&a.peer);
	if (!ret && c->json)
		ret = print_json(&a);
	else if (!ret)
		print_table(&a);
out:
	if (a.graph[0])
		unlink(a.graph);
	return stopped ? 128 + stopped : ret;
}
