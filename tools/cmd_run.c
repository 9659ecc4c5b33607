/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap run - run a program in less RAM than it uses. See pgmap-run(1). */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pgmap/driver.h>
#include <pgmap/run.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd.h"
#include "number_in.h"
#include "out.h"

#define RAM_FALLBACK (1ull << 30)
#define RAM_LEAST (128ull << 20)
/* Pages came back more often than this, and this much: too little RAM. */
#define THRASH 4u
#define THRASH_LEAST (256ull << 20)
/* Below this, what compression saves is not worth a word. */
#define NOTHING_LEAST (16ull << 20)

struct options {
	struct pgmap_run_config config;
	const char *summary, *json;
	bool quiet, device, folio;
};

/* The least memory limit of this process's control group and those above. */
static uint64_t group_limit(void)
{
	char group[512] = "", path[600];
	uint64_t least = UINT64_MAX;
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(group, sizeof(group), f))
		if (!strncmp(group, "0::/", 4))
			break;
	if (f)
		fclose(f);
	if (strncmp(group, "0::/", 4))
		return least;
	memmove(group, group + 3, strlen(group) - 2);
	group[strcspn(group, "\n")] = '\0';
	for (;;) {
		char *slash = strrchr(group, '/');
		uint64_t v;

		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max",
			 group);
		v = number_in(path, NULL);
		least = v < least ? v : least;
		if (!slash)
			break;
		*slash = '\0';
	}
	return least;
}

/* Half of what could be had now, in whole MB. */
static uint64_t default_ram(void)
{
	uint64_t kb = number_in("/proc/meminfo", "MemAvailable:");
	uint64_t limit = group_limit();
	uint64_t ram = kb == UINT64_MAX ? RAM_FALLBACK : kb * 1024;

	ram = ram < limit ? ram : limit;
	ram = ram / 2 & ~((1ull << 20) - 1);
	return ram < RAM_LEAST ? RAM_LEAST : ram;
}

static int parse_fault(const char *s, int *fault)
{
	static const char *const names[] = {
		[PGMAP_FAULT_AUTO] = "auto",
		[PGMAP_FAULT_THREAD] = "thread",
		[PGMAP_FAULT_HOLD] = "hold",
		[PGMAP_FAULT_SIGNAL] = "signal",
	};

	for (int i = 0; i < (int)(sizeof(names) / sizeof(*names)); i++)
		if (!strcmp(s, names[i])) {
			*fault = i;
			return 0;
		}
	fprintf(stderr,
		"pgmap: --fault %s is not known; write auto, thread, hold or "
		"signal\n",
		s);
	return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{"ram", required_argument, NULL, 'r'},
		{"device", required_argument, NULL, 'd'},
		{"folio", required_argument, NULL, 'f'},
		{"fault", required_argument, NULL, 'F'},
		{"dmirror", no_argument, NULL, 'D'},
		{"verbose", no_argument, NULL, 'v'},
		{"quiet", no_argument, NULL, 'q'},
		{"summary", required_argument, NULL, 's'},
		{"json", required_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	int c, ret;

	opterr = 0;
	optind = 1;
	while ((c = getopt_long(argc, argv, "+:r:d:f:vq", names, NULL)) != -1) {
		switch (c) {
		case 'r':
		case 'f':
			o->folio |= c == 'f';
			ret = out_parse_size(optarg,
					     c == 'r' ? &o->config.ram
						      : &o->config.folio_size);
			if (ret) {
				fprintf(stderr,
					"pgmap: --%s %s is not a size; write "
					"it like 64K, 512M or 1.5G\n",
					c == 'r' ? "ram" : "folio", optarg);
				return 2;
			}
			break;
		case 'd':
			if (o->device) {
				fprintf(stderr,
					"pgmap: --device is given twice; one "
					"run has one device\n");
				return 2;
			}
			o->device = true;
			o->config.device = optarg;
			break;
		case 'F':
			if (parse_fault(optarg, &o->config.fault))
				return 2;
			break;
		case 'D':
			o->config.dmirror = true;
			break;
		case 'v':
			if (o->config.log_level < 3)
				o->config.log_level++;
			break;
		case 'q':
			o->quiet = true;
			break;
		case 's':
			o->summary = optarg;
			break;
		case 'j':
			o->json = optarg;
			break;
		case ':':
			fprintf(stderr,
				"pgmap: %s takes a value; see pgmap run "
				"--help\n",
				argv[optind - 1]);
			return 2;
		default:
			fprintf(stderr,
				"pgmap: run has no option %s; see pgmap run "
				"--help\n",
				argv[optind - 1]);
			return 2;
		}
	}
	if (optind >= argc) {
		fprintf(stderr, "pgmap: no program is named; see pgmap run "
				"--help\n");
		return 2;
	}
	o->config.argv = argv + optind;
	/* Pages move by themselves, as the devices are asked. */
	if (o->config.dmirror && !o->device)
		o->config.device = "mirror";
	if (o->config.dmirror && !o->folio)
		o->config.folio_size = PGMAP_PAGE_SIZE;
	return 0;
}

static double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

static void print_faults(FILE *to, const struct pgmap_stat *st)
{
	char a[OUT_LEN], b[OUT_LEN];

	fprintf(to, "  faults         %" PRIu64, st->faults);
	if (st->faults)
		fprintf(to, ", half within %s, 99 %% within %s",
			out_ns(a, pgmap_hist_percentile(st->fault_hist, 500)),
			out_ns(b, pgmap_hist_percentile(st->fault_hist, 990)));
	fprintf(to, "\n");
	fprintf(to,
		"  moved          %" PRIu64 " pages out, %" PRIu64 " pages in",
		st->evictions, st->loads + st->prefetched);
	if (st->prefetched)
		fprintf(to, " (%" PRIu64 " of them ahead)", st->prefetched);
	fprintf(to, "\n");
}

/* What would have made it go better. */
static void print_hints(FILE *to, const struct options *o,
			const struct pgmap_run_result *res)
{
	const struct pgmap_stat *st = &res->total;
	uint64_t moved = (st->loads + st->prefetched) * PGMAP_PAGE_SIZE;
	uint64_t held = st->peak_device_host + st->peak_device_media;

	if (moved > THRASH * st->peak_managed && moved > THRASH_LEAST)
		fprintf(to,
			"  hint           pages came back %.0f times for each "
			"one managed; more --ram, or %s --folio, would help\n",
			(double)moved / (double)st->peak_managed,
			st->prefetched > st->loads ? "a smaller" : "another");
	if (st->peak_device_host > held / 2 && st->peak_away > NOTHING_LEAST &&
	    st->peak_device_host > st->peak_away / 10 * 9)
		fprintf(to,
			"  hint           the data does not compress: device "
			"%s "
			"saved nothing; try --device file\n",
			o->config.device);
}

/* More was in RAM than the budget; say why, as far as it is known. */
static void print_above(FILE *to, const struct options *o,
			const struct pgmap_run_result *res)
{
	const struct pgmap_stat *st = &res->total;
	uint64_t ram = o->config.ram, peak = res->peak_tree;
	const char *why = "memory grew faster than it could leave";
	char a[OUT_LEN];

	peak = peak > st->peak_resident ? peak : st->peak_resident;
	if (peak <= ram + ram / 20)
		return;
	if (res->unmanaged[0])
		why = "some processes could not be managed";
	else if (st->full)
		why = "the device was full";
	else if (st->io_errors)
		why = "the device failed";
	else if (!res->nr_managed)
		why = "it came near its budget too shortly to be managed";
	else if (st->busy > st->evictions)
		why = "pages were pinned or shared when they were to leave";
	else if (res->nr_procs > 4 * res->nr_managed)
		why = "many processes were too small to be managed";
	fprintf(to, "  above budget   by %s at most, because %s\n",
		out_bytes(a, peak - ram), why);
}

/* What was not as it should be; nothing when all was. */
static void print_troubles(FILE *to, const struct pgmap_run_result *res)
{
	const struct pgmap_stat *st = &res->total;
	char a[OUT_LEN];

#define X(name, doc)                                                           \
	if (res->left.name)                                                    \
		fprintf(to, "  left alone     %s: %s\n",                       \
			out_bytes(a, res->left.name), doc);
	PGMAP_LEFT_ALONE(X)
#undef X
	if (st->full)
		fprintf(to,
			"  device full    %" PRIu64 " times a page had to "
			"stay in RAM; give --device more room\n",
			st->full);
	if (st->io_errors)
		fprintf(to, "  device errors  %" PRIu64 "\n", st->io_errors);
	if (st->poisoned)
		fprintf(to,
			"  lost           %" PRIu64 " pages; a touch "
			"raises SIGBUS\n",
			st->poisoned);
	if (res->unmanaged[0])
		fprintf(to, "  not managed    %s\n", res->unmanaged);
}

static void print_summary(FILE *to, const struct options *o,
			  const struct pgmap_run_result *res)
{
	const struct pgmap_stat *st = &res->total;
	char a[OUT_LEN], b[OUT_LEN];
	uint64_t held = st->peak_device_host + st->peak_device_media;

	fprintf(to, "pgmap: %s with a budget of %s on device %s\n",
		o->config.argv[0], out_bytes(a, o->config.ram),
		o->config.device);
	if (!res->nr_managed && !st->evictions) {
		if (!res->unmanaged[0] &&
		    res->peak_tree < o->config.ram / 4 * 3)
			fprintf(to, "  it never came near its budget, so its "
				    "memory was left as it was\n");
		else
			fprintf(to,
				"  nothing was managed; %s of memory were in "
				"RAM at most\n",
				out_bytes(a, res->peak_tree));
		print_above(to, o, res);
		print_troubles(to, res);
		return;
	}
	fprintf(to, "  processes      %u, of them %u managed\n", res->nr_procs,
		res->nr_managed);
	fprintf(to,
		"  memory         %s managed at most, %s of it in RAM at "
		"most\n",
		out_bytes(a, st->peak_managed),
		out_bytes(b, st->peak_resident));
	fprintf(to, "  device         held %s at most",
		out_bytes(a, st->peak_away));
	if (st->peak_device_host)
		fprintf(to, ", in %s of RAM",
			out_bytes(a, st->peak_device_host));
	if (st->peak_device_media)
		fprintf(to, ", in %s outside RAM",
			out_bytes(a, st->peak_device_media));
	if (held)
		fprintf(to, " (%.2f to 1)", ratio(st->peak_away, held));
	fprintf(to, "\n");
	print_faults(to, st);
	print_above(to, o, res);
	print_troubles(to, res);
	print_hints(to, o, res);
}

static int write_json(FILE *to, struct out_json *j, const struct options *o,
		      const struct pgmap_run_result *res)
{
	struct out_json *left;
	int status = res->status;

	out_json_string(j, "version", PG_VERSION);
	out_json_string(j, "program", o->config.argv[0]);
	out_json_u64(j, "ram", o->config.ram);
	out_json_string(j, "device", o->config.device);
	out_json_u64(j, "folio", o->config.folio_size);
	if (WIFSIGNALED(status))
		out_json_u64(j, "signal", (uint64_t)WTERMSIG(status));
	else
		out_json_u64(j, "exit", (uint64_t)WEXITSTATUS(status));
	out_json_u64(j, "processes", res->nr_procs);
	out_json_u64(j, "managed_processes", res->nr_managed);
	out_json_stat(out_json_object(j, "total"), &res->total);
	left = out_json_object(j, "left_alone");
#define X(name, doc) out_json_u64(left, #name, res->left.name);
	PGMAP_LEFT_ALONE(X)
#undef X
	out_json_string(j, "unmanaged", res->unmanaged);
	out_json_u64(j, "peak_tree", res->peak_tree);
	return out_json_write(j, to);
}

/* End as the program did, so that who called us sees what it would have seen
 * of the program. Our own memory is not worth a core file. */
static int end_as(int status)
{
	struct rlimit none = {0, 0};
	sigset_t set;
	int sig;

	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status);
	sig = WTERMSIG(status);
	fflush(NULL);
	setrlimit(RLIMIT_CORE, &none);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return 128 + sig;
}

static FILE *open_output(const char *path)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "we")
				    : fdopen(dup(STDOUT_FILENO), "w");

	if (!f)
		fprintf(stderr, "pgmap: cannot write %s: %s\n", path,
			strerror(errno));
	return f;
}

static void close_output(FILE *f, const char *path, int ret)
{
	if (f && (ferror(f) | fclose(f) | ret))
		fprintf(stderr, "pgmap: %s is not complete\n", path);
}

static int run(int argc, char **argv)
{
	struct options o = {.config = {.size = sizeof(o.config),
				       .ram = default_ram(),
				       .device = "lz4",
				       .folio_size = 64 << 10,
				       .log_level = 1}};
	struct pgmap_run_result res = {.size = sizeof(res)};
	struct out_json *j = NULL;
	FILE *summary = NULL, *json = NULL;
	char error[512] = "";
	int ret = parse(argc, argv, &o);

	if (ret)
		return ret;
	if (o.json && !(j = out_json_new()))
		return 2;
	if (o.json && !(json = open_output(o.json)))
		return 2;
	if (o.summary && !(summary = open_output(o.summary)))
		return 2;
	ret = pgmap_run(&o.config, &res, error, sizeof(error));
	if (ret) {
		fprintf(stderr, "pgmap: %s\n",
			error[0] ? error : strerror(-ret));
		return 2;
	}
	if (summary)
		print_summary(summary, &o, &res);
	else if (!o.quiet)
		print_summary(stderr, &o, &res);
	close_output(summary, o.summary, 0);
	if (json)
		close_output(json, o.json, write_json(json, j, &o, &res));
	return end_as(res.status);
}

const struct cmd cmd_run = {
	.name = "run",
	.summary = "run a program in less RAM than it uses",
	.usage =
		"usage: pgmap run [options] [--] PROGRAM [ARGUMENT...]\n\n"
		"  -r, --ram SIZE      RAM for the program and all it starts:\n"
		"                      at least 8M and 32 folios, which is "
		"10M\n"
		"                      with folios of 64K, 72M with 2M;\n"
		"                      default: half of what is available\n"
		"  -d, --device NAME[:OPTIONS]\n"
		"                      where cold memory goes; default: lz4;\n"
		"                      as lz4:4G, file:/var/tmp,size=20G or\n"
		"                      file:/dev/nvme0n1; see pgmap check\n"
		"  -f, --folio SIZE    what moves together, 4K to 2M;\n"
		"                      default: 64K\n"
		"      --fault MODE    how system calls use what is away:\n"
		"                      thread: it comes when they touch it;\n"
		"                      hold: before, and stays while they "
		"last;\n"
		"                      signal: the same, and each thread "
		"serves "
		"its\n"
		"                      own page faults;\n"
		"                      default: auto: thread or hold, as "
		"permissions\n"
		"                      allow\n"
		"      --dmirror       show the program /dev/hmm_dmirror0 to "
		"3,\n"
		"                      which mirror its memory as the test "
		"driver\n"
		"                      of Linux does; needs --fault thread\n"
		"      --summary FILE  the summary goes there, not to stderr\n"
		"      --json FILE     the same, and all counters, as JSON;\n"
		"                      FILE - is standard output\n"
		"  -q, --quiet         no summary on stderr\n"
		"  -v, --verbose       say when memory begins to be managed "
		"and\n"
		"                      to leave; twice: each mapping as well\n",
	.run = run,
};
