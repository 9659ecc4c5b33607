/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap stat - print the counters of a running tree. See pgmap-stat(1). */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pgmap/run.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "out.h"

static void print_total(const struct pgmap_stat *st)
{
	char a[OUT_LEN];

#define X(name, unit, doc)                                                     \
	printf("%-18s %14s  %-6s %s\n", #name, out_value(a, unit, st->name),   \
	       strcmp(unit, "pages") ? "" : unit, doc);
	PGMAP_GAUGES(X)
	PGMAP_COUNTERS(X)
#undef X
	printf("%-18s %14s  %-6s %s\n", "fault_p50",
	       out_ns(a, pgmap_hist_percentile(st->fault_hist, 500)), "",
	       "half of the faults took no longer");
	printf("%-18s %14s  %-6s %s\n", "fault_p99",
	       out_ns(a, pgmap_hist_percentile(st->fault_hist, 990)), "",
	       "99 % of the faults took no longer");
}

static const char *state(const struct pgmap_proc_stat *ps)
{
	return !ps->alive ? "ended" : ps->managed ? "managed" : "idle";
}

static void print_proc(const struct pgmap_proc_stat *ps)
{
	char a[4][OUT_LEN], comm[sizeof(ps->comm)];
	const struct pgmap_stat *st = &ps->stat;

	/* A process names itself as it likes; keep that off the terminal. */
	memcpy(comm, ps->comm, sizeof(comm));
	for (char *c = comm; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
	printf("%8d %-15s %-8s %10s %10s %10s %10s %10" PRIu64 " %10" PRIu64
	       " %10" PRIu64 "\n",
	       (int)ps->pid, comm, state(ps), out_bytes(a[0], st->present),
	       out_bytes(a[1], st->pool), out_bytes(a[2], st->away),
	       out_bytes(a[3], st->device_host), st->faults,
	       st->loads + st->prefetched, st->evictions);
}

static void print_text(struct pgmap_attach *at, const struct pgmap_stat *total)
{
	struct pgmap_proc_stat ps = {.size = sizeof(ps)};

	print_total(total);
	printf("\n%8s %-15s %-8s %10s %10s %10s %10s %10s %10s %10s\n", "pid",
	       "name", "state", "present", "pool", "away", "device", "faults",
	       "loads", "evictions");
	for (unsigned int i = 0; !pgmap_attach_proc(at, i, &ps); i++)
		print_proc(&ps);
}

static int print_json(struct pgmap_attach *at, const struct pgmap_stat *total)
{
	struct pgmap_proc_stat ps = {.size = sizeof(ps)};
	struct out_json *o = out_json_new();

	if (!o)
		return 1;
	out_json_stat(out_json_object(o, "total"), total);
	out_json_list(o, "processes");
	for (unsigned int i = 0; !pgmap_attach_proc(at, i, &ps); i++) {
		struct out_json *p = out_json_append(o, "processes"), *left;

		out_json_u64(p, "pid", (uint64_t)ps.pid);
		out_json_string(p, "name", ps.comm);
		out_json_string(p, "state", state(&ps));
		out_json_stat(p, &ps.stat);
		left = out_json_object(p, "left_alone");
#define X(name, doc) out_json_u64(left, #name, ps.left.name);
		PGMAP_LEFT_ALONE(X)
#undef X
	}
	if (out_json_write(o, stdout)) {
		fprintf(stderr, "pgmap: cannot write the JSON\n");
		return 1;
	}
	return 0;
}

static const char *reason(int err)
{
	switch (err) {
	case -ESRCH:
		return "there is no such process";
	case -ENOENT:
		return "it does not run under pgmap; start it with pgmap run";
	case -EACCES:
		return "not allowed; be its user or root";
	case -EPROTO:
		return "it runs under another version of pgmap; use that one's "
		       "command";
	default:
		return strerror(-err);
	}
}

static int run(int argc, char **argv)
{
	bool json = argc > 1 && !strcmp(argv[1], "--json");
	const char *text = argc == 2 + json ? argv[1 + json] : "";
	struct pgmap_stat total = {.size = sizeof(total)};
	struct pgmap_attach *at;
	char *end;
	long pid;
	int ret;

	if (argc != 2 + json || *text == '-') {
		fprintf(stderr, "pgmap: stat takes [--json] PID; see pgmap "
				"stat --help\n");
		return 2;
	}
	errno = 0;
	pid = strtol(text, &end, 10);
	if (errno || *end || !isdigit((unsigned char)*text) || pid < 1 ||
	    pid > INT_MAX) {
		fprintf(stderr, "pgmap: '%s' is not a process id\n", text);
		return 2;
	}
	ret = pgmap_attach((pid_t)pid, &at);
	if (ret) {
		fprintf(stderr, "pgmap: process %ld: %s\n", pid, reason(ret));
		return 1;
	}
	ret = pgmap_attach_total(at, &total);
	if (!ret && json)
		ret = print_json(at, &total);
	else if (!ret)
		print_text(at, &total);
	pgmap_detach(at);
	return ret ? 1 : 0;
}

const struct cmd cmd_stat = {
	.name = "stat",
	.summary = "print the counters of a running program",
	.usage = "usage: pgmap stat [--json] PID\n\n"
		 "PID is a process that pgmap run started, one below it, or\n"
		 "pgmap run itself.\n",
	.run = run,
};
