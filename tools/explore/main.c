/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap-explore - all interleavings of the core. See pgmap-explore(1). */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "explore/engine.h"
#include "explore/self.h"
#include "out.h"

#define NR_GRAPHS ((size_t)1 << 20)
#define NR_GENERATED 60
/* Brute force on a generated program; what takes longer is left out. */
#define GENERATED_LIMIT_S 0.3

static const char usage[] =
	"usage: pgmap explore [options] [SCENARIO...]\n"
	"       pgmap explore [--seed S] self | litmus\n\n"
	"Runs small programs on the real code of pgmap's core, once for each\n"
	"order in which their threads' steps can matter. Without SCENARIO, "
	"all\n"
	"of them; a part of a name selects those that have it.\n\n"
	"  --list               what there is\n"
	"  --complete           no bound, also where a scenario has one\n"
	"  --bound N            only orders with at most N preemptions\n"
	"  --random N           N random orders; --seed S repeats them\n"
	"  --strong             loads return the newest value only\n"
	"  --time-limit SECONDS for each scenario (default 600; 0: none)\n"
	"  --replay SCHEDULE    the one order that a report has named\n"
	"  --trace              print all of a schedule\n"
	"  --mutate NAME        put an old mistake back (mutation builds)\n"
	"  --json               one JSON object\n"
	"  --test               as a test program prints\n\n"
	"Exit status 0 if every execution was right and the search is "
	"complete\n"
	"(or as far as --bound or --random say), 1 if not, 2 for bad usage.\n";

static struct x_scenario *all;

void x_register(struct x_scenario *s)
{
	struct x_scenario **p = &all;

	while (*p && strcmp((*p)->name, s->name) < 0)
		p = &(*p)->next;
	s->next = *p;
	*p = s;
}

static struct x_search how = {
	.mode = X_DPOR, .limit_s = 600, .weak = true, .seed = 1};
static bool unbounded, test_output, trace;
static struct out_json *json;

static const struct x_scenario *called(const char *name)
{
	const struct x_scenario *s = all;

	while (s && (strcmp(s->name, name) != 0 ||
		     (s->kind != X_LIBRARY && s->kind != X_EXAMPLE)))
		s = s->next;
	return s;
}

/* By its name, or by a part of it that is nobody's name. */
static bool selected(const struct x_scenario *s, char **names, int n)
{
	for (int i = 0; i < n; i++) {
		const struct x_scenario *exact = called(names[i]);

		if (exact ? s == exact
			  : s->kind == X_LIBRARY && strstr(s->name, names[i]))
			return true;
	}
	return n == 0 && s->kind == X_LIBRARY;
}

/* ---- One scenario ---- */

/* A failure with fewer preemptions is easier to read. */
static void find_simpler(const struct x_scenario *s, struct x_result *r)
{
	for (int bound = 0; bound < 3; bound++) {
		struct x_search simple = how;
		struct x_result found;

		simple.mode = X_BOUND;
		simple.bound = bound;
		simple.limit_s = 3;
		x_explore(s, &simple, &found);
		if (!found.found)
			continue;
		memcpy(r->replay, found.replay, sizeof(r->replay));
		memcpy(r->why, found.why, sizeof(r->why));
		return;
	}
}

/* Run it again, this time with notes. */
static void tell(const struct x_scenario *s, struct x_result *r, FILE *to)
{
	struct x_search again = how;
	struct x_result told;

	again.mode = X_REPLAY;
	again.replay = how.mode == X_REPLAY ? how.replay : r->replay;
	again.limit_s = 0;
	x.tracing = true;
	x_explore(s, &again, &told);
	if (told.found)
		memcpy(r->why, told.why, sizeof(r->why));
	if (to) {
		fprintf(to, "\n");
		x_trace_print(to, trace);
		fprintf(to, "   %s\n",
			told.found ? told.why : "nothing is wrong");
		if (how.mode != X_REPLAY)
			fprintf(to,
				"   to repeat: pgmap explore --replay %s %s\n",
				again.replay, s->name);
		fprintf(to, "\n");
	}
	x.tracing = false;
}

static void add_json(const struct x_scenario *s, const struct x_result *r)
{
	struct out_json *o = out_json_append(json, "scenarios");

	out_json_string(o, "name", s->name);
	out_json_bool(o, "failed", r->found);
	out_json_bool(o, "complete", r->complete);
	out_json_bool(o, "finished", r->finished);
	out_json_u64(o, "threads", (uint64_t)s->nr);
	out_json_u64(o, "executions", (uint64_t)r->executions);
	out_json_u64(o, "pruned", (uint64_t)r->pruned);
	out_json_u64(o, "steps", (uint64_t)r->steps);
	out_json_u64(o, "longest", (uint64_t)r->longest);
	out_json_u64(o, "milliseconds", (uint64_t)(r->seconds * 1000));
	if (r->found) {
		out_json_string(o, "why", r->why);
		out_json_string(o, "replay", r->replay);
	}
}

static bool is_bounded(const struct x_scenario *s)
{
	return how.mode == X_DPOR && s->bound && !unbounded;
}

static void print_figures(const struct x_scenario *s,
			  const struct x_search *search,
			  const struct x_result *r)
{
	char verdict[40] = "as far as it goes";

	if (r->found)
		snprintf(verdict, sizeof(verdict), "FAILED");
	else if (r->complete)
		snprintf(verdict, sizeof(verdict), "complete");
	else if (!r->finished)
		snprintf(verdict, sizeof(verdict), "time limit");
	else if (search->mode == X_BOUND)
		snprintf(verdict, sizeof(verdict), "bounded: %d preemptions",
			 search->bound);
	printf("%s%-58s %9ld executions %8ld cut %4ld steps %8.2f s  %s\n",
	       test_output ? "# " : "", s->name, r->executions, r->pruned,
	       r->longest, r->seconds, verdict);
}

/* Return: it is as it should be. */
static bool run_one(const struct x_scenario *s)
{
	struct x_search search = how;
	struct x_result r;
	bool good;

	if (is_bounded(s)) {
		search.mode = X_BOUND;
		search.bound = s->bound;
	}
	if (test_output)
		printf("[ RUN      ] %s\n", s->name);
	x_explore(s, &search, &r);
	if (r.found && search.mode != X_REPLAY && search.mode != X_BOUND &&
	    r.replay[0])
		find_simpler(s, &r);
	good = !r.found && (r.finished || search.mode == X_REPLAY);
	if (json) {
		if (r.found)
			tell(s, &r, NULL);
		add_json(s, &r);
		return good;
	}
	if (search.mode != X_REPLAY)
		print_figures(s, &search, &r);
	if (r.found || (trace && search.mode == X_REPLAY))
		tell(s, &r, stdout);
	else if (search.mode == X_REPLAY && !test_output)
		printf("%s: nothing is wrong\n", s->name);
	if (test_output)
		printf("[%s] %s\n", good ? "       OK " : "  FAILED  ",
		       s->name);
	return good;
}

/* First those that are complete; then, apart, those with a bound. */
static int run_all(char **names, int n)
{
	bool good = true;
	int nr[2] = {0};

	for (int bounded = 0; bounded < 2; bounded++)
		for (const struct x_scenario *s = all; s; s = s->next) {
			if (is_bounded(s) != bounded || !selected(s, names, n))
				continue;
			nr[bounded]++;
			good &= run_one(s);
			fflush(stdout);
		}
	if (nr[0] + nr[1])
		return !good;
	fprintf(stderr,
		"pgmap: no scenario is called '%s'; see pgmap explore "
		"--list\n",
		n ? names[0] : "");
	return 2;
}

/* ---- litmus ---- */

/* Return: it is as it should be. */
static bool run_litmus(const struct x_scenario *s)
{
	struct x_search search = how;
	struct x_result reduced, brute;
	bool good;

	x_explore(s, &search, &reduced);
	search.mode = X_BOUND;
	search.bound = X_NO_BOUND;
	x_explore(s, &search, &brute);
	good = reduced.found == brute.found &&
	       (reduced.found || (reduced.complete && brute.complete)) &&
	       reduced.found == (s->allowed && !s->limit);
	printf("%-32s C11 %-7s the explorer %-15s %s\n", s->name,
	       s->allowed ? "allows" : "forbids",
	       reduced.found ? "produces it" : "does not",
	       !good	  ? "WRONG"
	       : s->limit ? "known limit"
			  : "ok");
	return good;
}

/* ---- self ---- */

/* A set of hashes. */
struct set {
	uint64_t hash[NR_GRAPHS];
	uint32_t used[NR_GRAPHS / 2];
	long nr;
};

static struct set by_force, by_sleep, by_dpor;
static struct set *into;
static bool spins; /* see self.h */

static size_t slot_of(const struct set *set, uint64_t h)
{
	size_t i = (h >> 44) % NR_GRAPHS;

	while (set->hash[i] && set->hash[i] != h)
		i = (i + 1) % NR_GRAPHS;
	return i;
}

static void note_graph(void)
{
	uint64_t h = (spins ? x_self_outcome() + x.failed : x_graph()) | 1;
	size_t i = slot_of(into, h);

	/* An execution that was cut is a part of another. */
	for (int t = 0; t < x.scenario->nr && !x.failed; t++)
		if (x.thread[t].state != X_DONE)
			return;
	if (into->hash[i])
		return;
	if (into->nr == NR_GRAPHS / 2) {
		fprintf(stderr, "pgmap: too many executions for self\n");
		exit(2);
	}
	into->hash[i] = h;
	into->used[into->nr++] = (uint32_t)i;
}

static bool collect(const struct x_scenario *s, enum x_mode mode, bool weak,
		    struct set *set, struct x_result *r)
{
	struct x_search search = how;

	while (set->nr)
		set->hash[set->used[--set->nr]] = 0;
	into = set;
	search.mode = mode;
	search.bound = X_NO_BOUND;
	search.weak = weak;
	search.each = note_graph;
	if (s->generated)
		search.limit_s = GENERATED_LIMIT_S;
	x_explore(s, &search, r);
	return r->complete;
}

/* How many that @whole has are missing in @some. */
static long missing(const struct set *whole, const struct set *some)
{
	long n = 0;

	for (long i = 0; i < whole->nr; i++)
		n += !some->hash[slot_of(some, whole->hash[whole->used[i]])];
	return n;
}

/* Return: it is as it should be. Sums the figures up in @sum. */
static bool run_self(const struct x_scenario *s, bool weak, long sum[4],
		     bool print)
{
	struct x_result brute, sleep, dpor;
	bool complete, good;
	long skipped;

	if (!collect(s, X_BOUND, weak, &by_force, &brute) && s->generated)
		return true;
	complete = collect(s, X_ALL, weak, &by_sleep, &sleep) &&
		   collect(s, X_DPOR, weak, &by_dpor, &dpor) && brute.complete;
	skipped = missing(&by_force, &by_sleep) + missing(&by_force, &by_dpor);
	good = complete && !skipped && by_force.nr == by_sleep.nr &&
	       by_force.nr == by_dpor.nr;

	sum[0] += brute.executions;
	sum[1] += sleep.executions;
	sum[2] += dpor.executions;
	sum[3] += by_force.nr;
	if (print || !good)
		printf("%-28s %-6s %9ld %9ld %9ld %9ld  %s\n", s->name,
		       weak ? "weak" : "strong", brute.executions,
		       sleep.executions, dpor.executions, by_force.nr,
		       good	  ? "none is skipped"
		       : complete ? "SKIPPED SOME"
				  : "TIME LIMIT");
	return good;
}

static bool run_generated(bool weak, bool spin)
{
	bool good = true;
	long sum[4] = {0};

	spins = spin;
	for (uint64_t i = 0; i < NR_GENERATED; i++) {
		x_self_generate(how.seed * 1000003 + i, spin);
		for (int k = 0; k < 2; k++) {
			if (run_self(&x_generated[k], weak, sum, false))
				continue;
			good = false;
			printf("    that was number %d of --seed %lu\n", (int)i,
			       (unsigned long)how.seed);
		}
	}
	spins = false;
	fflush(stdout);
	printf("%-28s %-6s %9ld %9ld %9ld %9ld  %s\n",
	       spin ? "generated, with spinning" : "generated programs",
	       weak ? "weak" : "strong", sum[0], sum[1], sum[2], sum[3],
	       good ? "none is skipped" : "SKIPPED SOME");
	return good;
}

static int run_kind(const char *what)
{
	bool litmus = !strcmp(what, "litmus"), good = true;
	long sum[4] = {0};

	if (test_output)
		printf("[ RUN      ] %s\n", what);
	if (!litmus)
		printf("%-28s %-6s %9s %9s %9s %9s\n", "", "", "brute force",
		       "sleep sets", "reduced", "classes");
	for (const struct x_scenario *s = all; s; s = s->next) {
		if (litmus && s->kind == X_LITMUS)
			good &= run_litmus(s);
		if (litmus || s->kind == X_LIBRARY || s->kind == X_EXAMPLE)
			continue;
		good &= run_self(s, false, sum, true);
		good &= run_self(s, true, sum, true);
	}
	if (!litmus) {
		good &= run_generated(false, false);
		good &= run_generated(true, false);
		good &= run_generated(false, true);
		good &= run_generated(true, true);
	}
	if (test_output)
		printf("[%s] %s\n", good ? "       OK " : "  FAILED  ", what);
	return !good;
}

/* ---- Arguments ---- */

static int list(void)
{
	for (const struct x_scenario *s = all; s; s = s->next)
		if (s->kind == X_LIBRARY)
			printf("%-58s %d threads: %s\n", s->name, s->nr,
			       s->what);
	printf("\nexamples, wrong on purpose:\n");
	for (const struct x_scenario *s = all; s; s = s->next)
		if (s->kind == X_EXAMPLE)
			printf("%-58s %d threads: %s\n", s->name, s->nr,
			       s->what);
	return 0;
}

static int bad_usage(const char *what, const char *value)
{
	fprintf(stderr, "pgmap: %s '%s'; see pgmap explore --help\n", what,
		value);
	return 2;
}

static bool parse(const char *text, long max, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(text, &end, 10);
	return !errno && end != text && !*end && *value >= 0 && *value <= max;
}

static int run_selected(int argc, char **argv)
{
	const char *only = getenv("PGMAP_TEST");
	char *one[1];
	int ret;

	if (argc && (!strcmp(argv[0], "self") || !strcmp(argv[0], "litmus")))
		return argc == 1 ? run_kind(argv[0])
				 : bad_usage("too much after", argv[0]);
	if (test_output && only && argc == 0) {
		one[0] = strdup(only);
		ret = run_all(one, 1);
		free(one[0]);
		return ret;
	}
	if (how.mode == X_REPLAY && (argc != 1 || !called(argv[0])))
		return bad_usage("--replay wants the whole name of a scenario, "
				 "not",
				 argc ? argv[argc - 1] : "");
	return run_all(argv, argc);
}

enum {
	LIST = 256,
	COMPLETE,
	BOUND,
	RANDOM,
	SEED,
	STRONG,
	LIMIT,
	REPLAY,
	TRACE,
	MUTATE,
	JSON,
	TEST
};

static const struct option options[] = {
	{"help", no_argument, NULL, 'h'},
	{"list", no_argument, NULL, LIST},
	{"complete", no_argument, NULL, COMPLETE},
	{"bound", required_argument, NULL, BOUND},
	{"random", required_argument, NULL, RANDOM},
	{"seed", required_argument, NULL, SEED},
	{"strong", no_argument, NULL, STRONG},
	{"time-limit", required_argument, NULL, LIMIT},
	{"replay", required_argument, NULL, REPLAY},
	{"trace", no_argument, NULL, TRACE},
	{"mutate", required_argument, NULL, MUTATE},
	{"json", no_argument, NULL, JSON},
	{"test", no_argument, NULL, TEST},
	{0},
};

/* Return: -1 go on, or the exit status. */
static int take_option(int opt)
{
	long v;

	switch (opt) {
	case 'h':
		fputs(usage, stdout);
		return 0;
	case LIST:
		return list();
	case COMPLETE:
		unbounded = true;
		return -1;
	case BOUND:
		if (!parse(optarg, 1000, &v))
			return bad_usage("--bound wants a number, not", optarg);
		how.mode = X_BOUND;
		how.bound = (int)v;
		return -1;
	case RANDOM:
		if (!parse(optarg, 1L << 40, &v) || !v)
			return bad_usage("--random wants a number of orders, "
					 "1 or more, not",
					 optarg);
		how.mode = X_PCT;
		how.executions = v;
		return -1;
	case SEED:
		if (!parse(optarg, 1L << 62, &v))
			return bad_usage("--seed wants a number, not", optarg);
		how.seed = (uint64_t)v;
		return -1;
	case STRONG:
		how.weak = false;
		return -1;
	case LIMIT:
		if (!parse(optarg, 1000000, &v))
			return bad_usage("--time-limit wants seconds, not",
					 optarg);
		how.limit_s = (double)v;
		return -1;
	case REPLAY:
		how.mode = X_REPLAY;
		how.replay = optarg;
		return -1;
	case TRACE:
		trace = true;
		return -1;
	case MUTATE:
#ifndef PG_MUTATION
		fprintf(stderr, "pgmap: --mutate needs a build with "
				"-Dmutation=true\n");
		return 2;
#else
		x_mutant = optarg;
		return -1;
#endif
	case JSON:
		json = out_json_new();
		return json ? -1 : 2;
	case TEST:
		test_output = true;
		return -1;
	default:
		return 2;
	}
}

int main(int argc, char **argv)
{
	const char *mutant = getenv("PGMAP_MUTATE");
	int opt, ret;

	if (mutant)
		x_mutant = mutant;
	argv[0] = (char[]){"pgmap"}; /* what getopt begins its lines with */
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		ret = take_option(opt);
		if (ret >= 0)
			return ret;
	}
	ret = run_selected(argc - optind, argv + optind);
	if (json && out_json_write(json, stdout)) {
		fprintf(stderr, "pgmap: cannot write the JSON\n");
		return 1;
	}
	if (fflush(stdout) || ferror(stdout))
		return ret ? ret : 1;
	return ret;
}
