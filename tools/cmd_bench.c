/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap bench - measure pgmap. See pgmap-bench(1). */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/bench.h"
#include "cmd.h"
#include "number_in.h"
#include "out.h"

#define PAIRS_MAX 32
#define HUGE ((size_t)2 << 20)

double bench_ms(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* statm is behind by what each CPU has not told yet: not used. */
uint64_t bench_resident(void)
{
	uint64_t kb = number_in("/proc/self/smaps_rollup", "Rss:");

	return kb == UINT64_MAX ? 0 : kb * 1024;
}

uint64_t bench_grown_since(uint64_t before)
{
	uint64_t now = bench_resident();

	return now > before ? now - before : 0;
}

int bench_no_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return -1;
}

char *bench_map_memory(size_t size, bool huge)
{
	size_t len = size + HUGE;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *at;

	if (p == MAP_FAILED)
		return NULL;
	at = p + (HUGE - (uintptr_t)p % HUGE) % HUGE;
	if (at > p)
		munmap(p, (size_t)(at - p));
	if (at < p + HUGE)
		munmap(at + size, (size_t)(p + HUGE - at));
	madvise(at, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return at;
}

void bench_unmap(char *p, size_t size)
{
	if (p)
		munmap(p, size);
}

int bench_by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static const char *const works[] = {"stream", "random", "hash",
				    "sort",   "bfs",	"threads"};
#define NR_WORKS (sizeof(works) / sizeof(works[0]))

struct options {
	struct compare c;
	bool yes;
};

static int bad(const char *what, const char *value, const char *way_out)
{
	fprintf(stderr, "pgmap: bench: %s %s; %s\n", what, value, way_out);
	return 2;
}

static int parse_size(const char *name, const char *text, uint64_t *size)
{
	if (!out_parse_size(text, size))
		return 0;
	fprintf(stderr,
		"pgmap: bench: --%s %s is not a size; write it like 64K, 512M "
		"or 1.5G\n",
		name, text);
	return 2;
}

static int parse_peer(const char *text, enum peer_kind *kind)
{
	static const char *const names[] = {"none", "swap", "zram"};

	for (int i = 0; i < 3; i++)
		if (!strcmp(text, names[i])) {
			*kind = (enum peer_kind)i;
			return 0;
		}
	return bad("cannot compare with", text, "say none, swap or zram");
}

static int parse_one(int c, struct options *o)
{
	char *end;

	switch (c) {
	case 'S':
		return parse_size("size", optarg, &o->c.size);
	case 'r':
		return parse_size("ram", optarg, &o->c.ram);
	case 'f':
		return parse_size("folio", optarg, &o->c.folio);
	case 'd':
		o->c.device = optarg;
		return 0;
	case 'F':
		o->c.fault = optarg;
		return 0;
	case 'a':
		return parse_peer(optarg, &o->c.peer);
	case 'n':
		o->c.runs = (unsigned int)strtoul(optarg, &end, 10);
		if (!*end && o->c.runs && o->c.runs <= PAIRS_MAX)
			return 0;
		return bad("--pairs", optarg, "say a number from 1 to 32");
	case 'y':
		o->yes = true;
		return 0;
	case 'j':
		o->c.json = true;
		return 0;
	default:
		return 2;
	}
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{"size", required_argument, NULL, 'S'},
		{"ram", required_argument, NULL, 'r'},
		{"folio", required_argument, NULL, 'f'},
		{"device", required_argument, NULL, 'd'},
		{"fault", required_argument, NULL, 'F'},
		{"against", required_argument, NULL, 'a'},
		{"pairs", required_argument, NULL, 'n'},
		{"yes", no_argument, NULL, 'y'},
		{"json", no_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	int c, ret;

	opterr = 0;
	optind = 1;
	while ((c = getopt_long(argc, argv, "+:r:f:d:", names, NULL)) != -1) {
		if (c == ':' || c == '?')
			return bad(c == '?' ? "there is no option"
					    : "a value is missing after",
				   argv[optind - 1], "see pgmap bench --help");
		ret = parse_one(c, o);
		if (ret)
			return ret;
	}
	return 0;
}

static int run_work(const char *work, int argc, char **argv)
{
	struct options o = {.c = {.work = work,
				  .size = 1ull << 30,
				  .ram = 256ull << 20,
				  .folio = 64 << 10,
				  .device = "lz4",
				  .fault = "auto",
				  .peer = PEER_NONE,
				  .runs = 3}};
	int ret = parse(argc, argv, &o);

	if (ret)
		return ret;
	if (optind != argc)
		return bad("does not know", argv[optind],
			   "see pgmap bench --help");
	if (o.c.size < 1 << 20 || o.c.size > 1ull << 40)
		return bad("--size", "is out of range", "say from 1M to 1T");
	if (o.c.peer != PEER_NONE && !o.yes)
		return bad("--against", "sets up swap and a control group",
			   "say --yes if this machine may be used so");
	return bench_compare(&o.c);
}

static int run_migrate(int argc, char **argv)
{
	struct options o = {.c = {.size = 0}};
	int ret = parse(argc, argv, &o);

	if (ret)
		return ret;
	if (optind != argc || o.c.ram || o.c.folio || o.c.device || o.c.fault ||
	    o.c.runs || o.c.peer != PEER_NONE || o.yes)
		return bad("migrate", "takes only --size and --json",
			   "see pgmap bench --help");
	if (o.c.size % 4096 || o.c.size > 1ull << 36)
		return bad("--size", "is out of range",
			   "say pages of 4K, up to 64G");
	return bench_migrate(o.c.json, o.c.size);
}

/* What is measured in this process, with no choice. */
static const struct {
	const char *name;
	int (*fn)(bool json);
} fixed[] = {{"core", bench_core}, {"map", bench_map}, {"micro", bench_micro}};

static int run(int argc, char **argv)
{
	bool json = argc == 3 && !strcmp(argv[2], "--json");

	for (size_t i = 0; argc > 1 && i < sizeof(fixed) / sizeof(fixed[0]);
	     i++) {
		if (strcmp(argv[1], fixed[i].name))
			continue;
		if (argc != 2 && !json)
			return bad(argv[1], "takes only --json",
				   "see pgmap bench --help");
		return fixed[i].fn(json);
	}
	if (argc > 1 && !strcmp(argv[1], "migrate"))
		return run_migrate(argc - 1, argv + 1);
	for (size_t i = 0; argc > 1 && i < NR_WORKS; i++)
		if (!strcmp(argv[1], works[i]))
			return run_work(works[i], argc - 1, argv + 1);
	fprintf(stderr, "pgmap: bench: say what to measure; see pgmap bench "
			"--help\n");
	return 2;
}

const struct cmd cmd_bench = {
	.name = "bench",
	.summary = "measure pgmap on this machine",
	.usage =
		"pgmap bench core|map|micro [--json]\n"
		"pgmap bench migrate [--size SIZE] [--json]\n"
		"pgmap bench stream|random|hash|sort|bfs|threads [--size SIZE] "
		"[--ram SIZE]\n"
		"            [--device NAME[:OPTIONS]] [--folio SIZE] [--fault "
		"MODE]\n"
		"            [--pairs N]\n"
		"            [--against none|swap|zram [--yes]] [--json]\n"
		"\n"
		"core     hand pages out and free them, count references, look "
		"up, pin,\n"
		"         create maps: what each takes, beside the goal\n"
		"map      create and destroy a page map of 1 TB: empty, with "
		"every 512th\n"
		"         page, and with 1 % of its pages handed out and "
		"freed\n"
		"micro    a fault, a move, a store, a load, by folio size, "
		"beside what\n"
		"         the kernel takes for the like\n"
		"migrate  memory to the mirror device and back, beside memcpy: "
		"--size\n"
		"         at once, or a row of sizes up to 256M\n"
		"stream   read, change and write memory from one end to the "
		"other\n"
		"random   read and write pages without order: uniform, and "
		"Zipf 0.99\n"
		"hash     look up keys in a hash table, uniform and Zipf\n"
		"sort     sort 64-bit integers\n"
		"bfs      breadth-first search of an R-MAT graph\n"
		"threads  1, 2 and 4 threads without order, a quarter "
		"writes\n"
		"\n"
		"A piece of work of --size (1G) runs under pgmap with --ram "
		"(256M), and by\n"
		"turns under a peer: nobody (none), the kernel's swap to a "
		"file (swap) or to\n"
		"compressed memory (zram), in a control group with the same "
		"limit. Setting\n"
		"that up, and taking it down again, needs root and --yes.\n",
	.run = run,
};
